{
  description = "bot-bottle: AI coding agents in micro-VMs that reach nothing but their own sidecars";

  # Locked and optional: only overlays, legacyPackages and lib use it, and what is not used is not fetched. The
  # name is not "nixpkgs" because `nix develop` would look there for a bash of its own.
  inputs.optional-nixpkgs.url = "github:NixOS/nixpkgs/nixos-26.05";

  outputs = { self, optional-nixpkgs }:
    let
      system = "x86_64-linux";
      parts = import ./nix { inherit self system; };
      optional = import ./nix/nixpkgs.nix { inherit parts system; nixpkgs = optional-nixpkgs; };
      app = program: { type = "app"; inherit program; };
    in {
      packages.${system} = {
        default = parts.bottle;
        inherit (parts)
          bottle bottle-bundle bottle-guest bench
          bottle-pack qemu kernel initrd tools smolvm crane image-demo smolmachine-demo smolmachine-claude smolmachine-codex agent-claude agent-codex closure mitmproxy nested-machine test-programs bench-engine
          # Intermediate, but worth building by name when one of them is what changed.
          toolchain vendor orchestrator guest-root engine-root check-root dev-tools image-clients closure-clients closure-agents;
        image-team = parts.team.qemu;
      };

      apps.${system} = rec {
        # For flakes that use lib: what they need of this one's own commands.
        bootstrap = app "${self}/nix/bootstrap";
        relock = app "${self}/nix/relock";
        default = bottle;
        bottle = app "${parts.bottle}/bin/bottle";
        bench = app "${parts.bench}/bin/bottle-bench";
      };

      checks.${system} = parts.checks;
      devShells.${system}.default = parts.shell;
      formatter.${system} = parts.fmt;

      overlays.default = optional.overlay;
      legacyPackages.${system} = optional.legacyPackages;
      lib = optional.lib // { ${system} = parts.lib; };
      templates.default = { path = ./nix/template; description = "A team's bottles: its own image, its own bottle.toml"; };
    };
}
