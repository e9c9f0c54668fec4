# pipelock from its pinned release, which is in no registry. Plain Nix downloads it from the
# project's releases; elsewhere, nix/pipelock adds an archive that you have.
# src/bundle/pipelock.pins has VERSION SYSTEM SHA256 lines.
{ bare, fixed }:
let
  version = "2.3.0";
  pins = builtins.readFile ../../src/bundle/pipelock.pins;
  hash = builtins.head (builtins.match ".*\n${builtins.replaceStrings [ "." ] [ "\\." ] version} linux_amd64 ([0-9a-f]{64})\n.*" pins);
  file = "pipelock_${version}_linux_amd64.tar.gz";
in
bare {
  name = "pipelock-${version}";
  env.archive = fixed {
    name = file;
    inherit hash;
    origin = { kind = "release"; inherit file; directory = "luckyPipewrench/pipelock/releases/download/v${version}"; };
  };
  script = ''
    mkdir -p $out/bin
    tar -xzf $archive -C $out/bin pipelock
    chmod 0555 $out/bin/pipelock
  '';
} // { inherit version; }
