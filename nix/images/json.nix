# Script of an image: `image.json` beside its file, which is what a closure says of it
# (src/closure): a closure names images before they are built.
{ }:
engine: file: ''
  printf '{"%s":{"path":"%s","sha256":"%s","bytes":%s},"user":"node","uid":1000,"gid":1000,"home":"/home/node","workdir":"/home/node/workspace","path":"%s"}' \
    ${engine} $final/${file} "$(sha256sum $out/${file} | cut -d' ' -f1)" "$(stat -c %s $out/${file})" \
    /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin > $out/image.json
''
