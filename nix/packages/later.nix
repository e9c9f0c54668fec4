# later.json says how to build the images that closure.json only describes. A derivation names where
# its sources come from, so this file, unlike closure.json, differs between plain Nix and
# nix/bootstrap.
{ bare, claude, codex, realise, bottle-guest, bottle-pack }:
images:
let
  drv = image: builtins.unsafeDiscardOutputDependency image.drvPath;
  of = image: ''"${image.name}":{"qemu":"${drv image.qemu}","smolvm":"${drv image.smolvm}"}'';
in
bare {
  name = "later.json";
  script = ''
    cat > $out <<END
    {"version":1,
     "realise":{"program":"${realise}/nix/realise","keep":["${bottle-guest}","${bottle-pack}"]},
     "drv":{${builtins.concatStringsSep ",\n      " (map of ([ claude codex ] ++ images))}}}
    END
  '';
}
