# tests/bottles*.rs, compiled.
{ rust, deps-test, check-root }:
rust.build {
  name = "bottle-tests";
  root = check-root;
  layer = deps-test;
  tests = true;
  script = ''
    cargo test --frozen --workspace --test bottles --no-run
    mkdir -p $out/bin
    cp $(find ../target/${rust.target}/debug/deps -name 'bottles-*' -type f -perm -100) $out/bin/bottles
  '';
}
