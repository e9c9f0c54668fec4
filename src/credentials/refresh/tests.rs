//! Refreshing against a daemon that writes down what it is told.

use std::io::Write;
use std::sync::{Arc, Mutex};

use super::*;
use crate::host::process::{Daemon, Program};
use crate::state::Journal;

const DEADLINE: Duration = Duration::from_secs(20);
const STALE: &str = r#"{"stale":{"token":"T"}}"#;

/// A daemon that writes down what it is told, and reports each line that is appended to the
/// file `ask`.
async fn daemon(dir: &Path) -> Daemon {
    let dir = crate::host::fs::utf8("dir", dir).unwrap();
    let script = r#"
        cd "$0"; read -r first; echo ready
        tail -n +1 -f ask & reports=$!
        while IFS= read -r line; do echo "$line" >> told; done
        echo closed >> told; kill $reports"#;
    std::fs::write(dir.join("ask"), "").unwrap();
    let mut journal = Journal::begin(dir.join("journal")).unwrap();
    let program = Program::new("fake", "/bin/sh").args(["-c", script]).arg(&dir);
    let mut daemon = program.spawn(&dir.join("fake.log"), &mut journal).unwrap();
    assert!(daemon.take_control_pipe().is_none(), "a daemon without secrets is not talked to");
    daemon.hand_over(&"secrets").await.unwrap();
    assert_eq!(daemon.ready_line(DEADLINE).await.unwrap(), "ready");
    daemon
}

fn ask(dir: &Path, line: &str) {
    writeln!(std::fs::OpenOptions::new().append(true).open(dir.join("ask")).unwrap(), "{line}")
        .unwrap();
}

fn told(dir: &Path) -> Vec<String> {
    std::fs::read_to_string(dir.join("told"))
        .unwrap_or_default()
        .lines()
        .map(str::to_owned)
        .collect()
}

fn value(name: &str, value: Option<&str>) -> String {
    format!(
        r#"{{"token":{{"name":"{name}","value":{}}}}}"#,
        value.map_or("null".into(), |v| format!("\"{v}\""))
    )
}

async fn told_lines(dir: &Path, n: usize) -> Vec<String> {
    let deadline = Instant::now() + DEADLINE;
    while told(dir).len() < n {
        assert!(Instant::now() < deadline, "{:?}", told(dir));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    told(dir)
}

/// Prints `planted-1`, `planted-2`, …, on standard error too; fails while there is a file
/// `broken`.
fn counting(dir: &Path, refresh: Option<u64>) -> TokenSource {
    let script = "cd \"$0\"; echo x >> runs; n=$(wc -l < runs); echo planted-$n >&2; [ ! -e broken ] || exit 3; echo planted-$n";
    let argv = ["sh", "-c", script, &dir.to_string_lossy()].map(str::to_owned).to_vec();
    TokenSource::Command { argv, refresh: refresh.map(Interval::seconds) }
}

fn runs(dir: &Path) -> usize {
    std::fs::read_to_string(dir.join("runs")).unwrap_or_default().lines().count()
}

type UntrustedText = Arc<Mutex<Vec<String>>>;

fn start(daemon: &mut Daemon, source: TokenSource, pace: Duration) -> (Refresher, UntrustedText) {
    start_with(daemon, source, pace, NewestReload::default())
}

fn start_with(
    daemon: &mut Daemon,
    source: TokenSource,
    pace: Duration,
    reloads: NewestReload,
) -> (Refresher, UntrustedText) {
    let said = UntrustedText::default();
    let sources = BTreeMap::from([
        ("T".parse().unwrap(), source),
        ("FIXED".parse().unwrap(), TokenSource::Generated),
    ]);
    let into = Arc::clone(&said);
    let tell = move |line: &str| into.lock().unwrap().push(line.to_owned());
    (
        Refresher::paced(
            daemon.take_control_pipe().unwrap(),
            reloads,
            (&sources, &BTreeMap::new()),
            BTreeMap::from([("FIXED".parse().unwrap(), "a hint".to_owned())]),
            Path::new("/none"),
            pace,
            tell,
        ),
        said,
    )
}

#[tokio::test]
async fn a_stale_token_gets_a_new_value_but_not_too_often() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut daemon = daemon(dir).await;
    let (_refresher, said) = start(&mut daemon, counting(dir, None), Duration::from_millis(1500));
    ask(dir, STALE);
    assert_eq!(told_lines(dir, 1).await, [value("T", Some("planted-1"))]);
    // Too soon, of an unknown token, of one that cannot change: an answer at once, and no run.
    for name in ["T", "OTHER", "FIXED"] {
        ask(dir, &STALE.replace("\"T\"", &format!("\"{name}\"")));
    }
    assert_eq!(
        told_lines(dir, 4).await[1..],
        [value("T", None), value("OTHER", None), value("FIXED", None)]
    );
    assert_eq!(runs(dir), 1);
    tokio::time::sleep(Duration::from_millis(1600)).await;
    ask(dir, STALE);
    assert_eq!(told_lines(dir, 5).await[4], value("T", Some("planted-2")));
    assert_eq!(*said.lock().unwrap(), ["a hint"]);
    ask(dir, &STALE.replace("\"T\"", "\"FIXED\""));
    told_lines(dir, 6).await;
    assert_eq!(said.lock().unwrap().len(), 1, "once is enough");
}

