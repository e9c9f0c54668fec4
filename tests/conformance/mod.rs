//! What every engine has to give: commands, streams and files, into one bottle that serves all of
//! these.

use std::io::{Read, Write};
use std::process::Stdio;

use bottle::launch::{Request, connect};
use bottle::state::Roots;
use bottle_channel::copy::{copy_in_stream, copy_out_stream};

use crate::support::{Running, assert_code, eventually, stderr, stdout};

/// A named case, for a bottle that runs.
pub type Case = (&'static str, fn(&Running<'_>));

pub const CASES: &[Case] = &[
    ("conformance::exec_passes_streams_code_directory_and_user", exec),
    ("conformance::exec_passes_large_input_and_output_unchanged", bulk),
    ("conformance::fifty_execs_at_once", many_execs),
    ("conformance::a_bulk_copy_keeps_modes_and_gives_all_to_the_agent", copy),
    ("conformance::a_wrong_clock_does_not_end_tls_and_is_set_right", clock),
];

fn exec(bottle: &Running<'_>) {
    let (home, slug) = (bottle.home, bottle.slug.as_str());
    let mut cat = home.bottle(&["exec", slug, "--", "sh", "-c", "cat; echo to-stderr >&2; exit 3"]);
    let mut cat = cat
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("exec");
    cat.stdin.take().expect("stdin").write_all(b"through the bottle").expect("write");
    let output = cat.wait_with_output().expect("wait");
    assert_code(&output, 3);
    assert_eq!(
        (stdout(&output).as_str(), stderr(&output).as_str()),
        ("through the bottle", "to-stderr\n")
    );
    let output = home.run(&["exec", "-C", "/usr", slug, "--", "sh", "-c", "pwd; id -u"]);
    assert_eq!(stdout(&output), "/usr\n1000\n");
    let output = home.run(&["exec", "--root", slug, "--", "id", "-u"]);
    assert_eq!(stdout(&output), "0\n");
    assert_code(&home.run(&["exec", slug, "--", "sh", "-c", "kill -9 $$"]), 137);
    assert_code(&home.run(&["exec", slug, "--", "/no/such/program"]), 127);
    assert_code(&home.run(&["exec", "nobody", "--", "true"]), 2);
}

/// Bytes that no compression and no text mode passes unchanged by luck.
fn noise(count: u32) -> Vec<u8> {
    (0..count).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn bulk(bottle: &Running<'_>) {
    let data = noise(8_000_000);
    let mut cat = bottle.home.bottle(&["exec", &bottle.slug, "--", "cat"]);
    let mut cat = cat.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("exec");
    let mut stdin = cat.stdin.take().expect("stdin");
    let sent = data.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent).expect("write"));
    let output = cat.wait_with_output().expect("wait");
    writer.join().expect("writer");
    assert!(output.stdout == data, "{} bytes came back", output.stdout.len());
}

fn many_execs(bottle: &Running<'_>) {
    let children: Vec<_> = (0..50)
        .map(|i| {
            let mut command = bottle.home.bottle(&[
                "exec",
                &bottle.slug,
                "--",
                "sh",
                "-c",
                &format!("echo {i}; exit {i}"),
            ]);
            command.stdout(Stdio::piped()).spawn().expect("exec")
        })
        .collect();
    for (i, child) in children.into_iter().enumerate() {
        let output = child.wait_with_output().expect("wait");
        assert_eq!(
            (output.status.code(), stdout(&output)),
            (i32::try_from(i).ok(), format!("{i}\n"))
        );
    }
}

/// What is copied: name, mode, content.
fn files() -> Vec<(String, u32, Vec<u8>)> {
    let small = (0..200).map(|i| {
        (format!("many/{i}"), [0o644, 0o755, 0o600, 0o440][i % 4], format!("{i}\n").into_bytes())
    });
    small
        .chain([
            ("large".to_owned(), 0o640, noise(5_000_000)),
            ("empty".to_owned(), 0o644, Vec::new()),
        ])
        .collect()
}

