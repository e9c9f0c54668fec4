# programs.bottle for NixOS: the command, and what bottles need of the machine (`bottle doctor`
# checks the same).
{ package }:
{ config, lib, ... }:
let cfg = config.programs.bottle; in {
  options.programs.bottle = {
    enable = lib.mkEnableOption "bottle, which runs AI coding agents in micro-VMs without network";
    package = lib.mkOption { type = lib.types.package; default = package; description = "What is installed; a team's is made by lib.mkBottle."; };
    users = lib.mkOption {
      type = lib.types.listOf lib.types.str;
      default = [ ];
      description = "Users who may use /dev/kvm. Bottles of others are emulated.";
    };
  };

  config = lib.mkIf cfg.enable {
    environment.systemPackages = [ cfg.package ];
    environment.pathsToLink = [ "/share/bottle" ];
    users.groups.kvm.members = cfg.users;
    # The daemons of a bottle are confined in user namespaces of their own.
    security.allowUserNamespaces = true;
    security.unprivilegedUsernsClone = lib.mkDefault true;
    boot.kernel.sysctl."user.max_user_namespaces" = lib.mkDefault 10000;
  };
}
