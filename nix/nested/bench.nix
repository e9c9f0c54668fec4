# `bench engine` where KVM may have to be emulated: everything is slow there, and compared with what
# is as slow.
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
