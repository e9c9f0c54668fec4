# Script of a check: /build/sshd, for tests whose upstream it is. As root sshd wants to become users
# that are not mapped here.
''
  printf '#!/bin/sh\nexec unshare --user --map-user=1000 --map-group=1000 /usr/sbin/sshd "$@"\n' > /build/sshd
  chmod 0755 /build/sshd
''
