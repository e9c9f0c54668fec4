//! The table of tests/attacks/egress/http2.rs.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::harness::{Bench, Upstream};
use super::Without::{self, Parser, Reaches, ReachesIfAlso};
use crate::egress::refusal::Rule;

#[path = "../../../../../tests/attacks/egress/http2.rs"]
mod cases;
use cases::{CASES, Case, RAW, Raw};

/// Status and body.
async fn attack(bench: &Bench, Case(_, _, method, uri, headers, _): &Case) -> (u16, String) {
    let mut request =
        Request::builder().method(Method::from_bytes(method.as_bytes()).unwrap()).uri(*uri);
    for (name, value) in *headers {
        request = request.header(*name, *value);
    }
    let answer = bench
        .http2("api.test")
        .await
        .send_request(request.body(Full::<Bytes>::default()).unwrap())
        .await
        .unwrap();
    let status = answer.status().as_u16();
    (
        status,
        String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes())
            .into_owned(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_over_http2_is_refused_and_works_without_its_rule() {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    let plain = Upstream::start(&[], false).await;
    let mut wrong = Vec::new();
    for case in CASES {
        let Case(name, rule, .., without) = case;
        let before = upstream.seen().len();
        let guarded = super::bench(&upstream, &plain, vec![]).await;
        let (status, body) = attack(&guarded, case).await;
        if status != rule.status().as_u16()
            || !body.contains(&format!("[{}]", rule.code()))
            || upstream.seen().len() != before
        {
            wrong.push(format!("{name}: {status} {body}"));
            continue;
        }
        let line = &guarded.audit(1).await[0];
        assert_eq!(
            (line["rule"].as_str(), line["event"].as_str()),
            (Some(rule.code()), Some("refused")),
            "{name}"
        );
        let also: &[Rule] = match without {
            Reaches => &[],
            ReachesIfAlso(also) => also,
            Parser => continue,
            Without::Unaudited(_) | Without::Opens => unreachable!("{name}"),
        };
        let open = super::bench(&upstream, &plain, [&[*rule], also].concat()).await;
        let (status, body) = attack(&open, case).await;
        if status != 200 || upstream.seen().len() != before + 1 {
            wrong.push(format!("{name}, without: {status} {body}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The fields as a naive proxy writes them down in HTTP/1.1.
fn naive(fields: &[(&str, &str)]) -> String {
    let pseudo = |name: &str| fields.iter().rev().find(|(n, _)| *n == name).map_or("", |(_, v)| *v);
    let mut text = format!(
        "{} {} HTTP/1.1\r\nhost: {}\r\n",
        pseudo(":method"),
        pseudo(":path"),
        pseudo(":authority")
    );
    for (name, value) in fields.iter().filter(|(n, _)| !n.starts_with(':')) {
        text += &format!("{name}: {value}\r\n");
    }
    text + "\r\n"
}

/// Whether what is written down is not the one request that the fields are.
fn is_misread(fields: &[(&str, &str)]) -> bool {
    let text = naive(fields);
    let ordinary = fields.iter().filter(|(n, _)| !n.starts_with(':')).count();
    let lines = text.split("\r\n").count() != ordinary + 4;
    let first = text
        .split("\r\n")
        .next()
        .is_some_and(|l| l.split(' ').filter(|part| !part.is_empty()).count() != 3);
    let connection = text
        .to_ascii_lowercase()
        .lines()
        .any(|l| l.starts_with("transfer-encoding:") || l.starts_with("connection:"));
    let pseudo: Vec<&str> = fields.iter().map(|(n, _)| *n).filter(|n| n.starts_with(':')).collect();
    let expected = [":method", ":scheme", ":authority", ":path"];
    let late =
        fields.iter().skip_while(|(n, _)| n.starts_with(':')).any(|(n, _)| n.starts_with(':'));
    lines || first || connection || late || pseudo != expected
}

/// The fields in a HEADERS frame of stream 1, uncompressed, after the preface.
fn raw(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for text in fields {
        block.push(0); // literal, without indexing, new name (RFC 7541 section 6.2.2)
        for part in [text.0, text.1] {
            block.push(u8::try_from(part.len()).unwrap());
            block.extend(part.as_bytes());
        }
    }
    let length = u8::try_from(block.len()).unwrap();
    [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        &[0, 0, length, 1, 5, 0, 0, 0, 1][..],
        &block,
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_would_be_another_one_in_http1_is_stopped() {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    let plain = Upstream::start(&[], false).await;
    for Raw(name, fields) in RAW {
        assert!(is_misread(fields), "{name}: {:?}", naive(fields));
        let bench = super::bench(&upstream, &plain, vec![]).await;
        let io = bench.tunnel("api.test:443").await.unwrap();
        let host = ServerName::try_from("api.test").unwrap();
        let mut tls = bench.ca.connector_for(true, &[b"h2"]).connect(host, io).await.unwrap();
        tls.write_all(&raw(fields)).await.unwrap();
        // RST_STREAM, GOAWAY, or a 4xx.
        let mut got = Vec::new();
        let stopped = timeout(Duration::from_secs(5), async {
            loop {
                let mut rest = &got[..];
                while let [a, b, c, kind, ..] = rest {
                    let length =
                        9 + ((usize::from(*a) << 16) | (usize::from(*b) << 8) | usize::from(*c));
                    if matches!(*kind, 1 | 3 | 7) {
                        return true;
                    }
                    rest = rest.get(length..).unwrap_or_default();
                }
                if tls.read_buf(&mut got).await.unwrap_or(0) == 0 {
                    return false;
                }
            }
        });
        assert!(stopped.await.unwrap(), "{name}: {got:?}");
        assert!(upstream.seen().is_empty(), "{name}");
    }
    // The same frame with a plain head is a request.
    let bench = super::bench(&upstream, &plain, vec![]).await;
    let io = bench.tunnel("api.test:443").await.unwrap();
    let mut tls = bench
        .ca
        .connector_for(true, &[b"h2"])
        .connect(ServerName::try_from("api.test").unwrap(), io)
        .await
        .unwrap();
    tls.write_all(&raw(&[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", "/v1/a"),
    ]))
    .await
    .unwrap();
    tls.flush().await.unwrap();
    timeout(Duration::from_secs(5), bench.audit(1)).await.unwrap();
    assert_eq!(upstream.seen().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_http2_connection_is_one_line_and_no_more() {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    let plain = Upstream::start(&[], false).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    // A frame too large, CONTINUATION of nothing, DATA on no stream, 20,000 streams opened and
    // reset at once.
    let reset: Vec<u8> = (0u32..20_000)
        .flat_map(|n| {
            let id = (2 * n + 1).to_be_bytes();
            let mut frames = vec![0, 0, 24, 1, 5];
            frames.extend(id);
            frames.extend(b"\x82\x87\x84\x00\x0a:authority\x08api.test");
            frames.extend(b"\0\0\x04\x03\0");
            frames.extend(id);
            frames.extend([0, 0, 0, 8]);
            frames
        })
        .collect();
    for (name, bytes) in [
        ("large frame", &b"\xff\xff\xff\x01\x05\0\0\0\x01"[..]),
        ("continuation of nothing", b"\0\0\x01\x09\x04\0\0\0\x01x"),
        ("data on no stream", b"\0\0\x01\0\x01\0\0\0\x05x"),
        ("rapid reset", &reset),
    ] {
        let bench = super::bench(&upstream, &plain, vec![]).await;
        let io = bench.tunnel("api.test:443").await.unwrap();
        let mut tls = bench
            .ca
            .connector_for(true, &[b"h2"])
            .connect(ServerName::try_from("api.test").unwrap(), io)
            .await
            .unwrap();
        let _ = tls.write_all(&[preface, bytes].concat()).await;
        let mut rest = Vec::new();
        let _ = timeout(Duration::from_secs(10), tls.read_to_end(&mut rest))
            .await
            .unwrap_or_else(|_| panic!("{name}: still open"));
        let mut text = bench.audit_text();
        for _ in 0..200 {
            if text.contains(r#""rule":"http2""#) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            text = bench.audit_text();
        }
        assert!(
            text.contains(r#""rule":"http2""#),
            "{name}: {}",
            text.lines().next_back().unwrap_or("")
        );
        assert!(
            bench.get("other.test", "/").await.starts_with("HTTP/1.1 200"),
            "{name}: others are served on"
        );
    }
}
