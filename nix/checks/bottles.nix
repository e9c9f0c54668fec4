# The root package's tests/: the real programs, booting real bottles under QEMU inside Nix's sandbox.
{ tests, workspace, closure }:
tests {
  name = "bottles";
  env.BOTTLE_CLOSURE = closure;
  # One at a time: each boots machines of its own.
  command = "cargo test --frozen --workspace --no-fail-fast "
    + toString (map (name: "--test ${name}") workspace.root-tests) + " -- --test-threads=1";
}
