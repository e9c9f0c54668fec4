# The closure with the agents' images and a team's image in it, for the check `agents`: Nix's
# sandbox has no Nix that could build them.
{ bare, closure, agent-claude, agent-codex, team }:
bare {
  name = "closure-agents.json";
  script = ''
    sed "s|\"images\":{|&\"agent-claude\":$(tr -d '\n' < ${agent-claude}/image.json),\"agent-codex\":$(tr -d '\n' < ${agent-codex}/image.json),\"team\":$(tr -d '\n' < ${team.qemu}/image.json),|" ${closure} > $out
    grep -q '"images":{"agent-claude":' $out
  '';
}
