{
  description = "bot-bottle: AI coding agents in micro-VMs that reach nothing but their own sidecars";

  # Only its fetchers and one busybox are used: what is built and how is the same without it
  # (nix/registries/flake.nix).
  inputs.nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, nixpkgs }: import ./nix/outputs.nix { inherit self nixpkgs; };
}
