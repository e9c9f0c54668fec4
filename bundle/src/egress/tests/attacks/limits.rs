//! The table of tests/attacks/egress/limits.rs.

use bottle_policy::Budget;
use tokio::io::AsyncWriteExt;

use super::super::harness::{Bench, Options, Upstream, response};
use crate::egress::refusal::Rule;

#[path = "../../../../../tests/attacks/egress/limits.rs"]
mod cases;
use cases::{CASES, Case};

async fn bench(upstream: &Upstream, disabled: Vec<Rule>) -> Bench {
    let mut route = upstream.route("api", "*.api.test");
    (route.tls, route.port) = (false, 80);
    route.max_body = Some(1000);
    route.budget = Budget { up: Some(5000), down: Some(5000), ..Budget::default() };
    route.rate = Some("5/m".parse().unwrap());
    Bench::with(vec![route], Options { disabled, ..Options::default() })
}

/// The last answer.
async fn attack(bench: &Bench, Case(.., requests): &Case) -> String {
    let mut last = String::new();
    for (host, method, path, body, chunked) in *requests {
        let path = if *path == 0 { "big".to_owned() } else { "p".repeat(*path) };
        let (length, content) = match (*body, *chunked) {
            (0, _) => (String::new(), String::new()),
            (n, false) => (format!("Content-Length: {n}\r\n"), "b".repeat(n)),
            (n, true) => (
                "Transfer-Encoding: chunked\r\n".to_owned(),
                format!("{n:x}\r\n{}\r\n0\r\n\r\n", "b".repeat(n)),
            ),
        };
        let mut io = bench.connect().await;
        let head = format!(
            "{method} http://{host}/{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{length}\r\n"
        );
        let _ = io.write_all(format!("{head}{content}").as_bytes()).await;
        last = if path == "big" { read_some(&mut io).await } else { response(&mut io).await };
    }
    last
}

/// Enough of an answer to know whether it goes on.
async fn read_some(io: &mut tokio::net::UnixStream) -> String {
    let mut got = Vec::new();
    while got.len() < 200_000
        && tokio::io::AsyncReadExt::read_buf(io, &mut got).await.unwrap_or(0) > 0
    {}
    if got.len() < 200_000 {
        "[budget]".to_owned()
    } else {
        "HTTP/1.1 200 and much more".to_owned()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_route_allows_is_refused_and_gets_through_without_the_rule() {
    let upstream = Upstream::start(&[], false).await;
    let mut wrong = Vec::new();
    for case in CASES {
        let Case(name, rule, requests) = case;
        let guarded = bench(&upstream, vec![]).await;
        let before = upstream.seen().len();
        let answer = attack(&guarded, case).await;
        let big = requests[0].2 == 0;
        let reached = upstream.seen().len() - before;
        if !answer.contains(&format!("[{}]", rule.code()))
            || (!big && reached != requests.len() - 1)
        {
            wrong.push(format!("{name}: {answer} {reached}"));
        }
        let lines = guarded.audit(requests.len()).await;
        assert_eq!(lines[requests.len() - 1]["rule"], rule.code(), "{name}");
        let answer = attack(&bench(&upstream, vec![*rule]).await, case).await;
        if !answer.starts_with("HTTP/1.1 200") {
            wrong.push(format!("{name}, without: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
