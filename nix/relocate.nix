# Programs from Debian packages, with the libraries that they load, made to run from a read-only
# store path on any distribution: their interpreter is our copy of Debian's ld.so, and an rpath
# relative to the program finds the libraries. It is a DT_RPATH and not a RUNPATH, because that also
# applies to libraries of libraries.
{ in-root, toolchain }:
{ name, root, programs, modules ? [ ], setup ? "" }:
in-root {
  inherit name;
  root = toolchain;
  env = { from = root; inherit programs modules; };
  script = ''
    mkdir -p $out/bin $out/lib
    libs=$from/usr/lib/x86_64-linux-gnu
    need() { # FILE: copy what it loads, and what that loads
      local lib
      for lib in $(patchelf --print-needed $1); do
        [ -e $out/lib/$lib ] && continue
        [ -e $libs/$lib ] || { echo "$1 needs $lib, which no locked package has" >&2; exit 1; }
        cp -L $libs/$lib $out/lib/$lib
        need $out/lib/$lib
      done
    }
    for program in $programs; do
      copy=$out/bin/''${program##*/}
      cp $from/$program $copy
      chmod u+w $copy
      need $copy
      patchelf --set-interpreter $final/lib/ld-linux-x86-64.so.2 --force-rpath --set-rpath '$ORIGIN/../lib' $copy
    done
    for module in $modules; do
      mkdir -p $out/''${module%/*}
      cp $from/usr/$module $out/$module
      need $out/$module
    done
    ${setup}
    chmod -R u+w $out
  '';
}
