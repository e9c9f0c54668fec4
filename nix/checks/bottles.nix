# The root package's tests/bottles*, except those of the clients (./clients.nix) and of the agents
# (./agents.nix): the real programs boot real bottles under QEMU inside Nix's sandbox.
{ tests, workspace, closure, sshd, browser-root }:
tests {
  name = "bottles";
  order = "1-";
  root = browser-root;
  env = {
    BOTTLE_CHROMIUM = "/usr/lib/chromium/chromium-headless-shell";
    BOTTLE_CLOSURE = closure;
    BOTTLE_SSHD = "/build/sshd";
    BOTTLE_SSHD_USER = "upstream";
  };
  before = sshd;
  # One at a time, because each test boots machines of its own.
  script = "run "
    + toString (map (name: "ws/test/${name}") (builtins.filter (name: name != "bottles_clients") workspace.bottle-tests)) + " -- --test-threads=1;";
}
