# Every package and check has the same store path with nixpkgs' fetchers as with nix/fetch, so that
# a binary cache that one of them filled also serves the other. The exception is what says how
# images are built (later.json). The paths are compared when the flake is evaluated, with a stand-in
# for nixpkgs and with one whose fetchers do not reveal their URLs.
{ bare, system }:
let
  stand-in = (import ./stand-in/flake.nix).outputs { self = null; };
  with-nixpkgs = pkgs: import ../. { nixpkgs.legacyPackages.${system} = pkgs; inherit system; };
  registries = import ../. { inherit system; };

  paths = parts: builtins.mapAttrs (_name: value: builtins.unsafeDiscardStringContext value.outPath) ({
    inherit (parts)
      seed toolchain vendor deps-release deps-test deps-check orchestrator bottle-bundle bottle-guest bottle-pack bottle-bench guest-root
      engine-root qemu kernel initrd tools git gitleaks smolvm crane pipelock mitmproxy check-root dev-tools test-programs closure closure-clients
      closure-agents image-demo image-clients smolmachine-demo agent-claude agent-codex smolmachine-claude smolmachine-codex nested-machine;
    team = parts.team.qemu;
  } // removeAttrs parts.checks [ "same-paths" ]);
  expected = paths registries;
  compare = what: pkgs:
    let found = paths (with-nixpkgs pkgs); in
    map (name: { name = "${what}: ${name}"; ok = found.${name} == expected.${name}; }) (builtins.attrNames expected);

  # The addresses at which nixpkgs' fetchers are asked to look.
  urls = let fixed = (with-nixpkgs stand-in.legacyPackages.${system}).fixed; in
    map ({ origin, url }: {
      name = "address of ${url}";
      ok = (fixed { name = "x"; hash = "1d0495fcf8173bdbfb423e6e42def545db831dc010c62d1a1093d3130d81a454"; inherit origin; }).url == url;
    }) [
      { origin = { kind = "deb"; file = "libgmp10_2%3a6.2.1+dfsg1-1.1_amd64.deb"; directory = "pool/main/g/gmp"; };
        url = "https://debian.invalid/pool/main/g/gmp/libgmp10_6.2.1+dfsg1-1.1_amd64.deb"; }
      { origin = { kind = "deb"; file = "gcc-12_12.2.0-14_amd64.deb"; directory = "pool/main/g/gcc-12"; };
        url = "https://debian.invalid/pool/main/g/gcc-12/gcc-12_12.2.0-14_amd64.deb"; }
      { origin = { kind = "pypi"; file = "a_b-1.0-py3-none-any.whl"; directory = "packages/01/23/45"; };
        url = "https://wheels.invalid/packages/01/23/45/a_b-1.0-py3-none-any.whl"; }
      { origin = { kind = "pypi"; file = "a_b-1.0-py3-none-manylinux_2_28_x86_64.whl"; directory = null; };
        url = "https://wheels.invalid/packages/py3/a/a_b/a_b-1.0-py3-none-manylinux_2_28_x86_64.whl"; }
      { origin = { kind = "release"; file = "a.tar.gz"; directory = "o/a/releases/download/v1"; }; url = "https://github.com/o/a/releases/download/v1/a.tar.gz"; }
      { origin = { kind = "npm"; pname = "@a/b"; version = "1.0-linux-x64"; }; url = "https://npm.invalid/@a/b/-/b-1.0-linux-x64.tgz"; }
      { origin = { kind = "crate"; pname = "a"; version = "1.0"; }; url = "https://crates.invalid/a/1.0/download"; }
    ];

  results = compare "nixpkgs" stand-in.legacyPackages.${system} ++ compare "nixpkgs without URLs" stand-in.silent.${system} ++ urls;
  failed = builtins.filter (result: !result.ok) results;
in
bare {
  name = "check-same-paths";
  env.failed = map (result: "${result.name};") failed;
  script = ''
    printf '%s\n' "$failed" | tr ';' '\n' | sed '/^ *$/d; s/^ */FAILED: /' > summary
    echo '${toString (builtins.length results - builtins.length failed)} passed, ${toString (builtins.length failed)} failed' >> summary
    cp summary $out
    echo 'summary of same-paths:'
    sed 's/^/  /' $out
    [ -z "$failed" ]
  '';
}
