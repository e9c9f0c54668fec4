# A part of an image's script: copies trees, which have a usr/ and maybe an etc/, over $root.
{ }:
trees: ''
  for tree in ${toString trees}; do
    cp -a --no-preserve=ownership,links $tree/usr $root/
    [ ! -e $tree/etc ] || cp -a --no-preserve=ownership,links $tree/etc $root/
    chmod -R u+w $root
  done
''
