//! Requests to `bottle web` that another page, another program or a name that was led here could
//! make. Nothing may come of them.

/// Name, request, status of the answer, and the guards: without the first, and those after it that
/// would stop it as well, it works. None: there is nothing to switch off, such a request has no
/// meaning here.
///
/// Where a request has the session's key, the token of the printed URL, or the port in it: `{key}`,
/// `{token}`, `{port}`; `{body}` is a decision that would be taken if it came from the page,
/// `{stop}` the end of the bottle, `{large}` one with 20 KB around it, `{login}` the page's login.
pub struct Case(pub &'static str, pub &'static str, pub u16, pub &'static [&'static str]);

const OK: &str = "authorization: Bearer {key}\r\ncontent-type: application/json\r\n";

/// What the page itself sends.
pub fn honest() -> String {
    format!(
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{{port}}\r\norigin: http://127.0.0.1:{{port}}\r\n{OK}{{body}}"
    )
}

pub const CASES: &[Case] = &[
    // DNS rebinding: the name is another's.
    Case(
        "a_name_that_leads_here",
        "POST /decide HTTP/1.1\r\nhost: evil.test:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        421,
        &["Host"],
    ),
    Case(
        "a_name_without_port",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        421,
        &["Host"],
    ),
    Case(
        "two_names",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nhost: evil.test\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        421,
        &["Host"],
    ),
    Case(
        "a_name_in_the_target",
        "POST http://evil.test/decide HTTP/1.1\r\nhost: evil.test\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        421,
        &["Host"],
    ),
    Case(
        "the_page_by_another_name",
        "GET / HTTP/1.1\r\nhost: evil.test:{port}\r\n\r\n",
        421,
        &["Host"],
    ),
    Case(
        "no_name",
        "POST /decide HTTP/1.1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        421,
        &["Host"],
    ),
    // Forgery: another page of the same browser.
    Case(
        "another_origin",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://evil.test\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        403,
        &["Origin"],
    ),
    Case(
        "another_port_of_this_machine",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://127.0.0.1:1\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        403,
        &["Origin"],
    ),
    Case(
        "the_same_by_https",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: https://127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        403,
        &["Origin"],
    ),
    Case(
        "a_sandboxed_frame",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: null\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{body}",
        403,
        &["Origin"],
    ),
    Case(
        "a_form_of_another_page",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://evil.test\r\ncontent-type: text/plain\r\n{body}",
        403,
        &["Origin", "Key", "Type"],
    ),
    Case(
        "asking_whether_it_may",
        "OPTIONS /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://evil.test\r\naccess-control-request-method: POST\r\n\r\n",
        403,
        &[],
    ),
    Case(
        "no_key",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{body}",
        401,
        &["Key"],
    ),
    Case(
        "a_cookie_instead",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncookie: key={key}\r\ncontent-type: application/json\r\n{body}",
        401,
        &["Key"],
    ),
    Case(
        "the_key_in_the_target",
        "POST /decide?key={key} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{body}",
        401,
        &["Key"],
    ),
    Case(
        "the_token_as_the_key",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n{body}",
        401,
        &["Key"],
    ),
    Case(
        "another_key",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer 00\r\ncontent-type: application/json\r\n{body}",
        401,
        &["Key"],
    ),
    Case(
        "a_stop_without_a_key",
        "POST /stop HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{stop}",
        401,
        &["Key"],
    ),
    Case(
        "a_stop_by_another_page",
        "POST /stop HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\norigin: http://evil.test\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{stop}",
        403,
        &["Origin"],
    ),
    Case(
        "a_form_that_stops",
        "POST /stop HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: text/plain\r\n{stop}",
        415,
        &["Type"],
    ),
    Case(
        "the_log_without_a_key",
        "GET /events HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n",
        401,
        &["Key"],
    ),
    Case(
        "a_form_with_the_key",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: text/plain\r\n{body}",
        415,
        &["Type"],
    ),
    Case(
        "by_get",
        "GET /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\n\r\n",
        401,
        &[],
    ),
    Case("a_file", "GET /../../etc/passwd HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n\r\n", 404, &[]),
    Case(
        "a_bottle_that_is_a_path",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\ncontent-length: 62\r\n\r\n{\"bottle\":\"../../x\",\"id\":1,\"verdict\":{\"deny\":{\"reason\":null}}}",
        200,
        &[],
    ),
    Case(
        "more_than_a_decision",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\ncontent-type: application/json\r\n{large}",
        400,
        &["Size"],
    ),
    Case(
        "two_keys",
        "POST /decide HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nauthorization: Bearer {key}\r\nauthorization: Bearer 00\r\ncontent-type: application/json\r\n{body}",
        401,
        &["Key"],
    ),
    Case(
        "the_url_once_more",
        "POST /login HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{login}",
        403,
        &["Once"],
    ),
];
