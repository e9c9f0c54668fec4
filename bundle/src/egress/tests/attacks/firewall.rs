//! The table of tests/attacks/egress/firewall.rs.

use std::io::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::super::harness::{Bench, Options, TOKEN, Upstream, bearer, response};
use super::super::protocols::{WEBSOCKET, frame};
use crate::egress::refusal::Rule;

#[path = "../../../../../tests/attacks/egress/firewall.rs"]
mod cases;
use cases::{CASES, Case, Part, What};

/// Nobody's; in two parts, so that other scanners pass this file by.
const PROVIDER: &str = concat!("gs", "k_AwRXPKasLtWSrnADwuvmwcPmC1l9hs058iPttPVfin6Ub6O7cN0s");

fn text(what: What) -> String {
    let each = |f: &dyn Fn(u8) -> String| TOKEN.bytes().map(f).collect::<String>();
    let after = |n: usize| [&b"??"[..n], TOKEN.as_bytes(), b"!"].concat();
    match what {
        What::Provider => PROVIDER.to_owned(),
        What::PrivateKey => rcgen::KeyPair::generate().unwrap().serialize_pem(),
        What::Own => TOKEN.to_owned(),
        What::Base64(n) => STANDARD.encode(after(n)),
        What::Base64Url(n) => URL_SAFE_NO_PAD.encode(after(n)),
        What::Hex => hex::encode(TOKEN),
        What::HexUpper => hex::encode_upper(TOKEN),
        What::Percent => each(&|b| format!("%{b:02x}")),
        What::PercentSome => {
            let some = |(n, b): (usize, u8)| {
                if n % 3 == 0 { format!("%{b:02X}") } else { char::from(b).to_string() }
            };
            TOKEN.bytes().enumerate().map(some).collect()
        }
        What::Unicode => each(&|b| format!("\\u00{b:02x}")),
    }
}

fn coded(coding: &str, data: &[u8]) -> Vec<u8> {
    let level = flate2::Compression::default();
    match coding {
        "gzip" => {
            let mut w = flate2::write::GzEncoder::new(Vec::new(), level);
            w.write_all(data).unwrap();
            w.finish().unwrap()
        }
        "deflate" => {
            let mut w = flate2::write::ZlibEncoder::new(Vec::new(), level);
            w.write_all(data).unwrap();
            w.finish().unwrap()
        }
        "raw-deflate" => {
            let mut w = flate2::write::DeflateEncoder::new(Vec::new(), level);
            w.write_all(data).unwrap();
            w.finish().unwrap()
        }
        // One uncompressed meta-block (RFC 7932 section 9.2): WBITS 16, not last, 4 nibbles of
        // length - 1, uncompressed.
        "br" => {
            let bits = ((u32::try_from(data.len()).unwrap() - 1) << 4) | (1 << 20);
            [&bits.to_le_bytes()[..3], data, &[3]].concat()
        }
        // One raw block (RFC 8878 section 3.1.1), in a window of a megabyte.
        "zstd" => {
            let header = (u32::try_from(data.len()).unwrap() << 3) | 1;
            [b"\x28\xb5\x2f\xfd\x00\x50", &header.to_le_bytes()[..3], data].concat()
        }
        other => panic!("{other}"),
    }
}

async fn post(bench: &Bench, head: &str, body: &[u8]) -> String {
    let mut io = bench.tls("api.test").await;
    let head = format!(
        "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n{head}\r\n",
        body.len()
    );
    let _ = io.write_all(head.as_bytes()).await;
    for part in body.chunks(1 << 16) {
        let _ = io.write_all(part).await; // it may be cut off before the end
    }
    let _ = io.flush().await;
    response(&mut io).await
}

async fn ask(bench: &Bench, request: &str) -> String {
    let mut io = bench.tls("api.test").await;
    io.write_all(request.as_bytes()).await.unwrap();
    io.flush().await.unwrap();
    response(&mut io).await
}

