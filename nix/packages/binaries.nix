# The three programs. Each is a derivation of its own over the crates it is made of, so that a
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
  # For the checks: with the dependencies of tests, unoptimised; and what clippy reads.
  deps-test = rust.layer { name = "deps-test"; command = "test --no-run"; };
  deps-check = rust.layer { name = "deps-check"; command = "check --all-targets"; };
  orchestrator = program "bottle" [ "." "policy" "channel" "pack" "scan" "text" ];
  # Link-time optimisation takes 3 to 4 µs of egress' 40 for a request. Here alone, and not as a
  # profile, whose dependencies would be compiled once more.
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
