# Cargo's vendor directory straight from Cargo.lock, which already pins every crate by sha256.
{ bare, fixed }:
let
  locked = builtins.filter (p: p ? checksum) (builtins.fromTOML (builtins.readFile ../Cargo.lock)).package;
in bare {
  name = "vendor";
  env.crates = builtins.concatMap (p: [
    p.checksum
    (fixed {
      name = "${p.name}-${p.version}.crate";
      hash = p.checksum;
      origin = { kind = "crate"; pname = p.name; inherit (p) version; };
    })
  ]) locked;
  # A .crate is a gzipped tar of one directory NAME-VERSION.
  script = ''
    mkdir $out
    unpack='
      gzip -dc $1 | tar -x -f - -C $out
      crate=''${1#*-}
      printf "{\"files\":{},\"package\":\"%s\"}" $0 > $out/''${crate%.crate}/.cargo-checksum.json
    '
    for word in $crates; do echo $word; done | xargs -n 2 -P $NIX_BUILD_CORES busybox sh -euo pipefail -c "$unpack"
    # What the pinned compiler needs said in other words.
    for patch in ${./patches}/*.patch; do
      crate=''${patch##*/}
      (cd $out/''${crate%.patch} && patch -p1 < $patch)
    done
    # Import libraries for another system.
    rm -rf $out/windows_*/lib
  '';
}
