# Real clients in a real bottle, through egress, to TLS upstreams of their own (docs/clients.md).
{ tests, closure-clients }:
tests {
  name = "clients";
  env.BOTTLE_CLOSURE = closure-clients;
  # All tests share one bottle with two processors, so two run at a time.
  script = "run ws/test/bottles_clients -- --test-threads=2 --skip agents::;";
}
