# A part of an image's script: makes its whole root in $root, from the guest root, bottle-guest, and
# what `setup` adds.
{ guest-root, bottle-guest }:
setup: ''
  root=/build/root
  # Hard links are the store's affair, which makes and loses them: an image has none, so it is the
  # same from every store.
  cp -a --no-preserve=ownership,links ${guest-root} $root
  chmod -R u+w $root
  rmdir $root/build $root/nix/store $root/nix
  mkdir -p $root/usr/lib/bottle
  cp ${bottle-guest}/bin/bottle-guest $root/usr/lib/bottle/bottle-guest
  ${setup}
  # Debian's config names its multiarch directories in /etc/ld.so.conf.d.
  ldconfig -X -r $root
  rm -rf $root/var/cache/ldconfig
  chmod 1777 $root/tmp $root/var/tmp
  chmod 0700 $root/root
  find $root -exec touch -h -d @1 {} +
  mkdir $out
''
