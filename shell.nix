# Without flakes: `nix-shell` has what `nix develop` has.
(import ./nix/no-flakes.nix).shell
