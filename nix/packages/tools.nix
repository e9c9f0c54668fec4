# Host tools that a launch runs.
{ relocate, engine-root }:
relocate {
  name = "bottle-tools";
  root = engine-root;
  programs = [ "usr/sbin/mke2fs" ];
}
