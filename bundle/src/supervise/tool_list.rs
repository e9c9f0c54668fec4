//! The descriptions and schemas of the tools, as the agent sees them.

use std::sync::Arc;

use bottle_policy::MAX_ITEMS;
use rmcp::model::Tool;
use serde_json::{Value, json};

/// What the agent is told about this server.
pub const INSTRUCTIONS: &str = "You run in a bottle: it has no network but a few allowed routes. When something is refused, call \
explain_denial, then propose_route with the least that you need and an honest reason. A person decides; with wait_seconds the call \
waits. A denial is an answer: do not ask for the same again.";

/// All tools.
#[must_use]
pub fn all() -> Vec<Tool> {
    let text = |about: &str| json!({ "type": "string", "description": about });
    let list = |about: &str| json!({ "type": "array", "items": { "type": "string" }, "maxItems": MAX_ITEMS, "description": about });
    let reason = text("why you need it, for the person who decides, at most 500 characters");
    let wait = json!({ "type": "integer", "minimum": 0, "maximum": 50, "description": "wait this long for the decision; without it the call returns at once with an id" });
    let tool = |name: &'static str, about: &'static str, properties: Value, required: &[&str]| {
        let schema = json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false });
        let Value::Object(schema) = schema else { unreachable!("an object") };
        Tool::new(name, about, Arc::new(schema))
    };
    let branches = list("branch patterns, such as main or agent/*");
    vec![
        tool("policy", "What this bottle may reach.", json!({}), &[]),
        tool(
            "explain_denial",
            "What was refused lately, why, and the smallest route that would have allowed each.",
            json!({ "last": { "type": "integer", "minimum": 1, "maximum": 20, "description": "how many (5)" } }),
            &[],
        ),
        tool(
            "propose_route",
            "Ask the operator for a route: a host, its port, and the methods and paths that you need. The smaller, the sooner it is approved.",
            json!({
                "host": text("a DNS name; *.example.com for all names below it"),
                "port": { "type": "integer", "minimum": 1, "maximum": 65535, "description": "443, or 80 without tls" },
                "methods": list("such as [\"GET\"]"),
                "paths": list("such as [\"/v1/models\", \"/repos/*\"]; * as the last segment stands for everything below"),
                "tls": { "type": "boolean", "description": "false: plain http" },
                "reason": reason, "wait_seconds": wait
            }),
            &["host", "methods", "paths", "reason"],
        ),
        tool(
            "propose_git_upstream",
            "Ask the operator for another git repository. It is there at the next launch.",
            json!({ "url": text("such as git@host:me/x.git or https://host/me/x.git"), "branches": branches, "reason": reason, "wait_seconds": wait }),
            &["url", "reason"],
        ),
        tool(
            "propose_ref",
            "Ask the operator to let you push to more branches of a repository that you have.",
            json!({ "upstream": text("the repository's name, see policy"), "branches": branches, "reason": reason, "wait_seconds": wait }),
            &["upstream", "branches", "reason"],
        ),
        tool(
            "allow_finding",
            "Ask the operator to let a push through in which git-gate found what looks like a secret and is none.",
            json!({ "upstream": text("the repository's name"), "fingerprint": text("the 16 hex digits that the refusal named"), "reason": reason, "wait_seconds": wait }),
            &["upstream", "fingerprint", "reason"],
        ),
        tool(
            "ask_operator",
            "Ask the operator a question, with answers to choose from if you like.",
            json!({ "question": text("at most 500 characters"), "choices": list("answers to choose from"), "wait_seconds": wait }),
            &["question"],
        ),
        tool(
            "proposal_status",
            "What became of a proposal or question; without id, of all of this launch.",
            json!({ "id": { "type": "integer", "minimum": 1 }, "wait_seconds": wait }),
            &[],
        ),
    ]
}
