# What a team's binary cache holds, as the references of one path: what users run, and what their
# Nix needs to assemble `bottle` itself, when it gets its sources in another way than the machine
# that filled the cache (docs/teams.md).
{ bare, seed, orchestrator, closure, bottle, realise, agent-claude, agent-codex }:
{ agents ? false }:
bare {
  name = if agents then "cached-with-agents" else "cached";
  script = ''
    echo ${toString ([ seed orchestrator closure bottle realise ] ++ (if agents then [ agent-claude agent-codex ] else [ ]))} > $out
  '';
}
