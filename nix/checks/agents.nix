# Claude Code and Codex in real bottles, against stand-ins of their vendors' APIs (docs/agents.md).
{ tests, closure-agents }:
tests {
  name = "agents";
  env.BOTTLE_CLOSURE = closure-agents;
  script = "run ws/test/bottles_clients -- --test-threads=2 agents::;";
}
