# Where locked sources are on the public network, by kind. The locked nixpkgs' fetchers know the
# addresses, so none is written down here. Each function takes the fields of a lock line
# (nix/lock.nix) and returns nixpkgs' derivation of that file. Its name and hash are ours, and so is
# its store path.
{ pkgs, lock }:
let
  hex = hash: "sha256:${hash}";
  split = separator: text: builtins.filter builtins.isString (builtins.split separator text);
  # "a_1%3a2.0_amd64.deb" in a lock is "a_2.0_amd64.deb" in the archive.
  without-epoch = file:
    let parts = builtins.match "([^_]+_)[0-9]+%3a(.*)" file;
    in if parts == null then file else builtins.concatStringsSep "" parts;
in {
  deb = { name, file, directory, hash, ... }:
    if directory == null
    then throw "the lock line of ${file} does not say where in Debian's archive the file is: renew the lock with nix/relock"
    else pkgs.fetchurl { inherit name; url = "mirror://debian/${directory}/${without-epoch file}"; hash = hex hash; };

  # NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl; no locked wheel has a build number. fetchPypi
  # knows the host, and an address that the registry redirects. The lock has the address without
  # redirection, which mirrors also have.
  pypi = { file, directory, hash, ... }:
    let
      parts = split "-" (builtins.head (builtins.match "(.*)\\.whl" file));
      part = builtins.elemAt parts;
      direct = fetched:
        if directory == null || !(fetched ? resolvedUrl) then fetched
        else fetched // { resolvedUrl = "${builtins.head (split "packages/" fetched.resolvedUrl)}${directory}/${file}"; };
    in
    if builtins.length parts != 5 then throw "the wheel ${file} has a build number, which nixpkgs' fetchPypi cannot name"
    else direct (pkgs.fetchPypi {
      pname = part 0;
      version = part 1;
      format = "wheel";
      dist = part 2;
      python = part 2;
      abi = part 3;
      platform = part 4;
      hash = hex hash;
    });

  crate = { name, pname, version, hash, ... }: pkgs.fetchCrate { inherit name pname version; unpack = false; hash = hex hash; };

  # A release of a project on GitHub; `directory` is OWNER/NAME/releases/download/TAG.
  release = { name, file, directory, hash, ... }:
    pkgs.fetchurl { inherit name; url = "https://github.com/${directory}/${file}"; hash = hex hash; };

  # nixpkgs has no fetcher for npm, but pnpm comes from that registry: NAME/-/NAME-VERSION.tgz.
  npm = { name, pname, version, hash, ... }:
    let
      pnpm = pkgs.pnpm.src;
      registry = builtins.head (split "pnpm/-/" (pnpm.resolvedUrl or (builtins.head pnpm.urls)));
    in pkgs.fetchurl { inherit name hash; url = "${registry}${pname}/-/${baseNameOf pname}-${version}.tgz"; };

  # The seed starts all other builds, so something else has to unpack it: nixpkgs' busybox.
  # (nix/seed.sh makes the same tree.)
  seed = {
    builder = "${pkgs.busybox}/bin/busybox";
    args = [ "sh" "-euc" ''
      busybox=$0
      $busybox ar p $deb data.tar.xz | $busybox xz -dc | $busybox tar -x -f -
      $busybox mkdir -p $out/bin
      $busybox cp bin/busybox $out/bin/busybox
      $busybox chmod 0755 $out/bin/busybox
      $busybox ln -s busybox $out/bin/sh
    '' "${pkgs.busybox}/bin/busybox" ];
    deb = (builtins.head (builtins.filter (s: s.kind == "deb") (lock "seed"))).src;
  };
}
