{
  description = "Our bottles: agents in an image with our own packages";

  # Your checkout of bot-bottle, or where your team keeps it. Where only package registries are
  # reachable, name its flake without inputs: "git+file:///home/me/bot-bottle?dir=nix/registries".
  inputs.bot-bottle.url = "git+file:///home/me/bot-bottle";
  # inputs.bot-bottle.inputs.nixpkgs.follows = "nixpkgs";   # if your flake has that input

  outputs = { bot-bottle, ... }:
    let bottle = bot-bottle.lib.x86_64-linux; in {
      packages.x86_64-linux.default = bottle.mkBottle {
        images = [
          (bottle.mkAgentImage {
            name = "team";
            provider = "claude";
            lock = ./team.lock;
          })
        ];
      };
    };
}
