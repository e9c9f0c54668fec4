# The same image as a .smolmachine, packed without a virtual machine and read back (pack/).
{ in-root, toolchain, image-root, bottle-pack }:
{ name, setup ? "" }:
in-root {
  name = "smolmachine-${name}";
  root = toolchain;
  script = ''
    ${image-root setup}
    ${bottle-pack}/bin/bottle-pack ${name} linux/amd64 $root $out/${name}.smolmachine
  '';
}
