//! What every egress program must do: refuse the attack table, and let through what is allowed. Runs
//! against `bottle-bundle egress`, and against the mitmproxy chain if `BOTTLE_EGRESS_MITMPROXY` names
//! its program. Where that chain does less, [`weaker::WEAKER`] tests what happens instead, and
//! docs/egress-chains.md lists it.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "conformance/allowed.rs"]
mod allowed;
#[path = "conformance/guest.rs"]
mod guest;
#[path = "support/reports.rs"]
mod reports;
#[path = "conformance/site.rs"]
mod site;
mod support;
#[path = "conformance/weaker.rs"]
mod weaker;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use bottle_bundle::egress::refusal::Rule;
use guest::Guest;
use requests::{At, CASES, Case};
use site::Site;
use support::Program;

#[allow(dead_code)]
#[path = "../../tests/attacks/egress/requests.rs"]
mod requests;

/// The policy for the attack table, with more routes for what is allowed.
fn policy(site: &Site) -> String {
    let (tls, plain) =
        (format!("127.0.0.1:{}", site.tls_port), format!("127.0.0.1:{}", site.plain_port));
    let bearer =
        serde_json::json!({"header": "authorization", "scheme": "bearer", "token": "DEMO"});
    let mut routes = vec![
        serde_json::json!({"name": "api", "host": "api.test", "methods": ["GET", "POST", "MOVE", "COPY", "TRACE", "HEAD"], "paths": ["/v1/*"], "inject": bearer}),
        serde_json::json!({"name": "other", "host": "other.test"}),
        serde_json::json!({"name": "query", "host": "query.test", "inject": {"query": "key", "token": "DEMO"}}),
        serde_json::json!({"name": "globs", "host": "globs.test", "paths": ["/repos/*/issues", "/a/**/z"]}),
        serde_json::json!({"name": "npm", "host": "npm.test", "paths": ["/@acme/*", "/projects/**/raw"]}),
        serde_json::json!({"name": "small", "host": "small.test", "max_body": 10}),
        serde_json::json!({"name": "spent", "host": "spent.test", "budget": {"up": 100}}),
        serde_json::json!({"name": "rated", "host": "rated.test", "rate": "2/h"}),
        serde_json::json!({"name": "wild", "host": "*.wild.test", "apex": true}),
        serde_json::json!({"name": "first", "host": "order.test", "paths": ["/v1/first"], "inject": bearer}),
        serde_json::json!({"name": "second", "host": "order.test"}),
        serde_json::json!({"name": "impostor", "host": "impostor.test", "ca": site.other_ca}),
        serde_json::json!({"name": "misnamed", "host": "misnamed.test"}),
        serde_json::json!({"name": "plain", "host": "plain.test", "port": 80, "tls": false, "connect": plain}),
        serde_json::json!({"name": "loopback", "host": "127.0.0.1", "port": site.plain_port, "tls": false, "connect": null}),
        serde_json::json!({"name": "loopback-name", "host": "localhost", "port": site.plain_port, "tls": false, "allow_private": true,
            "connect": null}),
        serde_json::json!({"name": "closed", "host": "closed.test", "connect": "127.0.0.1:1"}),
    ];
    for route in &mut routes {
        let route = route.as_object_mut().unwrap();
        if route.get("tls").is_none() {
            route.entry("ca").or_insert_with(|| site.ca.clone().into());
        }
        route.entry("connect").or_insert_with(|| tls.clone().into());
        route.retain(|_, value| !value.is_null());
    }
    serde_json::json!({"version": 1, "routes": routes}).to_string()
}

const HOSTS: &[&str] = &[
    "api.test",
    "other.test",
    "query.test",
    "globs.test",
    "npm.test",
    "small.test",
    "spent.test",
    "rated.test",
    "order.test",
    "wild.test",
    "a.wild.test",
    "a.b.wild.test",
    "impostor.test",
];

/// An attack is refused by its rule, reaches no upstream, and has one audit line.
fn attack(guest: &mut Guest, case: &Case) {
    let Case(_, rule, at, bytes, _) = case;
    let many = format!("GET /v1/a HTTP/1.1\r\nHost: api.test\r\n{}\r\n", "a: b\r\n".repeat(150));
    let bytes = if *bytes == "MANY" { many.as_str() } else { bytes };
    let want = rule.code();
    let status = rule.status().as_u16();

    let before = guest.site.seen().len();
    let answer = guest.send((*at == At::Tunnel).then_some("api.test"), bytes);
    assert_eq!((answer.status, answer.refused()), (status, Some(want)), "{answer:?}");
    assert!(answer.text().contains(&format!("[{want}]")), "{}", answer.text());
    assert_eq!(guest.site.seen().len(), before, "it reached the upstream: {:?}", guest.site.last());
    let lines = guest.audited();
    assert_eq!(lines.len(), 1, "{lines:?}");
    let line = &lines[0];
    assert_eq!(
        (line["rule"].as_str(), line["verdict"].as_str(), line["event"].as_str()),
        (Some(want), Some("deny"), Some("refused"))
    );
}

