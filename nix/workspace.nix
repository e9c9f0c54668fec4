# The Cargo workspace as sources that change only when what they name changes: `stage MEMBERS` is a shell
# script that lays down, in ./ws, the real sources of those members and empty ones of all others. Every build
# sees the whole workspace, because Cargo unifies features over it: so one layer of compiled dependencies
# serves them all.
{ }:
let
  top = builtins.fromTOML (builtins.readFile ../Cargo.toml);
  read = dir: builtins.fromTOML (builtins.readFile (../. + "/${dir}/Cargo.toml"));
  members = [ "." ] ++ top.workspace.members;
  exists = dir: builtins.pathExists (../. + "/${dir}");
  # A store path of its own for each directory: what is next to it does not count.
  source = dir: builtins.path { path = ../. + "/${dir}"; name = baseNameOf dir; };
  file = path: builtins.path { path = ../. + "/${path}"; name = baseNameOf path; };

  # Files a manifest names; an empty member must have them too.
  targets = dir:
    let
      manifest = if dir == "." then top else read dir;
      of = kind: folder: map (t: t.path or "${folder}/${t.name}.rs")
        (builtins.filter (t: t ? path || t.name != manifest.package.name) (manifest.${kind} or [ ]));
      build = manifest.package.build or false;
    in [ "src/lib.rs" "src/main.rs" ] ++ of "bin" "src/bin" ++ of "test" "tests" ++ of "bench" "benches"
      ++ of "example" "examples" ++ (if builtins.isString build then [ build ] else [ ]);

  # Entries of a member that are sources; of the root package only its own, not the other members.
  entries = dir:
    if dir == "." then builtins.filter exists [ "src" "tests" "benches" "build.rs" "assets" ]
    else [ dir ];

  empty = dir: ''
    mkdir -p ws/${dir}
    cp ${file "${dir}/Cargo.toml"} ws/${dir}/Cargo.toml
    for f in ${toString (targets dir)}; do
      mkdir -p ws/${dir}/$(dirname $f)
      case $f in */lib.rs) : > ws/${dir}/$f ;; *) echo 'fn main() {}' > ws/${dir}/$f ;; esac
    done
  '';
  real = dir:
    (if dir == "." then "cp ${file "Cargo.toml"} ws/Cargo.toml\n" else "")
    + builtins.concatStringsSep "" (map (e: "rm -rf ws/${e}; cp -r ${source e} ws/${e}\n") (entries dir));
  tests = dir:
    let path = ../. + "/${dir}/tests";
    in if !builtins.pathExists path then [ ]
    else map (f: builtins.head (builtins.match "(.*)\\.rs" f))
      (builtins.filter (f: builtins.match ".*\\.rs" f != null) (builtins.attrNames (builtins.readDir path)));
in {
  inherit members;
  # Integration tests by name: the members', and the root package's, which boot bottles.
  member-tests = builtins.concatMap tests top.workspace.members;
  root-tests = tests ".";
  # Names of the packages, as cargo -p takes them.
  names = map (dir: (if dir == "." then top else read dir).package.name) members;
  stage = wanted: ''
    mkdir -p ws
    cp ${file "Cargo.lock"} ws/Cargo.lock
  '' + builtins.concatStringsSep "" (map (dir: if builtins.elem dir wanted then real dir else empty dir) members)
    + "chmod -R u+w ws\n";
}
