//! A real browser on the page: all that it can do, by mouse and by keyboard.

use serde_json::{Value, json};

use super::page::Page;
use super::sdk::{sdk_asks, with_sdk};
use super::{MANIFEST, call, document, get, up, upstream};
use crate::support::browser::Browser;
use crate::support::{Home, Running};

pub fn browser() {
    let home = Home::with_manifest(MANIFEST);
    let mut bottle = up(&home);
    let url = format!("http://127.0.0.1:{}/v1/x", upstream());
    make_four_proposals(&home, &bottle, &url);
    let web = Page::start(&home);
    let mut page = Browser::start();
    page.open(&format!("http://127.0.0.1:{}/#{}", web.port, web.token));
    page.until("document.querySelectorAll('#proposals article').length === 4");
    assert_eq!(page.value("location.hash"), "", "the token is not left in the address");
    page.picture("web.png");
    agents_text_is_no_markup(&mut page);
    approve_wide_route(&mut page, &bottle, &url);
    narrow_route(&mut page, &home);
    deny_and_answer_by_keyboard(&mut page, &home);
    filter_log(&mut page);
    second_tab_has_no_key(&web);
    stop_bottle(&mut page, &mut bottle);
}

/// A wide route by the SDK's client, a route with a hostile reason, a plain one, and a question.
fn make_four_proposals(home: &Home, bottle: &Running<'_>, url: &str) {
    assert!(get(bottle, url).contains("[no-route]"));
    let with = |mut ask: Value, reason: &str| {
        ask["reason"] = json!(reason);
        call(bottle, "propose_route", &ask).unwrap()["id"].as_u64().unwrap()
    };
    let hostile = "<img src=x onerror=\"document.title='taken'\"><b>bold</b> \u{202e}+ evil";
    let told = with_sdk(home, async |client| {
        sdk_asks(client, "the tests fetch their fixtures there", 0).await
    });
    assert_eq!((&told["id"], &told["state"]), (&json!(1), &json!("pending")));
    assert_eq!(
        with(json!({ "host": "a.test", "methods": ["GET", "POST"], "paths": ["/v1/*"] }), hostile),
        2
    );
    assert_eq!(with(json!({ "host": "b.test", "methods": ["GET"], "paths": ["/"] }), "to read"), 3);
    assert_eq!(
        call(bottle, "ask_operator", &json!({ "question": "Which one?", "choices": ["a", "b"] }))
            .unwrap()["id"],
        4
    );
}

fn click(page: &mut Browser, id: u32, name: &str) {
    page.value(&format!("document.querySelector('[data-id=\"worker/{id}\"] .{name}').click()"));
}

/// Waits until the page's status line contains `text`.
fn status(page: &mut Browser, text: &str) {
    let text = json!(text);
    page.until(&format!("document.getElementById('status').textContent.includes({text})"));
}

/// Nothing that an agent wrote is markup, and nothing could be: the page's policy refuses it even to
/// our own script. Every control has a name, and everything can be reached by keyboard.
fn agents_text_is_no_markup(page: &mut Browser) {
    assert_eq!(page.value("document.querySelectorAll('#proposals img, #proposals b').length"), 0);
    assert_ne!(page.value("document.title"), "taken");
    assert_eq!(
        page.value(
            "document.querySelector('[data-id=\"worker/2\"]').innerText.includes('<img src=x')"
        ),
        true
    );
    assert_eq!(
        page.value(
            "document.querySelector('[data-id=\"worker/2\"]').innerText.includes('\\u202e')"
        ),
        false
    );
    assert_eq!(page.complaints, Vec::<String>::new());
    assert_eq!(
        page.value("(() => { try { document.body.innerHTML = '<i>x</i>'; return 'taken'; } catch (e) { return e.name; } })()"),
        "TypeError"
    );
    assert_eq!(
        page.value("fetch('http://127.0.0.1:1/').then(() => 'taken', (e) => e.name)"),
        "TypeError"
    );
    let unnamed = "[...document.querySelectorAll('button, input')].filter((e) => !(e.ariaLabel || e.innerText || e.id.startsWith('ask-') || e.id.startsWith('edit-') || document.querySelector(`label[for=\"${e.id}\"]`))).length";
    assert_eq!(page.value(unnamed), 0);
}

/// Its button asks for the host, and accepts no other.
fn approve_wide_route(page: &mut Browser, bottle: &Running<'_>, url: &str) {
    let state = || document(bottle.home, 1)["state"].clone();
    click(page, 1, "approve");
    page.until("document.getElementById('ask').open");
    page.type_text("127.0.0.2");
    page.press("Enter");
    status(page, "needs 127.0.0.1 typed");
    click(page, 1, "approve");
    page.press("Escape");
    status(page, "nothing is decided");
    assert_eq!(state(), "pending");
    click(page, 1, "approve");
    page.type_text("127.0.0.1");
    page.press("Enter");
    status(page, "proposal 1 is in force");
    assert_eq!(get(bottle, url), "through");
}

/// The orchestrator refuses a wider route.
fn narrow_route(page: &mut Browser, home: &Home) {
    let edit = |page: &mut Browser, paths: &str| {
        click(page, 2, "narrow");
        page.until("document.getElementById('edit').open");
        page.value(&format!(
            "(() => {{ const e = document.getElementById('edit-paths'); e.value = ''; e.focus(); }})() ?? {}",
            json!(paths)
        ));
        page.type_text(paths);
        page.value("document.getElementById('edit-yes').click()");
    };
    edit(page, "/v2");
    status(page, "only narrow");
    page.until("document.querySelector('[data-id=\"worker/2\"] .narrow') !== null");
    edit(page, "/v1/x");
    status(page, "proposal 2 is in force");
    assert_eq!(document(home, 2)["decision"]["route"]["paths"], json!(["/v1/x"]));
    assert_eq!(document(home, 2)["state"], "edited");
}

/// To the button, its key, the reason: all without a mouse.
fn deny_and_answer_by_keyboard(page: &mut Browser, home: &Home) {
    page.value("document.querySelector('[data-id=\"worker/3\"] .deny').focus()");
    page.press(" ");
    page.until("document.getElementById('ask').open");
    page.type_text("not needed");
    page.press("Enter");
    status(page, "proposal 3 is denied");
    assert_eq!(document(home, 3)["decision"]["text"], "not needed");
    click(page, 4, "approve");
    page.type_text("2");
    page.press("Enter");
    status(page, "question 4 is answered");
    assert_eq!(document(home, 4)["decision"]["text"], "b");
}

/// New lines appear by themselves, and are filtered while a filter is typed.
fn filter_log(page: &mut Browser) {
    page.until("document.getElementById('log').textContent.includes('proposal 3 denied')");
    page.value("document.getElementById('filter').focus()");
    page.type_text("NO-ROUTE");
    page.until(
        "(() => { const t = document.getElementById('log').textContent; return t.includes('no-route') && !t.includes('denied by'); })()",
    );
}

/// The URL works once.
fn second_tab_has_no_key(web: &Page) {
    let mut other = Browser::start();
    other.open(&format!("http://127.0.0.1:{}/#{}", web.port, web.token));
    status(&mut other, "used already");
    assert_eq!(other.value("document.querySelectorAll('#proposals article').length"), 0);
}

/// Its name has to be typed.
fn stop_bottle(page: &mut Browser, bottle: &mut Running<'_>) {
    page.value("document.querySelector('#bottles .stop').click()");
    page.type_text("worker");
    page.press("Enter");
    status(page, "worker is stopped");
    assert_eq!(bottle.wait().code(), Some(143));
}
