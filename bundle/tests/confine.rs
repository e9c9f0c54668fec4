//! Attacks that a confined process cannot make, each with a negative control: unconfined, it works.
//!
//! Each attack runs in a process of its own: this test program again, with the name of the attack in
//! its environment.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bottle_bundle::confine::{self, Grants, Network};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const BIN: &str = env!("CARGO_BIN_EXE_bottle-bundle");
const WORKS: i32 = 50;
const FAILS: i32 = 51;

/// What attacks aim at.
struct Targets {
    dir: tempfile::TempDir,
    tcp: TcpListener,
    _unix: UnixListener,
    _abstract: UnixListener,
}

impl Targets {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "x").unwrap();
        let name =
            SocketAddr::from_abstract_name(dir.path().as_os_str().as_encoded_bytes()).unwrap();
        Self {
            tcp: TcpListener::bind("127.0.0.1:0").unwrap(),
            _unix: UnixListener::bind(dir.path().join("sock")).unwrap(),
            _abstract: UnixListener::bind_addr(&name).unwrap(),
            dir,
        }
    }

    fn aim(&self, command: &mut Command) {
        command
            .env("DIR", self.dir.path())
            .env("PORT", self.tcp.local_addr().unwrap().port().to_string());
        command.env("VICTIM", std::process::id().to_string());
    }
}

fn env(name: &str) -> String {
    std::env::var(name).unwrap()
}

/// Makes the attack; returns whether it worked.
fn attack(name: &str) -> bool {
    let dir = PathBuf::from(env("DIR"));
    match name {
        "read a file" => fs::read(dir.join("secret")).is_ok(),
        "list a directory" => fs::read_dir(&dir).is_ok(),
        "create a file" => fs::write(dir.join("new"), "x").is_ok(),
        "truncate a file" => nix::unistd::truncate(&dir.join("secret"), 0).is_ok(),
        "make a symlink" => std::os::unix::fs::symlink("/", dir.join("link")).is_ok(),
        "run a program" => Command::new("/bin/true").status().is_ok_and(|s| s.success()),
        "listen on tcp" => TcpListener::bind("127.0.0.1:0").is_ok(),
        "connect by tcp" => TcpStream::connect(("127.0.0.1", env("PORT").parse().unwrap())).is_ok(),
        "send by udp" => std::net::UdpSocket::bind("127.0.0.1:0").is_ok(),
        "connect to a unix socket" => UnixStream::connect(dir.join("sock")).is_ok(),
        "make a unix socket" => std::os::unix::net::UnixDatagram::unbound().is_ok(),
        // An inherited descriptor must not be a way out either.
        "connect an inherited socket" => unsafe {
            let mut to: libc::sockaddr_un = std::mem::zeroed();
            to.sun_family = u16::try_from(libc::AF_UNIX).unwrap();
            for (to, byte) in
                to.sun_path.iter_mut().zip(dir.join("sock").as_os_str().as_encoded_bytes())
            {
                *to = libc::c_char::from_ne_bytes([*byte]);
            }
            let size = u32::try_from(size_of::<libc::sockaddr_un>()).unwrap();
            libc::connect(78, (&raw const to).cast(), size) == 0
        },
        "read and write an inherited socket" => unsafe {
            // QEMU does this with the socket of a chardev.
            let (mut address, mut size) = ([0u8; 128], 128);
            libc::getsockname(79, address.as_mut_ptr().cast(), &raw mut size) == 0
                && libc::getpeername(79, address.as_mut_ptr().cast(), &raw mut size) == 0
                && libc::send(79, c"x".as_ptr().cast(), 1, 0) == 1
                && libc::recv(79, address.as_mut_ptr().cast(), 1, 0) == 1
        },
        "connect to an abstract socket" => UnixStream::connect_addr(
            &SocketAddr::from_abstract_name(dir.as_os_str().as_encoded_bytes()).unwrap(),
        )
        .is_ok(),
        "signal another process" => {
            kill(Pid::from_raw(env("VICTIM").parse().unwrap()), None).is_ok()
        }
        // SAFETY: system calls with integer arguments or a zeroed buffer of the right size; nothing
        // is shared.
        "start io_uring" => unsafe {
            libc::syscall(libc::SYS_io_uring_setup, 1, [0u64; 15].as_mut_ptr()) >= 0
        },
        "ask for a keyring" => unsafe { libc::syscall(libc::SYS_keyctl, 0, -3, 0) >= 0 },
        "open a netlink socket" => unsafe {
            libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, 0) >= 0
        },
        "trace a process" => unsafe {
            let pid = libc::fork();
            if pid == 0 {
                loop {
                    libc::pause();
                }
            }
            let traced = libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) == 0;
            libc::kill(pid, libc::SIGKILL);
            libc::waitpid(pid, std::ptr::null_mut(), 0);
            traced
        },
        "make a user namespace" => unsafe {
            // Only a process with one thread may.
            match libc::fork() {
                0 => libc::_exit(i32::from(libc::unshare(libc::CLONE_NEWUSER) != 0)),
                pid => {
                    let mut status = 0;
                    libc::waitpid(pid, &raw mut status, 0) == pid && status == 0
                }
            }
        },
        "make a user namespace by clone" => unsafe {
            let pid =
                libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0);
            if pid == 0 {
                libc::_exit(0);
            }
            pid > 0
        },
        "use an inherited descriptor" => nix::fcntl::fcntl(
            unsafe { std::os::fd::BorrowedFd::borrow_raw(77) },
            nix::fcntl::FcntlArg::F_GETFD,
        )
        .is_ok(),
        "dump core" => {
            nix::sys::prctl::get_dumpable().unwrap()
                || nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_CORE)
                    .unwrap()
                    .1
                    > 0
        }
        "gain privileges by setuid" => !nix::sys::prctl::get_no_new_privs().unwrap(),
        "leave a file that others read" => {
            use std::os::unix::fs::PermissionsExt;
            let path = PathBuf::from(env("OWN")).join("made");
            fs::write(&path, "x").unwrap();
            fs::metadata(&path).unwrap().permissions().mode() & 0o077 != 0
        }
        other => panic!("no attack {other:?}"),
    }
}

