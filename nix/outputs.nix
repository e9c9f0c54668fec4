# The outputs of the flake. `nixpkgs` is the flake input, or { } where sources come from nix/fetch
# (nix/registries/flake.nix).
{ self, nixpkgs }:
let
  system = "x86_64-linux";
  source = self.sourceInfo;
  parts = import ./. { inherit nixpkgs system; revision = self.shortRev or self.dirtyShortRev or "dirty"; };

  describe = description: package: package // {
    meta = {
      inherit description;
      license = { spdxId = "Apache-2.0"; fullName = "Apache License 2.0"; free = true; };
      platforms = [ system ];
    };
  };
  app = description: program: { type = "app"; inherit program; meta = { inherit description; }; };

  packages = builtins.mapAttrs describe' descriptions;
  describe' = name: description: describe description parts.${name};
  descriptions = {
    bottle = "Run AI coding agents in micro-VMs that can reach nothing but their own sidecars";
    bottle-bundle = "The sidecar daemons of a bottle: egress proxy, git gate, supervise";
    bottle-guest = "The agent inside a bottle's guest, static";
    bench = "Benchmarks of launches, egress and git, beside the programs they measure";
    sbom = "The bill of materials of what bottle runs, CycloneDX";
    cached = "What a team's binary cache holds (docs/teams.md)";
    cached-with-agents = "The same with the images of Claude Code and Codex for QEMU";
    pipelock = "pipelock's pinned release, for the egress chain with it";
    mitmproxy = "The egress chain on mitmproxy, an alternative to the built-in proxy";
    image-demo = "The demo's image, a read-only file system for QEMU";
    smolmachine-demo = "The demo's image as a .smolmachine";
    agent-claude = "Claude Code's image for QEMU";
    agent-codex = "Codex' image for QEMU";
    smolmachine-claude = "Claude Code's image as a .smolmachine";
    smolmachine-codex = "Codex' image as a .smolmachine";
  };
in {
  packages.${system} = packages // { default = packages.bottle; };

  apps.${system} = rec {
    default = bottle;
    bottle = app descriptions.bottle "${parts.bottle}/bin/bottle";
    bench = app descriptions.bench "${parts.bench}/bin/bottle-bench";
    # For flakes that use lib: the commands of this flake that they need.
    bootstrap = app "nix on a machine that reaches package registries only" "${source}/nix/bootstrap";
    relock = app "Write a lock file from a list of Debian, PyPI and npm packages" "${source}/nix/relock";
  };

  checks.${system} = parts.checks;
  devShells.${system}.default = parts.shell;
  formatter.${system} = describe "Format the workspace" parts.fmt;

  # Intermediate results that are worth building by name, when one of them is what changed; and
  # nixpkgs with our packages in it. That is one attribute (`nix build .#nixpkgs.hello`), because
  # `nix build .#checks.…` also looks for that name here, and would have to evaluate all of nixpkgs
  # to find that it does not exist.
  legacyPackages.${system} = {
    inherit (parts)
      toolchain vendor deps-release deps-test deps-check orchestrator bottle-pack guest-root engine-root qemu kernel initrd tools git
      gitleaks smolvm crane check-root dev-tools test-programs closure closure-clients closure-agents image-clients nested-machine
      bench-engine;
    image-team = parts.team.qemu;
    # Where `nix develop` finds its bash when there is no nixpkgs (nix_env in nix/lib.sh).
    bashInteractive = parts.bash;
  } // (if nixpkgs ? outPath then {
    nixpkgs = import nixpkgs { inherit system; overlays = [ (import ./overlay.nix) ]; };
  } else { });

  overlays.default = import ./overlay.nix;
  nixosModules = rec { bottle = import ./modules/nixos.nix { package = packages.bottle; }; default = bottle; };
  homeModules = rec { bottle = import ./modules/home.nix { package = packages.bottle; }; default = bottle; };
  lib.${system} = parts.lib;
  templates.default = {
    path = ./template;
    description = "A team's bottles: its own image, its own bottle.toml";
    welcomeText = ''
      1. Set the input's url in flake.nix to your checkout of bot-bottle.
      2. `nix/relock team.want`, from that checkout, writes team.lock.
      3. `git add flake.nix team.lock bottle.toml`: Nix sees only what git knows.
      4. `nix run . -- launch worker` (or `nix/bootstrap run . -- launch worker`).
    '';
  };
}
