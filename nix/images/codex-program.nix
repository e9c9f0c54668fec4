# Codex for its image: the static native binary of its npm package, without the voice host, because
# a bottle has no sound card.
{ lock }:
{
  sources = [ "agent-codex" ];
  download = 315;
  setup = ''
    mkdir -p $root/usr/local/lib/codex
    tar -xzf ${(builtins.head (lock "agent-codex")).src} --exclude=voice --strip-components=3 -C $root/usr/local/lib/codex package/vendor
    ln -s ../lib/codex/bin/codex $root/usr/local/bin/codex
  '';
}
