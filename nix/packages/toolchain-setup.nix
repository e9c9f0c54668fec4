# What maintainer scripts would have set up in a root with compilers.
{ }: ''
  ln -sf gcc usr/bin/cc
  [ -e usr/bin/sh ] || ln -s bash usr/bin/sh
  [ -e usr/bin/awk ] || ln -s mawk usr/bin/awk
  echo 'root:x:0:0:root:/build:/bin/bash' > etc/passwd
  echo 'root:x:0:' > etc/group
''
