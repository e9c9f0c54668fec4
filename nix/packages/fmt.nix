# `nix fmt`: formats the workspace as the lint check wants it.
{ bare, dev-tools, seed }:
bare {
  name = "fmt";
  script = ''
    mkdir -p $out/bin
    printf '#!${seed}/bin/sh\nexec ${dev-tools}/bin/cargo fmt --all\n' > $out/bin/fmt
    chmod 0755 $out/bin/fmt
  '';
}
