# Cargo in the toolchain root, offline, on a layer of dependencies that are compiled once: only a
# change to Cargo.lock or a Cargo.toml compiles them again.
#   rust.layer { name, command, release }                        what `cargo COMMAND` leaves in
#                                                                target/ for empty members
#   rust.build { name, layer, members, tests, release, script }  runs script on the real sources of
#                                                                members
# With `release`, the dependencies also keep LLVM's bitcode, so that a program can be linked with
# link-time optimisation.
{ in-root, toolchain, vendor, workspace }:
let
  target = "x86_64-unknown-linux-gnu";
  # Static, so that a binary runs on any distribution and in any guest; and without the paths at
  # which it was built.
  setup = release: ''
    export CARGO_HOME=/build/cargo CARGO_TARGET_DIR=/build/target CARGO_INCREMENTAL=0 CARGO_TERM_COLOR=never
    export CARGO_BUILD_TARGET=${target} CARGO_BUILD_JOBS=$NIX_BUILD_CORES CARGO_NET_OFFLINE=true
    # getrandom looks its system call up with dlsym, which a static program does not have, and then
    # opens /dev/urandom, which a confined daemon may not (seen: getrandom 0.3 under rand 0.9): have
    # it call directly.
    export RUSTFLAGS="-C target-feature=+crt-static --cfg getrandom_backend=\"linux_getrandom\" --remap-path-prefix=${vendor}=/vendor --remap-path-prefix=/build/ws=/src${if release then " -C embed-bitcode=yes" else ""}"
    mkdir -p $CARGO_HOME
    printf '[source.crates-io]\nreplace-with = "vendor"\n[source.vendor]\ndirectory = "%s"\n' ${vendor} > $CARGO_HOME/config.toml
  '';
  # Artefacts of empty members must not count as those of the real ones, which they would, because
  # all files in the store have the same age.
  forget = builtins.concatStringsSep "" (map (name:
    let crate = builtins.replaceStrings [ "-" ] [ "_" ] name; in ''
      find $out -depth \( -path '*/.fingerprint/${name}-*' -o -path '*/deps/${crate}-*' -o -path '*/deps/lib${crate}-*' \
        -o -path '*/build/${name}-*' -o -name '${name}' -o -name '${name}.d' -o -name 'lib${crate}.*' \) -delete
    '') workspace.names);
in {
  inherit target;
  layer = { name, command, release ? false }: in-root {
    inherit name;
    root = toolchain;
    script = setup release + workspace.stage { } + ''
      (cd ws && cargo ${command} --frozen --workspace)
      mv target $out
      ${forget}
    '';
  };
  build = { name, layer, members ? workspace.members, tests ? false, release ? false, root ? toolchain, script, env ? { }, after ? "" }: in-root {
    inherit name root env after;
    script = setup release + workspace.stage { inherit members tests; } + ''
      cp -a --no-preserve=ownership ${layer} target
      chmod -R u+w target
      cd ws
    '' + script;
  };
}
