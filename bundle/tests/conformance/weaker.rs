//! Where the mitmproxy chain does less than our own daemon. docs/egress-chains.md lists each of these
//! by its name.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::allowed::OwnTest;
use super::guest::{Guest, answer};
use super::site::Site;
use super::support::{Egress, Program, TOKEN};

/// The name in the document's table, and a test of what happens instead.
pub const WEAKER: &[OwnTest] = &[
    ("HTTP/2", http2),
    ("WebSocket", websocket),
    ("plain http in a tunnel", plain_tunnel),
    ("passthrough", passthrough),
    ("scan", scan),
    ("timeout", timeout),
    ("credentials on their way out", patterns),
    ("refresh of a token", refresh),
    ("after a refusal", closes),
];

/// Compares the document's table with [`WEAKER`].
pub fn documented() {
    let text = include_str!("../../../docs/egress-chains.md");
    for (name, _) in WEAKER {
        assert!(
            text.contains(&format!("| **{name}** |")),
            "docs/egress-chains.md does not list {name:?} as weaker"
        );
    }
    let listed = text.lines().filter(|l| l.starts_with("| **")).count();
    assert_eq!(listed, WEAKER.len(), "docs/egress-chains.md lists what no test shows");
}

fn guest(program: &Program) -> Guest {
    let site = Site::start(super::HOSTS);
    let policy = super::policy(&site);
    Guest::start(program, site, &policy)
}

fn fails_with(program: &Program, key: &str, value: serde_json::Value, want: &str) {
    let site = Site::start(super::HOSTS);
    let mut policy: serde_json::Value = serde_json::from_str(&super::policy(&site)).unwrap();
    policy["routes"][1][key] = value;
    let mut egress = Egress::spawn_program(
        program,
        tempfile::tempdir().unwrap(),
        &policy.to_string(),
        &Egress::input(),
    );
    assert_eq!(egress.wait().code(), Some(3));
    let mut log = String::new();
    egress.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    assert!(log.contains("cannot enforce") && log.contains(want), "{log}");
}

/// The guest is offered HTTP/1.1 only.
fn http2(program: &Program) {
    let guest = guest(program);
    let mut io = guest.egress.tls_offering("api.test", "api.test", &["h2", "http/1.1"]);
    io.flush().unwrap();
    assert_eq!(io.conn.alpn_protocol(), Some(&b"http/1.1"[..]));
}

/// A valid handshake is refused.
fn websocket(program: &Program) {
    let guest = guest(program);
    let ask = "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
               Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(guest.send(Some("api.test"), ask).refused(), Some("upgrade"));
}

/// It does not start.
fn plain_tunnel(program: &Program) {
    let guest = guest(program);
    let connect = "CONNECT plain.test:80 HTTP/1.1\r\nHost: plain.test\r\n\r\n";
    let answer = guest.send(None, connect);
    assert_eq!((answer.status, answer.refused()), (403, Some("wrong-scheme")), "{answer:?}");
    assert_eq!(guest.site.seen().len(), 0);
}

fn passthrough(program: &Program) {
    fails_with(program, "passthrough", true.into(), "passthrough");
}

/// It does not start.
fn scan(program: &Program) {
    fails_with(program, "scan", serde_json::json!({"responses": true}), "scan.responses");
}

/// Text that looks like a credential goes out, and so would the bottle's own token if the guest knew
/// it.
fn timeout(program: &Program) {
    fails_with(program, "timeout", serde_json::json!({"idle": 60}), "timeout");
}

fn patterns(program: &Program) {
    let guest = guest(program);
    for key in ["AKIAIOSFODNN7EXAMPLX", TOKEN] {
        let ask = format!(
            "POST /x HTTP/1.1\r\nHost: other.test\r\nX-Note: {key}\r\nContent-Length: {}\r\n\r\n{key}",
            key.len()
        );
        assert_eq!(guest.send(Some("other.test"), &ask).status, 200);
        assert_eq!(
            (guest.site.last().header("x-note"), guest.site.last().body.as_slice()),
            (Some(key), key.as_bytes())
        );
    }
}

