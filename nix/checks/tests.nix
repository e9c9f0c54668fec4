# A check that runs tests, after the script `before`: the output of `command` (cargo test's format) goes to the build's log, and its
# summary is the check's output, ending in `N passed, N failed`, so that .ci/run can print it when the check
# was built long ago.
{ rust, deps-test, check-root }:
{ name, command, root ? check-root, before ? "", env ? { } }:
rust.build {
  name = "check-${name}";
  inherit root;
  layer = deps-test;
  tests = true;
  env = env // { check = name; inherit command; };
  script = ''
    export XDG_RUNTIME_DIR=/tmp/run XDG_STATE_HOME=/build/state XDG_CACHE_HOME=/build/cache XDG_CONFIG_HOME=/build/config XDG_DATA_HOME=/build/data
    export SHELL=/bin/bash USER=root LOGNAME=root TERM=xterm RUST_BACKTRACE=1
    mkdir -m 0700 -p $XDG_RUNTIME_DIR $XDG_STATE_HOME $XDG_CACHE_HOME $XDG_CONFIG_HOME $XDG_DATA_HOME
    ${before}
    status=0
    eval "$command" 2>&1 | tee /build/log || status=$?
    awk -v check="$check" '
      /^     Running |^   Doc-tests / { sub(/^ +/, ""); sub(/ \(.*/, ""); what = $0 }
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
    # A build that broke, or a harness that died, is not a pass.
    [ $status = 0 ] || echo "$check: FAILED"
    [ $status = 0 ]
  '';
}
