//! HTTP/2, WebSocket, trailers, passthrough tunnels, and changes of policy and tokens while requests
//! run.

use std::time::Duration;

use bottle_policy::{EgressCommand, Inject, Place, Policy, Route, Scheme, Secret, Timeouts};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::harness::{Bench, Options, TOKEN, bearer, response};
use super::upstream::Upstream;
use crate::egress::limits::Limits;
use crate::egress::refusal::Rule;

fn get(uri: &str) -> Request<Full<Bytes>> {
    Request::get(uri).body(Full::default()).unwrap()
}

async fn body(response: http::Response<hyper::body::Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// A masked frame, as a client sends it.
pub fn frame(first: u8, content: &[u8]) -> Vec<u8> {
    let mask = [9u8, 8, 7, 6];
    let mut out = vec![first, 0x80 | u8::try_from(content.len()).unwrap()];
    out.extend(mask);
    out.extend(content.iter().enumerate().map(|(i, b)| b ^ mask[i % 4]));
    out
}

pub const WEBSOCKET: &str = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Extensions: permessage-deflate\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn http2_goes_through_as_http2_with_everything_that_http1_has() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    let bench = Bench::start(vec![route]);
    let mut http = bench.http2("api.test").await;
    let request = Request::post("https://api.test/a?q=1")
        .header("authorization", "Bearer guest")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .header("te", "trailers")
        .body(Full::from("hello"))
        .unwrap();
    let answer = http.send_request(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(body(answer).await, "ok from upstream");
    let seen = &upstream.seen()[0];
    assert_eq!((seen.version, seen.body), (http::Version::HTTP_2, 5));
    assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
    assert_eq!(
        (seen.headers["cookie"].to_str().unwrap(), &seen.headers["te"]),
        ("a=1; b=2", &"trailers".parse::<http::HeaderValue>().unwrap())
    );
    let line = &bench.audit(1).await[0];
    assert_eq!(
        (line["status"].as_u64(), line["bytes_up"].as_u64(), line["path"].as_str()),
        (Some(200), Some(5), Some("/a"))
    );

    let many = (0..100).map(|n| http.send_request(get(&format!("https://api.test/{n}"))));
    for answer in futures_util::future::join_all(many).await {
        assert_eq!(body(answer.unwrap()).await, "ok from upstream");
    }
    assert!(*upstream.connections.lock().unwrap() < 100, "streams share connections");
}

#[tokio::test]
async fn each_side_speaks_its_own_http_version() {
    for (alpn, guest2, want) in [
        (&[&b"http/1.1"[..]][..], true, http::Version::HTTP_11),
        (&[&b"h2"[..]][..], false, http::Version::HTTP_2),
        (&[&b"h2"[..], &b"http/1.1"[..]][..], false, http::Version::HTTP_11),
    ] {
        let upstream = Upstream::start_for(&["api.test"], true, alpn).await;
        let bench = Bench::start(vec![upstream.route("api", "api.test")]);
        if guest2 {
            let answer =
                bench.http2("api.test").await.send_request(get("https://api.test/")).await.unwrap();
            assert_eq!(answer.status(), 200);
        } else {
            assert!(bench.get("api.test", "/").await.starts_with("HTTP/1.1 200"));
        }
        assert_eq!(upstream.seen()[0].version, want);
    }
}

#[tokio::test]
async fn trailers_go_both_ways() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bench = Bench::start(vec![upstream.route("api", "api.test")]);
    let answer =
        bench.http2("api.test").await.send_request(get("https://api.test/trailers")).await.unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["x-sum"], "42");
    let mut io = bench.tls("api.test").await;
    io.write_all(
        b"POST / HTTP/1.1\r\nHost: api.test\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nX-Sum: 7\r\n\r\n",
    )
    .await
    .unwrap();
    assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
    assert_eq!(upstream.seen()[1].trailers["x-sum"], "7");
}