/// The 401 reaches the guest; a new value is used from the next request on.
fn refresh(program: &Program) {
    let site = Site::start(super::HOSTS);
    let input = Egress::input().replacen('{', "{\"refreshable\":[\"DEMO\"],", 1);
    let policy = super::policy(&site);
    let egress =
        Egress::spawn_program(program, tempfile::tempdir().unwrap(), &policy, &input).ready();
    let mut io = egress.tls("api.test");
    write!(io, "GET /v1/stale HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    assert_eq!(answer(&mut io, false).status, 401);
    let mut egress = egress;
    let mut line = [0; 256];
    let n = egress.process.stdout.as_mut().unwrap().read(&mut line).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&line[..n]).unwrap();
    assert_eq!(report, serde_json::json!({"stale": {"token": "DEMO"}}));
    let command = serde_json::json!({"token": {"name": "DEMO", "value": "the-new-one"}});
    writeln!(egress.process.stdin.as_mut().unwrap(), "{command}").unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(3);
    loop {
        egress.get("api.test", "/v1/a", "");
        let sent = site.last().header("authorization").map(str::to_owned);
        if sent.as_deref() == Some("Bearer the-new-one") {
            return;
        }
        assert_eq!(sent, Some(format!("Bearer {TOKEN}")));
        assert!(std::time::Instant::now() < deadline, "the old value is still sent");
    }
}

/// The connection ends with a refusal.
fn closes(program: &Program) {
    let guest = guest(program);
    let mut io = guest.egress.tls("api.test");
    write!(io, "GET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n").unwrap();
    assert_eq!(answer(&mut io, false).header("connection"), Some("close"));
    assert!(!matches!(io.read(&mut [0; 1]), Ok(1..)));
}

/// The chain with a stand-in behind it that behaves like pipelock from the outside. pipelock itself is
/// not run.
pub fn behind_pipelock(program: &Program) {
    let site = Site::start(super::HOSTS);
    let dir = tempfile::tempdir().unwrap();
    let fake = dir.path().join("pipelock");
    // Uses the chain's own Python: the same first line and module path as its program.
    let text = std::fs::read_to_string(&program.path).unwrap();
    let start: Vec<&str> = text
        .lines()
        .filter(|l| l.starts_with("#!") || l.starts_with("import sys") || l.starts_with("sys.path"))
        .collect();
    let upstream = format!("UPSTREAM = (\"127.0.0.1\", {})", site.plain_port);
    let body = include_str!("../../mitmproxy/tests/fake_pipelock.py")
        .replace("UPSTREAM: tuple[str, int]", &upstream);
    std::fs::write(&fake, format!("{}\n{body}", start.join("\n"))).unwrap();
    std::fs::set_permissions(&fake, std::fs::Permissions::from_mode(0o700)).unwrap();

    let bearer =
        serde_json::json!({"header": "authorization", "scheme": "bearer", "token": "DEMO"});
    let routes = serde_json::json!([
        {"name": "api", "host": "api.test", "paths": ["/v1/*"], "inject": bearer},
        {"name": "blocked", "host": "blocked.test"},
    ]);
    let policy = serde_json::json!({"version": 1, "routes": routes}).to_string();
    let program = Program {
        args: vec!["--pipelock".to_owned(), fake.display().to_string()],
        ..program.clone()
    };
    let mut guest = Guest::start(&program, site, &policy);
    for n in 0..3 {
        assert_eq!(guest.get("api.test", &format!("/v1/{n}")).status, 200);
        let seen = guest.site.last();
        assert_eq!(
            (seen.header("x-fake-pipelock"), seen.header("host")),
            (Some("1"), Some("api.test")),
            "it came by pipelock"
        );
        assert_eq!(seen.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    }
    guest.forget_audit();
    assert_eq!(
        guest.get("api.test", "/admin").refused(),
        Some("not-allowed"),
        "our policy comes first"
    );
    guest.forget_audit();
    assert_eq!(
        guest.get("blocked.test", "/").refused(),
        Some("upstream"),
        "what pipelock turns down is no success"
    );
    assert_eq!(guest.audited().len(), 2);
    assert_eq!(guest.site.seen().len(), 3);
    let mut unsupported: serde_json::Value = serde_json::from_str(&policy).unwrap();
    unsupported["routes"][0]["connect"] = "127.0.0.1:1".into();
    let mut egress = Egress::spawn_program(
        &program,
        tempfile::tempdir().unwrap(),
        &unsupported.to_string(),
        &Egress::input(),
    );
    assert_eq!(egress.wait().code(), Some(3), "pipelock looks names up itself");
    let nothing = Program {
        args: vec!["--pipelock".to_owned(), "/nonexistent/pipelock".to_owned()],
        ..program
    };
    let mut egress =
        Egress::spawn_program(&nothing, tempfile::tempdir().unwrap(), &policy, &Egress::input());
    assert_eq!(egress.wait().code(), Some(4));
}
