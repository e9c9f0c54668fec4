# Every crate's own tests; what needs a bottle is in the root package's tests/ and runs in checks.bottles.
{ tests, workspace }:
tests {
  name = "unit";
  command = "cargo test --frozen --workspace --no-fail-fast --lib --bins "
    + toString (map (name: "--test ${name}") workspace.member-tests);
}
