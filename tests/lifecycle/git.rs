//! git inside a bottle. The upstream is a repository behind a real sshd, which lets in one key that only the host has.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::attacks::Case;
use crate::support::{Home, PATIENCE, assert_code, stderr, stdout};

pub const CASES: &[Case] = &[("lifecycle::git::what_is_allowed_goes_through_and_nothing_else", through)];

/// A repository `x.git` with one commit on main.
struct Upstream {
    dir: tempfile::TempDir,
    port: u16,
    sshd: Child,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

fn host(command: &mut Command) -> String {
    let out = command.env("GIT_CONFIG_GLOBAL", "/dev/null").stdin(Stdio::null()).output().unwrap();
    assert!(out.status.success(), "{command:?}: {}", stderr(&out));
    stdout(&out).trim().to_owned()
}

fn git(args: &[&str]) -> Command {
    let mut command = Command::new("git");
    command
        .args(["-c", "user.name=x", "-c", "user.email=x@example.test", "-c", "safe.directory=*", "-c", "init.defaultBranch=main"])
        .args(args);
    command
}

impl Upstream {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for key in ["host", "user"] {
            host(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"]).arg(at(key)));
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let public = |name: &str| fs::read_to_string(at(name).with_extension("pub")).unwrap();
        fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {}", public("host"))).unwrap();
        let script = format!("#!/bin/sh\nexec {}/git-shell -c \"$SSH_ORIGINAL_COMMAND\"\n", host(&mut git(&["--exec-path"])));
        fs::write(at("script"), script).unwrap();
        fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(at("authorized"), format!("restrict,command=\"{}\" {}", at("script").display(), public("user"))).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\n",
            at("host").display(),
            at("authorized").display()
        );
        fs::write(at("config"), config).unwrap();
        let (bare, work) = (at("x.git"), at("work"));
        host(git(&["init", "-q", "--bare"]).arg(&bare));
        host(git(&["init", "-q"]).arg(&work));
        fs::write(work.join("README"), "hello\n").unwrap();
        host(git(&["add", "."]).current_dir(&work));
        host(git(&["commit", "-qm", "first"]).current_dir(&work));
        host(git(&["push", "-q"]).arg(&bare).arg("main").current_dir(&work));
        let program = std::env::var_os("BOTTLE_SSHD").unwrap_or_else(|| "/usr/sbin/sshd".into());
        let _ = fs::create_dir_all("/run/sshd"); // as root it insists on that
        let log = fs::File::create(at("sshd.log")).unwrap();
        let sshd = Command::new(program).args(["-D", "-e", "-f"]).arg(at("config")).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(began.elapsed() < PATIENCE, "sshd does not answer");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self { dir, port, sshd }
    }

    fn url(&self) -> String {
        let user = std::env::var("BOTTLE_SSHD_USER").unwrap_or_else(|_| host(Command::new("id").arg("-un")));
        format!("ssh://{user}@127.0.0.1:{}{}", self.port, self.at("x.git").display())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn refs(&self) -> String {
        host(git(&["for-each-ref", "--format=%(refname) %(objectname)"]).current_dir(self.at("x.git")))
    }

    fn manifest(&self) -> String {
        format!(
            "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"1000\"]\n[bottles.dev]\nimage = \"demo\"\n\
             [[bottles.dev.git]]\nurl = {:?}\nidentity_file = {:?}\nbranches = [\"{{agent}}/*\"]\nknown_hosts = {:?}\n",
            self.url(),
            self.at("user"),
            self.at("known_hosts")
        )
    }
}

fn through() {
    let upstream = Upstream::start();
    let home = Home::with_manifest(&upstream.manifest());
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    let sh = |script: &str| home.run(&["exec", "worker", "--", "sh", "-c", &format!("set -e; cd ~; {script}")]);
    let before = upstream.refs();
    assert_code(
        &sh(&format!(
            "git clone -q {} w && cat w/README && git config --global user.name a && git config --global user.email a@b.test",
            upstream.url()
        )),
        0,
    );

    let commit = |branch: &str, text: &str| {
        sh(&format!(
            "cd w; git checkout -qB {branch} origin/main; echo '{text}' > f; git add f; git commit -qm f; git push origin {branch}"
        ))
    };
    let refused = commit("main", "x");
    assert!(refused.status.code() != Some(0) && stderr(&refused).contains("main"), "{}", stderr(&refused));
    let key = ["gh", "p_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat();
    let refused = commit("worker/leak", &format!("token = {key}"));
    assert!(refused.status.code() != Some(0) && stderr(&refused).contains("f:1"), "{}", stderr(&refused));
    assert!(!stderr(&refused).contains(&key));
    assert_eq!(upstream.refs(), before, "nothing of what was refused arrived");

    assert_code(&commit("worker/good", "good"), 0);
    assert!(upstream.refs().contains("refs/heads/worker/good"));
    // Neither key nor known host is in the guest, and there is no other way to the upstream.
    let secret = fs::read_to_string(upstream.at("user")).unwrap();
    let line = secret.lines().nth(2).unwrap();
    assert_eq!(stdout(&sh(&format!("grep -rlF {line} /etc /home /root /run /tmp 2>/dev/null | wc -l"))).trim(), "0");
    assert_ne!(sh(&format!("GIT_CONFIG_NOSYSTEM=1 timeout 20 git ls-remote {}", upstream.url())).status.code(), Some(0));

    let log = stdout(&home.run(&["logs", "worker"]));
    assert!(log.contains("worker/good") && log.contains("worker/leak"), "{log}");
    assert_code(&home.run(&["audit", "verify", "worker"]), 0);
    bottle.stop();
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}