#[test]
#[ignore = "runs in a process of its own, started by the tests below"]
fn attacker() {
    let name = env("ATTACK");
    if let Ok(network) = std::env::var("CONFINED") {
        let network = match network.as_str() {
            "outgoing" => Network::Outgoing,
            _ => Network::Nothing,
        };
        confine::begin(None, &[]).unwrap();
        let grants = Grants { rw: vec![env("OWN").into()], ..Grants::default() };
        let report = confine::seal(&grants, network, false).unwrap();
        assert!(report.seccomp);
    }
    std::process::exit(if attack(&name) { WORKS } else { FAILS });
}

fn this_program() -> (PathBuf, Vec<String>) {
    let args = ["attacker", "--exact", "--ignored", "--nocapture", "--test-threads=1"];
    (std::env::current_exe().unwrap(), args.map(str::to_owned).to_vec())
}

fn prepare(command: &mut Command, name: &str, targets: &Targets, own: &Path) {
    targets.aim(command);
    command
        .env("ATTACK", name)
        .env("OWN", own)
        .env_remove("CONFINED")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let file = fs::File::open("/dev/null").unwrap();
    let (near, far) = UnixStream::pair().unwrap();
    (&far).write_all(b"x").unwrap();
    // SAFETY: dup2, socket and umask are async-signal-safe; the files live until the closure, which
    // owns them, is dropped.
    unsafe {
        command.pre_exec(move || {
            libc::dup2(file.as_raw_fd(), 77);
            libc::dup2(libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0), 78);
            libc::dup2(near.as_raw_fd(), 79);
            let _ = &far; // keeps the other end open
            libc::umask(0o022);
            Ok(())
        });
    }
}

/// Runs the attack confined with `network`, or unconfined. Returns its exit code.
fn run(name: &str, network: Option<&str>) -> i32 {
    let (targets, own) = (Targets::new(), tempfile::tempdir().unwrap());
    let (program, args) = this_program();
    let mut command = Command::new(program);
    command.args(args);
    prepare(&mut command, name, &targets, own.path());
    if let Some(network) = network {
        command.env("CONFINED", network);
    }
    command.status().unwrap().code().unwrap_or(-1)
}

/// Attacks that the machine itself may forbid to everyone: containers, hardened kernels, and Nix
/// builds, in which every process has "no new privileges".
const MAY_BE_IMPOSSIBLE: &[&str] = &[
    "start io_uring",
    "ask for a keyring",
    "make a user namespace",
    "make a user namespace by clone",
    "trace a process",
    "gain privileges by setuid",
];

/// Checks that the attack works unconfined. Where the machine forbids it to everyone, this control is
/// skipped; the attack must still fail confined.
fn negative_control(name: &str) {
    let unconfined = run(name, None);
    if unconfined != WORKS && MAY_BE_IMPOSSIBLE.contains(&name) {
        eprintln!("skipped: negative control of {name:?}, which this machine forbids to everyone");
        return;
    }
    assert_eq!(unconfined, WORKS, "{name}: the attack does not work, so it shows nothing");
}

