//! git inside a bottle. The upstream is a repository behind a real sshd, which lets in one key that
//! only the host has.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::attacks::Case;
use crate::support::{Home, assert_code, eventually, stderr, stdout, until};

pub const CASES: &[Case] = &[
    ("lifecycle::git::what_is_allowed_goes_through_and_nothing_else", through),
    ("lifecycle::git::a_workspace_is_cloned_and_its_work_pushed", cloned),
    (
        "lifecycle::git::a_launch_killed_in_the_middle_of_a_push_leaves_all_or_nothing",
        killed_in_a_push,
    ),
    ("lifecycle::git::deploy_keys_live_as_long_as_their_bottle", deploy_keys),
    (
        "lifecycle::git::deploy_keys_of_a_killed_launch_are_revoked_by_others",
        deploy_keys_after_kill,
    ),
    ("lifecycle::git::a_key_that_cannot_be_revoked_is_said_until_it_is", unrevoked),
    ("lifecycle::git::a_forge_that_refuses_ends_the_launch", forge_refuses),
];

/// A repository `x.git` with one commit on main.
pub struct Upstream {
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
        .args([
            "-c",
            "user.name=x",
            "-c",
            "user.email=x@example.test",
            "-c",
            "safe.directory=*",
            "-c",
            "init.defaultBranch=main",
        ])
        .args(args);
    command
}

