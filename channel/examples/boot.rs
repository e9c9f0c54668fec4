//! Boots a guest the way the qemu engine does, and measures the channel. For work on channel and
//! guest; not a part of bottle.
//!
//! `cargo run --release -p bottle-channel --example boot -- QEMU FIRMWARE KERNEL INITRD IMAGE
//! MKE2FS [-- COMMAND...]` With the command `check`, checks what exec, copy and the relay promise.
//! With another command, runs it with this terminal's stdin and its output, as uid 1000 on a pty
//! when `TTY=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bottle_channel::{
    Control, CopyInRequest, CopyOutRequest, Endpoint, EndpointName, ExecRequest, GuestConfig,
    HostOpen, Key, Session, TtySize, copy, host_handshake, run_exec,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn inherit(fd: &OwnedFd) -> i32 {
    nix::fcntl::fcntl(fd, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    fd.as_raw_fd()
}

fn exec(argv: &[&str]) -> ExecRequest {
    let uid = std::env::var("GUEST_UID").ok().and_then(|u| u.parse().ok()).unwrap_or(0);
    ExecRequest {
        argv: argv.iter().map(ToString::to_string).collect(),
        env: BTreeMap::from([
            ("PATH".into(), "/usr/local/bin:/usr/bin:/bin".into()),
            ("HOME".into(), "/tmp".into()),
            ("TERM".into(), "xterm".into()),
        ]),
        cwd: None,
        uid,
        gid: uid,
        tty: std::env::var_os("TTY").map(|_| TtySize { rows: 24, cols: 80 }),
        stdin: false,
    }
}

#[tokio::main]
async fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let command = args
        .iter()
        .position(|a| a == "--")
        .map(|at| args.split_off(at).split_off(1))
        .unwrap_or_default();
    let [qemu, firmware, kernel, initrd, image, mke2fs] = &args[..] else {
        panic!("see the head of this file")
    };

    let dir = tempfile::tempdir().unwrap();
    let disk = dir.path().join("disk");
    std::fs::File::create(&disk).unwrap().set_len(4 << 30).unwrap();
    let made = std::process::Command::new(mke2fs)
        .args(["-q", "-t", "ext4", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg(&disk)
        .status();
    assert!(made.unwrap().success());

    let key = Key::random().unwrap();
    let key_file = dir.path().join("key");
    std::fs::write(&key_file, key.expose()).unwrap();
    let key_fd: OwnedFd = std::fs::File::open(&key_file).unwrap().into();
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    let theirs: OwnedFd = theirs.into();

    let cpu_model = std::env::var("CPU").unwrap_or_else(|_| "max".into());
    let start = Instant::now();
    let mut machine = tokio::process::Command::new(qemu)
        .args([
            "-L",
            firmware,
            "-M",
            "q35",
            "-accel",
            "tcg",
            "-cpu",
            &cpu_model,
            "-smp",
            "1",
            "-m",
            "512",
            "-nodefaults",
            "-no-user-config",
        ])
        .args(["-nographic", "-no-reboot", "-monitor", "none", "-serial", "stdio"])
        .args([
            "-kernel",
            kernel,
            "-initrd",
            initrd,
            "-append",
            "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on",
        ])
        .args([
            "-drive",
            &format!("if=none,id=root,file={image},format=raw,readonly=on"),
            "-device",
            "virtio-blk-pci,drive=root",
        ])
        .args([
            "-drive",
            &format!("if=none,id=disk,file={},format=raw", disk.display()),
            "-device",
            "virtio-blk-pci,drive=disk",
        ])
        .args([
            "-device",
            "virtio-serial-pci",
            "-chardev",
            &format!("socket,id=bottle,fd={}", inherit(&theirs)),
        ])
        .args(["-device", "virtserialport,chardev=bottle,name=bottle", "-device", "virtio-rng-pci"])
        .args(["-fw_cfg", &format!("name=opt/bottle/key,file=/dev/fd/{}", inherit(&key_fd))])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop((theirs, key_fd));

    ours.set_nonblocking(true).unwrap();
    let mut io = tokio::net::UnixStream::from_std(ours).unwrap();
    tokio::time::timeout(Duration::from_secs(60), host_handshake(&mut io, &key))
        .await
        .expect("boot deadline")
        .unwrap();
    let (session, mut incoming, driver) = Session::host(io);
    let driver = tokio::spawn(driver);
    tokio::spawn(async move {
        // Every endpoint answers like a proxy that denies.
        while let Some((_, stream)) = incoming.next().await {
            tokio::spawn(async move {
                let (mut from, mut to) = tokio::io::split(stream);
                let mut head = [0; 4096];
                let _ = from.read(&mut head).await;
                let _ = to
                    .write_all(b"HTTP/1.1 403 Forbidden\r\nX-Bottle-Reason: no route\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
                    .await;
                let _ = to.shutdown().await;
            });
        }
    });
    let pong = session.ping().await.unwrap();
    let ready = start.elapsed();
    let endpoints =
        EndpointName::ALL.into_iter().map(|name| Endpoint { name, port: name.port() }).collect();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    session
        .configure(GuestConfig {
            hostname: "bottle-test".into(),
            time_unix_ms: now.as_millis() as u64,
            endpoints,
            ..GuestConfig::default()
        })
        .await
        .unwrap();
    eprintln!(
        "ready {ready:?} (guest uptime {} ms, kernel {}), configured {:?}",
        pong.uptime_ms,
        pong.kernel,
        start.elapsed()
    );

    let pid = machine.id().unwrap();
    eprintln!("qemu used {:.2} s of processor time", cpu(pid));
    if command.is_empty() {
        measure(&session, pid).await;
    } else if command == ["check"] {
        check(&session).await;
    } else {
        let mut request = exec(&command.iter().map(String::as_str).collect::<Vec<_>>());
        request.stdin = true;
        let stream = session.open(&HostOpen::Exec(request)).await.unwrap();
        let (_keep, controls) = tokio::sync::mpsc::channel::<Control>(1);
        let began = Instant::now();
        let status = run_exec(
            stream,
            tokio::io::stdin(),
            tokio::io::stdout(),
            tokio::io::stderr(),
            controls,
        )
        .await;
        eprintln!("{status:?} after {:?}", began.elapsed());
    }
    let began = Instant::now();
    session.shutdown().await.unwrap();
    let status = machine.wait().await.unwrap();
    eprintln!("shutdown {:?}, qemu {status}, driver {:?}", began.elapsed(), driver.await.unwrap());
    std::process::exit(0);
}

/// Seconds of processor time that QEMU has used: on a loaded machine, more telling than the clock.
fn cpu(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn measure(session: &Session<HostOpen>, pid: u32) {
    let limit = Duration::from_secs(60);
    let time = async |n: u32, what: &str, argv: &[&str]| {
        let mut times = Vec::new();
        let before = cpu(pid);
        for _ in 0..n {
            let began = Instant::now();
            let done = session.exec(exec(argv), 1 << 20, limit).await.unwrap();
            assert!(done.status.success(), "{done:?}");
            times.push(began.elapsed());
        }
        times.sort();
        eprintln!(
            "{what}: first-sorted {:?} median {:?} worst {:?}, {:.1} ms of processor each",
            times[0],
            times[times.len() / 2],
            times[times.len() - 1],
            (cpu(pid) - before) * 1000.0 / f64::from(n)
        );
    };
    let mut pings = Vec::new();
    for _ in 0..100 {
        let began = Instant::now();
        session.ping().await.unwrap();
        pings.push(began.elapsed());
    }
    pings.sort();
    eprintln!("ping: median {:?} worst {:?}", pings[50], pings[99]);
    time(20, "exec true", &["true"]).await;
    time(5, "exec self --help", &[bottle_channel::SELF, "--help"]).await;

    let (began, before) = (Instant::now(), cpu(pid));
    let mut all = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let session = session.clone();
        all.spawn(async move {
            assert!(session.exec(exec(&["true"]), 100, limit).await.unwrap().status.success())
        });
    }
    all.join_all().await;
    eprintln!(
        "50 parallel exec true: {:?}, {:.2} s of processor",
        began.elapsed(),
        cpu(pid) - before
    );

    let began = Instant::now();
    let stream = session
        .open(&HostOpen::Exec(ExecRequest { stdin: true, ..exec(&["sleep", "1000"]) }))
        .await
        .unwrap();
    let (_, controls) = tokio::sync::mpsc::channel::<Control>(1);
    let unread = tokio::spawn(run_exec(
        stream,
        tokio::io::repeat(b'x').take(200 << 20),
        tokio::io::sink(),
        tokio::io::sink(),
        controls,
    ));
    time(3, "exec true beside a 200 MB stdin that nobody reads", &["true"]).await;
    unread.abort();
    eprintln!("that took {:?}", began.elapsed());

    for (size, what) in [(200u64 << 20, "copy in 200 MB")] {
        let mut tar = tar::Header::new_gnu();
        tar.set_path("big").unwrap();
        tar.set_size(size);
        tar.set_mode(0o644);
        tar.set_uid(0);
        tar.set_gid(0);
        tar.set_mtime(1);
        tar.set_cksum();
        let content = std::io::Cursor::new(tar.as_bytes().to_vec())
            .chain(tokio::io::repeat(b'z').take(size))
            .chain(tokio::io::repeat(0).take(1024));
        let (began, before) = (Instant::now(), cpu(pid));
        let request = CopyInRequest { dest_dir: "/dev/shm/in".into(), uid: None, gid: None };
        let report =
            copy::copy_in(session, CopyInRequest { dest_dir: "/in".into(), ..request }, content)
                .await
                .unwrap();
        eprintln!(
            "{what}: {report:?} {:.0} MB/s, {:.0} per second of processor",
            size as f64 / 1e6 / began.elapsed().as_secs_f64(),
            size as f64 / 1e6 / (cpu(pid) - before)
        );
    }
    let began = Instant::now();
    let report = copy::copy_out(session, CopyOutRequest { path: "/in".into() }, tokio::io::sink())
        .await
        .unwrap();
    eprintln!(
        "copy out: {report:?} {:.0} MB/s",
        report.bytes as f64 / 1e6 / began.elapsed().as_secs_f64()
    );
    for (what, argv) in [("stdout /dev/zero", ["head", "-c", "209715200", "/dev/zero"])] {
        let began = Instant::now();
        let stream = session.open(&HostOpen::Exec(exec(&argv))).await.unwrap();
        let (_, controls) = tokio::sync::mpsc::channel::<Control>(1);
        run_exec(stream, tokio::io::empty(), tokio::io::sink(), tokio::io::sink(), controls)
            .await
            .unwrap();
        eprintln!("{what}: {:.0} MB/s", 209.7 / began.elapsed().as_secs_f64());
    }
    let stream =
        session.open(&HostOpen::Exec(ExecRequest { stdin: true, ..exec(&["cat"]) })).await.unwrap();
    let (_, controls) = tokio::sync::mpsc::channel::<Control>(1);
    let began = Instant::now();
    run_exec(
        stream,
        tokio::io::repeat(b'x').take(200 << 20),
        tokio::io::sink(),
        tokio::io::sink(),
        controls,
    )
    .await
    .unwrap();
    eprintln!("stdin to cat: {:.0} MB/s", 209.7 / began.elapsed().as_secs_f64());
}

/// What only a real guest shows.
async fn check(session: &Session<HostOpen>) {
    let limit = Duration::from_secs(20);
    let run = async |request: ExecRequest| {
        let began = Instant::now();
        let done = session.exec(request, 1 << 20, limit).await;
        (done, began.elapsed())
    };
    let sh = |script: &str| exec(&["bash", "-c", script]);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\r', "").trim().to_owned();
    let code = async |request: ExecRequest| match run(request).await.0 {
        Ok(done) => done.status.code(),
        Err(bottle_channel::ExecFailure::Spawn(e)) => e.code(),
        Err(e) => panic!("{e}"),
    };
    assert_eq!(code(sh("exit 7")).await, 7);
    assert_eq!(code(exec(&["no-such-program"])).await, 127);
    assert_eq!(code(exec(&["/etc/passwd"])).await, 126);
    assert_eq!(code(sh("kill -TERM $$")).await, 143);
    assert_eq!(
        code(ExecRequest {
            uid: 1000,
            gid: 1000,
            cwd: Some("/root/none".into()),
            ..exec(&["true"])
        })
        .await,
        126
    );
    eprintln!("ok: exit codes");

    let (done, _) = run(ExecRequest {
        uid: 1000,
        gid: 1000,
        cwd: Some("/tmp".into()),
        ..sh("id -u; pwd; grep NoNewPrivs /proc/self/status; env | sort")
    })
    .await;
    let out = text(&done.unwrap().stdout);
    assert!(out.starts_with("1000\n/tmp\nNoNewPrivs:\t1\nHOME=/tmp\n"), "{out}");
    eprintln!("ok: user, directory, no new privileges, the environment and no more");

    let (done, took) = run(sh("sleep 30 & echo started")).await;
    assert_eq!(text(&done.unwrap().stdout), "started");
    assert!(took < Duration::from_secs(5), "{took:?}");
    eprintln!("ok: a background process delays no exit ({took:?})");

    let tty = Some(TtySize { rows: 33, cols: 101 });
    let (done, took) = run(ExecRequest { tty, ..sh("stty size; tty; seq 5000") }).await;
    let out = text(&done.unwrap().stdout);
    assert!(out.starts_with("33 101\n/dev/pts/0\n1\n") && out.ends_with("\n5000"), "{out}");
    eprintln!("ok: terminal size, and its output to the end ({took:?})");

    let interactive = async |request: ExecRequest, input: &'static [u8], controls: &[Control]| {
        let stream = session.open(&HostOpen::Exec(request)).await.unwrap();
        let (sender, receiver) = tokio::sync::mpsc::channel(4);
        for control in controls {
            sender.send(*control).await.unwrap();
        }
        let (mut end, stdin) = tokio::io::duplex(1024);
        let mut out = Vec::new();
        let feed = async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            end.write_all(input).await.unwrap();
            std::future::pending::<()>().await;
        };
        let began = Instant::now();
        let status = tokio::select! {
            status = tokio::time::timeout(limit, run_exec(stream, stdin, &mut out, tokio::io::sink(), receiver)) => status.unwrap().unwrap(),
            () = feed => unreachable!(),
        };
        drop(sender);
        (status.code(), text(&out), began.elapsed())
    };
    let (status, out, _) = interactive(
        ExecRequest {
            tty,
            stdin: true,
            ..sh("trap 'echo caught; exit 5' INT; while :; do sleep 0.1; done")
        },
        b"\x03",
        &[],
    )
    .await;
    assert!(status == 5 && out.ends_with("caught"), "{status} {out}");
    let (status, out, _) = interactive(
        ExecRequest { tty, stdin: true, ..sh("read -r; stty size; exit 4") },
        b"\n",
        &[Control::Resize(TtySize { rows: 50, cols: 60 })],
    )
    .await;
    assert!(status == 4 && out.ends_with("50 60"), "{status} {out}");
    let (status, _, took) = interactive(
        ExecRequest { stdin: true, ..exec(&["sleep", "30"]) },
        b"",
        &[Control::Signal(2)],
    )
    .await;
    assert!(status == 130 && took < Duration::from_secs(5), "{status} {took:?}");
    eprintln!("ok: control-C, resize, signal");

    // Each of these is dropped while it runs; none may survive.
    for script in
        ["trap '' HUP; sleep 4321", "sleep 4321 & wait", "setsid -w sleep 4321 & wait", "yes"]
    {
        for tty in [None, tty] {
            assert!(matches!(
                session
                    .exec(ExecRequest { tty, ..sh(script) }, usize::MAX, Duration::from_millis(700))
                    .await,
                Err(bottle_channel::ExecFailure::Deadline(_))
            ));
        }
    }
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let (done, _) = run(sh("for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -E '^(sleep 4321|yes)' || true")).await;
    eprintln!(
        "left after hang-up (a process that made its own session may): {:?}",
        text(&done.unwrap().stdout)
    );

    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |kind: tar::EntryType, path: &str, link: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o640);
        header.set_uid(1);
        header.set_gid(2);
        header.set_mtime(1);
        header.set_size(data.len() as u64);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, data).unwrap();
    };
    add(tar::EntryType::Regular, "a/b/file", "", b"content");
    add(tar::EntryType::Symlink, "link", "a/b/file", b"");
    let good = tar.get_ref().clone();
    let mut add = |path: &str, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(if link.is_empty() {
            tar::EntryType::Regular
        } else {
            tar::EntryType::Symlink
        });
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1);
        header.set_size(0);
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        tar.append(&header, &b""[..]).unwrap();
    };
    add("out", "/etc");
    add("out/escaped", "");
    let bad = tar.get_ref().clone();
    let zeros = [0; 1024];
    let request =
        CopyInRequest { dest_dir: "/home/node/in".into(), uid: Some(1000), gid: Some(1000) };
    let report = copy::copy_in(session, request, &[&good[..], &zeros].concat()[..]).await.unwrap();
    assert_eq!((report.files, report.bytes), (2, 7));
    let (done, _) =
        run(sh("cd /home/node/in; stat -c '%u %g %a %n' . a a/b a/b/file link; cat link")).await;
    assert_eq!(
        text(&done.unwrap().stdout),
        "1000 1000 755 .\n1000 1000 755 a\n1000 1000 755 a/b\n1000 1000 640 a/b/file\n1000 1000 777 link\ncontent"
    );
    let request = CopyInRequest { dest_dir: "/home/node/kept".into(), uid: None, gid: None };
    copy::copy_in(session, request.clone(), &[&good[..], &zeros].concat()[..]).await.unwrap();
    assert_eq!(
        text(&run(sh("stat -c '%u %g' /home/node/kept/a/b/file")).await.0.unwrap().stdout),
        "1 2"
    );
    let refused = copy::copy_in(session, request.clone(), &[&bad[..], &zeros].concat()[..]).await;
    assert!(refused.is_err());
    assert_eq!(code(exec(&["test", "-e", "/etc/escaped"])).await, 1);
    assert!(copy::copy_in(session, request, &good[..600]).await.is_err());
    let mut back = Vec::new();
    copy::copy_out(session, CopyOutRequest { path: "/home/node/in".into() }, &mut back)
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    bottle_channel::untar::extract_hostile(
        &back[..],
        dir.path(),
        bottle_channel::untar::Limits { entries: 100, bytes: 1000 },
    )
    .unwrap();
    assert_eq!(std::fs::read(dir.path().join("in/link")).unwrap(), b"content");
    assert!(
        copy::copy_out(session, CopyOutRequest { path: "/nowhere".into() }, tokio::io::sink())
            .await
            .is_err()
    );
    eprintln!("ok: copy in and out");

    let (done, _) = run(sh("for i in $(seq 40); do curl -s -o /dev/null -w '%{http_code}\\n' http://127.0.0.1:9420/ & done; wait")).await;
    assert_eq!(text(&done.unwrap().stdout).lines().filter(|l| *l == "403").count(), 40);
    eprintln!("ok: relay");
}
