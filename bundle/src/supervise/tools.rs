//! The tools that the agent can call.

use std::sync::Arc;
use std::time::Duration;

use bottle_policy::{MAX_TEXT_CHARS, ProposalState, ProposalStatus, UntrustedText};
use rmcp::ErrorData;
use rmcp::ServerHandler;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, ContentBlock, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerInfo,
};
use rmcp::service::{RequestContext, RoleServer};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::arguments::{
    DenialArgs, FindingArgs, IntoDraft, NoArgs, QuestionArgs, RefArgs, RouteArgs, StatusArgs,
    UpstreamArgs, parse,
};
use super::checks::Checks;
use super::orchestrator::OrchestratorLink;
use super::policies::PolicyFiles;
use super::{denials, tool_list};

/// Denials that `explain_denial` lists by default.
const DEFAULT_DENIALS: u8 = 5;
/// Most denials that `explain_denial` lists.
const MAX_DENIALS: u8 = 20;

/// The tools of one bottle.
#[derive(Clone)]
pub struct Tools {
    files: Arc<PolicyFiles>,
    link: Arc<OrchestratorLink>,
}

/// The result of a tool. A mistake of the caller is text for the agent, never an error of the
/// protocol.
type ToolResult = Result<Value, String>;

impl Tools {
    /// Tools that read `files` and file proposals over `link`.
    #[must_use]
    pub fn new(files: PolicyFiles, link: Arc<OrchestratorLink>) -> Self {
        Self { files: Arc::new(files), link }
    }

    /// The checks of the daemon.
    #[must_use]
    pub fn checks(&self) -> &Checks {
        &self.link.checks
    }

    /// Calls the tool `name`; `None` if there is no such tool.
    async fn call(&self, name: &str, args: Value) -> Option<ToolResult> {
        Some(match name {
            "policy" => parse(args).and_then(|NoArgs {}| self.policy()),
            "explain_denial" => parse(args).map(|a: DenialArgs| self.explain_denial(&a)),
            "propose_route" => self.propose::<RouteArgs>(args).await,
            "propose_git_upstream" => self.propose::<UpstreamArgs>(args).await,
            "propose_ref" => self.propose::<RefArgs>(args).await,
            "allow_finding" => self.propose::<FindingArgs>(args).await,
            "ask_operator" => self.propose::<QuestionArgs>(args).await,
            "proposal_status" => match parse(args) {
                Ok(args) => self.proposal_status(&args).await,
                Err(why) => Err(why),
            },
            _ => return None,
        })
    }

    fn policy(&self) -> ToolResult {
        let routes = self.files.egress()?.routes.into_iter().map(|r| {
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
        if let Some(gate) = self.files.git_gate()? {
            let upstream = |u: bottle_policy::GateUpstream| json!({ "name": u.name, "url": u.url, "push": u.push.map(|p| p.branches) });
            out["git"] = gate.upstreams.into_iter().map(upstream).collect();
        }
        Ok(out)
    }

    fn explain_denial(&self, args: &DenialArgs) -> Value {
        let max = args.last.unwrap_or(DEFAULT_DENIALS).clamp(1, MAX_DENIALS);
        json!({ "denials": denials::last(&self.files.audit, usize::from(max)) })
    }

    async fn propose<T: DeserializeOwned + IntoDraft>(&self, args: Value) -> ToolResult {
        let draft = parse::<T>(args)?.into_draft(self.checks())?;
        let filed =
            self.link.file(draft.ask, UntrustedText::new(&draft.reason, MAX_TEXT_CHARS)).await?;
        self.describe(filed.id, draft.wait_seconds).await
    }

    async fn proposal_status(&self, args: &StatusArgs) -> ToolResult {
        match args.id {
            Some(id) => self.describe(id, args.wait_seconds).await,
            None => {
                let all: Vec<_> = self.link.all().iter().map(status_json).collect();
                Ok(json!({ "proposals": all }))
            }
        }
    }

    /// The status of proposal `id`, after waiting for a decision if the call asks for that.
    async fn describe(&self, id: u32, wait_seconds: Option<u32>) -> ToolResult {
        let wait = Duration::from_secs(u64::from(wait_seconds.unwrap_or(0)));
        let status = self.link.status(id, wait).await;
        let status = status.ok_or_else(|| format!("there is no proposal {id} of this launch"))?;
        let mut out = status_json(&status);
        if status.state == ProposalState::Pending {
            out["next"] = json!(format!(
                "call proposal_status with id {id} and wait_seconds, or go on with something else"
            ));
        }
        Ok(out)
    }
}

fn status_json(status: &ProposalStatus) -> Value {
    json!({ "id": status.id, "state": status.state, "text": status.text })
}

impl ServerHandler for Tools {
    fn get_info(&self) -> ServerInfo {
        let mut info = ServerInfo::new(ServerCapabilities::builder().enable_tools().build());
        info.server_info = Implementation::new("bot-bottle", env!("CARGO_PKG_VERSION"));
        info.instructions = Some(tool_list::INSTRUCTIONS.to_owned());
        info
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(tool_list::all()))
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