impl Upstream {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for key in ["host", "user"] {
            host(
                Command::new("ssh-keygen")
                    .args(["-q", "-t", "ed25519", "-N", "", "-C", "", "-f"])
                    .arg(at(key)),
            );
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let public = |name: &str| fs::read_to_string(at(name).with_extension("pub")).unwrap();
        fs::write(at("known_hosts"), format!("[127.0.0.1]:{port} {}", public("host"))).unwrap();
        let script = format!(
            "#!/bin/sh\nexec {}/git-shell -c \"$SSH_ORIGINAL_COMMAND\"\n",
            host(&mut git(&["--exec-path"]))
        );
        fs::write(at("script"), script).unwrap();
        fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(
            at("authorized"),
            format!("restrict,command=\"{}\" {}", at("script").display(), public("user")),
        )
        .unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {} {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PasswordAuthentication no\nPermitRootLogin prohibit-password\nAcceptEnv GIT_PROTOCOL\n",
            at("host").display(),
            at("authorized").display(),
            at("deploy-keys").display()
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
        let sshd = Command::new(program)
            .args(["-D", "-e", "-f"])
            .arg(at("config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        eventually("sshd answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { dir, port, sshd }
    }

    pub fn url(&self) -> String {
        let user = std::env::var("BOTTLE_SSHD_USER")
            .unwrap_or_else(|_| host(Command::new("id").arg("-un")));
        format!("ssh://{user}@127.0.0.1:{}{}", self.port, self.at("x.git").display())
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn refs(&self) -> String {
        host(
            git(&["for-each-ref", "--format=%(refname) %(objectname)"])
                .current_dir(self.at("x.git")),
        )
    }

    pub fn manifest(&self) -> String {
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
    let sh = |script: &str| {
        home.run(&["exec", "worker", "--", "sh", "-c", &format!("set -e; cd ~; {script}")])
    };
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
    assert!(
        refused.status.code() != Some(0) && stderr(&refused).contains("main"),
        "{}",
        stderr(&refused)
    );
    let key = ["gh", "p_", "wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat();
    let refused = commit("worker/leak", &format!("token = {key}"));
    assert!(
        refused.status.code() != Some(0) && stderr(&refused).contains("f:1"),
        "{}",
        stderr(&refused)
    );
    assert!(!stderr(&refused).contains(&key));
    assert_eq!(upstream.refs(), before, "nothing of what was refused arrived");

    let said = stderr(&refused);
    let fingerprint = said
        .split_once("fingerprint ")
        .unwrap()
        .1
        .split(|c: char| !c.is_ascii_hexdigit())
        .next()
        .unwrap();

    assert_code(&commit("worker/good", "good"), 0);
    assert!(upstream.refs().contains("refs/heads/worker/good"));
    // Neither key nor known host is in the guest, and there is no other way to the upstream.
    let secret = fs::read_to_string(upstream.at("user")).unwrap();
    let line = secret.lines().nth(2).unwrap();
    assert_eq!(
        stdout(&sh(&format!("grep -rlF {line} /etc /home /root /run /tmp 2>/dev/null | wc -l")))
            .trim(),
        "0"
    );
    assert_ne!(
        sh(&format!("GIT_CONFIG_NOSYSTEM=1 timeout 20 git ls-remote {}", upstream.url()))
            .status
            .code(),
        Some(0)
    );

    // The operator looks at the finding and allows it, and no other, while the bottle runs.
    let push = || sh("cd w; git push origin worker/leak");
    assert_ne!(push().status.code(), Some(0));
    fs::write(
        home.project().join("bottle.toml"),
        upstream.manifest() + &format!("allow = [{fingerprint:?}]\n"),
    )
    .unwrap();
    let reloaded = home.run(&["reload", "worker"]);
    assert_code(&reloaded, 0);
    assert!(stderr(&reloaded).contains("ALLOWED FINDINGS: 1"), "{}", stderr(&reloaded));
    assert_code(&push(), 0);
    assert!(upstream.refs().contains("refs/heads/worker/leak"));
    assert_ne!(
        commit("worker/more", &format!("token = {}", key.replace("wWPw", "aWPw"))).status.code(),
        Some(0)
    );
    // What the daemon holds it cannot exchange: another upstream is named, and nothing is done.
    fs::write(home.project().join("bottle.toml"), upstream.manifest().replace("x.git", "y.git"))
        .unwrap();
    assert_code(&home.run(&["reload", "worker"]), 3);

    let log = stdout(&home.run(&["logs", "worker"]));
    assert!(log.contains("worker/good") && log.contains("worker/leak"), "{log}");
    assert_code(&home.run(&["audit", "verify", "worker"]), 0);
    bottle.stop();
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}

fn cloned() {
    let upstream = Upstream::start();
    let home = Home::with_manifest(
        &upstream
            .manifest()
            .replace("image = \"demo\"\n", "image = \"demo\"\nworkspace = { mode = \"clone\" }\n"),
    );
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    // A command begins in the clone.
    let sh = |script: &str| home.run(&["exec", "worker", "--", "sh", "-c", script]);
    let seen = sh("cat README; git config remote.origin.url; git status --porcelain");
    assert_code(&seen, 0);
    assert_eq!(stdout(&seen), format!("hello\n{}\n", upstream.url()));
    let push = "git checkout -qb worker/x && echo x > x && git add x && git -c user.name=a -c user.email=a@b.test commit -qm x && git push -q origin worker/x";
    assert_code(&sh(push), 0);
    assert!(upstream.refs().contains("refs/heads/worker/x"));
    bottle.stop();

    // Without its upstream there is no workspace, and no launch.
    fs::rename(upstream.at("x.git"), upstream.at("away.git")).unwrap();
    fs::remove_dir_all(home.state().join("bottles/worker")).unwrap();
    let refused = home.run(&["launch", "worker", "--yes"]);
    assert_code(&refused, 3);
    assert!(stderr(&refused).contains("cannot be cloned into the bottle"), "{}", stderr(&refused));
}

fn killed_in_a_push() {
    for hook in ["pre-receive", "post-update"] {
        let upstream = Upstream::start();
        let flag = upstream.at("begun");
        let path = upstream.at("x.git/hooks").join(hook);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, format!("#!/bin/sh\ntouch {}; sleep 1\n", flag.display())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        let home = Home::with_manifest(&upstream.manifest());
        let script = format!(
            "set -e; cd ~; git clone -q {} w; cd w; git config user.name a; git config user.email a@b.test; git checkout -qb worker/x; \
             echo x > x; git add x; git commit -qm x; git push -q origin worker/x",
            upstream.url()
        );
        let push = ["exec", "worker", "--", "sh", "-c", &script];
        let before = upstream.refs();
        let mut bottle = home.start("worker", &["worker"]);
        bottle.wait_until_up();
        let mut pushing = home.bottle(&push).stderr(Stdio::null()).spawn().unwrap();
        eventually(&format!("{hook}: a push arrives"), || flag.exists());
        bottle.signal(Signal::SIGKILL);
        bottle.wait();
        assert!(!pushing.wait().unwrap().success(), "{hook}: no success is told");
        assert_code(&home.run(&["cleanup"]), 0);
        assert_eq!(home.leftovers("worker"), Vec::<String>::new());
        std::thread::sleep(Duration::from_secs(2)); // the upstream's hook is the upstream's
        let after = upstream.refs();
        assert!(after == before || after.contains("refs/heads/worker/x"), "{hook}: {after}");
        assert!(hook == "pre-receive" || after != before, "it was the upstream's already");

        // The mirror that was left behind serves the next launch, and the push can be made.
        fs::remove_file(&path).unwrap();
        let mut bottle = home.start("worker", &["worker"]);
        bottle.wait_until_up();
        let again = script.replace("worker/x", "worker/y");
        assert_code(&home.run(&["exec", "worker", "--", "sh", "-c", &again]), 0);
        assert!(upstream.refs().contains("refs/heads/worker/y"));
        bottle.stop();
    }
}

/// A forge before the upstream: the keys that it knows open the upstream's sshd.
struct Forge {
    child: Child,
    port: u16,
}

impl Drop for Forge {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

const TOKEN: &str = "forge-token-4711";

impl Forge {
    fn start(upstream: &Upstream) -> Self {
        fs::write(upstream.at("token"), TOKEN).unwrap();
        let options = format!("restrict,command=\"{}\"", upstream.at("script").display());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/lifecycle/forge.py");
        let mut command = Command::new("python3");
        command
            .arg(script)
            .arg(upstream.dir.path())
            .arg(upstream.at("token"))
            .arg(upstream.at("deploy-keys"))
            .arg(options);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port =
            line.trim().strip_prefix("listening ").and_then(|p| p.parse().ok()).expect("a port");
        Self { child, port }
    }

    /// An agent `worker` whose upstreams' keys are of these dialects and repositories.
    fn manifest(&self, upstream: &Upstream, dialects: &[(&str, &str)]) -> String {
        let mut text = "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\ncommand = [\"sleep\", \"1000\"]\n\
                        [bottles.dev]\nimage = \"demo\"\n"
            .to_owned();
        for (forge, repo) in dialects {
            text += &format!(
                "[[bottles.dev.git]]\nname = {forge:?}\nurl = {:?}\nknown_hosts = {:?}\nbranches = [\"{{agent}}/*\"]\n\
                 deploy_key = {{ forge = {forge:?}, api = \"https://127.0.0.1:{}/{forge}\", repo = {repo:?}, ca_file = {:?}, token = {{ file = {:?} }} }}\n",
                upstream.url(),
                upstream.at("known_hosts"),
                self.port,
                upstream.at("ca.pem"),
                upstream.at("token"),
            );
        }
        text
    }
}

/// What the forge knows: repository, title and whether the key may write, but for the keys of
/// others, which are counted.
fn keys(upstream: &Upstream) -> (Vec<(String, String, bool)>, usize) {
    let all: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(upstream.at("keys.json")).unwrap()).unwrap();
    let text = |v: &serde_json::Value| v.as_str().unwrap().to_owned();
    let (others, ours): (Vec<_>, Vec<_>) =
        all.into_iter().partition(|k| text(&k["title"]).starts_with("other"));
    (
        ours.iter()
            .map(|k| (text(&k["repo"]), text(&k["title"]), k["write"].as_bool().unwrap()))
            .collect(),
        others.len(),
    )
}

const DIALECTS: &[(&str, &str)] =
    &[("github", "gh/x"), ("gitea", "tea/x"), ("gitlab", "lab/sub/x")];

fn deploy_keys() {
    let upstream = Upstream::start();
    let forge = Forge::start(&upstream);
    let home = Home::with_manifest(&forge.manifest(&upstream, DIALECTS));
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    let (ours, others) = keys(&upstream);
    assert_eq!(
        ours.iter().map(|k| k.0.as_str()).collect::<Vec<_>>(),
        ["gh/x", "tea/x", "lab/sub/x"]
    );
    assert!(
        ours.iter().all(|(_, title, write)| title.starts_with("bottle worker on ") && *write)
            && others == 9,
        "{ours:?}"
    );

    let script = format!(
        "set -e; cd ~; git clone -q {} w; cd w; git config user.name a; git config user.email a@b.test; git checkout -qb worker/x; \
         echo x > x; git add x; git commit -qm x; git push -q origin worker/x",
        upstream.url()
    );
    assert_code(&home.run(&["exec", "worker", "--", "sh", "-c", &script]), 0);
    assert!(upstream.refs().contains("refs/heads/worker/x"));
    // The private halves, and the token, are in memory only.
    let found = |what: &str| {
        host(
            Command::new("sh")
                .args(["-c", "grep -rlF -e \"$1\" \"$2\" || true", "sh", what])
                .arg(home.path()),
        )
    };
    assert_eq!((found("PRIVATE KEY"), found(TOKEN)), (String::new(), String::new()));

    bottle.stop();
    assert_eq!(keys(&upstream), (Vec::new(), 9), "the others' keys are theirs");
    assert!(!home.state().join("bottles/worker/deploy-keys.json").exists());
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}

fn deploy_keys_after_kill() {
    let upstream = Upstream::start();
    let forge = Forge::start(&upstream);
    let home = Home::with_manifest(&forge.manifest(&upstream, DIALECTS));
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    bottle.signal(Signal::SIGKILL);
    bottle.wait();
    assert_eq!(keys(&upstream).0.len(), 3);
    assert_code(&home.run(&["cleanup"]), 0);
    assert_eq!(keys(&upstream), (Vec::new(), 9));

    // Killed when the forge has the key and nobody was told its number.
    fs::write(upstream.at("hang"), "").unwrap();
    let mut bottle = home.start("worker", &["worker"]);
    until(
        Duration::from_millis(10),
        || bottle.said(),
        || (!keys(&upstream).0.is_empty()).then_some(()),
    );
    bottle.signal(Signal::SIGKILL);
    bottle.wait();
    fs::remove_file(upstream.at("hang")).unwrap();
    assert_code(&home.run(&["list"]), 0);
    assert_eq!(keys(&upstream), (Vec::new(), 9));
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}

fn unrevoked() {
    let upstream = Upstream::start();
    let forge = Forge::start(&upstream);
    let home = Home::with_manifest(&forge.manifest(&upstream, &DIALECTS[..1]));
    let mut bottle = home.start("worker", &["worker"]);
    bottle.wait_until_up();
    fs::write(upstream.at("fail"), "").unwrap();
    let stopped = home.run(&["stop", "worker"]);
    assert_code(&stopped, 70);
    assert!(
        stderr(&stopped).contains("not all of its deploy keys are revoked"),
        "{}",
        stderr(&stopped)
    );
    assert_ne!(bottle.wait().code(), Some(0));
    let said = bottle.said();
    assert!(
        said.contains("IS NOT REVOKED")
            && said.contains("out of order")
            && said.contains("/gh/x/settings/keys"),
        "{said}"
    );
    assert!(!said.contains(TOKEN), "the forge repeated the token: {said}");
    // Every later command says so again, and what would forget the key does not.
    for args in [&["list"][..], &["cleanup"], &["rm", "worker"]] {
        let out = home.run(args);
        assert!(stderr(&out).contains("IS NOT REVOKED"), "{args:?}: {}", stderr(&out));
    }
    assert_code(&home.run(&["rm", "worker"]), 70);
    // Another launch is not worse for it, and does not forget it.
    let other = home.project().join("other.toml");
    fs::write(&other, "version = 1\n[agents.worker]\nbottle = \"dev\"\nprovider = \"command\"\n[bottles.dev]\nimage = \"demo\"\n").unwrap();
    let other = other.to_str().unwrap();
    assert_code(
        &home.run(&["launch", "--yes", "--manifest", other, "worker", "--", "sh", "-c", "exit 7"]),
        7,
    );
    // A journal that cannot be read keeps nobody from revoking.
    fs::write(home.state().join("bottles/worker/journal.jsonl"), "nonsense\n").unwrap();
    fs::remove_file(upstream.at("fail")).unwrap();
    assert_code(&home.run(&["cleanup"]), 70);
    assert_eq!(keys(&upstream), (Vec::new(), 9));
    assert_code(&home.run(&["rm", "worker"]), 0);
    assert_eq!(keys(&upstream), (Vec::new(), 9));
}

fn forge_refuses() {
    let upstream = Upstream::start();
    let forge = Forge::start(&upstream);
    let home =
        Home::with_manifest(&forge.manifest(&upstream, &[("gitea", "tea/x"), ("github", "gh/x")]));
    fs::write(upstream.at("token"), "another-token-0815").unwrap();
    let out = home.run(&["launch", "--yes", "worker"]);
    assert_code(&out, 3);
    assert!(!home.state().join("bottles/worker/deploy-keys.json").exists(), "nothing to revoke");
    let said = stderr(&out);
    assert!(
        said.contains("gitea") && said.contains("401") && said.contains("the token is not valid"),
        "{said}"
    );
    assert!(!said.contains("another-token-0815"));
    assert_eq!(keys(&upstream), (Vec::new(), 9));
    assert_eq!(home.leftovers("worker"), Vec::<String>::new());
}
