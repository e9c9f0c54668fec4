# programs.bottle for home-manager: the command, and a manifest for all projects below the home
# directory that have none of their own.
{ package }:
{ config, lib, pkgs, ... }:
let
  cfg = config.programs.bottle;
  toml = pkgs.formats.toml { };
in {
  options.programs.bottle = {
    enable = lib.mkEnableOption "bottle, which runs AI coding agents in micro-VMs without network";
    package = lib.mkOption { type = lib.types.package; default = package; description = "What is installed; a team's is made by lib.mkBottle."; };
    manifest = lib.mkOption {
      inherit (toml) type;
      default = { };
      example.agents.worker = { bottle = "dev"; provider = "claude"; };
      description = "The content of ~/bottle.toml (docs/manifest.md); { } for none. The token of a route is named there, never written.";
    };
  };

  config = lib.mkIf cfg.enable {
    home.packages = [ cfg.package ];
    home.file = lib.mkIf (cfg.manifest != { }) {
      "bottle.toml".source = toml.generate "bottle.toml" ({ version = 1; } // cfg.manifest);
    };
  };
}
