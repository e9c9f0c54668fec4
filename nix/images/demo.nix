# The image of the demo's agents: plain commands, no provider.
{ erofs }:
erofs { name = "demo"; }
