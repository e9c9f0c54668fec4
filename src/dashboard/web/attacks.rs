//! The table of tests/attacks/supervise/page.rs against the real page: each request gets nothing. As
//! the negative control, it gets what it wants once its check is disabled. The orchestrator here
//! says yes to everything; the real one is in `lifecycle::supervise`.

use bottle_channel::{read_header, write_header};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixListener;

use super::*;
use crate::launch::Request as Control;
use crate::supervise::DecisionOutcome;

#[path = "../../../tests/attacks/supervise/page.rs"]
mod table;
use table::{CASES, Case};

const ALL: [Check; 6] =
    [Check::Host, Check::Origin, Check::Key, Check::Once, Check::Type, Check::Size];

/// Status and text of what comes back for `request` from a page that was logged in to.
async fn answer(request: &str, off: &[Check]) -> (u16, String) {
    let home = tempfile::tempdir().unwrap();
    let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
    let dir = roots.bottle("worker").unwrap();
    crate::host::fs::private_dir(dir.runtime()).unwrap();
    let orchestrator = UnixListener::bind(dir.control_socket()).unwrap();
    let says_yes = async {
        while let Ok((mut client, _)) = orchestrator.accept().await {
            // A stop is answered by the end of the connection.
            if let Ok(Control::Decide(_)) = read_header(&mut client, 1 << 20).await {
                let _ =
                    write_header(&mut client, &DecisionOutcome::Done { text: "yes".into() }).await;
            }
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (session, token) = Session::new().unwrap();
    let key =
        session.exchange(&token, off.is_empty() || !off.contains(&Check::Once)).unwrap().to_owned();
    let site = Rc::new(Site {
        port,
        roots,
        session,
        checks: Checks::without(off),
        snapshots: watch::Sender::default(),
    });
    let decision = r#"{"bottle":"worker","id":3,"verdict":{"deny":{"reason":null}}}"#;
    let whole = |body: String| format!("content-length: {}\r\n\r\n{body}", body.len());
    let mut text = request.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    for (place, value) in [
        ("{key}", key),
        ("{token}", token.clone()),
        ("{port}", port.to_string()),
        ("{login}", whole(json!({ "token": token }).to_string())),
        ("{body}", whole(decision.to_owned())),
        ("{stop}", whole(r#"{"bottle":"worker"}"#.to_owned())),
        ("{large}", whole(" ".repeat(20_000) + decision)),
    ] {
        text = text.replace(place, &value);
    }
    let client = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
        let _ = stream.write_all(text.as_bytes()).await;
        let mut response = vec![0; 4096];
        let first = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut response)).await;
        response.truncate(first.map_or(0, |n| n.unwrap_or(0)));
        // The log does not end by itself.
        let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_to_end(&mut response))
            .await;
        String::from_utf8_lossy(&response).into_owned()
    };
    let response = tokio::task::LocalSet::new()
        .run_until(async {
            tokio::select! {
                response = client => response,
                () = says_yes => unreachable!(),
                () = accept(&site, listener) => unreachable!(),
            }
        })
        .await;
    (response.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), response)
}

#[tokio::test]
async fn only_requests_of_the_page_are_served() {
    let decides =
        |(status, response): &(u16, String)| *status == 200 && response.contains("\"done\"");
    assert!(decides(&answer(&table::honest(), &[]).await));
    let mut controls = 0;
    for Case(name, request, want, guards) in CASES {
        let shut = answer(request, &[]).await;
        assert!(shut.0 == *want && !decides(&shut), "{name}: {shut:?}");
        assert!(!shut.1.to_lowercase().contains("access-control-allow"), "{name}: {shut:?}");
        let guards: Vec<Check> = guards
            .iter()
            .map(|name| *ALL.iter().find(|g| format!("{g:?}") == *name).unwrap())
            .collect();
        let Some((_, also)) = guards.split_first() else { continue };
        if !also.is_empty() {
            let still = answer(request, also).await;
            assert!(still.0 != 200, "{name} is stopped by another guard: {still:?}");
        }
        let open = answer(request, &guards).await;
        let wanted = if request.contains("/decide") || request.contains("/stop") {
            decides(&open)
        } else {
            open.0 == 200
        };
        assert!(wanted, "{name}, without {guards:?}: {open:?}");
        controls += 1;
    }
    println!("{} cases, {controls} controls", CASES.len());
}
