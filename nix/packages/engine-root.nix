# What the engine's parts are taken from; nothing runs in it.
{ debian }:
debian { name = "engine-root"; groups = [ "engine" ]; }
