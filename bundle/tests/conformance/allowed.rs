//! Requests that go through and how they are changed on the way, and decisions that depend on more
//! than one request.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use bottle_policy::Policy;
use bottle_policy::audit::verify;
use nix::sys::signal::{Signal, kill};

use super::guest::{Guest, answer, next_answer};
use super::reports::Reports;
use super::site::{BIG, Site};
use super::support::{Egress, Program, TOKEN};

type Test = (&'static str, fn(&mut Guest));
/// A test with one or more daemons of its own.
pub type OwnTest = (&'static str, fn(&Program));

/// Tests that run one after the other against one daemon.
pub const TESTS: &[Test] = &[
    ("a request is let through and has two lines", let_through),
    ("the token replaces what the guest sent", token_replaces),
    ("leaves name the ca that signed them, and have keys of their own", leaves),
    ("the token goes into the query", token_in_query),
    ("a route without a token gets none", no_token),
    ("the first route that fits decides", first_route),
    ("plain http goes through in absolute form", plain_http),
    ("a body with a length arrives whole", sized_body),
    ("a chunked body arrives whole", chunked_body),
    ("a big answer arrives whole", big_answer),
    ("events arrive one by one", events),
    ("head and 204 have no body", no_body),
    ("a connection is used again", keep_alive),
    ("requests that come behind each other get their answers", pipelined),
    ("connection: close is honoured", close),
    ("expect is answered", expect),
    ("hop-by-hop headers stay here", hop_by_hop),
    ("globs match segments", globs),
    ("wildcards and apex", wildcards),
    ("the path is sent on as it was written", written_path),
    ("readings of a path that lead to different routes are refused", readings),
    ("a webdav destination inside the route is sent on as it was written", destination),
    ("a body over max_body does not arrive", max_body),
    ("a budget ends", budget),
    ("a rate ends", rate),
    ("a loopback address is refused", loopback),
    ("allow_private is honoured, by name", allow_private),
    ("an impostor gets nothing", impostor),
    ("a misnamed upstream gets nothing", misnamed),
    ("an upstream that is not there is a 502", not_there),
    ("bytes that are not tls are not tunnelled", not_tls),
    ("the server name must be the host of connect", server_name),
    ("chunks out of order stop the request", bad_chunks),
    ("a hidden second request is seen", smuggled),
    ("switching protocols unasked is refused", switched),
];

/// Tests with a daemon of their own each.
pub const OWN: &[OwnTest] = &[
    ("the socket is private and goes away", private_socket),
    ("sigterm ends it", sigterm),
    ("an open request has its line at the end", cut_off),
    ("an open request is in the log at kill -9", killed),
    ("the chain goes on after kill -9", goes_on),
    ("a new policy counts while it runs, a bad one does not", reload),
    ("a start that fails says why and tells no secret", bad_starts),
    ("another parent than named stops the start", other_parent),
    ("a guest that sends and never reads fills no memory", flood),
];

fn refused(answer: &super::guest::Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.refused()), (status, Some(code)), "{answer:?}");
}

fn let_through(guest: &mut Guest) {
    let answer = guest.get("api.test", "/v1/a?b=c");
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let lines = guest.audited();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(
        (lines[0]["event"].as_str(), lines[1]["event"].as_str()),
        (Some("admitted"), Some("request"))
    );
    assert_eq!(lines[1]["admitted"], lines[0]["seq"]);
    let line = &lines[1];
    assert_eq!((line["path"].as_str(), line["query_bytes"].as_u64()), (Some("/v1/a"), Some(3)));
    assert_eq!((line["route"].as_str(), line["status"].as_u64()), (Some("api"), Some(200)));
    assert_eq!(
        (line["method"].as_str(), line["host"].as_str(), line["port"].as_u64()),
        (Some("GET"), Some("api.test"), Some(443))
    );
    assert_eq!((line["bytes_up"].as_u64(), line["bytes_down"].as_u64()), (Some(0), Some(2)));
}

