# Every test that boots no bottle: the crates' own, and the root package's of manifests and plans.
{ tests, workspace }:
tests {
  name = "unit";
  command = "cargo test --frozen --workspace --no-fail-fast --lib --bins "
    + toString (map (name: "--test ${name}") workspace.other-tests);
}
