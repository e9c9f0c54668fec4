# The same image as a .smolmachine, packed without a virtual machine and read back (pack/), with the
# facts that a launch needs.
{ in-root, toolchain, image-root, image-json, bottle-pack }:
{ name, setup ? "" }:
let
  image = in-root {
    name = "smolmachine-${name}";
    root = toolchain;
    script = ''
      ${image-root setup}
      ${bottle-pack}/bin/bottle-pack ${name} linux/amd64 $root $out/${name}.smolmachine
      ${image-json "smolmachine" "${name}.smolmachine"}
    '';
  };
in image // { file = "${image}/${name}.smolmachine"; }
