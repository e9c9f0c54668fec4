//! The descriptions and schemas of the tools, as the agent sees them.

use std::sync::Arc;

use bottle_policy::MAX_ITEMS;
use rmcp::model::{JsonObject, Tool};
use serde_json::{Value, json};

/// What the agent is told about this server.
pub const INSTRUCTIONS: &str = "You run in a bottle: it has no network but a few allowed routes. \
    When something is refused, call explain_denial, then propose_route with the least that you need \
    and an honest reason. A person decides; with wait_seconds the call waits. A denial is an answer: \
    do not ask for the same again.";

/// All tools.
#[must_use]
pub fn all() -> Vec<Tool> {
    vec![
        tool("policy", "What this bottle may reach.", json!({}), &[]),
        tool(
            "explain_denial",
            "The last refusals, why, and the smallest route that would have allowed each.",
            json!({ "last": integer("how many (5)", 1, 20) }),
            &[],
        ),
        propose_route(),
        proposal(
            "propose_git_upstream",
            "Ask the operator for another git repository. It is available at the next launch.",
            json!({
                "url": text("such as git@host:me/x.git or https://host/me/x.git"),
                "branches": branches(),
            }),
            &["url", "reason"],
        ),
        proposal(
            "propose_ref",
            "Ask the operator to let you push to more branches of a repository that you have.",
            json!({
                "upstream": text("the repository's name, see policy"),
                "branches": branches(),
            }),
            &["upstream", "branches", "reason"],
        ),
        proposal(
            "allow_finding",
            "Ask the operator to allow a push in which git-gate found something that looks like a \
             secret and is not.",
            json!({
                "upstream": text("the repository's name"),
                "fingerprint": text("the 16 hex digits that the refusal named"),
            }),
            &["upstream", "fingerprint", "reason"],
        ),
        tool(
            "ask_operator",
            "Ask the operator a question, with answers to choose from if you like.",
            json!({
                "question": text("at most 500 characters"),
                "choices": list("answers to choose from"),
                "wait_seconds": wait_seconds(),
            }),
            &["question"],
        ),
        tool(
            "proposal_status",
            "The status of a proposal or question; without id, of all of this launch.",
            json!({ "id": { "type": "integer", "minimum": 1 }, "wait_seconds": wait_seconds() }),
            &[],
        ),
    ]
}

fn propose_route() -> Tool {
    proposal(
        "propose_route",
        "Ask the operator for a route: a host, its port, and the methods and paths that you need. \
         The smaller, the sooner it is approved.",
        json!({
            "host": text("a DNS name; *.example.com for all names below it"),
            "port": integer("443, or 80 without tls", 1, 65535),
            "methods": list("such as [\"GET\"]"),
            "paths": list(
                "such as [\"/v1/models\", \"/repos/*\"]; * as the last segment stands for everything \
                 below"
            ),
            "tls": { "type": "boolean", "description": "false: plain http" },
        }),
        &["host", "methods", "paths", "reason"],
    )
}

/// A tool with `properties`, of which `required` must be given.
fn tool(name: &'static str, about: &'static str, properties: Value, required: &[&str]) -> Tool {
    let mut schema = JsonObject::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), properties);
    schema.insert("required".to_owned(), json!(required));
    schema.insert("additionalProperties".to_owned(), json!(false));
    Tool::new(name, about, Arc::new(schema))
}

/// A tool that files a proposal: it also has a reason, and a time to wait.
fn proposal(
    name: &'static str,
    about: &'static str,
    mut properties: Value,
    required: &[&str],
) -> Tool {
    properties["reason"] =
        text("why you need it, for the person who decides, at most 500 characters");
    properties["wait_seconds"] = wait_seconds();
    tool(name, about, properties, required)
}

fn text(about: &str) -> Value {
    json!({ "type": "string", "description": about })
}

fn integer(about: &str, min: u32, max: u32) -> Value {
    json!({ "type": "integer", "minimum": min, "maximum": max, "description": about })
}

fn list(about: &str) -> Value {
    let items = json!({ "type": "string" });
    json!({ "type": "array", "items": items, "maxItems": MAX_ITEMS, "description": about })
}

fn branches() -> Value {
    list("branch patterns, such as main or agent/*")
}

fn wait_seconds() -> Value {
    let about = "wait this long for the decision; without it the call returns at once with an id";
    integer(about, 0, 50)
}
