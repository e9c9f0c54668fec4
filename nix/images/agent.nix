# An agent's image, for each engine: the guest root, the tools that agents expect, the provider's
# program, and what a team adds.
#   name       what `image` in bottle.toml says
#   provider   "claude", "codex", or null for neither
#   lock       the lock that nix/relock wrote from the team's wants: a path, or null
#   setup      bash that runs in the image's own root, without network, before the image is packed;
#              what it puts into $root is laid over the image
# The result also has what a closure says about an image that is not built yet: `sources`, and
# `download` in MB where it is known.
{ erofs, smolmachine, lock, lay, agent-tools, team-packages, claude-program, codex-program }:
let
  programs = { claude = claude-program; codex = codex-program; };
  # The function below has an argument of the same name.
  locked = lock;

  # The programs have several hundred megabytes, so at least the files that no agent uses are left
  # out. A team's packages may need them.
  trim = ''
    (
      cd $root/usr
      rm -f bin/scalar bin/git-shell sbin/tc sbin/dcb sbin/devlink sbin/rtmon sbin/tipc sbin/vdpa sbin/bridge sbin/genl
      rm -f lib/openssh/ssh-keysign lib/openssh/ssh-pkcs11-helper lib/openssh/ssh-sk-helper lib/python3.11/pydoc_data/topics.py
      for program in imap-send http-push http-fetch http-backend daemon shell; do rm -f lib/git-core/git-$program; done
      rm -f lib/git-core/scalar
      ln -sf ../../bin/git lib/git-core/git
      # For Python's dbm, which has others, and Perl's.
      rm -f lib/x86_64-linux-gnu/libdb-5.3.so lib/python3.11/lib-dynload/_dbm.*
      # UTF-8 and -16 need no module.
      find lib/x86_64-linux-gnu/gconv -name '*.so' ! -name 'ISO8859-1.so' ! -name 'ISO8859-15.so' ! -name 'CP1252.so' -delete
    )
  '';
in
{ name, provider ? null, lock ? null, setup ? "" }:
let
  wheels = builtins.filter (s: s.kind == "pypi") (if lock == null then [ ] else locked lock);
  program = if provider == null then { sources = [ ]; setup = ""; } else programs.${provider}
    or (throw "mkAgentImage: no provider ${provider}; there are: claude, codex");
  added = if lock == null && setup == "" then [ ] else team-packages name lock setup;
  image = {
    inherit name;
    setup = ''
      ${lay (agent-tools ++ added)}
      ${if added == [ ] then trim else ""}
      ${program.setup}
    '';
  };
in {
  inherit name;
  download = if lock == null then program.download or null else null;
  # The team's lock is given as a path, which nix/fetch accepts as the name of a group.
  sources = [ "agent" ] ++ program.sources
    ++ (if wheels == [ ] then [ ] else [ "wheels" ])
    ++ (if lock == null then [ ] else [ "${builtins.path { path = lock; name = "${name}.lock"; }}" ]);
  # Large clusters make the image a seventh smaller, and the kernel then reads ahead what a program
  # of that size needs anyway.
  qemu = erofs (image // { compression = "lz4hc,12 -C1048576"; });
  smolvm = smolmachine image;
}
