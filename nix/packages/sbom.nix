# A bill of materials, CycloneDX 1.5: the pinned parts of what `bottle` runs, with their hashes.
# These are the Debian packages and wheels of the programs and of the guest's root, and every crate
# of the workspace, including some that the binaries are not linked from.
{ bare, lock, system }:
let
  groups = [ "seed" "engine" "engine-smolvm" "guest" "gate" ];
  purl = {
    deb = s: "pkg:deb/debian/${s.name}@${s.version}?arch=amd64&distro=bookworm";
    pypi = s: "pkg:pypi/${s.name}@${s.version}";
    npm = s: "pkg:npm/${builtins.replaceStrings [ "@" ] [ "%40" ] s.name}@${s.version}";
  };
  component = { type, name, version, purl, hash }: {
    inherit type name version purl;
    bom-ref = purl;
    hashes = [ { alg = "SHA-256"; content = hash; } ];
  };
  of-lock = s: component { type = "library"; inherit (s) name version; purl = purl.${s.kind} s; hash = s.src.outputHash; };
  sources = builtins.filter (s: purl ? ${s.kind}) (builtins.concatMap lock groups);
  # A package that is in two groups is listed once.
  once = builtins.attrValues (builtins.listToAttrs (map (s: { name = purl.${s.kind} s; value = of-lock s; }) sources));
  cargo = builtins.fromTOML (builtins.readFile ../../Cargo.lock);
  crates = map (p: component { type = "library"; inherit (p) name version; purl = "pkg:cargo/${p.name}@${p.version}"; hash = p.checksum; })
    (builtins.filter (p: p ? checksum) cargo.package);
  version = (builtins.fromTOML (builtins.readFile ../../Cargo.toml)).workspace.package.version;
in
bare {
  name = "bottle-sbom";
  env.document = builtins.toFile "bottle.cdx.json" (builtins.toJSON {
    bomFormat = "CycloneDX";
    specVersion = "1.5";
    version = 1;
    metadata.component = {
      type = "application";
      name = "bottle";
      inherit version;
      bom-ref = "bottle";
      licenses = [ { license.id = "Apache-2.0"; } ];
      properties = [ { name = "nix:system"; value = system; } ];
    };
    components = once ++ crates;
  });
  script = ''
    mkdir -p $out/share/sbom
    cp $document $out/share/sbom/bottle.cdx.json
  '';
}