/// What the guest is answered.
async fn attack(bench: &Bench, Case(_, _, what, part): &Case) -> String {
    let text = text(*what);
    let json = format!("{{\"model\":\"x\",\"prompt\":\"look at this: {text}\",\"n\":1}}");
    match part {
        Part::Query => {
            ask(bench, &format!("GET /v1/a?x=1&q={text} HTTP/1.1\r\nHost: api.test\r\n\r\n")).await
        }
        Part::Path => {
            ask(bench, &format!("GET /v1/{text}/x HTTP/1.1\r\nHost: api.test\r\n\r\n")).await
        }
        Part::Header => {
            ask(bench, &format!("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX-Note: {text}\r\n\r\n"))
                .await
        }
        Part::Cookie => {
            ask(
                bench,
                &format!("GET /v1/a HTTP/1.1\r\nHost: api.test\r\nCookie: a=1; b={text}\r\n\r\n"),
            )
            .await
        }
        Part::Body => post(bench, "Content-Type: application/json\r\n", json.as_bytes()).await,
        Part::Bytewise => {
            let chunks = json.chars().map(|c| format!("1\r\n{c}\r\n")).collect::<Vec<_>>().concat();
            ask(bench, &format!("POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")).await
        }
        Part::Coded(codings) => {
            let body = codings.iter().fold(json.into_bytes(), |body, coding| coded(coding, &body));
            let names = codings.join(", ").replace("raw-", "");
            post(bench, &format!("Content-Encoding: {names}\r\n"), &body).await
        }
        Part::Undeclared(coding) => post(bench, "", &coded(coding, json.as_bytes())).await,
        Part::Given(coding, body) => {
            post(bench, &format!("Content-Encoding: {coding}\r\n"), body).await
        }
        Part::Bomb => {
            post(bench, "Content-Encoding: gzip\r\n", &coded("gzip", &vec![0; 20 << 20])).await
        }
        Part::Http2 => {
            let request =
                Request::post("https://api.test/v1/a").body(Full::<Bytes>::from(json)).unwrap();
            let answer = bench.http2("api.test").await.send_request(request).await.unwrap();
            let status = answer.status().as_u16();
            format!(
                "HTTP/1.1 {status} {}",
                String::from_utf8_lossy(&answer.into_body().collect().await.unwrap().to_bytes())
            )
        }
        Part::Trailer => {
            let head = "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTrailer: x-note\r\nTransfer-Encoding: chunked\r\n\r\n";
            ask(bench, &format!("{head}1\r\na\r\n0\r\nX-Note: {text}\r\n\r\n")).await
        }
        Part::Message => socket(bench, &[frame(0x81, text.as_bytes())]).await,
        Part::Ping => socket(bench, &[frame(0x89, text.as_bytes())]).await,
        Part::Fragments => {
            let last = text.len() - 1;
            let parts: Vec<Vec<u8>> = text
                .bytes()
                .enumerate()
                .flat_map(|(n, b)| {
                    let opcode = if n == 0 { 1 } else { 0 } | if n == last { 0x80 } else { 0 };
                    [frame(opcode, &[b]), frame(0x89, b"ping")]
                })
                .collect();
            socket(bench, &parts).await
        }
    }
}

/// What a WebSocket says back, or the reason for which it is closed.
async fn socket(bench: &Bench, frames: &[Vec<u8>]) -> String {
    let mut io = bench.tls("api.test").await;
    io.write_all(format!("GET /ws HTTP/1.1\r\nHost: api.test\r\n{WEBSOCKET}\r\n").as_bytes())
        .await
        .unwrap();
    io.flush().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n\r\n") {
        assert!(io.read_buf(&mut got).await.unwrap() > 0, "{}", String::from_utf8_lossy(&got));
    }
    let _ = io.write_all(&frames.concat()).await;
    let _ = io.flush().await;
    let mut answer = Vec::new();
    while let Ok(Ok(n)) = timeout(Duration::from_millis(700), io.read_buf(&mut answer)).await {
        if n == 0 {
            break;
        }
    }
    // Messages said back lie in frames of one byte; what a person would see is their content.
    let mut said = String::new();
    let mut rest = &answer[..];
    while let [_, n, more @ ..] = rest {
        let n = usize::from(*n).min(more.len());
        said += &String::from_utf8_lossy(&more[..n]).replace("ping", "");
        rest = &more[n..];
    }
    if said.contains("bot-bottle egress: ") {
        said.replace("egress: ", "egress: [") + "]"
    } else {
        format!("HTTP/1.1 200 {said}")
    }
}

async fn bench(upstream: &Upstream, disabled: Vec<Rule>) -> Bench {
    let mut api = upstream.route("api", "api.test");
    api.inject = bearer();
    Bench::with(vec![api], Options { disabled, ..Options::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_credential_gets_out_and_each_does_without_the_rule() {
    let upstream = Upstream::start_for(&["api.test"], true, &[b"h2", b"http/1.1"]).await;
    let mut wrong = Vec::new();
    for case in CASES {
        let Case(name, rule, what, part) = case;
        let before = upstream.seen().len();
        upstream.partial.lock().unwrap().clear();
        let guarded = bench(&upstream, vec![]).await;
        let answer = attack(&guarded, case).await;
        let log = guarded.audit_text();
        let told = answer.contains(&format!("[{}]", rule.code()));
        let complete = upstream.seen().len() - before
            > usize::from(matches!(part, Part::Message | Part::Fragments | Part::Ping));
        let text = text(*what);
        let leaked = upstream.partial.lock().unwrap().contains(&text[..12]);
        if !told || complete || leaked || answer.contains(&text[..12]) {
            wrong
                .push(format!("{name}: told {told} complete {complete} leaked {leaked}: {answer}"));
        }
        let line = guarded.audit(1).await[0].clone();
        let findings = line["findings"].to_string();
        if line["rule"] != rule.code()
            || guarded.audit_text().contains(TOKEN)
            || log.contains(PROVIDER)
            || findings.contains(&text[..12])
        {
            wrong.push(format!("{name}: {line}"));
        }
        let before = upstream.seen().len();
        let answer = attack(&bench(&upstream, vec![Rule::Secret, Rule::Coding]).await, case).await;
        if !answer.starts_with("HTTP/1.1 200") || upstream.seen().len() != before + 1 {
            wrong.push(format!("{name}, without: {answer}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), CASES.len(), wrong.join("\n"));
}
