# A derivation whose builder is the busybox seed. Debian roots are made with it.
{ seed, system }:
{ name, script, env ? { } }:
derivation ({
  inherit name system;
  builder = "${seed}/bin/busybox";
  args = [ "sh" "-euc" script ];
} // env)
