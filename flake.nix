{
  description = "bot-bottle: AI coding agents in micro-VMs that reach nothing but their own sidecars";

  # Only its fetchers and one busybox are used. Without it, the same things are built in the same
  # way (nix/registries/flake.nix).
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }: import ./nix/outputs.nix { inherit self nixpkgs; };
}