#[tokio::test]
async fn a_websocket_carries_messages_both_ways() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    let bench = Bench::start(vec![route]);
    let mut io = bench.tls("api.test").await;
    let head = format!("GET /ws HTTP/1.1\r\nHost: api.test\r\n{WEBSOCKET}\r\n");
    // The first message comes with the handshake.
    io.write_all(&[head.as_bytes(), &frame(0x81, b"hello")].concat()).await.unwrap();
    io.flush().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\x81\x05hello") {
        assert!(timeout(Duration::from_secs(5), io.read_buf(&mut got)).await.unwrap().unwrap() > 0);
    }
    let text = String::from_utf8_lossy(&got).to_ascii_lowercase();
    assert!(
        text.starts_with("http/1.1 101")
            && text.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="),
        "{text}"
    );
    io.write_all(&frame(0x82, &[7; 100])).await.unwrap();
    io.flush().await.unwrap();
    let mut answer = [0; 102];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[2..], [7; 100]);
    let seen = &upstream.seen()[0];
    assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
    assert!(
        !seen.headers.contains_key("sec-websocket-extensions"),
        "a compressed frame could not be looked into"
    );
    io.shutdown().await.unwrap();
    let line = &bench.audit(1).await[0];
    assert_eq!(
        (line["status"].as_u64(), line["bytes_up"].as_u64(), line["bytes_down"].as_u64()),
        (Some(101), Some(117), Some(109))
    );
}

#[tokio::test]
async fn a_route_can_forbid_websockets() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let route = Route { websocket: false, ..upstream.route("api", "api.test") };
    for (disabled, want) in [(vec![], "HTTP/1.1 403"), (vec![Rule::NoWebSocket], "HTTP/1.1 101")] {
        let options = Options { disabled, ..Options::default() };
        let bench = Bench::with(vec![route.clone()], options);
        let mut io = bench.tls("api.test").await;
        io.write_all(format!("GET /ws HTTP/1.1\r\nHost: api.test\r\n{WEBSOCKET}\r\n").as_bytes())
            .await
            .unwrap();
        let mut got = Vec::new();
        io.read_buf(&mut got).await.unwrap();
        assert!(got.starts_with(want.as_bytes()), "{}", String::from_utf8_lossy(&got));
        if want.ends_with("403") {
            assert_eq!(bench.audit(1).await[0]["rule"], "no-websocket");
        }
    }
    assert_eq!(upstream.seen().len(), 1);
    assert!(Bench::start(vec![route]).get("api.test", "/").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_head_that_drips_is_dropped() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits = Limits { begun_head: Duration::from_millis(300), ..Limits::default() };
    for (disabled, refused) in [(vec![], true), (vec![Rule::SlowHead], false)] {
        let options = Options { disabled, limits: limits.clone(), ..Options::default() };
        let bench = Bench::with(vec![upstream.route("api", "api.test")], options);
        let mut io = bench.tls("api.test").await;
        // An idle connection is no slow head, neither before the first request nor after it.
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            io.write_all(b"GET / HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
            assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
        }
        let mut got = Vec::new();
        for byte in b"GET / HTTP/1.1\r\nX: y".iter().cycle().take(40) {
            io.write_all(&[*byte]).await.unwrap();
            io.flush().await.unwrap();
            let part = timeout(Duration::from_millis(20), io.read_buf(&mut got)).await;
            if part.is_ok() {
                break;
            }
        }
        while refused && !String::from_utf8_lossy(&got).contains("in time") {
            io.read_buf(&mut got).await.unwrap();
        }
        let text = String::from_utf8_lossy(&got);
        assert_eq!(text.contains("408") && text.contains("[slow-head]"), refused, "{text}");
        if refused {
            assert_eq!(bench.audit(3).await[2]["rule"], "slow-head");
        }
    }
}

#[tokio::test]
async fn a_websocket_that_the_upstream_declines_or_fakes_is_not_opened() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bench = Bench::start(vec![upstream.route("api", "api.test")]);
    for (path, want) in [("/plain", "HTTP/1.1 200"), ("/ws-lies", "HTTP/1.1 502")] {
        let mut io = bench.tls("api.test").await;
        io.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n{WEBSOCKET}\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let answer = response(&mut io).await;
        assert!(answer.starts_with(want) && answer.contains("connection: close"), "{answer}");
    }
}

#[tokio::test]
async fn an_upgrade_to_something_else_is_an_ordinary_request() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bench = Bench::start(vec![upstream.route("api", "api.test")]);
    let mut io = bench.tls("api.test").await;
    let head = "GET / HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n";
    for _ in 0..2 {
        io.write_all(head.as_bytes()).await.unwrap();
        assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
    }
    assert!(
        upstream.seen()[0].headers.keys().all(|k| k == "host"),
        "{:?}",
        upstream.seen()[0].headers
    );
}

