# An agent image as a read-only file system, for QEMU. All files belong to root; the guest gives the agent its home at boot.
{ in-root, toolchain, image-root }:
{ name, setup ? "" }:
in-root {
  name = "image-${name}";
  root = toolchain;
  script = ''
    ${image-root setup}
    mkfs.erofs --quiet -zlz4hc -T1 -U 0b077150-0000-4000-8000-000000000001 --all-root $out/root.erofs $root
  '';
}
