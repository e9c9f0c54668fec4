# Our packages in somebody's nixpkgs, with its fetchers.
final: _prev:
let parts = import ./. { nixpkgs.legacyPackages.${final.stdenv.hostPlatform.system} = final; system = final.stdenv.hostPlatform.system; };
in { inherit (parts) bottle bottle-bundle bottle-guest; }
