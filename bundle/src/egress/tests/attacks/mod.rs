//! Attacks, each twice: against the proxy, and against the proxy without the one rule that stops
//! it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::harness::{Bench, Options, TOKEN, Upstream, bearer, response};
use crate::egress::refusal::Rule;

mod addresses;
mod firewall;
mod http2;
mod limits;
mod tunnels;

#[path = "../../../../../tests/attacks/egress/requests.rs"]
mod requests;
use requests::Without::{self, Opens, Parser, Reaches, ReachesIfAlso, Unaudited};
use requests::{At, CASES, Case};

async fn bench(upstream: &Upstream, plain: &Upstream, disabled: Vec<Rule>) -> Bench {
    let mut api = upstream.route("api", "api.test");
    api.inject = bearer();
    api.paths = vec!["/v1/*".parse().unwrap()];
    api.methods = ["GET", "POST", "MOVE", "COPY", "TRACE"].map(|m| m.parse().unwrap()).to_vec();
    let mut open = plain.route("plain", "plain.test");
    (open.tls, open.port) = (false, 80);
    let routes = vec![api, upstream.route("other", "other.test"), open];
    Bench::with(routes, Options { disabled, ..Options::default() })
}

async fn attack(bench: &Bench, case: &Case) -> String {
    let many = format!("GET /v1/a HTTP/1.1\r\nHost: api.test\r\n{}\r\n", "a: b\r\n".repeat(150));
    let bytes = if case.3 == "MANY" { many.as_str() } else { case.3 };
    match case.2 {
        At::Socket => {
            let mut io = bench.connect().await;
            io.write_all(bytes.as_bytes()).await.unwrap();
            response(&mut io).await
        }
        At::Tunnel => {
            let mut io = bench.tls("api.test").await;
            io.write_all(bytes.as_bytes()).await.unwrap();
            response(&mut io).await
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_attack_is_refused_and_audited_once_and_works_without_its_rule() {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    let plain = Upstream::start(&[], false).await;
    let reached = || upstream.seen().len() + plain.seen().len();
    let mut wrong = Vec::new();
    for case in CASES {
        let Case(name, rule, ..) = case;
        let before = reached();
        let guarded = bench(&upstream, &plain, vec![]).await;
        let answer = attack(&guarded, case).await;
        let status = format!("HTTP/1.1 {} ", rule.status().as_u16());
        if !(answer.starts_with(&status)
            && answer.contains(&format!("[{}]", rule.code()))
            && reached() == before)
        {
            wrong.push(format!("{name}: {answer:?}"));
            continue;
        }
        let line = &guarded.audit(1).await[0];
        assert_eq!(
            (line["rule"].as_str(), line["verdict"].as_str()),
            (Some(rule.code()), Some("deny")),
            "{name}: {line}"
        );
        assert_eq!(line["event"], "refused", "{name}");

        let open = |also: &[Rule]| bench(&upstream, &plain, [&[*rule], also].concat());
        match &case.4 {
            Parser => {}
            Opens => {
                let answer = attack(&open(&[]).await, case).await;
                if !answer.starts_with("HTTP/1.1 200") {
                    wrong.push(format!("{name}, without: {answer:?}"));
                }
            }
            Reaches | ReachesIfAlso(_) => {
                let also = if let ReachesIfAlso(also) = &case.4 { also } else { &[][..] };
                let answer = attack(&open(also).await, case).await;
                if !(answer.starts_with("HTTP/1.1 200") && reached() == before + 1) {
                    wrong.push(format!("{name}, without: {answer:?}"));
                }
            }
            Unaudited(also) => {
                let bench = open(also).await;
                let answer = attack(&bench, case).await;
                if !bench.audit_text().is_empty() {
                    wrong.push(format!("{name}, without: {answer:?} {}", bench.audit_text()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn bytes_that_are_not_tls_are_never_tunnelled() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let plain = Upstream::start(&[], false).await;
    for first in
        ["GET /v1/a HTTP/1.1\r\nHost: plain.test\r\n\r\n", "SSH-2.0-x\r\n", "\x15\x03\x01", "\0\0"]
    {
        let bench = Bench::start(vec![plain.route("api", "api.test")]);
        let mut io = bench.tunnel("api.test:443").await.unwrap();
        io.write_all(first.as_bytes()).await.unwrap();
        let answer = response(&mut io).await;
        assert!(answer.contains("[not-tls]"), "{first:?}: {answer}");
        assert_eq!(bench.audit(1).await[0]["rule"], "not-tls");
    }
    assert!(plain.seen().is_empty());
    let bench = Bench::with(
        vec![plain.route("api", "api.test")],
        Options { disabled: vec![Rule::NotTls], ..Options::default() },
    );
    let mut io = bench.tunnel("api.test:443").await.unwrap();
    io.write_all(b"GET /raw HTTP/1.1\r\nHost: plain.test\r\n\r\n").await.unwrap();
    assert!(
        response(&mut io).await.contains("ok from upstream"),
        "the attack works without the rule"
    );
    drop(upstream);
}

#[tokio::test]
async fn garbage_that_starts_like_tls_is_refused() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let bench = Bench::start(vec![upstream.route("api", "api.test")]);
    let mut io = bench.tunnel("api.test:443").await.unwrap();
    io.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    let mut rest = Vec::new();
    let _ = io.read_to_end(&mut rest).await;
    assert_eq!(bench.audit(1).await[0]["rule"], "not-tls");
    assert_eq!(*upstream.connections.lock().unwrap(), 0);
}

#[tokio::test]
async fn the_server_name_must_be_the_host_of_connect() {
    let upstream = Upstream::start(&["api.test", "other.test"], true).await;
    for (name, sni, rule) in
        [("other.test", true, Rule::SniMismatch), ("api.test", false, Rule::NoSni)]
    {
        let routes =
            || vec![upstream.route("api", "api.test"), upstream.route("other", "other.test")];
        let bench = Bench::start(routes());
        assert!(bench.tls_as("api.test:443", name, sni).await.is_err());
        assert_eq!(bench.audit(1).await[0]["rule"], rule.code());
        let open = Bench::with(routes(), Options { disabled: vec![rule], ..Options::default() });
        let got = open.tls_as("api.test:443", name, sni).await;
        // Without the rule the handshake goes on: a guest that takes any certificate is through.
        assert!(
            got.is_ok() || got.is_err_and(|e| e.to_string().contains("certificate")),
            "{rule:?}"
        );
        assert!(open.audit_text().is_empty());
    }
}

#[tokio::test]
async fn an_address_needs_no_server_name_and_has_its_own_certificate() {
    let upstream = Upstream::start(&["192.0.2.7"], true).await;
    let bench = Bench::start(vec![upstream.route("ip", "192.0.2.7")]);
    let mut io = bench.tls_as("192.0.2.7:443", "192.0.2.7", true).await.unwrap();
    io.write_all(b"GET / HTTP/1.1\r\nHost: 192.0.2.7\r\n\r\n").await.unwrap();
    assert!(response(&mut io).await.contains("ok from upstream"));
}

#[tokio::test]
async fn private_addresses_are_refused_by_address_and_by_name() {
    let plain = Upstream::start(&[], false).await;
    let port = plain.address.port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]"] {
        let mut route = plain.route("local", host.trim_matches(['[', ']']));
        (route.tls, route.port, route.connect) = (false, port, None);
        let ask = format!("GET http://{host}:{port}/ HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        for (disabled, allow, want) in
            [(vec![], false, "403"), (vec![Rule::Address], false, "200"), (vec![], true, "200")]
        {
            route.allow_private = allow;
            let before = plain.seen().len();
            let bench =
                Bench::with(vec![route.clone()], Options { disabled, ..Options::default() });
            let mut io = bench.connect().await;
            io.write_all(ask.as_bytes()).await.unwrap();
            let answer = response(&mut io).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {want} ")), "{host} {allow}: {answer}");
            assert_eq!(plain.seen().len(), before + usize::from(want == "200"));
            if want == "403" {
                assert_eq!(bench.audit(1).await[0]["rule"], "address");
            }
        }
    }
}

#[tokio::test]
async fn trace_would_show_the_token() {
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.inject = bearer();
    for (disabled, shown) in
        [(vec![], false), (vec![Rule::Trace], false), (vec![Rule::Trace, Rule::Secret], true)]
    {
        let bench = Bench::with(vec![route.clone()], Options { disabled, ..Options::default() });
        let mut io = bench.tls("api.test").await;
        io.write_all(b"TRACE / HTTP/1.1\r\nHost: api.test\r\n\r\n").await.unwrap();
        assert_eq!(response(&mut io).await.contains(TOKEN), shown);
    }
}

#[tokio::test]
async fn an_upstream_that_cannot_prove_its_name_gets_nothing() {
    let impostor = Upstream::start(&["api.test"], true).await;
    let wrong_name = Upstream::start(&["evil.test"], true).await;
    let mut untrusted = impostor.route("api", "api.test");
    untrusted.ca = Some(wrong_name.ca.cert.clone());
    for (route, up) in [(untrusted, &impostor), (wrong_name.route("api", "api.test"), &wrong_name)]
    {
        let bench = Bench::start(vec![route]);
        let answer = bench.get("api.test", "/").await;
        assert!(
            answer.starts_with("HTTP/1.1 502 ") && answer.contains("[upstream-tls]"),
            "{answer}"
        );
        assert!(up.seen().is_empty());
        assert_eq!(bench.audit(1).await[0]["rule"], "upstream-tls");
    }
    // Negative control: the same upstream is reached under its own CA and name.
    let bench = Bench::start(vec![impostor.route("api", "api.test")]);
    assert!(bench.get("api.test", "/").await.contains("ok from upstream"));
}

#[tokio::test]
async fn a_smuggled_second_request_is_seen_as_what_it_is() {
    // The body hides a request; whoever frames the message otherwise than the upstream would let it
    // through.
    let upstream = Upstream::start(&["api.test"], true).await;
    let mut route = upstream.route("api", "api.test");
    route.paths = vec!["/v1/*".parse().unwrap()];
    let bench = Bench::start(vec![route]);
    let mut io = bench.tls("api.test").await;
    let hidden = "GET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let outer = format!(
        "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n{hidden}{hidden}",
        hidden.len()
    );
    io.write_all(outer.as_bytes()).await.unwrap();
    let mut answers = response(&mut io).await;
    if answers.matches("HTTP/1.1 ").count() < 2 {
        answers += &response(&mut io).await;
    }
    let second = answers.rsplit_once("HTTP/1.1 ").unwrap().1;
    assert!(
        answers.starts_with("HTTP/1.1 200") && second.starts_with("403"),
        "what follows the body is checked too: {answers}"
    );
    assert_eq!(upstream.seen().len(), 1);
    assert_eq!(upstream.seen()[0].body, hidden.len());
}

#[tokio::test]
async fn a_chunked_body_out_of_order_stops_the_request() {
    let upstream = Upstream::start(&["api.test"], true).await;
    for body in [
        "5;x=y\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nX : y\r\n\r\n",
        "5\r\nhelloGET",
    ] {
        let bench = Bench::start(vec![upstream.route("api", "api.test")]);
        let mut io = bench.tls("api.test").await;
        let head = "POST / HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        io.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let _ = io.read_to_end(&mut rest).await;
        assert_eq!(bench.audit(1).await[0]["rule"], "chunk", "{body:?}");
    }
    assert!(upstream.seen().is_empty());
}
