# The Debian root from which the engine's parts are taken; nothing runs in it.
{ debian }:
debian { name = "engine-root"; groups = [ "engine" ]; }
