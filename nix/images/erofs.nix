# An agent image as a read-only file system, for QEMU. All files belong to root; the guest gives the
# agent its home at boot. `compression` is the value of mkfs.erofs' option -z, with the options that
# go with it.
{ in-root, toolchain, image-root, image-json }:
{ name, setup ? "", compression ? "lz4hc" }:
let
  image = in-root {
    name = "image-${name}";
    root = toolchain;
    script = ''
      ${image-root setup}
      mkfs.erofs --quiet -z${compression} -T1 -U 0b077150-0000-4000-8000-000000000001 --all-root $out/root.erofs $root
      ${image-json "erofs" "root.erofs"}
    '';
  };
in image // { file = "${image}/root.erofs"; }
