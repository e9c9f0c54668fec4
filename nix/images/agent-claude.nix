# Claude Code's image. Its native binary comes from npm and needs no node.
{ agent-image, lock }:
agent-image {
  name = "agent-claude";
  setup = ''
    tar -xzf ${(builtins.head (lock "agent-claude")).src} package/claude
    mv package/claude $root/usr/local/bin/claude
    rmdir package
  '';
}
