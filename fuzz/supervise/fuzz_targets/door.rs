//! Arbitrary bytes as the body of a request to the supervise daemon, and as the arguments of a tool:
//! nothing panics or waits, and what goes out to the orchestrator is one valid line, whose texts
//! are printable.
#![no_main]

use std::sync::Arc;
use std::time::Duration;

use bottle_bundle::supervise::http::{Limits, McpEndpoint};
use bottle_bundle::supervise::orchestrator::OrchestratorLink;
use bottle_bundle::supervise::policies::PolicyFiles;
use bottle_bundle::supervise::tools::Tools;
use bottle_policy::{ProposalState, ProposalStatus, SuperviseCommand, SuperviseReport};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use libfuzzer_sys::fuzz_target;

const TOOLS: [&str; 6] = [
    "propose_route",
    "propose_git_upstream",
    "propose_ref",
    "allow_finding",
    "ask_operator",
    "proposal_status",
];

fn body(bytes: &[u8]) -> Vec<u8> {
    match bytes.split_first() {
        Some((tool, arguments)) if usize::from(*tool) < TOOLS.len() => {
            let tool = TOOLS[usize::from(*tool)];
            let arguments = String::from_utf8_lossy(arguments);
            format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#).into_bytes()
        }
        _ => bytes.to_vec(),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (link, mut out) = OrchestratorLink::new(1, Duration::ZERO);
        let link = Arc::new(link);
        let orchestrator = link.clone();
        tokio::spawn(async move {
            while let Some(text) = out.recv().await {
                assert!(
                    text.len() < 4095 && !text.contains('\n'),
                    "{text:?}"
                );
                let SuperviseReport::Draft { call, ask, reason } =
                    serde_json::from_str(&text).expect("a report");
                for said in [ask.summary(), reason.to_string()] {
                    assert!(
                        !said.chars().any(char::is_control)
                            && !said.contains(['\u{202e}', '\u{200b}']),
                        "{said:?}"
                    );
                }
                if let Some(route) = ask.route() {
                    assert!(route.check().is_ok() && route.is_within(route), "{route:?}");
                }
                let status =
                    ProposalStatus { id: 1, state: ProposalState::Pending, text: String::new() };
                orchestrator.receive(
                    &serde_json::to_vec(&SuperviseCommand::Filed { call, answer: Ok(status) })
                        .expect("a line"),
                );
            }
        });
        let files =
            PolicyFiles { policy: "/nowhere".into(), git_policy: None, audit: Vec::new() };
        let endpoint = McpEndpoint::new(Tools::new(files, link), Limits::default());
        let request = Request::post("/")
            .header("host", "127.0.0.1:9100")
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(Full::new(Bytes::from(body(bytes))))
            .expect("a request");
        let answer = tokio::time::timeout(Duration::from_secs(5), endpoint.answer(request))
            .await
            .expect("no wait");
        assert!(answer.status().as_u16() < 500, "{}", answer.status());
    });
});
