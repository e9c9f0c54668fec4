# The conformance suite (bundle/tests/conformance.rs) against the real mitmproxy chain, in Nix's
# sandbox.
{ tests, mitmproxy }:
tests {
  name = "mitmproxy";
  env.BOTTLE_EGRESS_MITMPROXY = "${mitmproxy}/bin/bottle-egress-mitmproxy";
  script = "run bundle/test/conformance -- mitmproxy;";
}
