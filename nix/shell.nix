# The development shell: the locked compiler with clippy, rustfmt and rust-analyzer, the engine, and BOTTLE_CLOSURE, so that `cargo run -- launch demo`
# works from a checkout. `nix develop` wants a bash as builder and an explicit list of outputs; the bash must be
# static, because there is no root it could load libraries from.
{ bare, lock, system, shell-tools, qemu, tools, closure }:
let
  bash = bare {
    name = "bash-static";
    env.deb = (builtins.head (lock "shell")).src;
    script = ''
      ar p $deb data.tar.xz | xz -dc | tar -x -f -
      mkdir -p $out/bin
      cp usr/bin/bash-static bin/bash-static $out/bin/ 2>/dev/null || true
      mv $out/bin/bash-static $out/bin/bash
    '';
  };
in
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
