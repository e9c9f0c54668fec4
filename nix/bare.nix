# A derivation whose builder is the busybox seed: what Debian roots are made with.
{ seed, system }:
{ name, script, env ? { } }:
derivation ({
  inherit name system;
  builder = "${seed}/bin/busybox";
  args = [ "sh" "-euc" script ];
} // env)