fn token_replaces(guest: &mut Guest) {
    let sent = "Authorization: Bearer placeholder\r\nauthorization: other\r\n";
    let answer = guest
        .send(Some("api.test"), &format!("GET /v1/a HTTP/1.1\r\nHost: API.test:443\r\n{sent}\r\n"));
    assert_eq!(answer.status, 200);
    let seen = guest.site.last();
    assert_eq!(
        (seen.header("authorization"), seen.headers_named("authorization")),
        (Some(format!("Bearer {TOKEN}").as_str()), 1)
    );
    assert_eq!(seen.header("host"), Some("api.test"));
}

/// OpenSSL follows the key identifiers; rustls, which the other tests use, ignores them.
fn leaves(guest: &mut Guest) {
    use x509_parser::prelude::*;
    let ca = Egress::ca_certificate();
    let (_, ca) = X509Certificate::from_der(&ca).unwrap();
    let stated = ca.iter_extensions().find_map(|e| match e.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    let mut keys = vec![ca.public_key().raw.to_vec()];
    for host in ["api.test", "other.test"] {
        let mut io = guest.egress.tls(host);
        write!(io, "GET /v1/a HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
        assert_eq!(answer(&mut io, false).status, 200);
        let leaf = io.conn.peer_certificates().unwrap()[0].clone();
        let (_, leaf) = X509Certificate::from_der(&leaf).unwrap();
        let named = leaf.iter_extensions().find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_vec())
            }
            _ => None,
        });
        assert!(named.is_none() || named == stated, "{named:x?} is not {stated:x?}");
        assert_eq!(leaf.issuer(), ca.subject());
        keys.push(leaf.public_key().raw.to_vec());
    }
    assert!(keys[0] != keys[1] && keys[0] != keys[2]);
}

fn token_in_query(guest: &mut Guest) {
    assert_eq!(guest.get("query.test", "/x?a=1&key=mine&%6bey=too&b=2").status, 200);
    assert_eq!(guest.site.last().line, format!("GET /x?a=1&b=2&key={TOKEN} HTTP/1.1"));
}

fn no_token(guest: &mut Guest) {
    assert_eq!(guest.get("other.test", "/anything").status, 200);
    assert_eq!(guest.site.last().header("authorization"), None);
}

fn first_route(guest: &mut Guest) {
    guest.get("order.test", "/v1/first");
    assert!(guest.site.last().header("authorization").is_some());
    guest.get("order.test", "/v1/second");
    assert!(guest.site.last().header("authorization").is_none());
}

fn plain_http(guest: &mut Guest) {
    let answer = guest.send(None, "GET http://plain.test/x?y HTTP/1.1\r\nHost: plain.test\r\n\r\n");
    assert_eq!((answer.status, guest.site.last().line.as_str()), (200, "GET /x?y HTTP/1.1"));
}

fn sized_body(guest: &mut Guest) {
    let body = "0123456789".repeat(20_000);
    let head =
        format!("POST /v1/up HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n", body.len());
    assert_eq!(guest.send(Some("api.test"), &(head + &body)).status, 200);
    assert_eq!(guest.site.last().body, body.as_bytes());
    assert_eq!(guest.audited().last().unwrap()["bytes_up"].as_u64(), Some(200_000));
}

fn chunked_body(guest: &mut Guest) {
    let head = "POST /v1/up HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(
        guest
            .send(Some("api.test"), &format!("{head}5\r\nhello\r\n0A\r\n0123456789\r\n0\r\n\r\n"))
            .status,
        200
    );
    assert_eq!(guest.site.last().body, b"hello0123456789");
}

fn big_answer(guest: &mut Guest) {
    let answer = guest.get("api.test", "/v1/big");
    assert_eq!((answer.status, answer.body.len()), (200, BIG));
}

