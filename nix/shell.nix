# The development shell: the locked compiler with clippy, rustfmt and rust-analyzer, the engine, and
# BOTTLE_CLOSURE, so that `cargo run -- launch demo` works from a checkout. `nix develop` wants a
# bash as builder and an explicit list of outputs. The bash must be static, because there is no root
# from which it could load libraries.
{ bash, system, shell-tools, qemu, tools, closure }:
derivation {
  name = "bottle-dev";
  inherit system;
  builder = "${bash}/bin/bash";
  args = [ "-c" "echo 'this derivation is for nix develop' >&2; exit 1" ];
  outputs = [ "out" ];
  PATH = "${shell-tools}/bin:${qemu}/bin:${tools}/bin";
  BOTTLE_CLOSURE = closure;
  # nix develop evaluates this in the interactive shell.
  shellHook = "";
}
