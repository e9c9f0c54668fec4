//! An agent asks, an operator decides: real bottles, the real daemon, the real commands.

mod browser;
mod decisions;
mod page;
mod sdk;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Output;

use serde_json::{Value, json};

use crate::attacks::Case;
use crate::support::{Home, Running, assert_code, stderr, stdout};

pub const CASES: &[Case] = &[
    ("lifecycle::supervise::an_approved_route_is_open", decisions::approved),
    ("lifecycle::supervise::scopes_end_and_edits_only_narrow", decisions::scopes),
    ("lifecycle::supervise::each_proposal_is_decided_once", decisions::decided_once),
    ("lifecycle::supervise::an_approved_branch_is_pushed", decisions::branches),
    ("lifecycle::supervise::dashboard_and_page_decide", page::screens),
    (BROWSER_CASE, browser::browser),
    ("lifecycle::supervise::a_crash_leaves_no_half_decision", decisions::dies_between),
    ("lifecycle::supervise::the_sdk_client_asks", sdk::sdk),
];

/// The case that needs the browser that `BOTTLE_CHROMIUM` names.
pub const BROWSER_CASE: &str = "lifecycle::supervise::a_browser_decides";

const MANIFEST: &str = "# mine\nversion = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"1000\"]\n\
                        [bottles.dev]   # the bottle\nimage = \"demo\"\nsupervise = { notify = [\"touch\", \"notified\"], expires = \"1h\" }\n";

/// Starts a web server on the host's loopback that answers `through` to everything; returns its port.
fn upstream() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\nconnection: close\r\n\r\nthrough",
            );
        }
    });
    port
}

/// Calls a tool from inside the bottle. Returns its structured result, or the text of its error.
fn call(bottle: &Running<'_>, tool: &str, arguments: &Value) -> Result<Value, String> {
    let request = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": { "name": tool, "arguments": arguments } });
    let out = bottle.home.run(&[
        "exec",
        &bottle.slug,
        "--",
        "curl",
        "-sS",
        "-m",
        "60",
        "-H",
        "content-type: application/json",
        "-H",
        "accept: application/json, text/event-stream",
        "http://127.0.0.1:9100/",
        "-d",
        &request.to_string(),
    ]);
    let answer: Value = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}{}", stdout(&out), stderr(&out)));
    let result = answer.get("result").unwrap_or_else(|| panic!("{answer}"));
    match result["isError"].as_bool() {
        Some(true) => Err(result["content"][0]["text"].as_str().unwrap().to_owned()),
        _ => Ok(result["structuredContent"].clone()),
    }
}

fn propose(
    bottle: &Running<'_>,
    host: &str,
    port: u16,
    tls: bool,
    paths: &[&str],
) -> Result<Value, String> {
    call(
        bottle,
        "propose_route",
        &json!({ "host": host, "port": port, "tls": tls, "methods": ["GET", "POST"], "paths": paths, "reason": "to do what I was told" }),
    )
}

/// `GET url` through egress; returns what came back.
fn get(bottle: &Running<'_>, url: &str) -> String {
    stdout(&bottle.home.run(&[
        "exec",
        &bottle.slug,
        "--",
        "curl",
        "-sS",
        "-m",
        "20",
        "--noproxy",
        "",
        "-x",
        "http://127.0.0.1:9099",
        url,
    ]))
}

fn up(home: &Home) -> Running<'_> {
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    bottle
}

fn document(home: &Home, id: u32) -> Value {
    let out = home.run(&["proposals", "show", &format!("worker/{id}"), "--json"]);
    serde_json::from_slice(&out.stdout).unwrap_or_else(|_| panic!("{}", stderr(&out)))
}

fn refused(out: &Output, why: &str) {
    assert_code(out, 3);
    assert!(stderr(out).contains(why), "{}", stderr(out));
}
