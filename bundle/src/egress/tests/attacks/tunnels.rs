//! The table of tests/attacks/egress/tunnels.rs.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::harness::{Bench, Options, response};
use super::super::upstream::{Ca, Upstream};
use crate::egress::refusal::Rule;

#[path = "../../../../../tests/attacks/egress/tunnels.rs"]
mod cases;
use cases::{CASES, Case, FirstBytes, Kind};

/// A client's first message, in records of at most `records` bytes, with an additional `extension`.
pub fn client_hello(name: &str, records: usize, extension: &[u8]) -> Vec<u8> {
    let config = Ca::new().connector(!name.is_empty()).config().clone();
    let name =
        ServerName::try_from(if name.is_empty() { "api.test" } else { name }.to_owned()).unwrap();
    let mut bytes = Vec::new();
    rustls::ClientConnection::new(config, name).unwrap().write_tls(&mut bytes).unwrap();
    let mut message = bytes[5..].to_vec();
    if !extension.is_empty() {
        let suites = 39 + usize::from(message[38]);
        let at = suites
            + 2
            + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]))
            + 2;
        let all = u16::from_be_bytes([message[at], message[at + 1]])
            + u16::try_from(extension.len()).unwrap();
        message[at..at + 2].copy_from_slice(&all.to_be_bytes());
        message.extend_from_slice(extension);
        let length = u16::try_from(message.len() - 4).unwrap();
        message[2..4].copy_from_slice(&length.to_be_bytes());
    }
    let record = |part: &[u8]| {
        [&[22, 3, 1], &u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat()
    };
    message.chunks(records).flat_map(record).collect()
}

async fn attack(
    upstream: &Upstream,
    disabled: Vec<Rule>,
    Case(_, _, kind, first): &Case,
) -> (Bench, Vec<u8>) {
    let mut route = upstream.route("api", "api.test");
    match kind {
        Kind::Intercepted => {}
        Kind::Passthrough => (route.passthrough, route.ca) = (true, None),
        Kind::Plain => (route.tls, route.ca) = (false, None),
    }
    let bench = Bench::with(vec![route], Options { disabled, ..Options::default() });
    let mut io = bench.tunnel("api.test:443").await.unwrap();
    let bytes = match first {
        FirstBytes::Bytes(bytes) => bytes.to_vec(),
        FirstBytes::Hello(name, records, extension) => client_hello(name, *records, extension),
    };
    io.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_millis(1500), io.read_to_end(&mut answer)).await;
    (bench, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn only_tls_for_the_named_host_may_follow_connect() {
    let mut wrong = Vec::new();
    for case in CASES {
        let Case(name, rule, kind, first) = case;
        let upstream = Upstream::start(&["api.test"], true).await;
        let (bench, answer) = attack(&upstream, vec![], case).await;
        let line = &bench.audit(1).await[0];
        let alerted = answer.first() == Some(&0x15)
            || String::from_utf8_lossy(&answer).contains(&format!("[{}]", rule.code()));
        if line["rule"] != rule.code() || *upstream.connections.lock().unwrap() > 0 || !alerted {
            wrong.push(format!("{name}: {line} {answer:?}"));
        }
        // Without the rule, the bytes reach the upstream, or our own TLS answers for another host than
        // was allowed.
        let (bench, answer) = attack(&upstream, vec![*rule], case).await;
        let reached = *upstream.connections.lock().unwrap() > 0;
        let answered = matches!(first, FirstBytes::Hello(..)) && answer.first() == Some(&22);
        if !(reached || (*kind != Kind::Passthrough && answered)) {
            wrong.push(format!("{name}, without: {answer:?} {}", bench.audit_text()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn the_hello_of_the_table_is_a_real_one() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    (route.passthrough, route.ca) = (true, None);
    let bench = Bench::start(vec![route]);
    let mut io = bench.tunnel("api.test:443").await.unwrap();
    io.write_all(&client_hello("api.test", 64, &[])).await.unwrap();
    let mut answer = [0; 3];
    io.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer[..2], [22, 3], "a ServerHello of the upstream's");
}

/// The request that is sent in a tunnel to `plain.test:80`, whose route allows GET of /v1/*, and the
/// rule that refuses it. The last value: it reaches the upstream without the rule.
const PLAIN: &[(&str, Rule, bool)] = &[
    ("GET /admin HTTP/1.1\r\nHost: plain.test\r\n\r\n", Rule::NotAllowed, true),
    ("POST /v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", Rule::NotAllowed, true),
    ("GET /v1/..%2fadmin HTTP/1.1\r\nHost: plain.test\r\n\r\n", Rule::Path, true),
    ("GET /v1/a HTTP/1.1\r\nHost: other.test\r\n\r\n", Rule::HostMismatch, true),
    ("GET /v1/a HTTP/1.1\r\nHost: plain.test:8080\r\n\r\n", Rule::HostMismatch, true),
    ("GET /v1/a HTTP/1.1\nHost: plain.test\r\n\r\n", Rule::BareLf, true),
    ("GET http://other.test/v1/a HTTP/1.1\r\nHost: other.test\r\n\r\n", Rule::HostMismatch, false),
    ("GET https://plain.test/v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", Rule::RequestLine, false),
    ("CONNECT other.test:443 HTTP/1.1\r\nHost: other.test\r\n\r\n", Rule::NestedConnect, false),
    ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Rule::RequestLine, false),
];

#[tokio::test]
async fn requests_in_a_plain_tunnel_get_the_same_checks() {
    let upstream = Upstream::start(&[], false).await;
    let bench = |disabled| {
        let mut plain = upstream.route("plain", "plain.test");
        (plain.tls, plain.port, plain.ca) = (false, 80, None);
        plain.paths = vec!["/v1/*".parse().unwrap()];
        plain.methods = vec!["GET".parse().unwrap()];
        let routes = vec![plain, upstream.route("other", "other.test")];
        Bench::with(routes, Options { disabled, ..Options::default() })
    };
    for (request, rule, reaches) in PLAIN {
        let before = upstream.seen().len();
        let guarded = bench(vec![]);
        let mut io = guarded.tunnel("plain.test:80").await.unwrap();
        io.write_all(request.as_bytes()).await.unwrap();
        let answer = response(&mut io).await;
        assert!(answer.contains(&format!("[{}]", rule.code())), "{request:?}: {answer}");
        assert_eq!(guarded.audit(1).await[0]["rule"], rule.code(), "{request:?}");
        assert_eq!(upstream.seen().len(), before, "{request:?}");
        if *reaches {
            let open = bench(vec![*rule]);
            let mut io = open.tunnel("plain.test:80").await.unwrap();
            io.write_all(request.as_bytes()).await.unwrap();
            let answer = response(&mut io).await;
            assert!(answer.contains("ok from upstream"), "{request:?}, without: {answer}");
        }
    }
    // A host without a plain route gets no plain tunnel.
    let open = bench(vec![]);
    let mut io = open.tunnel("other.test:443").await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nHost: other.test\r\n\r\n").await.unwrap();
    assert!(response(&mut io).await.contains("[not-tls]"));
    assert!(bench(vec![]).tunnel("plain.test:443").await.unwrap_err().contains("[no-route]"));
}
