# Every test that boots no bottle: those of the crates, and the root package's tests of manifests
# and plans.
{ tests, workspace, gitleaks, sshd }:
tests {
  name = "unit";
  env = {
    BOTTLE_GITLEAKS = "${gitleaks}/bin/gitleaks";
    BOTTLE_REQUIRE = "1"; # git, sshd and gitleaks are here: nothing is skipped
    BOTTLE_SSHD = "/build/sshd";
    BOTTLE_SSHD_USER = "upstream";
  };
  before = sshd;
  # Tests that are named bottles* boot machines.
  script = "run '*/lib/*' '*/bin/*' " + toString (map (name: "'*/test/${name}'") workspace.other-tests) + ";";
}
