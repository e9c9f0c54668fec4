# A derivation whose builder is the busybox seed: what Debian roots are made with.
{ lock, system }:
let
  seed = (builtins.head (builtins.filter (s: s.kind == "tree") (lock "seed"))).src;
in
{ name, script, env ? { } }:
derivation ({
  inherit name system;
  builder = "${seed}/bin/busybox";
  args = [ "sh" "-euc" script ];
} // env)
