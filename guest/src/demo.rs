//! `bottle-guest demo`: the demo agent. It tries to get out and to find secrets, and shows the
//! results in one table. It needs no API key and no network.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use bottle_text::remove;
use serde::Deserialize;

use crate::args;
use crate::checks::{self, Check};
use crate::secret_search;

/// Maximum time for a request to the allowed host, in seconds: name lookup, TLS twice, and an
/// upstream that the demo does not control.
const UPSTREAM_SECONDS: &str = "15";

#[derive(Default)]
struct Options {
    json: bool,
    canary: Option<u16>,
    denied: Option<String>,
    allowed: Option<String>,
    host_kernel: Option<String>,
    repository: Option<String>,
    workspace: Option<PathBuf>,
}

/// What the demo's upstream reports about the request that it got.
#[derive(Deserialize)]
struct WhoAmI {
    authorized: bool,
    token_sha256: String,
}

/// Exits with 0 only when every check passed.
pub fn main(args: &[String]) -> Result<ExitCode, String> {
    let mut options = Options::default();
    for (name, value) in args::options(args, &["json"])? {
        match name.as_str() {
            "json" => options.json = true,
            "canary" => options.canary = Some(args::number(&name, &value)?),
            "denied-host" => options.denied = Some(value),
            "allowed-host" => options.allowed = Some(value),
            "host-kernel" => options.host_kernel = Some(value),
            "repository" => options.repository = Some(value),
            "workspace" => options.workspace = Some(value.into()),
            _ => return Err(format!("unknown option --{name}")),
        }
    }
    let mut table = Table::new(options.json);
    run(&options, &mut table)?;
    table.finish()
}

fn run(options: &Options, table: &mut Table) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| e.to_string())?;
    table.row("a kernel of its own", own_kernel(options.host_kernel.as_deref()));
    table.row("no network device", checks::network_devices());
    table.row("no route to anywhere", checks::routes());
    table.row("no direct connection", runtime.block_on(checks::direct_tcp()));
    table.row("no name lookup", runtime.block_on(checks::name_lookup()));
    if let Some(port) = options.canary {
        table.row("host loopback unreachable", runtime.block_on(checks::host_loopback(port)));
    }
    if let Some(host) = &options.denied {
        table.row(&format!("{host} is denied"), runtime.block_on(checks::denied_host(host)));
    }
    if let Some(host) = &options.allowed {
        let answer = allowed_host(host);
        let shown =
            answer.as_ref().map(|_| "the proxy added the token".to_owned()).map_err(Clone::clone);
        table.row(&format!("{host} is reachable"), shown);
        let absent = match answer {
            Ok(WhoAmI { token_sha256, .. }) => secret_search::absent(&token_sha256),
            Err(_) => Err("unknown: the upstream did not name the token".into()),
        };
        table.row("that token is not in here", absent);
    }
    if let Some(url) = &options.repository {
        table.row("a key in a commit is not pushed", planted_key(url));
    }
    table.row("the workspace is writable", writable(options.workspace.as_deref()));
    Ok(())
}

fn own_kernel(host: Option<&str>) -> Result<String, String> {
    let name = nix::sys::utsname::uname().map_err(|e| e.to_string())?;
    let own = name.release().to_string_lossy();
    match host {
        Some(host) if host == own => Err(format!("{own}, the same as the host's")),
        Some(host) => Ok(format!("{own}, the host has {host}")),
        None => Ok(own.into_owned()),
    }
}

/// Sends a request to the upstream through the proxy, as any program in the bottle would.
fn allowed_host(host: &str) -> Result<WhoAmI, String> {
    let roots = std::env::var("SSL_CERT_FILE")
        .unwrap_or_else(|_| "/etc/ssl/certs/ca-certificates.crt".into());
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--fail-with-body",
            "--max-time",
            UPSTREAM_SECONDS,
            "--max-filesize",
            "65536",
        ])
        .args([
            "--proxy",
            "http://127.0.0.1:9099",
            "--cacert",
            &roots,
            &format!("https://{host}/whoami"),
        ])
        .stdin(Stdio::null())
        .output()
        .map_err(|e| format!("curl: {e}"))?;
    let line = |bytes: &[u8]| {
        remove(String::from_utf8_lossy(bytes).lines().next().unwrap_or_default(), 160)
    };
    if !output.status.success() {
        return Err(format!("{} {}", line(&output.stderr), line(&output.stdout)).trim().to_owned());
    }
    let answer: WhoAmI = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("not the demo's upstream: {}", line(&output.stdout)))?;
    if answer.authorized { Ok(answer) } else { Err("reached, but without the token".into()) }
}

