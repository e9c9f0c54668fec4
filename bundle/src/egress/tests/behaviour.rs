//! What the proxy does for requests that are allowed, and when things fail.

use std::time::{Duration, Instant};

use bottle_policy::audit::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::harness::{Bench, Options, TOKEN, bearer, response};
use super::upstream::Upstream;
use crate::egress::limits::Limits;

async fn two_hosts() -> (Upstream, Bench) {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    let mut api = upstream.route("api", "api.test");
    api.inject = bearer();
    let bench = Bench::start(vec![api, upstream.route("other", "other.test")]);
    (upstream, bench)
}

#[tokio::test]
async fn injection_replaces_what_the_guest_sent_and_only_on_its_route() {
    let (upstream, bench) = two_hosts().await;
    for host in ["api.test", "other.test"] {
        let mut io = bench.tls(host).await;
        let head = format!(
            "GET /?q=hidden HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer a\r\nauthorization: Bearer b\r\n"
        );
        io.write_all(format!("{head}Connection: authorization\r\n\r\n").as_bytes()).await.unwrap();
        assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
    }
    let seen = upstream.seen();
    let sent = |n: usize| seen[n].headers.get_all("authorization").iter().collect::<Vec<_>>();
    assert_eq!(sent(0), [&format!("Bearer {TOKEN}")]);
    assert!(sent(1).is_empty(), "a header named by Connection is the guest's own loss");
    let lines = bench.audit(2).await;
    assert!(!bench.audit_text().contains(TOKEN) && !bench.audit_text().contains("hidden"));
    assert_eq!(
        (lines[0]["route"].as_str(), lines[0]["query_bytes"].as_u64()),
        (Some("api"), Some(8))
    );
    assert_eq!(
        (lines[0]["status"].as_u64(), lines[0]["bytes_down"].as_u64()),
        (Some(200), Some(16))
    );
}

#[tokio::test]
async fn routes_never_share_connections() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let route = |name: &str, path: &str| {
        let mut r = upstream.route(name, "api.test");
        r.paths = vec![path.parse().unwrap()];
        r
    };
    let mut first = route("one", "/one");
    first.inject = bearer();
    let bench = Bench::start(vec![first, route("two", "/two")]);
    for _ in 0..5 {
        assert!(bench.get("api.test", "/one").await.contains("ok from upstream"));
    }
    assert_eq!(*upstream.connections.lock().unwrap(), 1);
    assert!(bench.get("api.test", "/two").await.contains("ok from upstream"));
    assert_eq!(*upstream.connections.lock().unwrap(), 2);
}

#[tokio::test]
async fn the_path_is_sent_on_as_it_was_written() {
    let (upstream, bench) = two_hosts().await;
    let mut http2 = bench.http2("other.test").await;
    for target in [
        "/a/%2e%2e/b//c?x=../%2e",
        "/%7Euser/./%c3%a4",
        "/@scope%2fname", // npm
        "//key?X-Amz-Signature=ab%2fcd",
        "/a;b/..;/%5c%252f",
        "/a?",
    ] {
        assert!(bench.get("other.test", target).await.contains("ok from upstream"), "{target}");
        assert_eq!(upstream.seen().last().unwrap().uri, target);
        let uri = format!("https://other.test{target}");
        let request = http::Request::get(&uri).body(http_body_util::Full::default()).unwrap();
        assert_eq!(http2.send_request(request).await.unwrap().status(), 200, "{target}");
        assert_eq!(upstream.seen().last().unwrap().uri, uri, "over HTTP/2");
    }
}

#[tokio::test]
async fn hop_by_hop_headers_are_dropped_both_ways() {
    let (upstream, bench) = two_hosts().await;
    let mut io = bench.tls("other.test").await;
    let own = "Connection: X-Mine\r\nX-Mine: 1\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nKeep-Alive: 1\r\nX-Keep: 1\r\n";
    io.write_all(format!("GET /hop HTTP/1.1\r\nHost: other.test\r\n{own}\r\n").as_bytes())
        .await
        .unwrap();
    let answer = response(&mut io).await.to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 200"), "{answer}");
    for gone in ["x-secret-hop", "keep-alive", "proxy-authenticate", "alt-svc"] {
        assert!(!answer.contains(gone), "{gone}: {answer}");
    }
    let mut names: Vec<String> =
        upstream.seen()[0].headers.keys().map(ToString::to_string).collect();
    names.sort();
    assert_eq!(names, ["host", "x-keep"]);
}

