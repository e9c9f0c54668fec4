# The root in which everything is compiled and packed.
{ debian, toolchain-setup }:
debian {
  name = "toolchain";
  groups = [ "toolchain" ];
  # The link-time optimiser and other programs that nothing here runs.
  drop = [
    "usr/lib/gcc/x86_64-linux-gnu/12/lto1" "usr/lib/gcc/x86_64-linux-gnu/12/lto-wrapper" "usr/bin/lto-dump-12" "usr/bin/x86_64-linux-gnu-lto-dump-12"
    "usr/share/perl5" "usr/share/zsh" "usr/share/bash-completion"
  ];
  setup = toolchain-setup;
}
