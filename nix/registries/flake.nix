{
  description = "bot-bottle, for machines that reach package registries only: nix/bootstrap fetches the sources";

  # The same outputs, with the same store paths, as the flake at the top, and no input to download.
  outputs = { self }: import ../outputs.nix { inherit self; nixpkgs = { }; };
}
