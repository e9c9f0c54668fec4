# Every test program of the workspace, compiled once for all checks: programs/PACKAGE/KIND/NAME
# (KIND: lib, bin or test), the binaries that they start in debug/, and `bottle-faulty`, in which
# tests can disable checks to prove what each of them stops.
{ rust, workspace, deps-test, check-root }:
rust.build {
  name = "test-programs";
  root = check-root;
  layer = deps-test;
  tests = true;
  script = ''
    cargo test --frozen --workspace --lib --bins ${toString (map (name: "--test ${name}") (workspace.other-tests ++ workspace.bottle-tests))} --no-run --message-format=json-render-diagnostics > /build/messages
    python3 - $out <<'END'
    import json, os, shutil, sys
    out = sys.argv[1]
    for line in open("/build/messages"):
        told = json.loads(line)
        if told["reason"] != "compiler-artifact" or not told.get("executable"):
            continue
        package, target = os.path.dirname(told["manifest_path"]), told["target"]
        if told["profile"]["test"]:
            to = f"{out}/programs/{os.path.basename(package)}/{target['kind'][0]}/{target['name']}"
        elif target["kind"] == ["bin"]:
            to = f"{out}/debug/{target['name']}"
        else:
            continue
        os.makedirs(os.path.dirname(to), exist_ok=True)
        shutil.copy(told["executable"], to)
    END
    cargo build --frozen --workspace --features bottle/fault-injection --bin bottle
    cp ../target/${rust.target}/debug/bottle $out/bottle-faulty
  '';
}
