# The three programs. Each is a derivation of its own over the crates that it is made of, so that a
# change to the bundle does not make a new guest image.
{ rust }:
let
  layer = rust.layer { name = "deps-release"; command = "build --release"; release = true; };
  program = name: members: program' name members "";
  program' = name: members: before: rust.build {
    inherit name layer members;
    release = true;
    script = before + ''
      cargo build --release --frozen --workspace --bin ${name}
      mkdir -p $out/bin
      cp ../target/${rust.target}/release/${name} $out/bin/
    '';
  };
in {
  deps-release = layer;
  # For the checks: unoptimised, with the dependencies of tests; and what clippy reads.
  deps-test = rust.layer { name = "deps-test"; command = "test --no-run"; };
  deps-check = rust.layer { name = "deps-check"; command = "check --all-targets"; };
  orchestrator = program "bottle" [ "." "policy" "channel" "pack" "scan" "text" ];
  # Link-time optimisation saves 3 to 4 µs of the 40 that egress takes for a request. It is done
  # here alone and not in a profile, for which the dependencies would be compiled once more.
  bottle-bundle = program' "bottle-bundle" [ "bundle" "scan" "policy" "text" ] ''
    cat > /build/rustc-lto <<'END'
    #!/bin/sh
    case " $* " in *" --crate-name bottle_bundle "*" --crate-type bin "*) set -- "$@" -C lto=thin ;; esac
    exec "$@"
    END
    chmod 0755 /build/rustc-lto
    export RUSTC_WORKSPACE_WRAPPER=/build/rustc-lto
  '';
  bottle-guest = program "bottle-guest" [ "guest" "channel" "text" ];
  bottle-pack = program "bottle-pack" [ "pack" ];
  bottle-bench = program "bottle-bench" [ "." "policy" "channel" "pack" "scan" "text" "bench" ];
}
