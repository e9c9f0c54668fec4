//! What a hostile guest sends to the supervise daemon. Each case is a whole HTTP request, or other
//! bytes, and what must come back. After each of them the daemon still answers an honest client.

use super::Check;

/// What comes back.
#[derive(Debug, Clone, Copy)]
pub enum Want {
    /// This status.
    Status(u16),
    /// One of the 4xx, or the end of the connection without an answer.
    Refused,
    /// 200 with this in the body, and nothing filed.
    Says(&'static str),
}
use Want::{Refused, Says, Status};

/// Name, request, answer.
pub struct Case(pub &'static str, pub fn() -> Vec<u8>, pub Want);

/// Name, the check that stops it, the request, and what comes back. Without the check it is filed.
/// Most of [`CASES`] has no control, because types stop it, which cannot be disabled.
pub struct NegativeControl(pub &'static str, pub Check, pub fn() -> Vec<u8>, pub Want);

/// A POST of `body` with the headers of an MCP client, and `more` headers.
fn post(more: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\ncontent-type: application/json\r\naccept: application/json, text/event-stream\r\n{more}content-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

fn call(tool: &str, arguments: &str) -> Vec<u8> {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    );
    post("", body.as_bytes())
}

fn route(host: &str, rest: &str) -> Vec<u8> {
    call(
        "propose_route",
        &format!(r#"{{"host":"{host}","methods":["GET"],"paths":["/"],"reason":"r"{rest}}}"#),
    )
}

/// A valid request, which is filed.
fn honest(more: &str) -> Vec<u8> {
    let arguments = r#"{"host":"a.test","methods":["GET"],"paths":["/"],"reason":"r"}"#;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"propose_route","arguments":{arguments}}}}}"#
    );
    post(more, body.as_bytes())
}

/// The same with something else in it.
fn with(what: &str, other: &str) -> Vec<u8> {
    let text = String::from_utf8_lossy(&honest("")).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let (old, body) = (body.len(), body.replacen(what, other, 1));
    let head = head.replacen(what, other, 1).replacen(
        &format!("content-length: {old}"),
        &format!("content-length: {}", body.len()),
        1,
    );
    format!("{head}\r\n\r\n{body}").into_bytes()
}

fn branches(n: usize) -> Vec<u8> {
    call(
        "propose_ref",
        &format!(
            r#"{{"upstream":"x","branches":[{}],"reason":"r"}}"#,
            vec![r#""a/*""#; n].join(",")
        ),
    )
}

fn asks(question: &str, choices: usize) -> Vec<u8> {
    call(
        "ask_operator",
        &format!(
            r#"{{"question":"{question}","choices":[{}]}}"#,
            vec![r#""yes""#; choices].join(",")
        ),
    )
}

pub const CONTROLS: &[NegativeControl] = &[
    NegativeControl("another_path", Check::Path, || with("POST / ", "POST /admin "), Status(404)),
    NegativeControl(
        "a_path_that_climbs_to_it",
        Check::Path,
        || with("POST / ", "POST /x/../ "),
        Status(404),
    ),
    NegativeControl("a_path_above_it", Check::Path, || with("POST / ", "POST /mcp/ "), Status(404)),
    NegativeControl(
        "another_hosts_name",
        Check::Host,
        || with("host: 127.0.0.1:9100", "host: evil.test"),
        Refused,
    ),
    NegativeControl(
        "a_name_that_begins_like_ours",
        Check::Host,
        || with("host: 127.0.0.1:9100", "host: 127.0.0.1.evil.test:9100"),
        Refused,
    ),
    NegativeControl(
        "a_page_of_another_origin",
        Check::Origin,
        || honest("origin: http://evil.test\r\n"),
        Status(403),
    ),
    NegativeControl(
        "a_page_of_another_port",
        Check::Origin,
        || honest("origin: http://127.0.0.1:8080\r\n"),
        Status(403),
    ),
    NegativeControl(
        "a_page_that_begins_like_ours",
        Check::Origin,
        || honest("origin: http://127.0.0.1:9100.evil.test\r\n"),
        Status(403),
    ),
    NegativeControl("a_sandboxed_frame", Check::Origin, || honest("origin: null\r\n"), Status(403)),
    NegativeControl(
        "a_megabyte_around_it",
        Check::BodySize,
        || {
            let body = String::from_utf8_lossy(&honest(""))
                .split("\r\n\r\n")
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            post("", (" ".repeat(1 << 20) + &body).as_bytes())
        },
        Status(413),
    ),
    NegativeControl("a_hundred_branches", Check::ListLength, || branches(100), Says("at most 8")),
    NegativeControl("nine_branches", Check::ListLength, || branches(9), Says("at most 8")),
    NegativeControl("nine_choices", Check::ListLength, || asks("?", 9), Says("at most 8")),
    NegativeControl(
        "no_reason_at_all",
        Check::Reason,
        || with(r#""reason":"r""#, r#""reason":"""#),
        Says("say why"),
    ),
    NegativeControl(
        "a_reason_of_blanks",
        Check::Reason,
        || with(r#""reason":"r""#, r#""reason":" ""#),
        Says("say why"),
    ),
    NegativeControl(
        "a_question_of_501_characters",
        Check::Reason,
        || asks(&"x".repeat(501), 0),
        Says("500 characters"),
    ),
    NegativeControl(
        "a_line_that_ends_the_orchestrators_listening",
        Check::LineLength,
        || {
            let paths: Vec<String> =
                (0..8).map(|n| format!("\"/{n}{}\"", "y".repeat(900))).collect();
            call(
                "propose_route",
                &format!(
                    r#"{{"host":"a.test","methods":["GET"],"paths":[{}],"reason":"r"}}"#,
                    paths.join(",")
                ),
            )
        },
        Says("too long"),
    ),
];

pub const CASES: &[Case] = &[
    // Not HTTP, or not ours.
    Case("no_http", || b"\x16\x03\x01\x02\x00\x01\x00\x01".to_vec(), Refused),
    Case("http2_preface", || b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), Refused),
    Case(
        "head_without_end",
        || [b"GET / HTTP/1.1\r\n".to_vec(), b"x: y\r\n".repeat(20_000)].concat(),
        Refused,
    ),
    Case(
        "two_lengths",
        || {
            b"POST / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}".to_vec()
        },
        Refused,
    ),
    Case(
        "length_and_chunked",
        || {
            b"POST / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\ncontent-length: 2\r\ntransfer-encoding: gzip\r\n\r\n{}".to_vec()
        },
        Refused,
    ),
    Case(
        "another_path",
        || b"POST /admin HTTP/1.1\r\nhost: 127.0.0.1:9100\r\ncontent-length: 0\r\n\r\n".to_vec(),
        Status(404),
    ),
    Case(
        "a_stream_is_asked_for",
        || b"GET / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\naccept: text/event-stream\r\n\r\n".to_vec(),
        Status(405),
    ),
    Case(
        "a_session_is_deleted",
        || b"DELETE / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\nmcp-session-id: x\r\n\r\n".to_vec(),
        Status(405),
    ),
    Case(
        "another_host",
        || post("", b"{}").iter().map(|b| if *b == b'7' { b'8' } else { *b }).collect(),
        Refused,
    ),
    Case(
        "another_origin",
        || post("origin: http://evil.test\r\n", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        Status(403),
    ),
    Case(
        "null_origin",
        || post("origin: null\r\n", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        Status(403),
    ),
    Case(
        "unknown_version",
        || {
            post(
                "mcp-protocol-version: 9999-01-01\r\n",
                br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            )
        },
        Status(400),
    ),
    Case(
        "a_session_that_is_none",
        || post("mcp-session-id: ../../etc\r\n", br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#),
        Says("result"),
    ),
    Case(
        "a_form",
        || {
            b"POST / HTTP/1.1\r\nhost: 127.0.0.1:9100\r\ncontent-type: text/plain\r\naccept: application/json, text/event-stream\r\ncontent-length: 2\r\n\r\n{}".to_vec()
        },
        Status(415),
    ),
    // Not JSON-RPC.
    Case("no_json", || post("", b"{nope"), Refused),
    Case(
        "no_utf8",
        || post("", b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\xfe\"}"),
        Refused,
    ),
    Case("deep_json", || post("", &[b"[".repeat(30_000), b"]".repeat(30_000)].concat()), Refused),
    Case(
        "huge_body",
        || {
            post(
                "",
                &[
                    b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"".to_vec(),
                    vec![b'a'; 1 << 20],
                    b"\"}".to_vec(),
                ]
                .concat(),
            )
        },
        Status(413),
    ),
    Case(
        "huge_id",
        || {
            post(
                "",
                format!(
                    "{{\"jsonrpc\":\"2.0\",\"id\":\"{}\",\"method\":\"nope\"}}",
                    "9".repeat(60_000)
                )
                .as_bytes(),
            )
        },
        Says("error"),
    ),
    Case(
        "id_that_overflows",
        || post("", br#"{"jsonrpc":"2.0","id":99999999999999999999999999,"method":"ping"}"#),
        Status(202),
    ),
    Case(
        "a_flood_in_a_batch",
        || {
            post(
                "",
                format!(
                    "[{}]",
                    vec![r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#; 1000].join(",")
                )
                .as_bytes(),
            )
        },
        Refused,
    ),
    Case(
        "another_version_of_json_rpc",
        || post("", br#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#),
        Refused,
    ),
    Case(
        "unknown_method",
        || post("", br#"{"jsonrpc":"2.0","id":1,"method":"operator/approve","params":{"id":1}}"#),
        Says("error"),
    ),
    Case(
        "a_task",
        || {
            post("", br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"policy","arguments":{},"task":{"ttl":1}}}"#)
        },
        Says("error"),
    ),
    Case(
        "an_answer_unasked",
        || post("", br#"{"jsonrpc":"2.0","id":1,"result":{"approved":true}}"#),
        Status(202),
    ),
    Case(
        "a_decision_as_a_notification",
        || {
            post("", br#"{"jsonrpc":"2.0","method":"notifications/changed","params":{"id":1,"state":"approved"}}"#)
        },
        Status(202),
    ),
    // Tools.
    Case("unknown_tool", || call("approve", r#"{"id":1}"#), Says("no such tool")),
    Case("arguments_that_are_a_list", || call("policy", "[1]"), Says("error")),
    Case("a_key_more", || call("policy", r#"{"token":"GITHUB_TOKEN"}"#), Says("unknown field")),
    Case(
        "a_credential_is_asked_for",
        || route("a.test", r#","inject":{"token":"GITHUB_TOKEN"}"#),
        Says("unknown field"),
    ),
    Case(
        "an_address_to_connect_to",
        || route("a.test", r#","connect":"127.0.0.1:1""#),
        Says("unknown field"),
    ),
    Case("a_ca_of_its_own", || route("a.test", r#","ca":"-----BEGIN""#), Says("unknown field")),
    Case(
        "private_addresses_by_name",
        || route("a.test", r#","allow_private":true"#),
        Says("unknown field"),
    ),
    Case("no_interception", || route("a.test", r#","passthrough":true"#), Says("unknown field")),
    Case("a_scanner_that_is_off", || route("a.test", r#","scan":"off""#), Says("unknown field")),
    Case("every_host", || route("*", ""), Says("not a host")),
    Case("a_whole_domain", || route("*.com", ""), Says("not a host")),
    Case("a_lookalike", || route("\u{430}pi.github.com", ""), Says("not a host")),
    Case("a_host_that_reverses", || route("a.test\u{202e}", ""), Says("not a host")),
    Case("a_host_with_a_line_break", || route("a.test\\n+ b.test", ""), Says("not a host")),
    Case("an_address_in_octal", || route("0177.0.0.1", ""), Says("not a host")),
    Case("an_address_as_a_number", || route("2130706433", ""), Says("not a host")),
    Case("port_0", || route("a.test", r#","port":0"#), Says("port")),
    Case("port_65536", || route("a.test", r#","port":65536"#), Says("arguments")),
    Case(
        "connect_as_a_method",
        || {
            call(
                "propose_route",
                r#"{"host":"a.test","methods":["CONNECT"],"paths":["/"],"reason":"r"}"#,
            )
        },
        Says("not an HTTP method"),
    ),
    Case(
        "no_method_at_all",
        || call("propose_route", r#"{"host":"a.test","methods":[],"paths":["/"],"reason":"r"}"#),
        Says("methods"),
    ),
    Case(
        "a_path_that_climbs",
        || {
            call(
                "propose_route",
                r#"{"host":"a.test","methods":["GET"],"paths":["/a/../../b"],"reason":"r"}"#,
            )
        },
        Says("not a path"),
    ),
    Case(
        "a_hundred_paths",
        || {
            call(
                "propose_route",
                &format!(
                    r#"{{"host":"a.test","methods":["GET"],"paths":[{}],"reason":"r"}}"#,
                    vec![r#""/x""#; 100].join(",")
                ),
            )
        },
        Says("at most 8"),
    ),
    Case(
        "no_reason",
        || {
            call(
                "propose_route",
                r#"{"host":"a.test","methods":["GET"],"paths":["/"],"reason":"  "}"#,
            )
        },
        Says("say why"),
    ),
    Case(
        "a_novel",
        || {
            call(
                "propose_route",
                &format!(
                    r#"{{"host":"a.test","methods":["GET"],"paths":["/"],"reason":"{}"}}"#,
                    "x".repeat(20_000)
                ),
            )
        },
        Says("500 characters"),
    ),
    Case(
        "more_than_a_line_holds",
        || {
            let paths: Vec<String> =
                (0..8).map(|n| format!("\"/{n}{}\"", "y".repeat(900))).collect();
            call(
                "propose_route",
                &format!(
                    r#"{{"host":"a.test","methods":["GET"],"paths":[{}],"reason":"r"}}"#,
                    paths.join(",")
                ),
            )
        },
        Says("too long"),
    ),
    Case(
        "a_git_url_with_a_password",
        || call("propose_git_upstream", r#"{"url":"https://me:hunter2@h.test/x","reason":"r"}"#),
        Says("not a git URL"),
    ),
    Case(
        "a_git_helper",
        || call("propose_git_upstream", r#"{"url":"ext::sh -c id","reason":"r"}"#),
        Says("not a git URL"),
    ),
    Case(
        "a_git_option",
        || call("propose_git_upstream", r#"{"url":"--upload-pack=id","reason":"r"}"#),
        Says("not a git URL"),
    ),
    Case(
        "a_branch_that_climbs",
        || call("propose_ref", r#"{"upstream":"x","branches":["../main"],"reason":"r"}"#),
        Says("not"),
    ),
    Case(
        "an_upstream_that_is_a_path",
        || call("propose_ref", r#"{"upstream":"../x","branches":["a"],"reason":"r"}"#),
        Says("not an upstream"),
    ),
    Case(
        "a_finding_that_is_all",
        || call("allow_finding", r#"{"upstream":"x","fingerprint":"*","reason":"r"}"#),
        Says("not a fingerprint"),
    ),
    Case(
        "another_bottles_proposal",
        || call("proposal_status", r#"{"id":4294967295}"#),
        Says("no proposal"),
    ),
    Case("a_negative_id", || call("proposal_status", r#"{"id":-1}"#), Says("arguments")),
    Case(
        "a_wait_for_ever",
        || call("proposal_status", r#"{"id":1,"wait_seconds":99999999999}"#),
        Says("arguments"),
    ),
];
