# Formatting, clippy with warnings as errors, and shellcheck.
{ rust, deps-check, check-root }:
let
  script = name: path: { inherit name; path = builtins.path { inherit path name; }; };
  scripts = [
    (script "bootstrap" ../bootstrap) (script "fetch" ../fetch) (script "relock" ../relock) (script "realise" ../realise)
    (script "pipelock" ../pipelock) (script "lib.sh" ../lib.sh) (script "seed.sh" ../seed.sh) (script "ci-run" ../../.ci/run)
    (script "plain-fetch" ./plain-fetch) (script "file-map" ./file-map) (script "times" ../times) (script "try-fresh" ../try-fresh)
  ];
in
rust.build {
  name = "check-lint";
  root = check-root;
  layer = deps-check;
  tests = true;
  script = ''
    failed=0 passed=0
    check() { # NAME COMMAND…
      local name=$1
      shift
      if "$@"; then passed=$((passed + 1)); echo "$name: ok" >> /build/summary; else failed=$((failed + 1)); echo "$name: FAILED" >> /build/summary; fi
    }
    cp ${builtins.path { path = ../../rustfmt.toml; name = "rustfmt.toml"; }} rustfmt.toml
    check rustfmt cargo fmt --all --check
    check clippy cargo clippy --frozen --workspace --all-targets --keep-going -- -D warnings
    mkdir -p shell/nix
    ${builtins.concatStringsSep "\n" (map (s: "cp ${s.path} shell/nix/${s.name}") scripts)}
    mkdir -p docs
    cp ${builtins.path { path = ../../docs/files.md; name = "files.md"; }} docs/files.md
    check file-map sh ${builtins.path { path = ./file-map; name = "file-map"; }}
    check shellcheck sh -c 'cd shell && shellcheck -x nix/*'
    echo "$passed passed, $failed failed" >> /build/summary
    mv /build/summary $out
    echo 'summary of lint:'
    sed 's/^/  /' $out
    [ $failed = 0 ]
  '';
}
