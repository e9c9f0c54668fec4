# A source that is in the store before anything is built: nix/fetch adds it by hash. Its builder only runs
# when it is not, and then prints its URL, so the URL says what to do.
{ }:
{ name, hash, algo ? "sha256", mode ? "flat" }:
derivation {
  inherit name;
  system = "builtin";
  builder = "builtin:fetchurl";
  url = "missing-source://${name}. Run this through nix/bootstrap, which fetches locked sources (or run nix/fetch GROUP)";
  preferLocalBuild = true;
  outputHashMode = mode;
  outputHashAlgo = if algo == "sri" then null else algo;
  outputHash = hash;
}
