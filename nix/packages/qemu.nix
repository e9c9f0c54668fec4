# The embedded VM engine: Debian's QEMU, its libraries, and the firmware that a q35 machine with a
# PVH kernel loads.
{ relocate, engine-root, lock }:
let
  version = (builtins.head (builtins.filter (s: s.name == "qemu-system-x86") (lock "engine"))).version;
in
relocate {
  name = "qemu";
  root = engine-root;
  programs = [ "usr/bin/qemu-system-x86_64" ];
  # Found relative to the program, as in /usr.
  modules = [ "lib/x86_64-linux-gnu/qemu/accel-tcg-x86_64.so" ];
  setup = ''
    mkdir -p $out/share/qemu
    for f in qemu/pvh.bin qemu/linuxboot_dma.bin qemu/kvmvapic.bin seabios/bios-256k.bin; do
      cp -L $from/usr/share/$f $out/share/qemu/
    done
  '';
} // { inherit version; }
