# Real bottles on the real smolvm: attacks from the guest, and the life cycle from launch to
# teardown. The check `bottles` runs the same tests on QEMU.
{ nested-run, test-programs, closure, orchestrator }:
nested-run {
  # Nix starts builds that are ready in the order of their names, so the name of the longest check
  # comes first.
  name = "check-0-smolvm";
  env = {
    BOTTLE_CLOSURE = closure;
    BOTTLE_BINARY = "${orchestrator}/bin/bottle";
    BOTTLE_TEST_ENGINE = "smolvm";
    TERM = "xterm";
    BOTTLE_TEST_CASES = [
      "conformance::"
      "attacks::isolation"
      "lifecycle::the_demo_prints_its_table_and_exits_0"
      "lifecycle::a_stopped_bottle_goes_on_with_its_disk"
      "lifecycle::launches_at_once"
      "lifecycle::a_launch_that_loses_its_vmm_ends"
      "lifecycle::kill_9_leaves_nothing_running_and_the_next_command_cleans_up"
      "lifecycle::smolvm::"
    ];
  };
  script = ''
    export TMPDIR=$HOME/t SHELL=/bin/bash
    mkdir -p $TMPDIR
    ${test-programs}/programs/ws/test/bottles --test-threads=1
  '';
  summary = ''
    awk '/^test / && / \.\.\. / { $1 = ""; sub(/^ /, ""); print }' nested/log
    awk '/^test result: / { passed += $4; failed += $6 } END { printf "%d passed, %d failed\n", passed, failed }' nested/log
  '';
}
