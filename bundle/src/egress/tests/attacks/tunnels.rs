//! The table of tests/attacks/egress/tunnels.rs.

use std::time::Duration;

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::harness::{Bench, Ca, Options, Upstream};
use crate::egress::refusal::Rule;

#[path = "../../../../../tests/attacks/egress/tunnels.rs"]
mod cases;
use cases::{CASES, Case, First};

/// What a client says first, in records of at most `records` bytes, with one more `extension`.
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
    Case(_, _, passthrough, first): &Case,
) -> (Bench, Vec<u8>) {
    let mut route = upstream.route("api", "api.test");
    if *passthrough {
        (route.passthrough, route.ca) = (true, None);
    }
    let bench = Bench::with(vec![route], Options { disabled, ..Options::default() });
    let mut io = bench.tunnel("api.test:443").await.unwrap();
    let bytes = match first {
        First::Bytes(bytes) => bytes.to_vec(),
        First::Hello(name, records, extension) => client_hello(name, *records, extension),
    };
    io.write_all(&bytes).await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(Duration::from_millis(1500), io.read_to_end(&mut answer)).await;
    (bench, answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_tls_for_that_host_follows_connect() {
    let mut wrong = Vec::new();
    for case in CASES {
        let Case(name, rule, passthrough, first) = case;
        let upstream = Upstream::start(&["api.test"], true).await;
        let (bench, answer) = attack(&upstream, vec![], case).await;
        let line = &bench.audit(1).await[0];
        let told = answer.first() == Some(&0x15)
            || String::from_utf8_lossy(&answer).contains(&format!("[{}]", rule.code()));
        if line["rule"] != rule.code() || *upstream.connections.lock().unwrap() > 0 || !told {
            wrong.push(format!("{name}: {line} {answer:?}"));
        }
        // Without the rule: the bytes reach the upstream, or our own TLS answers for another host
        // than was allowed.
        let (bench, answer) = attack(&upstream, vec![*rule], case).await;
        let reached = *upstream.connections.lock().unwrap() > 0;
        let answered = matches!(first, First::Hello(..)) && answer.first() == Some(&22);
        if !(reached || (!passthrough && answered)) {
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
