# The programs that git-gate runs besides gitleaks: Debian's git with its https helper, and
# OpenSSH's client.
{ relocate, debian }:
relocate {
  name = "git";
  root = debian { name = "gate-root"; groups = [ "gate" ]; };
  programs = [ "usr/bin/git" "usr/bin/ssh" "usr/lib/git-core/git-remote-http" ];
  # git starts itself and its helper from here; git-gate sets GIT_EXEC_PATH to it.
  setup = ''
    mkdir -p $out/lib/git-core
    ln -s ../../bin/git $out/lib/git-core/git
    ln -s ../../bin/git-remote-http $out/lib/git-core/git-remote-http
    ln -s ../../bin/git-remote-http $out/lib/git-core/git-remote-https
  '';
}