fn events(guest: &mut Guest) {
    let mut io = guest.egress.tls("api.test");
    write!(io, "GET /v1/events HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    let start = Instant::now();
    let (mut text, mut buffer) = (String::new(), [0; 4096]);
    while !text.contains("data: 0") {
        let n = io.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(
        start.elapsed() < Duration::from_millis(290),
        "the first event came after {:?}",
        start.elapsed()
    );
    assert!(!text.contains("data: 2"));
    assert!(!text.to_ascii_lowercase().contains("alt-svc"), "{text}");
    while !text.ends_with("0\r\n\r\n") {
        let n = io.read(&mut buffer).unwrap();
        text.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    assert!(text.contains("data: 2"));
}

fn no_body(guest: &mut Guest) {
    let mut io = guest.egress.tls("api.test");
    for (method, path, status) in
        [("HEAD", "/v1/a", 200), ("GET", "/v1/nothing", 204), ("GET", "/v1/a", 200)]
    {
        write!(io, "{method} {path} HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
        assert_eq!(answer(&mut io, method == "HEAD").status, status, "{method} {path}");
    }
}

fn keep_alive(guest: &mut Guest) {
    let mut io = guest.egress.tls("api.test");
    for n in 0..20 {
        write!(io, "GET /v1/{n} HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
        let answer = answer(&mut io, false);
        assert_eq!((answer.status, guest.site.last().line), (200, format!("GET /v1/{n} HTTP/1.1")));
    }
}

/// Sends more requests than may wait, and a body after them.
fn pipelined(guest: &mut Guest) {
    let io = guest.egress.connect();
    let mut writer = io.try_clone().unwrap();
    let sender = std::thread::spawn(move || {
        let (filler, body) = ("x".repeat(8000), "y".repeat(300_000));
        for n in 0..40 {
            write!(writer, "GET http://plain.test/{n} HTTP/1.1\r\nHost: plain.test\r\nX-Filler: {filler}\r\n\r\n").unwrap();
        }
        write!(writer, "POST http://plain.test/ HTTP/1.1\r\nHost: plain.test\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
    });
    let mut reader = std::io::BufReader::new(io);
    for n in 0..41 {
        assert_eq!(next_answer(&mut reader, false).status, 200, "answer {n}");
    }
    sender.join().unwrap();
    assert_eq!(guest.site.last().body.len(), 300_000);
}

fn close(guest: &mut Guest) {
    for ask in [
        "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: close\r\n\r\n",
        "GET /v1/a HTTP/1.0\r\nHost: api.test\r\n\r\n",
    ] {
        let mut io = guest.egress.tls("api.test");
        write!(io, "{ask}").unwrap();
        let mut all = Vec::new();
        let _ = io.read_to_end(&mut all);
        assert!(all.ends_with(b"ok"), "{}", String::from_utf8_lossy(&all));
    }
}

fn expect(guest: &mut Guest) {
    let mut io = guest.egress.tls("api.test");
    write!(
        io,
        "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
    )
    .unwrap();
    let mut got = [0; 25];
    io.read_exact(&mut got).unwrap();
    assert_eq!(&got, b"HTTP/1.1 100 Continue\r\n\r\n");
    write!(io, "hi").unwrap();
    assert_eq!((answer(&mut io, false).status, guest.site.last().body), (200, b"hi".to_vec()));
}

fn hop_by_hop(guest: &mut Guest) {
    let sent = "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nKeep-Alive: 1\r\nTE: trailers\r\nProxy-Authorization: Basic x\r\nX-Kept: 1\r\n";
    guest.send(Some("api.test"), &format!("GET /v1/a HTTP/1.1\r\nHost: api.test\r\n{sent}\r\n"));
    let seen = guest.site.last();
    assert_eq!(seen.header("x-kept"), Some("1"));
    for gone in ["x-mine", "keep-alive", "proxy-authorization", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
}

fn globs(guest: &mut Guest) {
    for (path, status) in [
        ("/repos/x/issues", 200),
        ("/repos/x/y/issues", 403),
        ("/a/z", 200),
        ("/a/b/c/z", 200),
        ("/a/b", 403),
        ("/repos/x/issues/1", 403),
    ] {
        assert_eq!(guest.get("globs.test", path).status, status, "{path}");
    }
}

fn wildcards(guest: &mut Guest) {
    for host in ["wild.test", "a.wild.test", "a.b.wild.test"] {
        assert_eq!(guest.get(host, "/").status, 200, "{host}");
    }
    refused(
        &guest.send(None, "CONNECT xwild.test:443 HTTP/1.1\r\nHost: xwild.test\r\n\r\n"),
        403,
        "no-route",
    );
}

fn written_path(guest: &mut Guest) {
    for (host, target) in [
        // A route without paths: nothing is ambiguous.
        ("other.test", "/a/./b//%7Ec/../%41?q=%2e%2e/"),
        ("other.test", "//bucket//key?X-Amz-Signature=ab%2Fcd%3D"),
        ("other.test", "/@scope%2fname"),
        ("other.test", "/a%5cb;v=1/..;/%252e"),
        ("other.test", "/%ef%bc%8f%c0%af?"),
        // All readings stay inside.
        ("api.test", "/v1/%61%2Db%7e"),
        ("api.test", "/v1//key"),
        ("api.test", "/v1/x/../y/./z/"),
        ("api.test", "/v1/a%2Fb"),
        ("api.test", "/v1/a%252fb%2541"),
        ("api.test", "/v1/https%3A%2F%2Fexample.com%2Fa%3Fb%23c"),
        ("api.test", "/v1/a;v=1/b%3bc"),
        ("api.test", "/v1/caf%c3%a9%20%e6%97%a5%e6%9c%ac%ef%bc%9a%e2%80%a6.html"),
        ("api.test", "/v1/100%25/50%25%20off"),
        ("api.test", "/v1/...%2f.git"),
        ("npm.test", "/@acme%2fname"),
        ("npm.test", "/@acme%2Fname?write=true"),
        ("npm.test", "/%40acme%2fname/-/name-1.0.0.tgz"),
        ("npm.test", "/@acme/name"),
        ("npm.test", "/projects/group%2Fproject/raw"),
        ("globs.test", "/a/%62/z"),
    ] {
        let answer = guest.get(host, target);
        assert_eq!(answer.status, 200, "{target}: {answer:?}");
        assert_eq!(guest.site.last().line, format!("GET {target} HTTP/1.1"));
    }
    assert_eq!(guest.get("query.test", "/a%2f..//b?x=%2f").status, 200);
    assert_eq!(guest.site.last().line, format!("GET /a%2f..//b?x=%2f&key={TOKEN} HTTP/1.1"));
}

fn readings(guest: &mut Guest) {
    for target in ["/v1/./first", "/v1/x/../first", "/v1/first;x", "/v1//first", "/v1/first%3fx"] {
        let answer = guest.get("order.test", target);
        refused(&answer, 400, "path");
        let text = answer.text();
        assert!(text.contains("route first") && text.contains("route second"), "{text}");
    }
    // One reading, however it is escaped.
    assert_eq!(guest.get("order.test", "/v1%2f%66irst").status, 200);
    assert!(guest.site.last().header("authorization").is_some());
    refused(&guest.get("npm.test", "/@other%2fname"), 403, "not-allowed");
    refused(&guest.get("npm.test", "/@acme%2f..%2f@other"), 400, "path");
}

fn destination(guest: &mut Guest) {
    for (host, sent) in [
        ("api.test", "https://api.test/v1/b"),
        ("api.test", "HTTPS://API.test:443/v1/x/../b%20c"),
        ("api.test", "/v1/%62?c=d"),
        ("api.test", "/v1/b%2Fc//d"),
        // A route without paths allows any destination.
        ("other.test", "https://api.test/admin"),
    ] {
        let ask = format!("MOVE /v1/a HTTP/1.1\r\nHost: {host}\r\nDestination: {sent}\r\n\r\n");
        let answer = guest.send(Some(host), &ask);
        assert_eq!(answer.status, 200, "{sent}: {answer:?}");
        assert_eq!(guest.site.last().header("destination"), Some(sent), "{sent}");
    }
}

fn max_body(guest: &mut Guest) {
    let before = guest.site.seen().len();
    let head = "POST / HTTP/1.1\r\nHost: small.test\r\n";
    refused(
        &guest.send(Some("small.test"), &format!("{head}Content-Length: 11\r\n\r\n01234567890")),
        413,
        "max-body",
    );
    assert_eq!(guest.audited()[0]["rule"], "max-body");
    let answer = guest.send(
        Some("small.test"),
        &format!("{head}Transfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n6\r\nghijkl\r\n0\r\n\r\n"),
    );
    assert!(answer.status == 413 || answer.status == 0, "{answer:?}");
    assert_eq!(guest.audited().last().unwrap()["rule"], "max-body");
    assert_eq!(guest.site.seen().len(), before, "no whole request arrived");
    assert_eq!(
        guest
            .send(Some("small.test"), &format!("{head}Content-Length: 10\r\n\r\n0123456789"))
            .status,
        200
    );
}

fn budget(guest: &mut Guest) {
    let ask = |n: usize| {
        format!(
            "POST /x HTTP/1.1\r\nHost: spent.test\r\nContent-Length: {n}\r\n\r\n{}",
            "x".repeat(n)
        )
    };
    assert_eq!(guest.send(Some("spent.test"), &ask(60)).status, 200);
    let before = guest.site.seen().len();
    let answer = guest.send(Some("spent.test"), &ask(60));
    assert!(
        matches!(answer.status, 403 | 0) && matches!(answer.refused(), Some("budget") | None),
        "{answer:?}"
    );
    assert_eq!(guest.site.seen().len(), before);
    refused(&guest.get("spent.test", "/"), 403, "budget");
}

fn rate(guest: &mut Guest) {
    let codes: Vec<u16> = (0..3).map(|_| guest.get("rated.test", "/").status).collect();
    assert_eq!(codes, [200, 200, 429]);
}

fn loopback(guest: &mut Guest) {
    let port = guest.site.plain_port;
    let before = guest.site.seen().len();
    refused(
        &guest.send(
            None,
            &format!("GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
        ),
        403,
        "address",
    );
    assert_eq!(guest.site.seen().len(), before);
    let lines = guest.audited();
    assert_eq!(lines.last().unwrap()["verdict"], "deny", "{lines:?}");
}

fn allow_private(guest: &mut Guest) {
    let port = guest.site.plain_port;
    assert_eq!(
        guest
            .send(
                None,
                &format!("GET http://localhost:{port}/ HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n")
            )
            .status,
        200
    );
    assert_eq!(guest.site.last().header("host"), Some(format!("localhost:{port}").as_str()));
}

fn impostor(guest: &mut Guest) {
    let before = guest.site.seen().len();
    refused(&guest.get("impostor.test", "/"), 502, "upstream-tls");
    assert_eq!(guest.site.seen().len(), before);
    assert_eq!(guest.audited().last().unwrap()["rule"], "upstream-tls");
}

fn misnamed(guest: &mut Guest) {
    let before = guest.site.seen().len();
    refused(&guest.get("misnamed.test", "/"), 502, "upstream-tls");
    assert_eq!(guest.site.seen().len(), before);
}

fn not_there(guest: &mut Guest) {
    refused(&guest.get("closed.test", "/"), 502, "connect");
    let lines = guest.audited();
    assert_eq!(
        (lines.len(), lines[1]["rule"].as_str(), lines[1]["verdict"].as_str()),
        (2, Some("connect"), Some("allow"))
    );
}

fn not_tls(guest: &mut Guest) {
    for first in ["GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", "SSH-2.0-x\r\n", "\x15\x03\x01"] {
        let mut io = guest.egress.connect();
        write!(io, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
        assert_eq!(answer(&mut io, true).status, 200);
        io.write_all(first.as_bytes()).unwrap();
        refused(&answer(&mut io, false), 403, "not-tls");
        assert_eq!(guest.audited()[0]["rule"], "not-tls", "{first:?}");
    }
}

fn server_name(guest: &mut Guest) {
    let mut tls = guest.egress.tls_as("api.test", "other.test");
    assert!(
        tls.write_all(b"GET / HTTP/1.1\r\n")
            .and_then(|()| tls.flush())
            .and_then(|()| tls.read(&mut [0; 1]))
            .is_err()
    );
    assert_eq!(guest.audited()[0]["rule"], "sni-mismatch");
}

fn bad_chunks(guest: &mut Guest) {
    for body in ["5;x=y\r\nhello\r\n0\r\n\r\n", "5\nhello\r\n0\r\n\r\n", "5\r\nhelloGET"] {
        let before = guest.site.seen().len();
        let head = "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        let answer = guest.send(Some("api.test"), &format!("{head}{body}"));
        assert_ne!(answer.status, 200, "{body:?}");
        assert_eq!(guest.audited().last().unwrap()["rule"], "chunk", "{body:?}");
        assert_eq!(guest.site.seen().len(), before);
    }
}

fn smuggled(guest: &mut Guest) {
    let before = guest.site.seen().len();
    let hidden = "GET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n";
    let mut io = guest.egress.tls("api.test");
    write!(
        io,
        "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: {}\r\n\r\n{hidden}{hidden}",
        hidden.len()
    )
    .unwrap();
    let mut reader = std::io::BufReader::new(&mut io);
    assert_eq!(next_answer(&mut reader, false).status, 200);
    refused(&next_answer(&mut reader, false), 403, "not-allowed");
    assert_eq!(guest.site.seen().len(), before + 1);
}

fn switched(guest: &mut Guest) {
    refused(&guest.get("api.test", "/v1/switch"), 502, "upstream");
}

fn with(program: &Program) -> (Site, Egress) {
    let site = Site::start(super::HOSTS);
    let policy = super::policy(&site);
    let egress =
        Egress::spawn_program(program, tempfile::tempdir().unwrap(), &policy, &Egress::input())
            .ready();
    (site, egress)
}

fn pid(egress: &Egress) -> nix::unistd::Pid {
    nix::unistd::Pid::from_raw(egress.process.id().try_into().unwrap())
}

fn private_socket(program: &Program) {
    use std::os::unix::fs::PermissionsExt;
    let (_site, mut egress) = with(program);
    let socket = egress.dir.path().join("run/s");
    for path in [&socket, &egress.audit()] {
        assert_eq!(
            std::fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
    drop(egress.process.stdin.take());
    assert!(egress.wait().success());
    assert!(!socket.exists());
}

fn sigterm(program: &Program) {
    let (_site, mut egress) = with(program);
    kill(pid(&egress), Signal::SIGTERM).unwrap();
    assert!(egress.wait().success());
}

/// A request with a body that does not end.
fn open_request(egress: &Egress) -> impl Sized + use<> {
    let mut io = egress.tls("api.test");
    write!(io, "POST /v1/open HTTP/1.1\r\nHost: api.test\r\nContent-Length: 100\r\n\r\nexfiltrate")
        .unwrap();
    io.flush().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !std::fs::read_to_string(egress.audit()).unwrap().contains("admitted") {
        assert!(Instant::now() < deadline, "not admitted");
        std::thread::sleep(Duration::from_millis(2));
    }
    io
}

fn cut_off(program: &Program) {
    let (_site, mut egress) = with(program);
    let _io = open_request(&egress);
    let start = Instant::now();
    drop(egress.process.stdin.take());
    assert!(egress.wait().success());
    assert!(start.elapsed() < Duration::from_millis(1800), "{:?}", start.elapsed());
    let text = egress.audit_lines(1);
    assert_eq!(verify(text.as_bytes()).unwrap().lines, 2);
    assert!(text.contains("cut off at teardown"), "{text}");
}

fn killed(program: &Program) {
    let (_site, mut egress) = with(program);
    let _io = open_request(&egress);
    egress.process.kill().unwrap();
    egress.wait();
    let text = std::fs::read_to_string(egress.audit()).unwrap();
    assert_eq!(verify(text.as_bytes()).unwrap().lines, 1);
    assert!(text.contains("\"path\":\"/v1/open\""), "{text}");
}

fn goes_on(program: &Program) {
    let (site, mut egress) = with(program);
    egress.get("api.test", "/v1/a", "");
    egress.process.kill().unwrap();
    egress.wait();
    let dir = std::mem::replace(&mut egress.dir, tempfile::tempdir().unwrap());
    let egress =
        Egress::spawn_program(program, dir, &super::policy(&site), &Egress::input()).ready();
    egress.get("api.test", "/v1/b", "");
    assert_eq!(verify(egress.audit_lines(2).as_bytes()).unwrap().lines, 4);
}

fn reload(program: &Program) {
    let (site, mut egress) = with(program);
    let reports = Reports::of(&mut egress.process);
    let file = egress.dir.path().join("policy.json");
    let put = |text: &str| {
        std::fs::write(file.with_extension("new"), text).unwrap();
        std::fs::rename(file.with_extension("new"), &file).unwrap();
    };
    let audited = |part: &str| {
        let text = std::fs::read_to_string(egress.audit()).unwrap();
        assert!(text.contains(part), "no line with {part}: {text}");
    };
    let status = |path: &str| egress.get("api.test", path, "").split(' ').nth(1).map(str::to_owned);
    let policy = super::policy(&site);
    assert_eq!(status("/v2/a").as_deref(), Some("403"));
    let other = policy.replace("\"/v1/*\"", "\"/v2/*\"");
    // As the orchestrator writes it: the digest of the file is that of the policy.
    let compact = serde_json::to_string(&Policy::from_json(other.as_bytes()).unwrap()).unwrap();
    let digest = Policy::from_json(other.as_bytes()).unwrap().digest();
    put(&compact);
    assert_eq!(reports.reload(), (Some(digest.clone()), None));
    audited(&format!("policy {digest} in force, was "));
    assert_eq!(
        (status("/v2/a").as_deref(), status("/v1/a").as_deref()),
        (Some("200"), Some("403"))
    );
    put("{}");
    let (_, why) = reports.reload();
    assert!(why.is_some_and(|why| why.contains("policy.json")));
    audited(&format!("the policy {digest} stays in force: "));
    assert_eq!(status("/v2/a").as_deref(), Some("200"));
    verify(std::fs::File::open(egress.audit()).unwrap()).unwrap();
}

fn bad_starts(program: &Program) {
    let site = Site::start(super::HOSTS);
    let good = super::policy(&site);
    let unknown = good.replace("\"DEMO\"", "\"OTHER\"");
    let input = Egress::input();
    for (policy, input, want) in [
        (&unknown, input.clone(), "OTHER has no value"),
        (&good, input.replace("{\"DEMO\"", "{\"DEMO\" 1"), "no egress input"),
        (&good, input.replace(TOKEN, &format!("{TOKEN}\\r\\nx: y")), "line break"),
        (&good, input.replace("BEGIN CERT", "BEGIN X"), "the bottle's CA"),
        (&"{}".to_owned(), input.clone(), "policy.json"),
    ] {
        let mut egress =
            Egress::spawn_program(program, tempfile::tempdir().unwrap(), policy, &input);
        assert_eq!(egress.wait().code(), Some(1), "{want}");
        let mut log = String::new();
        egress.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        assert!(
            log.contains(want) && !log.contains(TOKEN) && !log.contains("PRIVATE KEY"),
            "{want}: {log}"
        );
    }
}

fn other_parent(program: &Program) {
    let site = Site::start(super::HOSTS);
    let program = Program { parent: Some(1), ..program.clone() };
    let mut egress = Egress::spawn_program(
        &program,
        tempfile::tempdir().unwrap(),
        &super::policy(&site),
        &Egress::input(),
    );
    assert_eq!(egress.wait().code(), Some(4));
}

fn flood(program: &Program) {
    let (_site, egress) = with(program);
    egress.get("api.test", "/v1/a", "");
    let before = egress.peak_kib();
    // Requests after a request with an answer that is not read.
    let mut io = egress.connect();
    io.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let one = "GET http://plain.test/v1/big HTTP/1.1\r\nHost: plain.test\r\n\r\n".repeat(1000);
    let mut sent = 0;
    while sent < 64 << 20 && io.write_all(one.as_bytes()).is_ok() {
        sent += one.len();
    }
    assert!(sent < 16 << 20, "{sent} bytes were taken in");
    let after = egress.peak_kib();
    assert!(after < before + 48 * 1024, "peak grew from {before} to {after} KiB");
}
