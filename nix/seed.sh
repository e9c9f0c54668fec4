# shellcheck shell=bash
# make_seed UNPACKED OUT: the busybox seed from the unpacked busybox-static package. A directory,
# because busybox run as a bare store file cannot tell from its argv[0] which applet it is.
make_seed() {
  mkdir -p "$2/bin"
  cp "$1/bin/busybox" "$2/bin/busybox"
  chmod 0755 "$2/bin/busybox"
  ln -sf busybox "$2/bin/sh"
}