fn works_only_unconfined(name: &str, networks: &[&str]) {
    negative_control(name);
    for network in networks {
        assert_eq!(run(name, Some(network)), FAILS, "{name} with network {network}");
    }
}

#[test]
fn a_sealed_daemon_cannot_do_what_it_could_before() {
    for name in [
        "read a file",
        "list a directory",
        "create a file",
        "truncate a file",
        "make a symlink",
        "run a program",
        "listen on tcp",
        "connect to an abstract socket",
        "signal another process",
        "trace a process",
        "start io_uring",
        "ask for a keyring",
        "open a netlink socket",
        "make a user namespace",
        "make a user namespace by clone",
        "use an inherited descriptor",
        "dump core",
        "gain privileges by setuid",
        "leave a file that others read",
    ] {
        works_only_unconfined(name, &["outgoing", "nothing"]);
    }
    works_only_unconfined("connect to a unix socket", &["outgoing", "nothing"]);
    works_only_unconfined("connect by tcp", &["nothing"]);
    works_only_unconfined("send by udp", &["nothing"]);
    assert_eq!(run("connect by tcp", Some("outgoing")), WORKS, "egress still reaches the internet");
}

/// `bottle-bundle confine` with the grants that this test program needs to start.
fn confine_command(own: &Path, more: &[&str]) -> Command {
    let mut command = Command::new(BIN);
    command.arg("confine").args(["--rw"]).arg(own);
    for dir in ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store"]
        .iter()
        .filter(|d| Path::new(d).exists())
    {
        command.args(["--ro", dir]);
    }
    command.args(more).arg("--");
    command
}

/// `--no-network`, without the namespace where nobody can make one.
fn no_network() -> &'static [&'static str] {
    if run("make a user namespace", None) == WORKS {
        &["--no-network"]
    } else {
        &["--no-network", "--best-effort"]
    }
}

fn run_by_command(name: &str, more: &[&str]) -> i32 {
    let (targets, own) = (Targets::new(), tempfile::tempdir().unwrap());
    let mut command = confine_command(own.path(), more);
    let (program, args) = this_program();
    command.arg(program).args(args);
    prepare(&mut command, name, &targets, own.path());
    command.status().unwrap().code().unwrap_or(-1)
}

#[test]
fn a_confined_command_cannot_do_what_it_could_before() {
    for name in [
        "read a file",
        "create a file",
        "run a program",
        "listen on tcp",
        "connect by tcp",
        "send by udp",
        "connect to an abstract socket",
        "connect to a unix socket",
        "make a unix socket",
        "signal another process",
        "trace a process",
        "start io_uring",
        "ask for a keyring",
        "open a netlink socket",
        "make a user namespace",
        "use an inherited descriptor",
        "gain privileges by setuid",
        "leave a file that others read",
    ] {
        negative_control(name);
        assert_eq!(run_by_command(name, no_network()), FAILS, "{name}");
    }
    let keep = |name, fd| run_by_command(name, &[no_network(), &["--keep-fd", fd]].concat());
    assert_eq!(run_by_command("connect an inherited socket", &["--keep-fd", "78"]), WORKS);
    assert_eq!(keep("connect an inherited socket", "78"), FAILS);
    assert_eq!(keep("read and write an inherited socket", "79"), WORKS, "QEMU's chardevs");
    assert_eq!(
        run_by_command("connect by tcp", &[]),
        WORKS,
        "the network goes only by --no-network"
    );
    assert_eq!(run_by_command("use an inherited descriptor", &["--keep-fd", "77"]), WORKS);
}

#[test]
fn a_command_with_internet_sockets_has_no_others() {
    for flag in ["--outgoing", "--inet"] {
        assert_eq!(run_by_command("connect by tcp", &[flag]), WORKS, "{flag}");
        for name in [
            "connect to a unix socket",
            "make a unix socket",
            "connect to an abstract socket",
            "open a netlink socket",
            "read a file",
        ] {
            assert_eq!(run_by_command(name, &[flag]), FAILS, "{flag}: {name}");
        }
    }
    assert_eq!(run_by_command("listen on tcp", &["--outgoing"]), FAILS);
    assert_eq!(run_by_command("listen on tcp", &["--inet"]), WORKS);
}

fn shell(more: &[&str], own: &Path, script: &str) -> (i32, String) {
    let mut command = confine_command(own, more);
    let output = command.args(["/bin/sh", "-c", script]).output().unwrap();
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap_or(-1), text)
}

