//! The table of tests/attacks/supervise/mcp.rs, against the real endpoint on a real socket. The test
//! plays the orchestrator, which accepts whatever is filed.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bottle_policy::{Policy, ProposalState, ProposalStatus, SuperviseCommand, SuperviseReport};
use rmcp::model::CallToolRequestParams;
use rmcp::{RoleClient, ServiceExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

use super::checks::{Check, Checks};
use super::http::{Limits, McpEndpoint};
use super::orchestrator::OrchestratorLink;
use super::policies::PolicyFiles;
use super::tools::Tools;

#[path = "../../../tests/attacks/supervise/mcp.rs"]
mod table;
use table::{CASES, CONTROLS, Want};

/// An endpoint, and an orchestrator that files everything.
pub(super) struct Bench {
    dir: tempfile::TempDir,
    pub(super) link: Arc<OrchestratorLink>,
    filed: Arc<AtomicU32>,
    _end: tokio::sync::watch::Sender<bool>,
}

impl Bench {
    pub(super) fn start() -> Self {
        Self::without(&[])
    }

    fn without(disabled: &[Check]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let policy = dir.path().join("policy.json");
        std::fs::write(&policy, serde_json::to_vec(&Policy::new(Vec::new())).unwrap()).unwrap();
        let files = PolicyFiles { policy, git_policy: None, audit: Vec::new() };
        let limits = Limits::default();
        let (mut link, mut out) = OrchestratorLink::new(2, Duration::from_secs(5));
        link.checks = Checks::without(disabled);
        let (link, filed) = (Arc::new(link), Arc::new(AtomicU32::new(0)));
        let (orchestrator, count) = (link.clone(), filed.clone());
        tokio::spawn(async move {
            while let Some(text) = out.recv().await {
                let SuperviseReport::Draft { call, .. } = serde_json::from_str(&text).unwrap();
                let id = count.fetch_add(1, Ordering::Relaxed) + 1;
                let status =
                    ProposalStatus { id, state: ProposalState::Pending, text: "asked".into() };
                orchestrator.receive(
                    &serde_json::to_vec(&SuperviseCommand::Filed { call, answer: Ok(status) })
                        .unwrap(),
                );
            }
        });
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        let (end, ending) = tokio::sync::watch::channel(false);
        let endpoint = McpEndpoint::new(Tools::new(files, link.clone()), limits);
        tokio::spawn(endpoint.serve(listener, ending));
        Self { dir, link, filed, _end: end }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub(super) async fn client(&self) -> rmcp::service::RunningService<RoleClient, ()> {
        let transport = rmcp::transport::UnixSocketHttpClient::new(
            self.socket().to_str().unwrap(),
            "http://127.0.0.1:9100/",
        );
        let config =
            rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig::with_uri(
                "http://127.0.0.1:9100/",
            );
        ().serve(rmcp::transport::StreamableHttpClientTransport::with_client(transport, config))
            .await
            .unwrap()
    }
}

/// Sends `request`, and reads until the answer is whole or the connection ends.
async fn answer(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let _ = stream.write_all(request).await; // it may be cut off before
    let mut text = Vec::new();
    let read = async {
        let mut buffer = [0; 8192];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            text.extend_from_slice(&buffer[..n]);
            let shown = String::from_utf8_lossy(&text);
            let Some((head, body)) = shown.split_once("\r\n\r\n") else { continue };
            let length = head
                .to_lowercase()
                .split("content-length: ")
                .nth(1)
                .and_then(|l| l.lines().next()?.trim().parse::<usize>().ok());
            if length.is_some_and(|length| body.len() >= length) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("an answer, or an end");
    String::from_utf8_lossy(&text).into_owned()
}

async fn tool(
    client: &rmcp::service::RunningService<RoleClient, ()>,
    name: &'static str,
    args: serde_json::Value,
) -> serde_json::Value {
    let params = CallToolRequestParams::new(name).with_arguments(args.as_object().unwrap().clone());
    serde_json::to_value(client.call_tool(params).await.unwrap()).unwrap()
}

#[tokio::test]
async fn no_request_of_a_hostile_guest_is_filed_or_breaks_the_endpoint() {
    let bench = Bench::start();
    for table::Case(name, request, want) in CASES {
        let said = answer(&bench.socket(), &request()).await;
        assert!(want.is(&said), "{name}: want {want:?}, got {said}");
        assert_eq!(bench.filed.load(Ordering::Relaxed), 0, "{name} was filed");
        let ping = b"POST / HTTP/1.1\r\nhost: localhost:9100\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\ncontent-length: 40\r\n\r\n{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}";
        assert!(answer(&bench.socket(), ping).await.contains("\"result\":{}"), "after {name}");
    }
    println!("{} cases", CASES.len());
}

impl Want {
    fn is(&self, said: &str) -> bool {
        let status = said.split(' ').nth(1).and_then(|s| s.parse::<u16>().ok());
        match self {
            Self::Status(wanted) => status == Some(*wanted),
            Self::Refused => status.is_none_or(|s| (400..500).contains(&s)),
            Self::Says(text) => status == Some(200) && said.contains(text),
        }
    }
}

#[tokio::test]
async fn each_request_that_a_check_stops_is_filed_without_it() {
    for table::NegativeControl(name, check, request, want) in CONTROLS {
        let (shut, open) = (Bench::start(), Bench::without(&[*check]));
        let said = answer(&shut.socket(), &request()).await;
        assert!(
            want.is(&said) && shut.filed.load(Ordering::Relaxed) == 0,
            "{name}: want {want:?}, got {said}"
        );
        let said = answer(&open.socket(), &request()).await;
        assert_eq!(open.filed.load(Ordering::Relaxed), 1, "{name}, without {check:?}: {said}");
    }
    println!("{} negative controls", CONTROLS.len());
}

#[tokio::test]
async fn more_calls_wait_than_may_without_their_bound() {
    for (disabled, held) in [(&[][..], 2), (&[Check::Waiting][..], 6)] {
        let bench = Bench::without(disabled);
        let mut clients = Vec::new();
        for _ in 0..6 {
            clients.push(bench.client().await);
        }
        let ask = || serde_json::json!({ "question": "?", "wait_seconds": 2 });
        let began = std::time::Instant::now();
        let calls = clients.iter().map(|c| async {
            tool(c, "ask_operator", ask()).await;
            began.elapsed() >= Duration::from_millis(1900)
        });
        let waited = futures_util::future::join_all(calls).await.into_iter().filter(|w| *w).count();
        assert_eq!(waited, held, "{disabled:?}");
    }
}

#[tokio::test]
async fn the_sdks_own_client_lists_proposes_waits_and_is_told() {
    let bench = Bench::start();
    let client = bench.client().await;
    let tools = client.list_all_tools().await.unwrap();
    assert_eq!(tools.len(), 8, "{tools:?}");
    let args = serde_json::json!({ "host": "a.test", "methods": ["get"], "paths": ["/x"], "reason": "r", "wait_seconds": 5 });
    let link = bench.link.clone();
    let (told, ()) = tokio::join!(tool(&client, "propose_route", args), async {
        // The operator decides while the call waits.
        while link.all().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let status =
            ProposalStatus { id: 1, state: ProposalState::Approved, text: "allowed".into() };
        link.receive(&serde_json::to_vec(&SuperviseCommand::Changed(status)).unwrap());
    });
    assert_eq!(told["structuredContent"]["state"], "approved", "{told}");
    assert_eq!(told["structuredContent"]["text"], "allowed");
}

#[tokio::test]
async fn who_waits_does_not_keep_others_out() {
    let bench = Bench::start();
    // The SDK's client waits for one answer before it asks again.
    let (one, two, three) = tokio::join!(bench.client(), bench.client(), bench.client());
    let ask = |wait: u32| serde_json::json!({ "question": "?", "wait_seconds": wait });
    let began = std::time::Instant::now();
    // Two may wait here; the third is answered at once, and so is whoever does not wait.
    let waiting = async {
        tokio::join!(tool(&one, "ask_operator", ask(3)), tool(&two, "ask_operator", ask(3)))
    };
    let others = async {
        while bench.filed.load(Ordering::Relaxed) < 2 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let third = tool(&three, "ask_operator", ask(3)).await;
        (third, began.elapsed())
    };
    let (_, (third, took)) = tokio::join!(waiting, others);
    assert_eq!(third["structuredContent"]["state"], "pending");
    assert!(took < Duration::from_secs(2), "{took:?}");
}
