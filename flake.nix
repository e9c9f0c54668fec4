{
  description = "bot-bottle: AI coding agents in micro-VMs that reach nothing but their own sidecars";

  outputs = { self }:
    let
      system = "x86_64-linux";
      parts = import ./nix { inherit self system; };
    in {
      packages.${system} = {
        inherit (parts) bottle orchestrator bottle-bundle bottle-guest qemu kernel initrd tools image-demo closure
          toolchain engine-root guest-root vendor deps-release;
        default = parts.bottle;
      };
    };
}
