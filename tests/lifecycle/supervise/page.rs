//! Decisions on the terminal dashboard, and requests to the page without a browser.

use std::io::{Read, Write};

use serde_json::{Value, json};

use super::{MANIFEST, document, propose, up};
use crate::support::{Home, stdout};

/// A running `bottle web`, and what it printed.
pub struct Page {
    child: std::process::Child,
    pub port: u16,
    pub token: String,
}

impl Drop for Page {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page {
    pub fn start(home: &Home) -> Self {
        let mut child = home
            .bottle(&["web"])
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut out = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut out, &mut line).unwrap();
        let (address, token) = line.trim().split_once("/#").unwrap();
        let port = address.rsplit(':').next().unwrap().parse().unwrap();
        Self { child, port, token: token.to_owned() }
    }

    /// Sends a request with its placeholders filled in; returns the status and text of the answer.
    fn send(&self, request: &str, key: &str, decision: &Value) -> (u16, String) {
        let whole = |body: String| format!("content-length: {}\r\n\r\n{body}", body.len());
        let request = request
            .replace("{key}", key)
            .replace("{token}", &self.token)
            .replace("{port}", &self.port.to_string());
        let request = request
            .replace("{login}", &whole(json!({ "token": self.token }).to_string()))
            .replace("{body}", &whole(decision.to_string()))
            .replace("{stop}", &whole(json!({ "bottle": "worker" }).to_string()))
            .replace("{large}", &whole(" ".repeat(20_000) + &decision.to_string()));
        let mut stream = std::net::TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream
            .write_all(request.replacen("\r\n", "\r\nconnection: close\r\n", 1).as_bytes())
            .unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        (text.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), text)
    }
}

pub fn screens() {
    use crate::attacks::supervise_page as table;
    let home = Home::with_manifest(MANIFEST);
    let bottle = up(&home);
    for host in ["one.test", "*.two.test", "three.test", "four.test"] {
        propose(&bottle, host, 443, true, &["/x"]).unwrap();
    }
    let state = |id: u32| document(&home, id)["state"].as_str().unwrap().to_owned();

    // The dashboard, on a terminal: the newest is chosen. One key is a yes, but not for what is
    // wide.
    let dashboard = || {
        let mut terminal = crate::support::terminal::Terminal::start(&home, &["dashboard"]);
        terminal.expect("one.test");
        terminal
    };
    let mut terminal = dashboard();
    terminal.type_keys("jja");
    terminal.expect("WIDE");
    terminal.type_keys("*.two.tes\r");
    terminal.expect("every name below it, whoever owns it); it");
    assert_eq!(state(2), "pending");
    terminal.type_keys("a*.two.test\r");
    terminal.expect("in force");
    assert_eq!(state(2), "approved");
    terminal.type_keys("q");
    assert_eq!(terminal.code(), Some(0));
    let mut terminal = dashboard();
    terminal.type_keys("a");
    terminal.expect("in force");
    assert_eq!(state(4), "approved");
    terminal.type_keys("q");
    assert_eq!(terminal.code(), Some(0));

    // The page. Its token is exchanged for the key once; no other request changes anything.
    let page = Page::start(&home);
    let login = "POST /login HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n{login}";
    let (status, text) = page.send(login, "", &Value::Null);
    assert_eq!(status, 200, "{text}");
    let key: Value = serde_json::from_str(text.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    let key = key["key"].as_str().unwrap();
    let digest = |id: u32| {
        let shown = stdout(&home.run(&["proposals", "show", &format!("worker/{id}")]));
        assert!(shown.contains("--against"), "{shown}");
        let policy = std::fs::read(home.runtime("worker").join("policy.json")).unwrap();
        bottle_policy::Policy::from_json(&policy).unwrap().digest()
    };
    let yes = |against: String| json!({ "bottle": "worker", "id": 3, "verdict": { "approve": { "against": against, "scope": "launch", "route": null, "typed": null, "answer": null } } });
    let before = digest(3);
    for table::Case(name, request, want, _) in table::CASES {
        let (status, text) = page.send(request, key, &yes(before.clone()));
        assert_eq!(status, *want, "{name}: {text}");
        assert!(
            !text.contains("\"done\"") && !text.to_lowercase().contains("access-control-allow"),
            "{name}: {text}"
        );
        assert_eq!(state(3), "pending", "{name}");
    }
    let (_, text) = page.send(&table::honest(), key, &yes("0".repeat(64)));
    assert!(text.contains("the policy has changed"), "{text}");
    let (status, text) = page.send(&table::honest(), key, &yes(before));
    assert_eq!((status, state(3).as_str()), (200, "approved"), "{text}");
    let (_, front) =
        page.send("GET / HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n", key, &Value::Null);
    assert!(
        front.contains("default-src 'none'")
            && front.contains("trusted-types 'none'")
            && !front.contains("http://"),
        "{front}"
    );
    let controls = table::CASES.iter().filter(|c| !c.3.is_empty()).count();
    eprintln!(
        "{} requests to the page, {controls} of which have a negative control in dashboard::web::attacks",
        table::CASES.len()
    );
    bottle.stop();
}
