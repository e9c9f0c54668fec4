# A part of an image's script: writes `image.json` beside the image's file. It has the entry for a
# closure (src/closure) that contains the image, with its hash. The usual closure describes images
# before they are built, so it cannot contain this.
{ }:
engine: file: ''
  printf '{"%s":{"path":"%s","sha256":"%s","bytes":%s},"user":"node","uid":1000,"gid":1000,"home":"/home/node","workdir":"/home/node/workspace","path":"%s"}' \
    ${engine} $final/${file} "$(sha256sum $out/${file} | cut -d' ' -f1)" "$(stat -c %s $out/${file})" \
    /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin > $out/image.json
''
