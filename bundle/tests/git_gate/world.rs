//! A real upstream behind a real sshd, the real daemon, and real git clients.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use super::client::{Work, bridge, git, git_program, gitleaks, program, run, skip, until};

pub const BIN: &str = env!("CARGO_BIN_EXE_bottle-bundle");
pub const TOKEN: &str = "tok-5d0c-planted-in-the-gate";

/// A repository behind an sshd that allows one key to run git, and nothing else.
pub struct Upstream {
    pub dir: tempfile::TempDir,
    pub port: u16,
    sshd: Child,
}

impl Upstream {
    /// `None` if a program is missing: then the test is skipped.
    pub fn start() -> Option<Self> {
        let sshd = program("BOTTLE_SSHD", &["/usr/sbin/sshd"])?;
        program("BOTTLE_SSH", &["/usr/bin/ssh"])?;
        let keygen = program("BOTTLE_SSH_KEYGEN", &["/usr/bin/ssh-keygen"])?;
        let git_program = git_program()?;
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for key in ["host", "user", "other"] {
            run(Command::new(&keygen)
                .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
                .arg(at(key)));
        }
        let exec = run(Command::new(git_program).arg("--exec-path"));
        let shell = Path::new(exec.trim()).join("git-shell");
        let public = fs::read_to_string(at("user.pub")).unwrap();
        fs::write(
            at("script"),
            format!(
                "#!/bin/sh\necho >> {}\nPATH={}:$PATH exec {} -c \"$SSH_ORIGINAL_COMMAND\"\n",
                at("log").display(),
                exec.trim(),
                shell.display()
            ),
        )
        .unwrap();
        fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(
            at("authorized"),
            format!("restrict,command=\"{}\" {public}", at("script").display()),
        )
        .unwrap();
        fs::set_permissions(at("authorized"), fs::Permissions::from_mode(0o600)).unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\nMaxStartups 100\n",
            at("host").display(),
            at("authorized").display()
        );
        fs::write(at("sshd_config"), config).unwrap();
        if nix::unistd::geteuid().is_root() {
            let _ = fs::create_dir_all("/run/sshd");
        }
        let log = fs::File::create(at("sshd.log")).unwrap();
        let sshd = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(at("sshd_config"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let this = Self { port, sshd, dir };
        until("sshd answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        this.seed("x");
        // sshd lets nobody in if the user has no shell, as in a Nix builder.
        let probe = Command::new(program("BOTTLE_SSH", &["/usr/bin/ssh"])?)
            .args([
                "-F",
                "none",
                "-o",
                "BatchMode=yes",
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
                "-i",
            ])
            .arg(this.dir.path().join("user"))
            .args([
                "-p",
                &port.to_string(),
                &format!("{}@127.0.0.1", this.user()),
                &format!("git-upload-archive {}", this.repo("x").display()),
            ])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&probe.stderr);
        if probe.status.code() == Some(255) {
            let log = fs::read_to_string(this.dir.path().join("sshd.log")).unwrap();
            skip(&format!("sshd lets nobody in: {said} {log}"));
            return None;
        }
        Some(this)
    }

    pub fn repo(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.git"))
    }

    /// A repository with one commit on main.
    pub fn seed(&self, name: &str) {
        run(git(self.dir.path()).args(["init", "-q", "--bare"]).arg(self.repo(name)));
        let work = self.dir.path().join(format!("{name}-work"));
        run(git(self.dir.path()).args(["init", "-q"]).arg(&work));
        fs::write(work.join("README"), "hello\n").unwrap();
        run(git(&work).args(["add", "."]));
        run(git(&work).args(["commit", "-qm", "first"]));
        run(git(&work).args(["push", "-q"]).arg(self.repo(name)).arg("main"));
    }

    /// The count of logins.
    pub fn connections(&self) -> usize {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default().lines().count()
    }

    /// Installs a hook at the upstream.
    pub fn hook(&self, name: &str, hook: &str, script: &str) {
        let path = self.repo(name).join("hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The refs of `name`, from `git for-each-ref`.
    pub fn refs(&self, name: &str) -> String {
        run(git(&self.repo(name)).args(["for-each-ref", "--format=%(refname) %(objectname)"]))
    }

    pub fn known_hosts(&self, key: &str) -> String {
        let public = fs::read_to_string(self.dir.path().join(format!("{key}.pub"))).unwrap();
        format!("[forge.test]:2222 {public}")
    }

    pub fn user(&self) -> String {
        // For machines on which sshd does not run as this user.
        if let Ok(user) = std::env::var("BOTTLE_SSHD_USER") {
            return user;
        }
        run(Command::new("/usr/bin/id").arg("-un")).trim().to_owned()
    }

    /// The upstream `name` as an entry of a policy.
    pub fn policy(&self, name: &str) -> serde_json::Value {
        serde_json::json!({
            "name": name,
            "url": format!("ssh://{}@forge.test:2222{}", self.user(), self.repo(name).display()),
            "access": {"identity_file": self.dir.path().join("user")},
            "known_hosts": self.known_hosts("host"),
            "connect": format!("127.0.0.1:{}", self.port),
            "push": {"branches": ["agent/*"]},
        })
    }

    pub fn key(&self, name: &str) -> String {
        fs::read_to_string(self.dir.path().join(name)).unwrap()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.sshd.kill();
        let _ = self.sshd.wait();
    }
}

pub struct Gate {
    pub process: Child,
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
}

impl Gate {
    pub fn start(upstreams: &[serde_json::Value], input: &serde_json::Value) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), upstreams, input)
    }

