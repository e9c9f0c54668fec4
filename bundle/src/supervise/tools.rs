//! The tools. Arguments are typed here, once: what goes on is an [`Ask`].

use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{
    Ask, MAX_CHOICE_CHARS, MAX_ITEMS, MAX_TEXT_CHARS, ProposalState, ProposalStatus, RouteAsk,
    UntrustedText,
};
use rmcp::ErrorData;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerInfo, Tool,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::guards::{Guard, Guards};
use super::line::Line;
use super::{Args, denials};

/// The tools of one bottle.
#[derive(Clone)]
pub struct Tools {
    args: Arc<Args>,
    line: Arc<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Last {
    last: Option<u8>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RouteArgs {
    host: String,
    port: Option<u16>,
    methods: Vec<String>,
    paths: Vec<String>,
    tls: Option<bool>,
    reason: String,
    wait_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpstreamArgs {
    url: String,
    #[serde(default)]
    branches: Vec<String>,
    reason: String,
    wait_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RefArgs {
    upstream: String,
    branches: Vec<String>,
    reason: String,
    wait_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FindingArgs {
    upstream: String,
    fingerprint: String,
    reason: String,
    wait_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct QuestionArgs {
    question: String,
    #[serde(default)]
    choices: Vec<String>,
    wait_seconds: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusArgs {
    id: Option<u32>,
    wait_seconds: Option<u32>,
}

/// What is said of a proposal: everything that a caller does wrong is text for it, never an error
/// of the protocol.
type Told = Result<Value, String>;

impl Tools {
    /// Tools over these files and this line.
    #[must_use]
    pub fn new(args: Args, line: Arc<Line>) -> Self {
        Self { args: Arc::new(args), line }
    }

    /// What the daemon checks.
    #[must_use]
    pub fn guards(&self) -> &Guards {
        &self.line.guards
    }

    async fn call(&self, name: &str, args: Value) -> Option<Told> {
        Some(match name {
            "policy" => read(args).and_then(|Nothing {}| self.policy()),
            "explain_denial" => read(args).map(|a: Last| {
                let denials =
                    denials::last(&self.args.audits, usize::from(a.last.unwrap_or(5).clamp(1, 20)));
                json!({ "denials": denials })
            }),
            "propose_route" => self.proposed(read(args).and_then(|a| self.guards().route(a))).await,
            "propose_git_upstream" => {
                self.proposed(read(args).and_then(|a| self.guards().upstream(a))).await
            }
            "propose_ref" => self.proposed(read(args).and_then(|a| self.guards().refs(a))).await,
            "allow_finding" => {
                self.proposed(read(args).and_then(|a| self.guards().finding(a))).await
            }
            "ask_operator" => {
                self.proposed(read(args).and_then(|a| self.guards().question(a))).await
            }
            "proposal_status" => match read(args) {
                Ok(a) => self.status(&a).await,
                Err(why) => Err(why),
            },
            _ => return None,
        })
    }

    fn policy(&self) -> Told {
        let routes = self.args.routes()?.routes.into_iter().map(|r| {
            let mut out = json!({ "host": r.host, "port": r.port, "tls": r.tls, "credential_is_added": r.inject.is_some() });
            out["methods"] = if r.methods.is_empty() { json!("any") } else { json!(r.methods) };
            out["paths"] = if r.paths.is_empty() { json!("any") } else { json!(r.paths) };
            if let Some(requests) = r.budget.requests {
                out["requests"] = json!(requests);
            }
            out
        });
        let mut out =
            json!({ "routes": routes.collect::<Vec<_>>(), "everything_else": "is refused" });
        if let Some(gate) = self.args.repositories()? {
            let upstream = |u: bottle_policy::GateUpstream| json!({ "name": u.name, "url": u.url, "push": u.push.map(|p| p.branches) });
            out["git"] = gate.upstreams.into_iter().map(upstream).collect();
        }
        Ok(out)
    }

    async fn proposed(&self, asked: Result<(Ask, String, Option<u32>), String>) -> Told {
        let (ask, reason, wait) = asked?;
        let filed = self.line.file(ask, UntrustedText::new(&reason, MAX_TEXT_CHARS)).await?;
        self.told(filed.id, wait).await
    }

    async fn status(&self, args: &StatusArgs) -> Told {
        match args.id {
            Some(id) => self.told(id, args.wait_seconds).await,
            None => {
                Ok(json!({ "proposals": self.line.all().iter().map(shown).collect::<Vec<_>>() }))
            }
        }
    }

    async fn told(&self, id: u32, wait: Option<u32>) -> Told {
        let status = self.line.status(id, Duration::from_secs(u64::from(wait.unwrap_or(0)))).await;
        let status = status.ok_or_else(|| format!("there is no proposal {id} of this launch"))?;
        let mut out = shown(&status);
        if status.state == ProposalState::Pending {
            out["next"] = json!(format!(
                "call proposal_status with id {id} and wait_seconds, or go on with something else"
            ));
        }
        Ok(out)
    }
}

fn shown(status: &ProposalStatus) -> Value {
    json!({ "id": status.id, "state": status.state, "text": status.text })
}

fn read<T: DeserializeOwned>(args: Value) -> Result<T, String> {
    serde_json::from_value(args)
        .map_err(|e| format!("arguments: {}", UntrustedText::new(&e.to_string(), MAX_TEXT_CHARS)))
}

fn one<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|e: T::Err| UntrustedText::new(&e.to_string(), MAX_TEXT_CHARS).to_string())
}

type Asked = Result<(Ask, String, Option<u32>), String>;

/// Arguments to asks.
impl Guards {
    /// Parses each of at most [`MAX_ITEMS`] texts.
    fn each<T: std::str::FromStr<Err: std::fmt::Display>>(
        &self,
        what: &str,
        texts: &[String],
    ) -> Result<Vec<T>, String> {
        if self.hold(Guard::Many) && texts.len() > MAX_ITEMS {
            return Err(format!("at most {MAX_ITEMS} {what}"));
        }
        texts.iter().map(|t| one(t)).collect()
    }

    fn route(&self, a: RouteArgs) -> Asked {
        let tls = a.tls.unwrap_or(true);
        let port = a.port.unwrap_or(if tls { 443 } else { 80 });
        let (methods, paths) = (self.each("methods", &a.methods)?, self.each("paths", &a.paths)?);
        let route = RouteAsk { host: one(&a.host)?, port, methods, paths, tls };
        route.check()?;
        Ok((Ask::Route(route), self.reason(a.reason)?, a.wait_seconds))
    }

    fn upstream(&self, a: UpstreamArgs) -> Asked {
        let ask =
            Ask::GitUpstream { url: one(&a.url)?, branches: self.each("branches", &a.branches)? };
        Ok((ask, self.reason(a.reason)?, a.wait_seconds))
    }

    fn refs(&self, a: RefArgs) -> Asked {
        if a.branches.is_empty() {
            return Err("name the branches".to_owned());
        }
        let ask =
            Ask::Ref { upstream: one(&a.upstream)?, branches: self.each("branches", &a.branches)? };
        Ok((ask, self.reason(a.reason)?, a.wait_seconds))
    }

    fn finding(&self, a: FindingArgs) -> Asked {
        let ask = Ask::Finding { upstream: one(&a.upstream)?, fingerprint: one(&a.fingerprint)? };
        Ok((ask, self.reason(a.reason)?, a.wait_seconds))
    }

    fn question(&self, a: QuestionArgs) -> Asked {
        if self.hold(Guard::Many) && a.choices.len() > MAX_ITEMS {
            return Err(format!("at most {MAX_ITEMS} choices"));
        }
        let text = UntrustedText::new(&self.reason(a.question)?, MAX_TEXT_CHARS);
        let choices = a.choices.iter().map(|c| UntrustedText::new(c, MAX_CHOICE_CHARS)).collect();
        Ok((Ask::Question { text, choices }, String::new(), a.wait_seconds))
    }

    /// Nobody approves what has no reason.
    fn reason(&self, text: String) -> Result<String, String> {
        match text.trim().is_empty() {
            _ if !self.hold(Guard::Reason) => Ok(text),
            true => Err("say why: a person reads it and decides".to_owned()),
            false if text.chars().count() > MAX_TEXT_CHARS => {
                Err(format!("say it in {MAX_TEXT_CHARS} characters"))
            }
            false => Ok(text),
        }
    }
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerInfo {
        let mut info = ServerInfo::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("bot-bottle", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(INSTRUCTIONS.to_owned());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(all()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResult, ErrorData> {
        let args = Value::Object(request.arguments.unwrap_or_default());
        match self.call(&request.name, args).await {
            Some(Ok(value)) => Ok(CallToolResult::structured(value)),
            Some(Err(why)) => Ok(CallToolResult::error(vec![ContentBlock::text(why)])),
            None => {
                Err(ErrorData::invalid_params("there is no such tool; tools/list names them", None))
            }
        }
    }
}

const INSTRUCTIONS: &str = "You run in a bottle: it has no network but a few allowed routes. When something is refused, call \
explain_denial, then propose_route with the least that you need and an honest reason. A person decides; with wait_seconds the call \
waits. A denial is an answer: do not ask for the same again.";

fn all() -> Vec<Tool> {
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
