# A check that runs test programs (./programs.nix), after the script `before`.
# `run PROGRAM… -- ARGUMENTS…` in `script` runs the programs that the patterns name, below
# programs/. Their output goes to the build's log. The check's output is a summary that ends in
# `N passed, N failed`, so that .ci/run can also print it when the check was built long ago. `order`
# begins the derivation's name, because Nix starts builds that are ready in the order of their
# names.
{ rust, in-root, workspace, test-programs, check-root }:
{ name, script, order ? "", root ? check-root, before ? "", env ? { } }:
in-root {
  name = "check-${order}${name}";
  inherit root;
  env = env // { check = name; };
  script = workspace.stage { inherit (workspace) members; tests = true; } + ''
    export XDG_RUNTIME_DIR=/tmp/run XDG_STATE_HOME=/build/state XDG_CACHE_HOME=/build/cache XDG_CONFIG_HOME=/build/config XDG_DATA_HOME=/build/data
    export SHELL=/bin/bash USER=root LOGNAME=root TERM=xterm RUST_BACKTRACE=1 BOTTLE_FAULTY=${test-programs}/bottle-faulty
    mkdir -m 0700 -p $XDG_RUNTIME_DIR $XDG_STATE_HOME $XDG_CACHE_HOME $XDG_CONFIG_HOME $XDG_DATA_HOME
    # Where they were compiled to find the binaries that they start.
    mkdir -p target/${rust.target}
    ln -s ${test-programs}/debug target/${rust.target}/debug
    ${before}
    run() {
      local patterns=() programs failed=0
      while [ $# -gt 0 ] && [ "$1" != -- ]; do patterns+=("$1"); shift; done
      shift || true
      # A pattern that names nothing is a failure.
      programs=$(cd ${test-programs}/programs && ls -d ''${patterns[*]}) || return 1
      for program in $programs; do
        echo "     Running $program"
        # A member's tests run in its directory.
        local dir=/build/ws/''${program%%/*}
        [ -d $dir ] && [ "''${program%%/*}" != ws ] || dir=/build/ws
        (cd $dir && CARGO_MANIFEST_DIR=$dir ${test-programs}/programs/$program "$@") || failed=1
      done
      return $failed
    }
    status=0
    { ${script} } 2>&1 | tee /build/log || status=$?
    awk -v check="$check" '
      /^     Running / { sub(/^ +/, ""); what = $0 }
      /^test .* \.\.\. FAILED/ { failures = failures "failed: " $2 "\n" }
      /^test result: / {
        passed += $4; failed += $6; ignored += $8
        if ($4 + $6) lines = lines sprintf("%-60s %4d passed, %d failed\n", what, $4, $6)
      }
      END {
        printf "%s%s", lines, failures
        if (ignored) printf "%d ignored\n", ignored
        printf "%d passed, %d failed\n", passed, failed
      }' /build/log > $out
    echo "summary of $check:"
    sed 's/^/  /' $out
    # A harness that died is not a pass.
    [ $status = 0 ] || echo "$check: FAILED"
    [ $status = 0 ]
  '';
}
