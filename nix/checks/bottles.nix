# The root package's tests/bottles*, but for the clients' (./clients.nix) and the agents' (./agents.nix): the real programs, booting real bottles under QEMU inside Nix's
# sandbox.
{ tests, workspace, closure, sshd, browser-root }:
tests {
  name = "bottles";
  root = browser-root;
  env = {
    BOTTLE_CHROMIUM = "/usr/lib/chromium/chromium-headless-shell";
    BOTTLE_CLOSURE = closure;
    BOTTLE_SSHD = "/build/sshd";
    BOTTLE_SSHD_USER = "upstream";
  };
  # A build whose guards the tests break, to see that each is what refuses.
  before = ''
    cargo build --frozen --workspace --features bottle/sabotage --bin bottle
    cp $CARGO_TARGET_DIR/$CARGO_BUILD_TARGET/debug/bottle /build/bottle-sabotaged
    export BOTTLE_SABOTAGED=/build/bottle-sabotaged
    ${sshd}
  '';
  # One at a time: each boots machines of its own.
  command = "cargo test --frozen --workspace --no-fail-fast "
    + toString (map (name: "--test ${name}") (builtins.filter (name: name != "bottles_clients") workspace.bottle-tests)) + " -- --test-threads=1";
}
