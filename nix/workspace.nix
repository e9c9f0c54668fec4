# The Cargo workspace as sources that change only when what they name changes.
# `stage { members, tests }` is a shell script that puts into ./ws the real sources of those members
# (with or without their tests and the files that tests read), and empty sources of all others.
# Every build sees the whole workspace, because Cargo unifies features over it; so one layer of
# compiled dependencies serves all builds.
{ }:
let
  top = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  read = dir: builtins.fromTOML (builtins.readFile (../. + "/${dir}/Cargo.toml"));
  all = [ "." ] ++ top.workspace.members;
  exists = dir: builtins.pathExists (../. + "/${dir}");
  # A store path of its own for each directory, so that a change beside it does not count, and a
  # change to a test does not build a program again.
  source = tests: dir:
    let path = ../. + "/${dir}";
    in builtins.path {
      inherit path;
      name = baseNameOf dir;
      filter = file: _type: tests || !builtins.elem file (map (d: toString (path + "/${d}")) [ "tests" "benches" "examples" "mitmproxy" ]);
    };
  file = path: builtins.path { path = ../. + "/${path}"; name = baseNameOf path; };

  # Files that a Cargo.toml names; an empty member must have them too.
  targets = dir:
    let
      manifest = if dir == "." then top else read dir;
      of = kind: folder: map (t: t.path or "${folder}/${t.name}.rs")
        (builtins.filter (t: t ? path || t.name != manifest.package.name) (manifest.${kind} or [ ]));
      build = manifest.package.build or false;
    in [ "src/lib.rs" "src/main.rs" ] ++ of "bin" "src/bin" ++ of "test" "tests" ++ of "bench" "benches"
      ++ of "example" "examples" ++ (if builtins.isString build then [ build ] else [ ]);

  # Entries of a member that are sources; for the root package only its own, not the other members.
  # Its tests read two documents.
  entries = tests: dir:
    if dir == "." then builtins.filter exists ([ "src" "build.rs" ] ++ (if tests then [ "tests" "docs/manifest.md" "docs/egress-chains.md" ] else [ ]))
    else [ dir ];

  # Without comments: a changed comment would compile all dependencies again.
  manifest = dir:
    let
      lines = builtins.filter builtins.isString (builtins.split "\n" (builtins.readFile (../. + "/${dir}/Cargo.toml")));
      kept = builtins.filter (line: builtins.match "[ \t]*(#.*)?" line == null) lines;
    in builtins.toFile "Cargo.toml" (builtins.concatStringsSep "\n" kept + "\n");
  empty = dir: ''
    mkdir -p ws/${dir}
    cp ${manifest dir} ws/${dir}/Cargo.toml
    for f in ${toString (targets dir)}; do
      mkdir -p ws/${dir}/$(dirname $f)
      case $f in */lib.rs) : > ws/${dir}/$f ;; *) echo 'fn main() {}' > ws/${dir}/$f ;; esac
    done
  '';
  # Laid over the empty member: where the Cargo.toml names a test that was left out, the empty one
  # stays.
  real = tests: dir: empty dir + builtins.concatStringsSep "" (map
    (entry: ''
      rm -rf ws/${if dir == "." then entry else "${dir}/src"}
      mkdir -p $(dirname ws/${entry})
      cp -r --no-preserve=mode ${source tests entry} ws/${entry}.new
      if [ -d ws/${entry} ]; then cp -r ws/${entry}.new/. ws/${entry}/; rm -rf ws/${entry}.new; else mv ws/${entry}.new ws/${entry}; fi
    '')
    (entries tests dir));
  tests = dir:
    let path = ../. + "/${dir}/tests";
    in if !builtins.pathExists path then [ ]
    else map (f: builtins.head (builtins.match "(.*)\\.rs" f))
      (builtins.filter (f: builtins.match ".*\\.rs" f != null) (builtins.attrNames (builtins.readDir path)));
  boots = name: builtins.match "bottles.*" name != null;
in {
  members = all;
  # Integration tests by name. Tests of the root package that are named bottles* boot bottles.
  bottle-tests = builtins.filter boots (tests ".");
  other-tests = builtins.filter (name: !boots name) (builtins.concatMap tests all);
  # Names of the packages, for cargo -p.
  names = map (dir: (if dir == "." then top else read dir).package.name) all;
  stage = { members ? [ ], tests ? false }: ''
    mkdir -p ws
    cp ${file "Cargo.lock"} ws/Cargo.lock
  '' + builtins.concatStringsSep "" (map (dir: (if builtins.elem dir members then real tests dir else empty dir)) all)
    + "chmod -R u+w ws\n";
}
