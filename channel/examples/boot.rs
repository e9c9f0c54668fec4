//! Boots a guest the way the qemu engine does, and measures the channel. For work on channel and guest; not a part of bottle.
//!
//! `cargo run --release -p bottle-channel --example boot -- QEMU FIRMWARE KERNEL INITRD IMAGE MKE2FS [-- COMMAND...]`
//! With a command, runs it with this terminal's stdin and its output, as uid 1000 on a pty when `TTY=1`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::cast_precision_loss)]

use std::collections::BTreeMap;
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bottle_channel::{
    Control, CopyInRequest, CopyOutRequest, Endpoint, EndpointName, ExecRequest, GuestConfig, HostOpen, Key, Session, TtySize, copy,
    host_handshake, run_exec,
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
    let command = args.iter().position(|a| a == "--").map(|at| args.split_off(at).split_off(1)).unwrap_or_default();
    let [qemu, firmware, kernel, initrd, image, mke2fs] = &args[..] else { panic!("see the head of this file") };

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
        .args(["-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet loglevel=3 panic=-1 random.trust_cpu=on"])
        .args(["-drive", &format!("if=none,id=root,file={image},format=raw,readonly=on"), "-device", "virtio-blk-pci,drive=root"])
        .args(["-drive", &format!("if=none,id=disk,file={},format=raw", disk.display()), "-device", "virtio-blk-pci,drive=disk"])
        .args(["-device", "virtio-serial-pci", "-chardev", &format!("socket,id=bottle,fd={}", inherit(&theirs))])
        .args(["-device", "virtserialport,chardev=bottle,name=bottle", "-device", "virtio-rng-pci"])
        .args(["-fw_cfg", &format!("name=opt/bottle/key,file=/dev/fd/{}", inherit(&key_fd))])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop((theirs, key_fd));

    ours.set_nonblocking(true).unwrap();
    let mut io = tokio::net::UnixStream::from_std(ours).unwrap();
    tokio::time::timeout(Duration::from_secs(60), host_handshake(&mut io, &key)).await.expect("boot deadline").unwrap();
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
    let endpoints = EndpointName::ALL.into_iter().map(|name| Endpoint { name, port: name.port() }).collect();
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
    eprintln!("ready {ready:?} (guest uptime {} ms, kernel {}), configured {:?}", pong.uptime_ms, pong.kernel, start.elapsed());

    let pid = machine.id().unwrap();
    eprintln!("qemu used {:.2} s of processor time", cpu(pid));
    if command.is_empty() {
        measure(&session, pid).await;
    } else {
        let mut request = exec(&command.iter().map(String::as_str).collect::<Vec<_>>());
        request.stdin = true;
        let stream = session.open(&HostOpen::Exec(request)).await.unwrap();
        let (_keep, controls) = tokio::sync::mpsc::channel::<Control>(1);
        let began = Instant::now();
        let status = run_exec(stream, tokio::io::stdin(), tokio::io::stdout(), tokio::io::stderr(), controls).await;
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
        all.spawn(async move { assert!(session.exec(exec(&["true"]), 100, limit).await.unwrap().status.success()) });
    }
    all.join_all().await;
    eprintln!("50 parallel exec true: {:?}, {:.2} s of processor", began.elapsed(), cpu(pid) - before);

    let began = Instant::now();
    let stream = session.open(&HostOpen::Exec(ExecRequest { stdin: true, ..exec(&["sleep", "1000"]) })).await.unwrap();
    let (_, controls) = tokio::sync::mpsc::channel::<Control>(1);
    let unread = tokio::spawn(run_exec(stream, tokio::io::repeat(b'x').take(200 << 20), tokio::io::sink(), tokio::io::sink(), controls));
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
        let content =
            std::io::Cursor::new(tar.as_bytes().to_vec()).chain(tokio::io::repeat(b'z').take(size)).chain(tokio::io::repeat(0).take(1024));
        let (began, before) = (Instant::now(), cpu(pid));
        let request = CopyInRequest { dest_dir: "/dev/shm/in".into(), uid: None, gid: None };
        let report = copy::copy_in(session, CopyInRequest { dest_dir: "/in".into(), ..request }, content).await.unwrap();
        eprintln!(
            "{what}: {report:?} {:.0} MB/s, {:.0} per second of processor",
            size as f64 / 1e6 / began.elapsed().as_secs_f64(),
            size as f64 / 1e6 / (cpu(pid) - before)
        );
    }
    let began = Instant::now();
    let report = copy::copy_out(session, CopyOutRequest { path: "/in".into() }, tokio::io::sink()).await.unwrap();
    eprintln!("copy out: {report:?} {:.0} MB/s", report.bytes as f64 / 1e6 / began.elapsed().as_secs_f64());
    for (what, argv) in [("stdout /dev/zero", ["head", "-c", "209715200", "/dev/zero"])] {
        let began = Instant::now();
        let stream = session.open(&HostOpen::Exec(exec(&argv))).await.unwrap();
        let (_, controls) = tokio::sync::mpsc::channel::<Control>(1);
        run_exec(stream, tokio::io::empty(), tokio::io::sink(), tokio::io::sink(), controls).await.unwrap();
        eprintln!("{what}: {:.0} MB/s", 209.7 / began.elapsed().as_secs_f64());
    }
    let stream = session.open(&HostOpen::Exec(ExecRequest { stdin: true, ..exec(&["cat"]) })).await.unwrap();
    let (_, controls) = tokio::sync::mpsc::channel::<Control>(1);
    let began = Instant::now();
    run_exec(stream, tokio::io::repeat(b'x').take(200 << 20), tokio::io::sink(), tokio::io::sink(), controls).await.unwrap();
    eprintln!("stdin to cat: {:.0} MB/s", 209.7 / began.elapsed().as_secs_f64());
}
