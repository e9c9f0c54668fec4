//! `bench git`: what git-gate costs, beside the same pushes and clones made directly. In turns, in
//! one run, over https on loopback.

mod program;
mod upstream;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle::closure::Closure;
use tokio::net::{TcpListener, UnixStream};

use crate::daemon::{Daemon, Program};
use crate::process::timed;
use crate::report::Against::{AtLeast, AtMost, Peer};
use crate::report::{Report, median};
use program::Git;

const BENCH: &str = "git";
/// Bytes of the repository that is cloned.
const CLONED: usize = 200 << 20;
/// Bytes of the text that is pushed.
const PUSHED: usize = 15 << 20;

/// What is asked for.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Rounds of the large push and the clone.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// `bottle-bundle` (default: the closure's).
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
}

/// Two ways to one repository, and a work tree to push from.
struct World {
    git: Arc<Git>,
    dir: tempfile::TempDir,
    cert: PathBuf,
    direct: String,
    gate: String,
    daemon: Daemon,
}

impl World {
    async fn new(git: Git, bundle: &Path, closure: &Closure) -> Result<Self, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let git = Arc::new(git);
        let dir = tempfile::Builder::new().prefix("bench").tempdir().map_err(|e| text(&e))?;
        let at = |name: &str| dir.path().join(name);
        git.run(dir.path(), &["init", "-q", "--bare", "-b", "main", "up/x.git"])?;
        git.run(&at("up/x.git"), &["config", "http.receivepack", "true"])?;
        git.run(dir.path(), &["init", "-q", "-b", "main", "work"])?;
        let mut noise = vec![0; CLONED / 20];
        let mut state = 1u64;
        for n in 0..20 {
            noise.chunks_mut(8).for_each(|chunk| {
                chunk.copy_from_slice(&next(&mut state).to_le_bytes()[..chunk.len()])
            });
            std::fs::write(at("work").join(format!("noise{n}")), &noise).map_err(|e| text(&e))?;
        }
        git.run(&at("work"), &["add", "."])?;
        git.run(&at("work"), &["commit", "-qm", "first"])?;
        git.run(&at("work"), &["push", "-q", "../up/x.git", "main"])?;
        // As a forge keeps it.
        git.run(&at("up/x.git"), &["repack", "-adq"])?;

        let upstream = upstream::serve(git.clone(), at("up")).await?;
        std::fs::write(at("ca.pem"), &upstream.cert).map_err(|e| text(&e))?;
        let direct = format!("https://127.0.0.1:{}/x.git", upstream.port);
        let policy = serde_json::json!({ "version": 1, "agent": "bench", "slug": "bench", "upstreams": [{
            "name": "x", "url": direct, "ca": upstream.cert, "push": { "branches": ["*"] },
        }]});
        let tool = |path: &Path| path.display().to_string();
        let tools = &closure.tools;
        let mut args = vec!["git-gate".to_owned(), "--state".to_owned(), tool(&at("gate"))];
        for (option, file) in
            [("--git", &tools.git), ("--ssh", &tools.ssh), ("--gitleaks", &tools.gitleaks)]
        {
            args.extend([option.to_owned(), tool(&file.path)]);
        }
        let program = Program { name: "git-gate", path: bundle.to_owned(), args };
        let daemon = Daemon::start(&program, &policy.to_string(), "{}")?;
        let gate = format!(
            "http://127.0.0.1:{}/x.git",
            relay(daemon.socket()).await.map_err(|e| text(&e))?
        );
        let cert = at("ca.pem");
        Ok(Self { git, dir, cert, direct, gate, daemon })
    }

    fn work(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    fn client(&self, dir: &Path, args: &[&str]) -> Result<f64, String> {
        let cert = ("GIT_SSL_CAINFO", self.cert.as_os_str());
        let timed = timed(self.git.command(dir, args, &[cert]));
        timed.map_err(|e| format!("{e}: {}", self.daemon.log()))
    }

    /// Commits `text` and pushes it to a branch of its own.
    fn push(&self, url: &str, branch: &str, text: &str) -> Result<f64, String> {
        let work = self.work();
        self.git.run(&work, &["checkout", "-qB", branch, "main"])?;
        std::fs::write(work.join("text"), text).map_err(|e| e.to_string())?;
        self.git.run(&work, &["add", "text"])?;
        self.git.run(&work, &["commit", "-qm", "change"])?;
        self.client(&work, &["push", "-q", url, branch])
    }

    fn clone(&self, url: &str) -> Result<f64, String> {
        let into = tempfile::Builder::new().prefix("bench").tempdir().map_err(|e| e.to_string())?;
        self.client(
            into.path(),
            &["clone", "-q", "--bare", "--single-branch", "-b", "main", url, "x"],
        )
    }
}