#[tokio::test]
async fn events_arrive_one_by_one() {
    let (_upstream, bench) = two_hosts().await;
    let mut io = bench.tls("other.test").await;
    io.write_all(b"GET /events HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    let (mut text, mut at) = (String::new(), Vec::new());
    while at.len() < 5 {
        let mut part = [0; 1024];
        let n = timeout(Duration::from_secs(5), io.read(&mut part)).await.unwrap().unwrap();
        text.push_str(&String::from_utf8_lossy(&part[..n]));
        while text.contains(&format!("data: {}", at.len())) {
            at.push(Instant::now());
        }
    }
    // The upstream sends an event every 100 ms. A proxy that buffers would pass them on all at once.
    assert!(at[4] - at[0] > Duration::from_millis(200), "{at:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_connections_at_once() {
    let (upstream, bench) = two_hosts().await;
    let all = (0..200).map(|n| {
        let bench = &bench;
        async move {
            let answer = bench
                .get(if n % 2 == 0 { "api.test" } else { "other.test" }, &format!("/{n}"))
                .await;
            assert!(answer.contains("ok from upstream"), "{answer}");
        }
    });
    futures_util::future::join_all(all).await;
    assert_eq!(upstream.seen().len(), 200);
    bench.audit(200).await;
}

#[tokio::test]
async fn connections_over_the_limit_wait() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits = Limits { connections: 2, ..Limits::default() };
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        Options { limits, ..Options::default() },
    );
    let (a, _b) = (bench.tls("api.test").await, bench.tls("api.test").await);
    let third = timeout(Duration::from_millis(300), bench.tls("api.test")).await;
    assert!(third.is_err(), "a third connection was served");
    drop(a);
    timeout(Duration::from_secs(5), bench.tls("api.test")).await.unwrap();
}

#[tokio::test]
async fn a_guest_that_never_finishes_its_head_is_dropped() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits = Limits {
        head: Duration::from_millis(200),
        handshake: Duration::from_millis(200),
        ..Limits::default()
    };
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        Options { limits, ..Options::default() },
    );
    for first in ["GET http://a", ""] {
        let mut io = bench.connect().await;
        io.write_all(first.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        timeout(Duration::from_secs(3), io.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.is_empty(), "{}", String::from_utf8_lossy(&answer));
    }
    let mut io = bench.tunnel("api.test:443").await.unwrap();
    io.write_all(b"\x16\x03").await.unwrap();
    let mut answer = Vec::new();
    timeout(Duration::from_secs(3), io.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert!(answer.is_empty() && bench.audit_text().is_empty(), "there was no request");
}

#[tokio::test]
async fn a_dead_upstream_is_502_and_a_silent_one_504() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let mut dead = upstream.route("dead", "dead.test");
    dead.connect = Some(closed);
    let limits = Limits { first_byte: Duration::from_millis(200), ..Limits::default() };
    let bench = Bench::with(
        vec![dead, upstream.route("api", "api.test")],
        Options { limits, ..Options::default() },
    );
    let answer = bench.get("dead.test", "/").await;
    assert!(answer.starts_with("HTTP/1.1 502 ") && answer.contains("[connect]"), "{answer}");
    let answer = bench.get("api.test", "/never").await;
    assert!(
        answer.starts_with("HTTP/1.1 504 ") && answer.contains("[upstream-timeout]"),
        "{answer}"
    );
    assert!(
        answer.contains("no byte of an answer for 200ms, which is timeout.first_byte of route api"),
        "{answer}"
    );
    let lines = bench.audit(2).await;
    assert!(
        lines.iter().all(|l| l["verdict"] == "allow" && l["event"] == "request"),
        "the policy allowed both: {lines:?}"
    );
}

