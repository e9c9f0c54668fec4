# A locked source, as a fixed-output derivation: its store path follows from its name and hash
# alone, so it is the same whichever way the file got there.
# * With nixpkgs (flake.nix), Nix downloads it from where nixpkgs' own fetchers look for such a file
#   (public-urls.nix).
# * Without nixpkgs (nix/registries/flake.nix), nix/fetch adds it to the store before anything is
#   built. The builder runs only when it is missing. Nix then prints its URL, which says what to do.
{ nixpkgs, system, lock }:
let
  fetcher = import ./public-urls.nix { pkgs = nixpkgs.legacyPackages.${system}; inherit lock; };
in
{ name, hash, algo ? "sha256", mode ? "flat", origin }:
let
  output = {
    outputHashMode = mode;
    outputHashAlgo = if algo == "sri" then null else algo;
    outputHash = hash;
  };
  download = url: derivation ({
    inherit name url;
    system = "builtin";
    builder = "builtin:fetchurl";
    preferLocalBuild = true;
    impureEnvVars = [ "http_proxy" "https_proxy" "ftp_proxy" "all_proxy" "no_proxy" ];
  } // output);
in
if !(nixpkgs ? legacyPackages)
then download "missing-source://${name}. ${if origin.kind == "release"
  then "It is in no registry: give its archive to nix/pipelock, which adds it"
  else "Run this through nix/bootstrap, which fetches locked sources (or run nix/fetch GROUP)"}"
else if origin.kind == "tree"
then derivation ({ inherit name system; } // fetcher.seed // output)
else
  # builtin:fetchurl needs no curl, no shell and no binary cache. If a version of nixpkgs does not
  # reveal the URL, its own fetcher downloads the file.
  let fetched = fetcher.${origin.kind} (origin // { inherit name hash; });
  in if fetched ? resolvedUrl then download fetched.resolvedUrl else fetched