/// Commits something that looks like a token and pushes it, as a careless agent might. Returns the
/// gate's finding when the gate refused the push.
fn planted_key(url: &str) -> Result<String, String> {
    let dir = std::env::temp_dir().join(format!("bottle-demo-git-{}", std::process::id()));
    std::fs::create_dir(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let pushed = push_a_key(&dir, url);
    let _ = std::fs::remove_dir_all(&dir);
    let output = pushed?;
    let said = String::from_utf8_lossy(&output.stderr);
    let clean = |line: &str| remove(line.trim_start_matches("remote:").trim(), 100);
    if output.status.success() {
        return Err("it was pushed".into());
    }
    let finding = said
        .lines()
        .find_map(|line| line.split_once(" (fingerprint "))
        .map(|(finding, _)| clean(finding));
    finding.ok_or_else(|| said.lines().map(clean).find(|l| !l.is_empty()).unwrap_or_default())
}

fn push_a_key(dir: &Path, url: &str) -> Result<std::process::Output, String> {
    let git = |args: &[&str]| {
        let mut command = Command::new("git");
        command.current_dir(dir).args([
            "-c",
            "user.name=demo",
            "-c",
            "user.email=demo@bottle.invalid",
            "-c",
            "init.defaultBranch=main",
        ]);
        command.args(args).stdin(Stdio::null()).output().map_err(|e| format!("git: {e}"))
    };
    // The token is in two parts, so that no file of this project holds one.
    let key = ["gh", "p_wWPw5k4aXcaT4fNP0UcnZwJUVFk6LO0pINUx"].concat();
    std::fs::write(dir.join("deploy.sh"), format!("#!/bin/sh\nexport GITHUB_TOKEN={key}\n"))
        .map_err(|e| e.to_string())?;
    let branch = format!("HEAD:refs/heads/{}/planted", std::env::var("BOTTLE").unwrap_or_default());
    for args in
        [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "--message=deploy"]]
    {
        let done = git(args)?;
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr)
                .lines()
                .next()
                .unwrap_or("git failed")
                .to_owned());
        }
    }
    git(&["push", url, &branch])
}

fn writable(workspace: Option<&Path>) -> Result<String, String> {
    let dir = match workspace {
        Some(dir) => dir.to_owned(),
        None => std::env::current_dir().map_err(|e| e.to_string())?,
    };
    let probe = dir.join(format!(".bottle-demo-{}", std::process::id()));
    let outcome = (|| {
        let mut file = std::fs::File::create_new(&probe)?;
        file.write_all(b"bottle")?;
        let mut back = String::new();
        std::fs::File::open(&probe)?.read_to_string(&mut back)?;
        std::fs::remove_file(&probe)?;
        Ok::<_, std::io::Error>(back == "bottle")
    })();
    match outcome {
        Ok(true) => Ok(dir.display().to_string()),
        Ok(false) => Err(format!("{}: it did not read back what it wrote", dir.display())),
        Err(e) => Err(format!("{}: {e}", dir.display())),
    }
}

/// Prints rows as they come in, or one JSON document at the end.
struct Table {
    json: bool,
    utf8: bool,
    color: bool,
    checks: Vec<Check>,
}

/// Width of the first column in characters.
const NAME_WIDTH: usize = 34;

impl Table {
    fn new(json: bool) -> Self {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|v| !v.is_empty()));
        let locale = locale.unwrap_or_default().to_ascii_lowercase();
        let dumb = std::env::var("TERM").is_ok_and(|term| term == "dumb");
        let plain = std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
        Self {
            json,
            utf8: locale.contains("utf-8") || locale.contains("utf8"),
            color: !plain && !dumb && std::io::stdout().is_terminal(),
            checks: Vec::new(),
        }
    }

    fn row(&mut self, name: &str, result: Result<String, String>) {
        let check = Check::new(name, result);
        if !self.json {
            let mark = match (check.passed, self.utf8) {
                (true, true) => "✓",
                (false, true) => "✗",
                (true, false) => "ok  ",
                (false, false) => "FAIL",
            };
            let (on, off) = match (self.color, check.passed) {
                (false, _) => ("", ""),
                (true, true) => ("\x1b[32m", "\x1b[0m"),
                (true, false) => ("\x1b[31m", "\x1b[0m"),
            };
            let mut out = std::io::stdout();
            // A closed stdout is not an error: the exit code still tells the result.
            let _ = writeln!(out, "  {on}{mark}{off} {:NAME_WIDTH$} {}", check.name, check.detail);
            let _ = out.flush();
        }
        self.checks.push(check);
    }

    fn finish(self) -> Result<ExitCode, String> {
        let failed = self.checks.iter().filter(|check| !check.passed).count();
        if self.json {
            println!(
                "{}",
                serde_json::to_string(&serde_json::json!({ "version": 1, "checks": self.checks }))
                    .map_err(|e| e.to_string())?
            );
        } else if failed > 0 {
            println!("  {failed} of {} checks failed", self.checks.len());
        }
        Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
