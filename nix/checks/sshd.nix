# A part of a check's script: makes /build/sshd, the upstream of some tests. It runs as an ordinary
# user, because sshd as root would switch to users that are not mapped here.
''
  printf '#!/bin/sh\nexec unshare --user --map-user=1000 --map-group=1000 /usr/sbin/sshd "$@"\n' > /build/sshd
  chmod 0755 /build/sshd
''
