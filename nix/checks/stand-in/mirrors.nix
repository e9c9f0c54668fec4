# What nix/checks/plain-fetch replaces by the mirrors of the machine it runs on.
{
  debian = "https://debian.invalid/";
  pypi = "https://pypi.invalid/";
  npm = "https://npm.invalid/";
  crates = "https://crates.invalid/";
}