fn copy(bottle: &Running<'_>) {
    let mut tar = tar::Builder::new(Vec::new());
    let header = |mode: u32, size: usize| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(mode);
        header.set_size(size as u64);
        // Somebody's ids of the host mean nothing in the guest.
        header.set_uid(4711);
        header.set_gid(4711);
        header
    };
    let files = files();
    for (name, mode, content) in &files {
        tar.append_data(&mut header(*mode, content.len()), name, &content[..]).expect("a file");
    }
    let mut link = header(0o777, 0);
    link.set_entry_type(tar::EntryType::Symlink);
    tar.append_link(&mut link, "link", "many/1").expect("a link");
    let tar = tar.into_inner().expect("a tar");

    let roots =
        Roots::at(bottle.home.state(), bottle.home.path().join("run/bottle")).expect("roots");
    let dir = roots.bottle(&bottle.slug).expect("the bottle");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let out = runtime.block_on(async {
        let stream = connect(&dir, &Request::CopyIn { dest_dir: "/home/node/copied".into() })
            .await
            .expect("connect");
        copy_in_stream(stream, &tar[..]).await.expect("in");
        let stream = connect(&dir, &Request::CopyOut { path: "/home/node/copied".into() })
            .await
            .expect("connect");
        let mut out = Vec::new();
        copy_out_stream(stream, &mut out).await.expect("out");
        out
    });

    let there = stdout(&bottle.sh(
        false,
        "cd ~/copied && find . -type f -printf '%U:%G %m %s %P\\n' | sort; readlink link; cat link",
    ));
    let mut expected: Vec<_> = files
        .iter()
        .map(|(name, mode, content)| format!("1000:1000 {mode:o} {} {name}", content.len()))
        .collect();
    expected.sort();
    expected.extend(["many/1".to_owned(), "1".to_owned()]);
    let mut lines: Vec<_> = there.lines().collect();
    // By bytes, whatever the guest's locale.
    let tail = lines.split_off(lines.len().saturating_sub(2));
    lines.sort_unstable();
    assert_eq!([lines, tail].concat(), expected);

    let mut back = tar::Archive::new(&out[..]);
    let mut came = 0;
    for entry in back.entries().expect("entries") {
        let mut entry = entry.expect("an entry");
        let path = entry.path().expect("a path").to_string_lossy().into_owned();
        let Some((_, mode, content)) =
            files.iter().find(|(name, ..)| path == *name || path.ends_with(&format!("/{name}")))
        else {
            continue;
        };
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).expect("its content");
        assert!(
            bytes == *content && entry.header().mode().expect("its mode") & 0o777 == *mode,
            "{path}"
        );
        came += 1;
    }
    assert_eq!(came, files.len());
}

/// The guest's clock is wrong after the host has slept, or when the guest's root sets it.
fn clock(bottle: &Running<'_>) {
    let guest_s = |output: std::process::Output| {
        let out = stdout(&output);
        out.split_whitespace().next().and_then(|s| s.parse::<i64>().ok()).unwrap_or_else(|| {
            panic!("no time in {out:?}: {}", stderr(&output));
        })
    };
    let host_s = || i64::try_from(bottle::state::now_ms() / 1000).expect("a time");
    for wrong_by_s in [-2 * 86_400, 3 * 3_600] {
        let script = format!(
            "date -s @$(($(date +%s) + {wrong_by_s})) +%s && \
             curl -so /dev/null -w '%{{ssl_verify_result}}' https://hello.demo.test/whoami"
        );
        let output = bottle.sh(true, &script);
        assert!(stdout(&output).ends_with("\n0"), "{}{}", stdout(&output), stderr(&output));
        let set = guest_s(output);
        // Negative control: it was wrong, so that somebody has to set it right.
        assert!((set - host_s() - wrong_by_s).abs() < 3_000, "{set}");
        eventually("the guest's clock is right again", || {
            (guest_s(bottle.sh(false, "date +%s")) - host_s()).abs() < 60
        });
    }
}
