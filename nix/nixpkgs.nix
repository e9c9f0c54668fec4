# For people whose machines reach nixpkgs: our packages as an overlay of it, and it with them. Only these
# outputs force the input; nothing that builds, runs, checks or develops bot-bottle does. It is one attribute
# (`nix build .#nixpkgs.hello`), because `nix build .#checks.…` looks for that name among legacyPackages too, and
# would have to evaluate all of nixpkgs to find that it is not there.
{ parts, nixpkgs, system }:
rec {
  overlay = _final: _prev: { inherit (parts) bottle bottle-bundle bottle-guest; };
  legacyPackages.nixpkgs = import nixpkgs { inherit system; overlays = [ overlay ]; };
  lib.nixpkgs = nixpkgs.lib;
}