/// Runs each case as a test of its own, with the output format of `cargo test`.
struct Tests {
    passed: usize,
    ignored: usize,
    failures: Vec<(String, String)>,
}

impl Tests {
    fn run(&mut self, name: &str, test: impl FnOnce()) {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric() && c != ':', "_");
        let outcome = catch_unwind(AssertUnwindSafe(test));
        println!("test {name} ... {}", if outcome.is_ok() { "ok" } else { "FAILED" });
        match outcome {
            Ok(()) => self.passed += 1,
            Err(why) => {
                let text = why
                    .downcast_ref::<String>()
                    .cloned()
                    .or_else(|| why.downcast_ref::<&str>().map(|s| (*s).to_owned()));
                self.failures.push((name, text.unwrap_or_default()));
            }
        }
    }

    fn program(&mut self, label: &str, program: &Program) {
        let start = |tests: &mut Self| {
            let mut guest = None;
            tests.run(&format!("{label}::starts"), || {
                let site = Site::start(HOSTS);
                let policy = policy(&site);
                guest = Some(Guest::start(program, site, &policy));
            });
            guest
        };
        let Some(mut guest) = start(self) else { return };
        for case in CASES {
            guest.forget_audit();
            self.run(&format!("{label}::refuses {}", case.0), || attack(&mut guest, case));
        }
        for (name, test) in allowed::TESTS {
            guest.forget_audit();
            self.run(&format!("{label}::{name}"), || test(&mut guest));
        }
        let log = guest.log();
        self.run(&format!("{label}::the audit log is whole"), || {
            let lines =
                bottle_policy::audit::verify(std::fs::File::open(log).unwrap()).unwrap().lines;
            assert!(lines as usize > CASES.len());
        });
        for (name, test) in allowed::OWN {
            self.run(&format!("{label}::{name}"), || test(program));
        }
        if label == "mitmproxy" {
            for (name, test) in weaker::WEAKER {
                self.run(&format!("{label}::still weaker: {name}"), || test(program));
            }
            self.run(&format!("{label}::behind pipelock (a stand-in)"), || {
                weaker::behind_pipelock(program)
            });
        }
    }
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|info| eprintln!("{info}")));
    let mut tests = Tests { passed: 0, ignored: 0, failures: Vec::new() };
    println!("\nrunning conformance tests");
    // As with `cargo test NAME`, but NAME only chooses the program.
    let only = std::env::args().skip(1).find(|a| !a.starts_with('-'));
    let wanted = |label: &str| only.as_ref().is_none_or(|only| only.starts_with(label));
    let chain = std::env::var_os("BOTTLE_EGRESS_MITMPROXY");
    if wanted("ours") {
        tests.run("the document lists what is weaker", weaker::documented);
        tests.program("ours", &Program::ours());
    }
    match chain {
        _ if !wanted("mitmproxy") => {}
        Some(path) => tests.program("mitmproxy", &Program::at(path.into())),
        None if only.is_some() => tests.run("mitmproxy::starts", || {
            panic!("BOTTLE_EGRESS_MITMPROXY is not set, so the chain cannot be tested")
        }),
        // The check `mitmproxy` of the flake runs it.
        None => {
            println!("test mitmproxy ... ignored, BOTTLE_EGRESS_MITMPROXY is not set");
            tests.ignored += 1;
        }
    }
    if !wanted("ours") && !wanted("mitmproxy") {
        tests.run("the name of a program", || panic!("there are: ours, mitmproxy"));
    }
    for (name, why) in &tests.failures {
        println!("\n---- {name} ----\n{why}");
    }
    let (passed, ignored, failed) = (tests.passed, tests.ignored, tests.failures.len());
    let result = if failed == 0 { "ok" } else { "FAILED" };
    println!(
        "\ntest result: {result}. {passed} passed; {failed} failed; {ignored} ignored; 0 measured; 0 filtered out"
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
