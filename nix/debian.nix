# A Debian root: the packages of some groups, unpacked, except those that the groups `without` have.
# Maintainer scripts do not run (there is no root user and no network to run them with), so what
# they would have made is passed as `setup`, a busybox script that runs in $out.
{ bare, lock }:
{ name, groups, without ? [ ], drop ? [ ], setup ? "" }:
let
  # Groups overlap, but a package is unpacked once.
  packages = groups: builtins.listToAttrs (map (s: { inherit (s) name; value = s; })
    (builtins.filter (s: s.kind == "deb") (builtins.concatMap lock groups)));
  debs = builtins.attrValues (builtins.removeAttrs (packages groups) (builtins.attrNames (packages without)));
  documentation = [ "usr/share/doc" "usr/share/man" "usr/share/locale" "usr/share/info" "usr/share/lintian" "usr/share/bug" ];
in bare {
  inherit name;
  env = {
    debs = map (d: d.src) debs;
    drop = documentation ++ drop;
  };
  script = ''
    mkdir -p $out/usr/bin $out/usr/sbin $out/usr/lib $out/usr/lib64
    # Bookworm's merged /usr; its packages still ship both spellings.
    for l in bin sbin lib lib64; do ln -s usr/$l $out/$l; done
    unpack='ar p $0 data.tar.xz | xz -dc | tar -x -f - -C $out --no-same-permissions'
    for deb in $debs; do echo $deb; done | xargs -n 1 -P $NIX_BUILD_CORES busybox sh -euo pipefail -c "$unpack"
    cd $out
    rm -rf $drop
    mkdir -p proc sys dev run tmp etc build nix/store
    ${setup}
  '';
}