#[test]
fn a_command_keeps_what_it_was_granted() {
    let (own, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let file = other.path().join("f");
    fs::write(&file, "content").unwrap();
    let ro = ["--ro", file.to_str().unwrap()];
    let script = |s: &str| {
        s.replace("OWN", own.path().to_str().unwrap()).replace("FILE", file.to_str().unwrap())
    };
    assert_eq!(
        shell(&ro, own.path(), &script("read x < FILE; echo $x > OWN/y; exit 7")),
        (7, String::new())
    );
    assert_eq!(fs::read_to_string(own.path().join("y")).unwrap(), "content\n");
    assert_eq!(shell(&[], own.path(), &script("read x < FILE")).0, 2, "without --ro");
    assert_ne!(shell(&ro, own.path(), &script("echo x > FILE")).0, 0, "--ro is not --rw");
    assert_ne!(shell(&ro, own.path(), "/bin/true").0, 0, "another program");
    assert_eq!(shell(&["--rx", "/bin/true"], own.path(), "/bin/true").0, 0, "--rx");
}

#[test]
fn a_grant_that_fails_is_exit_code_4_with_a_reason() {
    let own = tempfile::tempdir().unwrap();
    let (code, text) = shell(&["--ro", "/no/such/path"], own.path(), "exit 0");
    assert_eq!(code, 4);
    assert!(text.contains("/no/such/path"), "{text}");
    let output = Command::new(BIN).args(["confine", "--", "/no/such/program"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    let output =
        Command::new(BIN).args(["confine", "--parent", "1", "--", "/bin/true"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "another parent than named");
    let output = Command::new(BIN)
        .args(["confine", "--keep-fd", "500", "--", "/bin/true"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(4), "a descriptor that is not open");
}

#[test]
fn no_network_without_a_namespace_is_exit_code_4_unless_best_effort() {
    // Inside another `confine`, unshare(2) is refused.
    let own = tempfile::tempdir().unwrap();
    let inner = |more: &str| {
        shell(
            &["--rx", BIN, "--rx", "/bin/true"],
            own.path(),
            &format!("exec {BIN} confine {} --no-network {more} -- /bin/true", libraries()),
        )
    };
    let (code, text) = inner("");
    assert_eq!(code, 4, "{text}");
    assert!(text.contains("network namespace") && text.contains("--best-effort"), "{text}");
    let (code, text) = inner("--best-effort");
    assert_eq!(code, 0, "{text}");
}

/// `--ro` for the libraries that a program of this machine loads.
fn libraries() -> String {
    ["/lib", "/lib64", "/usr/lib", "/nix/store"]
        .iter()
        .filter(|d| Path::new(d).exists())
        .map(|d| format!("--ro {d} "))
        .collect::<Vec<_>>()
        .concat()
}

/// A shell that starts a confined `sleep`, and the process id of the latter.
fn family(parent: &str) -> (Child, Pid) {
    let (ro, no_network) = (libraries(), no_network().join(" "));
    let script =
        format!("{BIN} confine {ro} {parent} {no_network} -- /bin/sleep 60 & echo $!; wait");
    let mut shell = Command::new("/bin/sh")
        .args([OsStr::new("-c"), script.as_ref()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(shell.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    (shell, Pid::from_raw(line.trim().parse().unwrap()))
}

fn becomes_sleep(pid: Pid) {
    let deadline = Instant::now() + Duration::from_secs(5);
    let mut name = String::new();
    while name.trim() != "sleep" {
        assert!(Instant::now() < deadline, "{name}");
        name.clear();
        let _ = fs::File::open(format!("/proc/{pid}/comm"))
            .and_then(|mut f| f.read_to_string(&mut name));
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Whether the process runs. A zombie does not.
fn runs(pid: Pid) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(')').next().unwrap().starts_with(" Z"))
}

#[test]
fn a_command_dies_with_its_parent_even_after_the_namespace_change() {
    let (mut parent, child) = family("--parent $$");
    becomes_sleep(child);
    parent.kill().unwrap();
    parent.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while runs(child) {
        assert!(Instant::now() < deadline, "it outlived its parent");
        std::thread::sleep(Duration::from_millis(2));
    }

    let (mut parent, child) = family("");
    becomes_sleep(child);
    parent.kill().unwrap();
    parent.wait().unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert!(runs(child), "without --parent it lives on, so the test above shows something");
    kill(child, Signal::SIGKILL).unwrap();
}