    pub fn start_in(
        dir: tempfile::TempDir,
        upstreams: &[serde_json::Value],
        input: &serde_json::Value,
    ) -> Self {
        let mut gate = Self::spawn(dir, upstreams, input);
        let mut said = String::new();
        BufReader::new(gate.process.stdout.as_mut().unwrap()).read_line(&mut said).unwrap();
        if said != "ready\n" {
            panic!("{said:?} {}", gate.log());
        }
        gate
    }

    /// Spawns the daemon, which may fail to start.
    pub fn spawn(
        dir: tempfile::TempDir,
        upstreams: &[serde_json::Value],
        input: &serde_json::Value,
    ) -> Self {
        let run = dir.path().join("run");
        let _ = fs::DirBuilder::new().mode(0o700).create(&run);
        let policy = serde_json::json!({"version": 1, "agent": "claude", "slug": "b1", "upstreams": upstreams});
        fs::write(dir.path().join("policy.json"), serde_json::to_vec_pretty(&policy).unwrap())
            .unwrap();
        let mut command = Command::new(BIN);
        command.args(["git-gate", "--slug", "test", "--parent", &std::process::id().to_string()]);
        for (option, file) in [
            ("--socket", "run/s"),
            ("--policy", "policy.json"),
            ("--audit", "audit.jsonl"),
            ("--state", "state"),
        ] {
            command.arg(option).arg(dir.path().join(file));
        }
        command.arg("--git").arg(git_program().unwrap());
        for (option, program) in
            [("--ssh", program("BOTTLE_SSH", &["/usr/bin/ssh"])), ("--gitleaks", gitleaks())]
        {
            if let Some(program) = program {
                command.arg(option).arg(program);
            }
        }
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let _ = writeln!(process.stdin.as_mut().unwrap(), "{input}");
        let address = bridge(run.join("s"));
        Self { process, dir, address }
    }

    /// Kills the daemon and starts another one in its place.
    pub fn again(mut self, upstreams: &[serde_json::Value], input: &serde_json::Value) -> Self {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        Self::start_in(dir, upstreams, input)
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://{}/{name}.git", self.address)
    }

    pub fn clone(&self, name: &str) -> Work {
        let dir = tempfile::tempdir().unwrap();
        run(git(dir.path()).args(["clone", "-q", &self.url(name), "w"]));
        Work { path: dir.path().join("w"), dir }
    }

    pub fn audit(&self) -> String {
        fs::read_to_string(self.dir.path().join("audit.jsonl")).unwrap_or_default()
    }

    pub fn quarantine(&self, name: &str) -> usize {
        fs::read_dir(self.dir.path().join("state/repos").join(name).join("quarantine"))
            .map_or(0, Iterator::count)
    }

    pub fn wait(&mut self) -> ExitStatus {
        let mut status = None;
        until("the daemon ends", || {
            status = self.process.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// Kills the daemon and returns its log.
    pub fn log(&mut self) -> String {
        let _ = self.process.kill();
        let mut log = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        log
    }

    /// Its processes: id, command line, and directory in `/proc`.
    pub fn children(&self) -> Vec<(u32, String, PathBuf)> {
        let stat = |id: u32| fs::read_to_string(format!("/proc/{id}/stat")).ok();
        let ids: Vec<u32> = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok())
            .collect();
        let parent =
            |id: u32| stat(id)?.rsplit_once(") ")?.1.split(' ').nth(1)?.parse::<u32>().ok();
        let mut family = vec![self.process.id()];
        loop {
            let more: Vec<u32> = ids
                .iter()
                .copied()
                .filter(|id| {
                    !family.contains(id) && parent(*id).is_some_and(|p| family.contains(&p))
                })
                .collect();
            if more.is_empty() {
                break;
            }
            family.extend(more);
        }
        let of = |id: u32| {
            let proc = PathBuf::from(format!("/proc/{id}"));
            let line =
                String::from_utf8_lossy(&fs::read(proc.join("cmdline")).ok()?).replace('\0', " ");
            Some((id, line, proc))
        };
        family.into_iter().filter_map(of).collect()
    }

    /// Peak resident memory of the daemon itself, in KiB.
    pub fn peak_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