#[tokio::test]
async fn a_passthrough_tunnel_is_the_upstreams_own_tls() {
    let upstream = Upstream::start(&["pass.test"], true).await;
    let mut route = upstream.route("pass", "pass.test");
    (route.passthrough, route.ca) = (true, None);
    let bench = Bench::start(vec![route]);
    let io = bench.tunnel("pass.test:443").await.unwrap();
    let mut tls = upstream
        .ca
        .connector(true)
        .connect(ServerName::try_from("pass.test").unwrap(), io)
        .await
        .unwrap();
    tls.write_all(
        b"GET /x HTTP/1.1\r\nHost: pass.test\r\nAuthorization: mine\r\nConnection: close\r\n\r\n",
    )
    .await
    .unwrap();
    let mut all = String::new();
    let _ = tls.read_to_string(&mut all).await;
    assert!(all.contains("ok from upstream"));
    assert_eq!(upstream.seen()[0].headers["authorization"], "mine");
    drop(tls);
    let line = &bench.audit(1).await[0];
    assert_eq!(
        (line["method"].as_str(), line["route"].as_str(), line["verdict"].as_str()),
        (Some("CONNECT"), Some("pass"), Some("allow"))
    );
    assert!(
        line["bytes_up"].as_u64() > Some(200) && line["bytes_down"].as_u64() > Some(500),
        "{line}"
    );
    assert!(bench.audit_text().lines().next().unwrap().contains("admitted"));
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_goes_through_a_tunnel_as_nodes_fetch_sends_it() {
    let upstream = Upstream::start(&[], false).await;
    let mut route = upstream.route("plain", "plain.test");
    (route.tls, route.port, route.inject) = (false, 80, bearer());
    let bench = Bench::start(vec![route]);
    let mut io = bench.tunnel("plain.test:80").await.unwrap();
    for request in [
        "GET /a//b HTTP/1.1\r\nHost: plain.test\r\n\r\n",
        "GET http://plain.test/a//b HTTP/1.1\r\nHost: plain.test:80\r\n\r\n",
        "POST /a//b HTTP/1.1\r\nHost: plain.test\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ] {
        io.write_all(request.as_bytes()).await.unwrap();
        assert!(response(&mut io).await.starts_with("HTTP/1.1 200"), "{request:?}");
        let seen = upstream.seen().pop().unwrap();
        assert_eq!(seen.uri, "/a//b");
        assert_eq!(seen.headers["authorization"], format!("Bearer {TOKEN}"));
        assert_eq!(seen.headers["host"], "plain.test");
    }
    assert_eq!(*upstream.connections.lock().unwrap(), 1);
    assert!(bench.audit(3).await.iter().all(|line| line["port"] == 80 && line["status"] == 200));
    // One byte at a time.
    let mut io = bench.tunnel("plain.test:80").await.unwrap();
    for byte in b"GET /slow HTTP/1.1\r\nHost: plain.test\r\n\r\n" {
        io.write_all(&[*byte]).await.unwrap();
    }
    assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
    // A WebSocket.
    let mut io = bench.tunnel("plain.test:80").await.unwrap();
    let head = format!("GET /ws HTTP/1.1\r\nHost: plain.test\r\n{WEBSOCKET}\r\n");
    io.write_all(&[head.as_bytes(), &frame(0x81, b"hello")].concat()).await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\x81\x05hello") {
        assert!(timeout(Duration::from_secs(5), io.read_buf(&mut got)).await.unwrap().unwrap() > 0);
    }
}

#[tokio::test]
async fn the_times_of_a_route_are_its_own() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits = Limits {
        first_byte: Duration::from_millis(300),
        idle: Duration::from_millis(50),
        ..Limits::default()
    };
    let after = |first_byte, idle, total| Timeouts { first_byte, idle, total };
    // Path, the route's times in seconds, and the key that ends the request.
    for (path, timeout, key) in [
        ("/never", after(None, None, None), Some("timeout.first_byte")),
        ("/never", after(Some(1), None, None), Some("timeout.first_byte")),
        ("/never", after(Some(60), None, Some(1)), Some("timeout.total")),
        ("/events", after(None, None, None), Some("timeout.idle")),
        ("/events", after(None, Some(5), None), None),
        ("/", after(Some(1), Some(1), Some(1)), None),
    ] {
        let route = Route { timeout, ..upstream.route("api", "api.test") };
        let options = Options { limits: limits.clone(), ..Options::default() };
        let bench = Bench::with(vec![route], options);
        let start = std::time::Instant::now();
        let mut io = bench.tls("api.test").await;
        io.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n")
                .as_bytes(),
        )
        .await
        .unwrap();
        let mut all = Vec::new();
        let read = tokio::time::timeout(Duration::from_secs(5), io.read_to_end(&mut all)).await;
        let line = &bench.audit(1).await[0];
        match key {
            Some(key) => {
                assert!(line["reason"].as_str().unwrap().contains(key), "{path}: {line}");
                assert!(line["hint"].as_str().unwrap().contains("timeout = { "), "{line}");
            }
            None => assert!(read.is_ok() && line["rule"].is_null(), "{path}: {line}"),
        }
        if timeout.first_byte.is_some() && key.is_some() {
            assert!(start.elapsed() >= Duration::from_secs(1), "{path}: the default counted");
        }
    }
}

