# What a team adds to an agent's image, as trees: the packages of its lock (a path, or null), and
# what `setup` puts into $root (./agent.nix).
{ debian, in-root, toolchain, lock, lay, guest-root, agent-tools }:
name: lockfile: setup:
let
  of = kind: builtins.filter (s: s.kind == kind) (if lockfile == null then [ ] else lock lockfile);
  # Packages that the image already has stay unchanged.
  debs = debian {
    name = "${name}-debs";
    groups = if lockfile == null then [ ] else [ lockfile ];
    without = [ "guest" "agent" ];
    # The place where maintainer scripts would ask for them.
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
      ${lay (agent-tools ++ [ debs ])}
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
in [ debs added ]
