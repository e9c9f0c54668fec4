# For people whose machines reach nixpkgs: our packages as an overlay of it, and it with them. Only these
# outputs force the input; nothing that builds, runs, checks or develops bot-bottle does.
{ parts, nixpkgs, system }:
rec {
  overlay = _final: _prev: { inherit (parts) bottle bottle-bundle bottle-guest; };
  legacyPackages = import nixpkgs { inherit system; overlays = [ overlay ]; };
  inherit (nixpkgs) lib;
}