#[tokio::test]
async fn a_half_closed_guest_gets_its_answer_and_then_the_end() {
    let upstream = Upstream::start(&[], false).await;
    let mut route = upstream.route("plain", "plain.test");
    (route.tls, route.port) = (false, 80);
    let bench = Bench::start(vec![route]);
    let mut io = bench.connect().await;
    io.write_all(b"GET http://plain.test/events HTTP/1.1\r\nHost: plain.test\r\n\r\n")
        .await
        .unwrap();
    io.shutdown().await.unwrap();
    let mut all = String::new();
    timeout(Duration::from_secs(5), io.read_to_string(&mut all)).await.unwrap().unwrap();
    assert!(all.contains("data: 4"), "{all}");
}

#[tokio::test]
async fn an_expired_token_is_renewed_without_the_guest_noticing() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    let mut bench = Bench::start(vec![route]);
    let live = bench.policy.clone();
    let mut io = bench.tls("api.test").await;
    io.write_all(b"POST /fresh HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello")
        .await
        .unwrap();
    assert!(bench.reports.recv().await.is_some());
    live.apply(EgressCommand::Token {
        name: "TOKEN".parse().unwrap(),
        value: Some(Secret::new("the-fresh-value".into())),
    });
    assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
    let sent: Vec<_> = upstream
        .seen()
        .iter()
        .map(|s| (s.headers["authorization"].to_str().unwrap().to_owned(), s.text.clone()))
        .collect();
    assert_eq!(
        sent,
        [
            (format!("Bearer {TOKEN}"), "hello".into()),
            ("Bearer the-fresh-value".into(), "hello".into())
        ]
    );
    assert_eq!(bench.audit(1).await[0]["status"], 200);

    // Without a new value the guest gets the upstream's own answer.
    live.apply(EgressCommand::Token {
        name: "TOKEN".parse().unwrap(),
        value: Some(Secret::new("stale-again-value".into())),
    });
    let request = tokio::spawn(async move { bench.get("api.test", "/fresh").await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    live.apply(EgressCommand::Token { name: "TOKEN".parse().unwrap(), value: None });
    assert!(request.await.unwrap().starts_with("HTTP/1.1 401"));
}

#[tokio::test]
async fn a_query_parameter_is_injected_and_never_written_down() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = Some(Inject {
        place: Place::Query("key".into()),
        scheme: Scheme::Raw,
        token: "TOKEN".parse().unwrap(),
    });
    let bench = Bench::start(vec![route]);
    assert!(
        bench.get("api.test", "/v1/a?x=1&KEY=guest&k%65y=guest").await.starts_with("HTTP/1.1 200")
    );
    assert_eq!(upstream.seen()[0].uri, format!("/v1/a?x=1&key={TOKEN}"));
    bench.audit(1).await;
    assert!(!bench.audit_text().contains(TOKEN));
}

#[tokio::test]
async fn a_new_policy_is_in_force_from_the_next_request_on() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut first = upstream.route("api", "api.test");
    first.rate = Some("3/h".parse().unwrap());
    let bench = Bench::start(vec![first.clone()]);
    let mut io = bench.tls("api.test").await;
    let mut ask = async |path: &str| {
        io.write_all(format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n\r\n").as_bytes())
            .await
            .unwrap();
        response(&mut io).await
    };
    assert!(ask("/a").await.starts_with("HTTP/1.1 200"));
    let mut narrow = first.clone();
    narrow.paths = vec!["/v1/*".parse().unwrap()];
    bench.policy.replace(Policy::new(vec![narrow.clone()])).unwrap();
    assert!(ask("/a").await.starts_with("HTTP/1.1 403"), "the same connection");
    assert!(ask("/v1/a").await.starts_with("HTTP/1.1 200"));
    assert_eq!(*upstream.connections.lock().unwrap(), 1, "the route's connections stay");

    let mut bad = narrow.clone();
    bad.inject = Some(Inject {
        place: Place::Header("authorization".into()),
        scheme: Scheme::Raw,
        token: "NONE".parse().unwrap(),
    });
    assert!(bench.policy.replace(Policy::new(vec![bad])).unwrap_err().to_string().contains("NONE"));
    assert!(ask("/v1/a").await.starts_with("HTTP/1.1 200"), "the old one stays");
    bench.policy.replace(Policy::new(vec![first])).unwrap();
    assert!(ask("/a").await.starts_with("HTTP/1.1 429"), "a reload is no refill");
    bench.policy.replace(Policy::new(vec![])).unwrap();
    assert!(ask("/a").await.contains("[no-route]"));
}

