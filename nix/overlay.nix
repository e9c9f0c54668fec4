# An overlay with our packages, whose sources nixpkgs' fetchers download.
final: _prev:
let parts = import ./. { nixpkgs.legacyPackages.${final.stdenv.hostPlatform.system} = final; system = final.stdenv.hostPlatform.system; };
in { inherit (parts) bottle bottle-bundle bottle-guest; }
