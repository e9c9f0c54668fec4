# Everything that ./default.nix provides, without flakes: with the nixpkgs that flake.lock names.
let
  locked = (builtins.fromJSON (builtins.readFile ../flake.lock)).nodes.nixpkgs.locked;
  nixpkgs = builtins.fetchTarball {
    url = "https://github.com/${locked.owner}/${locked.repo}/archive/${locked.rev}.tar.gz";
    sha256 = locked.narHash;
  };
  system = "x86_64-linux";
in
import ./. { inherit system; nixpkgs.legacyPackages.${system} = import nixpkgs { inherit system; config = { }; overlays = [ ]; }; }