#[tokio::test]
async fn a_guest_that_leaves_is_recorded() {
    let (_upstream, bench) = two_hosts().await;
    let mut io = bench.tls("other.test").await;
    io.write_all(b"GET /never HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(io);
    assert_eq!(bench.audit(1).await[0]["rule"], "aborted");
}

#[tokio::test]
async fn an_answer_without_a_body_has_one_closing_line() {
    let (_upstream, bench) = two_hosts().await;
    assert!(bench.get("other.test", "/empty").await.starts_with("HTTP/1.1 204"));
    let mut io = bench.tls("other.test").await;
    io.write_all(b"HEAD /x HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    let mut head = [0; 4096];
    let n = io.read(&mut head).await.unwrap();
    assert!(String::from_utf8_lossy(&head[..n]).starts_with("HTTP/1.1 200"));
    assert!(bench.audit(2).await.iter().all(|l| l.get("rule").is_none()));
}

#[tokio::test]
async fn at_the_end_open_requests_finish_and_idle_connections_close() {
    let (_upstream, bench) = two_hosts().await;
    let mut idle = bench.tls("other.test").await;
    let mut busy = bench.tls("other.test").await;
    busy.write_all(b"GET /events HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    let mut first = [0; 64];
    let n = busy.read(&mut first).await.unwrap();
    bench.end();
    let mut rest = String::from_utf8_lossy(&first[..n]).into_owned().into_bytes();
    let _ = busy.read_to_end(&mut rest).await;
    assert!(String::from_utf8_lossy(&rest).contains("data: 4"), "cut off");
    let _ = timeout(Duration::from_secs(1), idle.read_to_end(&mut Vec::new())).await.unwrap();
    let server = bench.server;
    timeout(Duration::from_secs(3), server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_cannot_be_recorded_is_refused() {
    let upstream = Upstream::start(&["api.test"], true).await;
    // Every write to /dev/full fails as on a full disk.
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        Options { log: Some("/dev/full".into()), ..Options::default() },
    );
    assert!(bench.get("api.test", "/first").await.starts_with("HTTP/1.1 503"));
    let mut io = bench.connect().await;
    io.write_all(b"GET http://x.test/ HTTP/1.1\r\nHost: x.test\r\n\r\n").await.unwrap();
    assert!(response(&mut io).await.starts_with("HTTP/1.1 503"));
    let mut io = bench.connect().await;
    io.write_all(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    assert!(response(&mut io).await.starts_with("HTTP/1.1 503"));
    assert!(upstream.seen().is_empty(), "not even the one before which nothing had failed");
    assert_eq!(*upstream.connections.lock().unwrap(), 0);
}

#[tokio::test]
async fn a_request_is_recorded_before_it_leaves() {
    let (upstream, bench) = two_hosts().await;
    let mut io = bench.tls("api.test").await;
    io.write_all(
        b"POST /never?q=hidden HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello",
    )
    .await
    .unwrap();
    while upstream.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let opening: serde_json::Value = serde_json::from_str(bench.audit_text().trim()).unwrap();
    let text = |key: &str| opening[key].as_str().unwrap_or("").to_owned();
    assert_eq!(
        [text("event"), text("verdict"), text("method"), text("path")],
        ["admitted", "allow", "POST", "/never"]
    );
    assert_eq!(
        (text("host"), text("route"), opening["query_bytes"].as_u64()),
        ("api.test".into(), "api".into(), Some(8))
    );
    drop(io);
    let closing = &bench.audit(1).await[0];
    assert_eq!(
        (closing["event"].as_str(), &closing["admitted"]),
        (Some("request"), &opening["seq"])
    );
}

#[tokio::test]
async fn a_host_that_is_refused_when_it_is_looked_up_was_admitted_before() {
    let upstream = Upstream::start(&[], false).await;
    let mut route = upstream.route("local", "localhost");
    (route.tls, route.port, route.connect) = (false, upstream.address.port(), None);
    let bench = Bench::start(vec![route]);
    let mut io = bench.connect().await;
    let to = format!("localhost:{}", upstream.address.port());
    io.write_all(format!("GET http://{to}/ HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
        .await
        .unwrap();
    assert!(response(&mut io).await.starts_with("HTTP/1.1 403"));
    let closing = &bench.audit(1).await[0];
    assert_eq!(
        (closing["event"].as_str(), closing["admitted"].as_u64()),
        (Some("refused"), Some(1)),
        "a lookup is a message too"
    );
}

#[tokio::test]
async fn at_the_end_unfinished_requests_are_cut_off_and_recorded() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits = Limits { drain: Duration::from_millis(100), ..Limits::default() };
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        Options { limits, ..Options::default() },
    );
    let mut io = bench.tls("api.test").await;
    io.write_all(b"GET /never HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    while upstream.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    bench.end();
    let closing = &bench.audit(1).await[0];
    assert_eq!(
        (closing["rule"].as_str(), closing["reason"].as_str()),
        (Some("aborted"), Some("cut off at teardown"))
    );
    timeout(Duration::from_secs(1), bench.server).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_a_spent_budget_closes_the_way_out() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bounds = Bounds { bytes: 20_000, refusals_per_second: 1, refusal_burst: 5 };
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        Options { bounds, ..Options::default() },
    );
    let mut io = bench.connect().await;
    for _ in 0..200 {
        io.write_all(b"GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n").await.unwrap();
        assert!(response(&mut io).await.starts_with("HTTP/1.1 403"));
    }
    let text = bench.audit_text();
    assert!(text.lines().count() < 30 && text.contains("refusals not written"), "{text}");
    let mut answers = Vec::new();
    while answers.len() < 100 {
        answers.push(bench.get("api.test", "/").await);
        if answers.last().unwrap().starts_with("HTTP/1.1 503") {
            break;
        }
    }
    let through = answers.len() - 1;
    assert!(
        answers[..through].iter().all(|a| a.starts_with("HTTP/1.1 200"))
            && answers[through].contains("[audit]"),
        "{answers:?}"
    );
    let mut io = bench.connect().await;
    io.write_all(b"CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    assert!(response(&mut io).await.starts_with("HTTP/1.1 503"));
    assert_eq!(upstream.seen().len(), through, "nothing unrecorded");
    let text = bench.audit_text();
    bottle_policy::audit::verify(text.as_bytes()).unwrap();
    assert!(text.len() < 21_000 && text.matches("budget spent").count() == 1, "{text}");
}

#[tokio::test]
async fn a_certificate_is_for_one_host_and_valid_as_long_as_the_bottles_ca() {
    let (_upstream, bench) = two_hosts().await;
    let first = bench.tls("api.test").await.get_ref().1.peer_certificates().unwrap()[0].clone();
    let again = bench.tls("api.test").await.get_ref().1.peer_certificates().unwrap()[0].clone();
    assert_eq!(first, again);
    let (_, x509) = x509_parser::parse_x509_certificate(&first).unwrap();
    let (_, ca) = x509_parser::pem::parse_x509_pem(bench.ca.cert.as_bytes()).unwrap();
    assert_eq!(x509.validity(), ca.parse_x509().unwrap().validity());
    let names = &x509.subject_alternative_name().unwrap().unwrap().value.general_names;
    assert_eq!(format!("{names:?}"), "[DNSName(\"api.test\")]");
    assert!(!x509.is_ca());
}

#[tokio::test]
async fn requests_over_the_limit_wait() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits = Limits { requests: 1, ..Limits::default() };
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        Options { limits, ..Options::default() },
    );
    let mut first = bench.tls("api.test").await;
    first.write_all(b"GET /never HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    while upstream.seen().is_empty() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(
        timeout(Duration::from_millis(300), bench.get("api.test", "/a")).await.is_err(),
        "a second request went on"
    );
    drop(first);
    assert!(
        timeout(Duration::from_secs(5), bench.get("api.test", "/a"))
            .await
            .unwrap()
            .starts_with("HTTP/1.1 200")
    );
}
