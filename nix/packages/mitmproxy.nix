# The original egress chain: mitmproxy on Debian's Python, and our runner (bundle/mitmproxy), as one
# program that runs from a read-only store path on any distribution. It is not a part of the
# closure: users build it on request.
{ relocate, debian, lock }:
let
  wheels = builtins.filter (s: s.kind == "pypi") (lock "mitmproxy");
  version = (builtins.head (builtins.filter (s: s.name == "mitmproxy") wheels)).version;
  runner = builtins.path {
    path = ../../bundle/mitmproxy/bottle_egress;
    name = "bottle_egress";
    filter = file: type: type == "regular" && builtins.match ".*\\.py" file != null;
  };
in
relocate {
  name = "bottle-egress-mitmproxy";
  root = debian { name = "mitmproxy-root"; groups = [ "mitmproxy" ]; };
  programs = [ "usr/bin/python3.11" ];
  setup = ''
    cp -r $from/usr/lib/python3.11 $out/lib/
    chmod -R u+w $out/lib/python3.11
    cd $out/lib/python3.11
    # Debian's hook into /etc, and what nothing here imports; these modules' libraries are not
    # locked either.
    rm -rf sitecustomize.py ensurepip idlelib lib2to3 test turtledemo config-3.11-x86_64-linux-gnu pydoc_data
    rm -f lib-dynload/{_curses,_curses_panel,_dbm,_sqlite3,_crypt,nis,readline,_tkinter,ossaudiodev}.*
    cd /build

    # Our ld.so, because the store path that the program names does not exist yet. -I and -S:
    # whatever the host's environment and /usr/lib/python3 hold is not for it.
    python() { $out/lib/ld-linux-x86-64.so.2 --library-path $out/lib $out/bin/python3.11 -ISB "$@"; }
    site=$out/lib/python3.11/site-packages
    mkdir -p $site
    for wheel in ${toString (map (w: w.src) wheels)}; do python -m zipfile -e $wheel $site; done
    cp -r ${runner} $site/bottle_egress
    chmod -R u+w $site
    for module in $out/lib/python3.11/lib-dynload/*.so $(find $site -name '*.so'); do need $module; done

    cat > $out/bin/bottle-egress-mitmproxy <<END
    #!$final/bin/python3.11 -ISB
    import sys

    sys.path.append("$final/lib/python3.11/site-packages")
    from bottle_egress.runner import main

    main()
    END
    sed -i 's/^    //' $out/bin/bottle-egress-mitmproxy
    chmod 0755 $out/bin/bottle-egress-mitmproxy

    # Compiled here, as nothing can be written beside a module later; by content, as store files are
    # all equally old.
    export PYTHONHASHSEED=0
    python -m compileall -q -j 1 --invalidation-mode unchecked-hash -s $out -p $final $out/lib/python3.11 > /build/compile.log 2>&1 ||
      grep -v '^\*\*\*' /build/compile.log || true
  '';
} // { inherit version; }
