{
  description = "Stands for nixpkgs in checks: its fetchers, with the same arguments, and derivations that nothing builds";

  outputs = { self }:
    let
      system = "x86_64-linux";
      mirrors = import ./mirrors.nix;
      fetch = { name, hash, url }: derivation {
        inherit name system;
        builder = "/nothing";
        outputHash = hash;
        outputHashAlgo = null;
        outputHashMode = "flat";
      } // {
        resolvedUrl = builtins.replaceStrings [ "mirror://debian/" ] [ mirrors.debian ] url;
      };
      package = name: derivation { inherit name system; builder = "/nothing"; };
      pkgs = {
        fetchurl = fetch;
        fetchPypi = { pname, version, format, dist, python, abi, platform, hash }:
          let name = "${pname}-${version}-${python}-${abi}-${platform}.whl"; in
          assert format == "wheel";
          fetch { inherit name hash; url = "${mirrors.pypi}packages/${dist}/${builtins.substring 0 1 pname}/${pname}/${name}"; };
        fetchCrate = { name, pname, version, unpack, hash }:
          assert !unpack;
          fetch { inherit name hash; url = "${mirrors.crates}${pname}/${version}/download"; };
        busybox = package "busybox";
        pnpm.src = { resolvedUrl = "${mirrors.npm}pnpm/-/pnpm-10.0.0.tgz"; };
      };
    in {
      legacyPackages.${system} = pkgs;
      # A nixpkgs that does not reveal the URL, so that its own derivation is used.
      silent.${system} = pkgs // {
        fetchurl = args: removeAttrs (pkgs.fetchurl args) [ "resolvedUrl" ];
        fetchPypi = args: removeAttrs (pkgs.fetchPypi args) [ "resolvedUrl" ];
        fetchCrate = args: removeAttrs (pkgs.fetchCrate args) [ "resolvedUrl" ];
        pnpm.src.urls = [ pkgs.pnpm.src.resolvedUrl ];
      };
    };
}