#[tokio::test]
async fn a_request_keeps_the_policy_that_it_began_with() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bench = Bench::start(vec![upstream.route("api", "api.test")]);
    let mut io = bench.tls("api.test").await;
    io.write_all(b"GET /events HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    let mut got = Vec::new();
    io.read_buf(&mut got).await.unwrap();
    bench.policy.replace(Policy::new(vec![])).unwrap();
    while !String::from_utf8_lossy(&got).contains("data: 4") {
        assert!(timeout(Duration::from_secs(2), io.read_buf(&mut got)).await.unwrap().unwrap() > 0);
    }
}

#[tokio::test]
async fn a_token_that_the_upstream_repeats_is_hidden() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    let bench = Bench::start(vec![route]);
    let answer = bench.get("api.test", "/say-back").await;
    assert!(
        answer.starts_with("HTTP/1.1 200")
            && answer.contains("you sent Bearer ")
            && answer.ends_with(" and more"),
        "{answer}"
    );
    assert!(!answer.contains(TOKEN) && answer.contains(&"*".repeat(TOKEN.len() - 3)), "{answer}");
    assert!(!answer.contains("x-said"), "{answer}");
    let line = &bench.audit(1).await[0];
    // The audit log says which answer was changed, and where.
    let findings: Vec<&str> =
        line["findings"].as_array().unwrap().iter().filter_map(|f| f.as_str()).collect();
    assert_eq!(findings.len(), 2, "{line}");
    let body = findings.iter().find(|f| f.contains(" in response at ")).unwrap();
    assert!(body.starts_with("redact ") && body.ends_with(": value of TOKEN"), "{line}");
    let mut io = bench.tls("api.test").await;
    io.write_all(b"GET /say-back-gzip HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    let mut all = Vec::new();
    let _ = timeout(Duration::from_secs(5), io.read_to_end(&mut all)).await;
    let body = all.split(|b| *b == b'\n').next_back().unwrap();
    let mut text = String::new();
    let _ = std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(body), &mut text);
    assert!(!text.contains(TOKEN), "{text}");
    assert_eq!(bench.audit(2).await[1]["rule"], "secret");
    // Negative control: a route without a credential hides nothing, and repeats what it was sent.
    let bench = Bench::start(vec![upstream.route("open", "api.test")]);
    let mut io = bench.tls("api.test").await;
    io.write_all(b"GET /say-back HTTP/1.1\r\nHost: api.test\r\nAuthorization: Bearer own-value-of-the-guest\r\n\r\n").await.unwrap();
    assert!(response(&mut io).await.contains("own-value-of-the-guest"));
    assert!(
        bench.audit(1).await[0]
            .get("findings")
            .is_none_or(|f| f.as_array().is_none_or(Vec::is_empty))
    );
}

#[tokio::test]
async fn a_redirect_to_another_host_carries_no_token() {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    let mut api = upstream.route("api", "api.test");
    api.inject = bearer();
    let bench = Bench::start(vec![api, upstream.route("other", "other.test")]);
    // A guest that follows a redirect sends a new request, which has its own route.
    for host in ["api.test", "other.test"] {
        assert!(bench.get(host, "/").await.starts_with("HTTP/1.1 200"));
    }
    let sent: Vec<bool> =
        upstream.seen().iter().map(|s| s.headers.contains_key("authorization")).collect();
    assert_eq!(sent, [true, false]);
}

#[tokio::test]
async fn http2_streams_over_the_limit_wait() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let limits =
        crate::egress::limits::Limits { streams: 2, ..crate::egress::limits::Limits::default() };
    let bench = Bench::with(
        vec![upstream.route("api", "api.test")],
        super::harness::Options { limits, ..Default::default() },
    );
    let mut http = bench.http2("api.test").await;
    let _ = http.send_request(get("https://api.test/")).await.unwrap(); // its settings are known now
    let never: Vec<_> =
        (0..2).map(|_| tokio::spawn(http.send_request(get("https://api.test/never")))).collect();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(
        timeout(Duration::from_millis(300), http.send_request(get("https://api.test/")))
            .await
            .is_err()
    );
    never.into_iter().for_each(|n| n.abort());
    assert_eq!(
        timeout(Duration::from_secs(5), http.send_request(get("https://api.test/")))
            .await
            .unwrap()
            .unwrap()
            .status(),
        StatusCode::OK
    );
}