/// Carries connections to the daemon's socket, as the relay in a guest does. The port.
async fn relay(socket: PathBuf) -> std::io::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let socket = socket.clone();
            tokio::spawn(async move {
                let Ok(mut unix) = UnixStream::connect(socket).await else { return };
                let _ = tokio::io::copy_bidirectional_with_sizes(
                    &mut tcp,
                    &mut unix,
                    64 << 10,
                    64 << 10,
                )
                .await;
            });
        }
    });
    Ok(port)
}

/// splitmix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Words in lines, as source code has them.
fn words(bytes: usize, mut state: u64) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes + 64);
    while text.len() < bytes {
        for _ in 0..9 {
            let _ = write!(text, "{:x} ", next(&mut state) >> 44);
        }
        text.push('\n');
    }
    text
}

/// Runs all cases.
pub fn run(report: &mut Report, options: &Options, runs: u32) -> Result<(), String> {
    let closure = Closure::load().map_err(|e| e.to_string())?;
    let git = Git::of(&closure)?;
    let bundle = options.bundle.clone().unwrap_or_else(|| closure.bundle.binary.path.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    let world = runtime.block_on(World::new(git, &bundle, &closure))?;
    let urls = [&world.direct, &world.gate];

    // The first clone of all fills the mirror, which stays with the bottle's name.
    let direct = world.clone(urls[0])?;
    report.figure(
        BENCH,
        "first clone of 200 MB",
        "wall",
        "ms",
        world.clone(urls[1])?,
        Some(Peer(direct)),
    );
    let mut clones = [Vec::new(), Vec::new()];
    for _ in 0..options.rounds {
        for (all, url) in clones.iter_mut().zip(urls) {
            all.push(world.clone(url)?);
        }
    }
    let [direct, gate] = clones.map(median);
    report.figure(BENCH, "clone of 200 MB", "wall", "ms", gate, Some(Peer(direct)));
    report.figure(
        BENCH,
        "clone of 200 MB",
        "of direct",
        "%",
        100.0 * direct / gate,
        Some(AtLeast(60.0)),
    );
    report.figure(
        BENCH,
        "clone of 200 MB",
        "peak memory",
        "MiB",
        world.daemon.peak(),
        Some(AtMost(40.0)),
    );

    for (case, bytes, rounds, limit) in
        [("small push", 60, runs, 450.0), ("push of 15 MB of text", PUSHED, options.rounds, 2000.0)]
    {
        let mut pushes = [Vec::new(), Vec::new()];
        for round in 0..rounds {
            for (which, url) in urls.into_iter().enumerate() {
                let text = words(bytes, u64::from(round) * 2 + which as u64);
                pushes[which].push(world.push(url, &format!("b{bytes}-{round}-{which}"), &text)?);
            }
        }
        let [direct, gate] = pushes.map(median);
        report.figure(BENCH, case, "wall", "ms", gate, Some(Peer(direct)));
        report.figure(BENCH, case, "beyond direct", "ms", gate - direct, Some(AtMost(limit)));
    }
    report.figure(
        BENCH,
        "after all",
        "peak memory",
        "MiB",
        world.daemon.peak(),
        Some(AtMost(40.0)),
    );
    Ok(())
}
