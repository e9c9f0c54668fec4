# `nix fmt`: the workspace in the format the lint check wants.
{ bare, dev-tools, seed }:
bare {
  name = "fmt";
  script = ''
    mkdir -p $out/bin
    printf '#!${seed}/bin/sh\nexec ${dev-tools}/bin/cargo fmt --all\n' > $out/bin/fmt
    chmod 0755 $out/bin/fmt
  '';
}
