# `bench engine` where KVM may have to be emulated. Everything is slow there, so a figure is
# compared only with others of the same run.
{ nested-run, bench }:
nested-run {
  name = "bench-engine";
  deadline = 3000;
  script = ''
    export TMPDIR=$HOME/t
    mkdir -p $TMPDIR
    # A figure beyond its limit is a figure.
    ${bench}/bin/bottle-bench engine --runs 3 || [ $? = 1 ]
  '';
  summary = "cat nested/log";
}
