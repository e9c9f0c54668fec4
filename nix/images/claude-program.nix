# Claude Code for its image: the native binary of its npm package, which needs no node.
{ lock }:
{
  sources = [ "agent-claude" ];
  download = 320;
  setup = ''
    tar -xzf ${(builtins.head (lock "agent-claude")).src} package/claude
    mv package/claude $root/usr/local/bin/claude
    rmdir package
  '';
}
