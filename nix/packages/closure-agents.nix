# The closure with the agents' images and a team's in it, for the check of that name: there is no
# Nix in Nix's sandbox.
{ bare, closure, agent-claude, agent-codex, team }:
bare {
  name = "closure-agents.json";
  script = ''
    sed "s|\"images\":{|&\"agent-claude\":$(tr -d '\n' < ${agent-claude}/image.json),\"agent-codex\":$(tr -d '\n' < ${agent-codex}/image.json),\"team\":$(tr -d '\n' < ${team.qemu}/image.json),|" ${closure} > $out
    grep -q '"images":{"agent-claude":' $out
  '';
}