#[tokio::test]
async fn a_half_closed_guest_with_its_answer_holds_no_slot() {
    let upstream = Upstream::start(&[], false).await;
    let mut route = upstream.route("plain", "plain.test");
    (route.tls, route.port) = (false, 80);
    let limits = crate::egress::limits::Limits {
        connections: 1,
        ..crate::egress::limits::Limits::default()
    };
    let bench = Bench::with(vec![route], super::harness::Options { limits, ..Default::default() });
    let mut kept = Vec::new();
    for _ in 0..3 {
        let mut io = timeout(Duration::from_secs(5), bench.connect()).await.unwrap();
        io.write_all(b"GET http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\n\r\n").await.unwrap();
        assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
        io.shutdown().await.unwrap(); // as the guest's relay passes on a close
        kept.push(io);
    }
}

#[tokio::test]
async fn trailers_that_repeat_the_token_are_dropped() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    let bench = Bench::start(vec![route]);
    let answer = bench
        .http2("api.test")
        .await
        .send_request(get("https://api.test/say-back-trailer"))
        .await
        .unwrap();
    let collected = answer.into_body().collect().await.unwrap();
    assert!(
        collected.trailers().is_none_or(|t| !t.contains_key("x-said")),
        "{:?}",
        collected.trailers()
    );
    let bench = Bench::start(vec![upstream.route("open", "api.test")]);
    let request = Request::get("https://api.test/say-back-trailer")
        .header("authorization", "mine")
        .body(Full::default())
        .unwrap();
    let answer = bench.http2("api.test").await.send_request(request).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().trailers().unwrap()["x-said"], "mine");
}

#[tokio::test]
async fn a_new_token_is_a_secret_from_its_first_use_on() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    let mut bench = Bench::start(vec![route]);
    let live = bench.policy.clone();
    let mut io = bench.tls("api.test").await;
    // The old token gets 401, the new one an answer that repeats it.
    io.write_all(b"GET /fresh-say-back HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
    assert!(bench.reports.recv().await.is_some());
    live.apply(EgressCommand::Token {
        name: "TOKEN".parse().unwrap(),
        value: Some(Secret::new("the-fresh-value".into())),
    });
    let answer = response(&mut io).await;
    assert!(
        answer.starts_with("HTTP/1.1 200")
            && !answer.contains("the-fresh-value")
            && answer.contains("***"),
        "{answer}"
    );
}

#[tokio::test]
async fn an_upload_does_not_outlive_its_audit_line() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bench = Bench::start(vec![upstream.route("api", "api.test")]);
    let mut io = bench.tls("api.test").await;
    io.write_all(b"POST /early HTTP/1.1\r\nHost: api.test\r\nContent-Length: 1000000\r\n\r\nfirst")
        .await
        .unwrap();
    assert!(response(&mut io).await.starts_with("HTTP/1.1 200"));
    assert_eq!(bench.audit(1).await[0]["bytes_up"], 5);
    let _ = io.write_all(&[b'x'; 500_000]).await;
    let _ = timeout(Duration::from_millis(500), io.read_to_end(&mut Vec::new())).await;
    assert!(upstream.partial.lock().unwrap().len() < 100_000, "it went on");
}

#[tokio::test]
async fn a_refused_upload_is_drained_so_that_the_client_reads_the_reason() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.paths = vec!["/v1/*".parse().unwrap()];
    let bench = Bench::start(vec![route]);
    let mut io = bench.tls("api.test").await;
    let body = vec![b'x'; 1 << 20];
    io.write_all(
        format!("POST /admin HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n", body.len())
            .as_bytes(),
    )
    .await
    .unwrap();
    io.write_all(&body).await.unwrap();
    io.flush().await.unwrap();
    assert!(response(&mut io).await.contains("[not-allowed]"));
    let request = Request::post("https://api.test/admin").body(Full::from(body)).unwrap();
    let answer = bench.http2("api.test").await.send_request(request).await.unwrap();
    let status = answer.status();
    let said = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(status == 403 && String::from_utf8_lossy(&said).contains("[not-allowed]"));
}
