# The sources of a group, as { kind; name; version; src; directory; origin; } in the order of
# nix/lock/GROUP.lock. The group may also be the path of a lock file elsewhere. `directory` is where
# an npm package that was locked together with its dependencies is installed, otherwise null.
# `origin` says where plain Nix finds the file (fixed.nix).
{ fixed }:
group:
let
  split = separator: text: builtins.filter builtins.isString (builtins.split separator text);
  lines = builtins.filter (line: line != "" && builtins.substring 0 1 line != "#")
    (split "\n" (builtins.readFile (if builtins.isPath group then group else ./lock + "/${group}.lock")));
  source = line:
    let
      fields = split "\t" line;
      field = builtins.elemAt fields;
      kind = field 0;
      directory = if builtins.length fields > 5 then field 5 else null;
      origin = {
        inherit kind directory;
        pname = field 1;
        version = field 2;
        file = field 3;
      };
    in {
      inherit kind origin;
      name = field 1;
      version = field 2;
      directory = if kind == "npm" then directory else null;
      src = fixed {
        # nix/fetch renames in the same way: a store name may not hold % or ~.
        name = builtins.replaceStrings [ "%3a" "~" ] [ "-" "-" ] (field 3);
        hash = field 4;
        algo = if kind == "npm" then "sri" else "sha256";
        mode = if kind == "tree" then "recursive" else "flat";
        inherit origin;
      };
    };
in map source lines
