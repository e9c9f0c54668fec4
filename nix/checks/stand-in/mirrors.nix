# nix/checks/plain-fetch replaces this file by the mirrors of the machine that it runs on.
{
  debian = "https://debian.invalid/";
  pypi = "https://wheels.invalid/";
  npm = "https://npm.invalid/";
  crates = "https://crates.invalid/";
}