#[tokio::test]
async fn a_token_is_renewed_when_it_is_old_and_the_lifeline_closes_with_the_launch() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut daemon = daemon(dir).await;
    let begun = Instant::now();
    let (refresher, _) = start(&mut daemon, counting(dir, Some(1)), Duration::from_millis(10));
    let lines = told_lines(dir, 2).await;
    assert!(begun.elapsed() >= Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(lines[..2], [value("T", Some("planted-1")), value("T", Some("planted-2"))]);
    drop(refresher);
    let deadline = Instant::now() + DEADLINE;
    while told(dir).last().map(String::as_str) != Some("closed") {
        assert!(Instant::now() < deadline, "{:?}", told(dir));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_reload_that_the_daemon_reports_is_passed_on() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut daemon = daemon(dir).await;
    let newest = NewestReload::default();
    let mut reports = newest.subscribe();
    let pace = Duration::from_millis(10);
    let (_refresher, _) = start_with(&mut daemon, counting(dir, None), pace, newest);
    for (line, error) in [
        (r#"{"reload":{"digest":"12","error":null}}"#, None),
        (r#"{"reload":{"digest":"12","error":"odd"}}"#, Some("odd")),
    ] {
        ask(dir, line);
        tokio::time::timeout(DEADLINE, reports.changed()).await.unwrap().unwrap();
        let report = reports.borrow_and_update().clone().unwrap();
        assert_eq!((report.digest.as_deref(), report.error.as_deref()), (Some("12"), error));
    }
    assert_eq!(runs(dir), 0);
}

#[tokio::test]
async fn a_file_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let path = dir.join("token");
    std::fs::write(&path, "fresh\n").unwrap();
    let mut daemon = daemon(dir).await;
    let (_refresher, _) =
        start(&mut daemon, TokenSource::File { path, refresh: None }, Duration::from_millis(10));
    ask(dir, STALE);
    assert_eq!(told_lines(dir, 1).await, [value("T", Some("fresh"))]);
}

#[tokio::test]
async fn a_failure_is_said_once_and_without_the_value() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    std::fs::write(dir.join("broken"), "").unwrap();
    let mut daemon = daemon(dir).await;
    let (_refresher, said) = start(&mut daemon, counting(dir, None), Duration::from_millis(1));
    for n in 1..=2 {
        ask(dir, STALE);
        assert_eq!(told_lines(dir, n).await[n - 1], value("T", None));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    std::fs::remove_file(dir.join("broken")).unwrap();
    ask(dir, STALE);
    assert_eq!(told_lines(dir, 3).await[2], value("T", Some("planted-3")));
    let said = said.lock().unwrap().join("\n");
    assert_eq!(
        said,
        "bottle: token T cannot be resolved: sh failed (exit status: 3); the old value stays in use\nbottle: token T has a new value"
    );
    // Neither what the operator reads, nor what is logged, nor any Debug output holds what the
    // command printed.
    let logged = std::fs::read_to_string(dir.join("fake.log")).unwrap();
    let command = EgressCommand::Token {
        name: "T".parse().unwrap(),
        value: Some(Secret::new("planted-3".into())),
    };
    assert!(![said, logged, format!("{command:?}")].iter().any(|text| text.contains("planted")));
}

#[tokio::test]
async fn what_is_no_report_is_passed_over_and_a_flood_ends_the_listening_only() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut daemon = daemon(dir).await;
    let (_refresher, _) = start(&mut daemon, counting(dir, Some(1)), Duration::from_millis(1));
    ask(dir, "nonsense");
    ask(dir, STALE);
    told_lines(dir, 1).await;
    ask(dir, &"x".repeat(10_000));
    let before = told(dir).len();
    assert!(
        told_lines(dir, before + 2).await.iter().all(|line| line.contains("planted")),
        "the clock still counts"
    );
}
