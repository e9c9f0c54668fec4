# Without flakes: `nix-build` builds bottle, and `nix-build -A NAME` anything else that
# nix/default.nix names.
let parts = import ./nix/no-flakes.nix; in parts // { default = parts.bottle; inherit (parts.bottle) type outPath drvPath name outputName system; }
