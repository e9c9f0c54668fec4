# nix/realise with what it needs, so that an installed `bottle` can build an image without the
# checkout that it came from.
{ bare }:
let
  keep = path: type:
    let name = baseNameOf path; in
    type == "directory" && name == "lock" || builtins.elem name [ "realise" "fetch" "lib.sh" "seed.sh" ]
    || builtins.match ".*\\.lock" name != null;
in bare {
  name = "realise";
  script = ''
    mkdir $out
    cp -r ${builtins.path { path = ../.; name = "realise-scripts"; filter = keep; }} $out/nix
  '';
}
