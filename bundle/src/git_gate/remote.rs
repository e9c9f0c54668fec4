//! The way to one upstream: its host keys or CAs, and the credential that only the gate has.
//!
//! ssh gets a configuration file of ours and nothing else (`-F`), with the pinned host keys; no
//! agent but, for a key that was handed over in memory, the daemon's own ([`crate::git_gate::ssh::agent`]). git
//! would put ssh's options into a shell's command line; so `GIT_SSH` names this program under
//! another name ([`HELPERS`]), which becomes ssh with that file.
//!
//! An https token is in a memory file that git's programs inherit and hand on to `GIT_ASKPASS`,
//! which is this program, too: the token is in no argument, environment, file or URL, and git asks
//! for it only for the URL's own host, redirects being off.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use bottle_policy::{Access, GateUpstream, Secret, TokenName};
use zeroize::Zeroizing;

use crate::git_gate::exec::{Call, Net, Programs};
use crate::git_gate::ssh::agent::Agent;
use crate::git_gate::ssh::key::Key;

/// Names under which this program is ssh, and the one who knows the password.
pub const HELPERS: [&str; 2] = ["gate-ssh", "gate-askpass"];

/// The way to one upstream.
#[derive(Debug)]
pub struct Remote {
    url: String,
    protocol: &'static str,
    env: Vec<(&'static str, OsString)>,
    config: Vec<(&'static str, String)>,
    ro: Vec<PathBuf>,
    net: Net,
    token: Option<Arc<OwnedFd>>,
    _agent: Option<Agent>,
}

impl Remote {
    /// Writes what ssh or TLS need to `dir`. `bin` holds the [`HELPERS`]; an agent's socket goes to
    /// `run`.
    ///
    /// # Errors
    /// One line: what is missing, or does not fit together.
    pub fn new(
        upstream: &GateUpstream,
        tokens: &BTreeMap<TokenName, Secret>,
        (dir, bin, run): (&Path, &Path, &Path),
        programs: &Programs,
    ) -> Result<Self, String> {
        let url = &upstream.url;
        let token =
            |name: &TokenName| tokens.get(name).ok_or_else(|| format!("token {name} has no value"));
        let mut this = Self {
            url: url.as_str().to_owned(),
            protocol: if url.is_ssh() { "ssh" } else { "https" },
            env: Vec::new(),
            config: Vec::new(),
            ro: vec![dir.to_owned(), bin.to_owned()],
            net: Net::Outgoing,
            token: None,
            _agent: None,
        };
        let write = |name: &str, text: &str| {
            fs::write(dir.join(name), text)
                .map_err(|e| format!("{}: {e}", dir.join(name).display()))
        };
        if url.is_ssh() {
            let ssh = programs.ssh.as_ref().ok_or("an ssh upstream needs --ssh")?;
            let hosts = upstream.known_hosts.as_ref().ok_or("an ssh upstream needs known_hosts")?;
            write("known_hosts", hosts)?;
            let mut config = vec![
                format!("UserKnownHostsFile {}", quoted(&dir.join("known_hosts"))?),
                format!(
                    "HostKeyAlias {}",
                    if url.port() == 22 {
                        url.host().to_owned()
                    } else {
                        format!("[{}]:{}", url.host(), url.port())
                    }
                ),
            ];
            if let Some(to) = upstream.connect {
                config.push(format!("HostName {}", to.ip()));
                this.env.push(("BOTTLE_GATE_PORT", to.port().to_string().into()));
            }
            match &upstream.access {
                Access::None => config.push("IdentityAgent none\nIdentityFile none".to_owned()),
                Access::IdentityFile(path) => {
                    fs::File::open(path)
                        .map_err(|e| format!("identity file {}: {e}", path.display()))?;
                    this.ro.push(path.clone());
                    config.push(format!("IdentityAgent none\nIdentityFile {}", quoted(path)?));
                }
                Access::Key(name) => {
                    let socket = run.join(format!("agent-{}", upstream.name));
                    let key = Key::read(token(name)?).map_err(|e| format!("key {name}: {e}"))?;
                    write("key.pub", &key.public_line())?;
                    let agent = Agent::bind(key, &socket)
                        .map_err(|e| format!("{}: {e}", socket.display()))?;
                    config.push(format!(
                        "IdentityAgent {}\nIdentityFile {}",
                        quoted(&socket)?,
                        quoted(&dir.join("key.pub"))?
                    ));
                    this.net = Net::Agent;
                    this._agent = Some(agent);
                }
                Access::Token(_) => return Err("a token is for an https upstream".to_owned()),
            }
            config.extend(SSH.iter().map(|line| (*line).to_owned()));
            write("ssh_config", &format!("{}\n", config.join("\n")))?;
            this.env.push(("GIT_SSH", bin.join(HELPERS[0]).into()));
            this.env.push(("GIT_SSH_VARIANT", "ssh".into()));
            this.env.push(("BOTTLE_GATE_SSH", ssh.into()));
            this.env.push(("BOTTLE_GATE_SSH_CONFIG", dir.join("ssh_config").into()));
            return Ok(this);
        }
        if let Some(pem) = &upstream.ca {
            write("ca.pem", pem)?;
            this.config.push(("http.sslCAInfo", dir.join("ca.pem").display().to_string()));
        }
        if let Some(to) = upstream.connect {
            if to.port() != url.port() {
                return Err(format!("connect: an https upstream keeps its port ({})", url.port()));
            }
            this.config.push((
                "http.curloptResolve",
                format!("{}:{}:{}", url.host(), url.port(), to.ip()),
            ));
        }
        match &upstream.access {
            Access::None => {}
            Access::Token(name) => {
                let value = token(name)?.expose();
                let (user, password) = value.split_once(':').unwrap_or(("x-access-token", value));
                if value.chars().any(char::is_control) {
                    return Err(format!(
                        "token {name}: it has a line break or another control character"
                    ));
                }
                this.token =
                    Some(Arc::new(memory_file(password).map_err(|e| format!("memory file: {e}"))?));
                this.config.push(("credential.username", user.to_owned()));
                this.config.push(("http.proactiveAuth", "basic".to_owned()));
                this.env.push(("GIT_ASKPASS", bin.join(HELPERS[1]).into()));
                this.env.push(("BOTTLE_GATE_HOST", url.host().into()));
            }
            Access::IdentityFile(_) | Access::Key(_) => {
                return Err("a key is for an ssh upstream".to_owned());
            }
        }
        Ok(this)
    }

    /// A repository on this machine.
    #[cfg(test)]
    pub fn local(path: &Path) -> Self {
        let (url, protocol) = (path.display().to_string(), "file");
        Self {
            url,
            protocol,
            env: vec![],
            config: vec![],
            ro: vec![],
            net: Net::Outgoing,
            token: None,
            _agent: None,
        }
    }

    /// The upstream's URL: no credential is in it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Lets `call` go there.
    pub fn reached_by(&self, mut call: Call) -> Call {
        for (name, value) in &self.env {
            call = call.env(name, value);
        }
        for (key, value) in &self.config {
            call = call.config(*key, value.clone());
        }
        for path in &self.ro {
            call = call.ro(path);
        }
        if let Some(fd) = &self.token {
            call = call.env("BOTTLE_GATE_TOKEN_FD", fd.as_raw_fd().to_string());
        }
        call.config(format!("protocol.{}.allow", self.protocol), "always")
            .env("GIT_ALLOW_PROTOCOL", self.protocol)
            .net(self.net, self.token.clone())
    }

    /// Whether Unix sockets are needed to get there.
    pub fn needs_agent(&self) -> bool {
        self.net == Net::Agent
    }

    /// Files of the host that are read on the way.
    pub fn files(&self) -> &[PathBuf] {
        &self.ro
    }

    /// Answers ssh, as long as the daemon runs.
    pub fn serve_agent(&self) {
        if let Some(agent) = &self._agent {
            agent.serve();
        }
    }
}

/// What is the same for every ssh upstream. `Host *` is implied.
const SSH: &[&str] = &[
    "IdentitiesOnly yes",
    "StrictHostKeyChecking yes",
    "GlobalKnownHostsFile /dev/null",
    "UpdateHostKeys no",
    "VerifyHostKeyDNS no",
    "CheckHostIP no",
    "BatchMode yes",
    "PreferredAuthentications publickey",
    "ForwardAgent no",
    "ForwardX11 no",
    "ClearAllForwardings yes",
    "PermitLocalCommand no",
    "ProxyCommand none",
    "ControlMaster no",
    "ControlPath none",
    "AddKeysToAgent no",
    "CanonicalizeHostname no",
    "ConnectTimeout 10",
    "ServerAliveInterval 15",
    "ServerAliveCountMax 4",
    "LogLevel ERROR",
];

/// A path as ssh_config(5) reads it: in quotes, `%` not being an escape.
fn quoted(path: &Path) -> Result<String, String> {
    let text =
        path.to_str().filter(|t| !t.contains(['"', '\\']) && !t.chars().any(char::is_control));
    let text = text.ok_or_else(|| format!("{}: ssh cannot be given this path", path.display()))?;
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}

fn memory_file(text: &str) -> io::Result<OwnedFd> {
    const NAME: &CStr = c"gate";
    // SAFETY: a static C string and a flag; the result is checked before it is owned.
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut file = fs::File::from(fd);
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}

/// Acts as the helper that this program was started as, if it was.
#[must_use]
pub fn helper(args: &[OsString]) -> Option<ExitCode> {
    let name = Path::new(args.first()?).file_name()?.to_str()?;
    let done = match HELPERS.iter().position(|h| *h == name)? {
        0 => become_ssh(&args[1..]),
        _ => ask_pass(args.get(1)),
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    })
}

fn become_ssh(args: &[OsString]) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let var = |name: &str| {
        std::env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")))
    };
    let mut command = std::process::Command::new(var("BOTTLE_GATE_SSH")?);
    command.arg("-F").arg(var("BOTTLE_GATE_SSH_CONFIG")?);
    let mut args = args.iter();
    match std::env::var_os("BOTTLE_GATE_PORT") {
        None => drop(command.args(args)),
        Some(port) => {
            // git says `-p PORT` when the URL has one; ssh takes the first.
            command.arg("-p").arg(port);
            while let Some(arg) = args.next() {
                if arg == "-p" {
                    args.next();
                } else {
                    command.arg(arg);
                }
            }
        }
    }
    for name in ["BOTTLE_GATE_SSH", "BOTTLE_GATE_SSH_CONFIG", "BOTTLE_GATE_PORT"] {
        command.env_remove(name);
    }
    Err(command.exec())
}

fn ask_pass(prompt: Option<&OsString>) -> io::Result<()> {
    let prompt = prompt.and_then(|p| p.to_str()).unwrap_or_default();
    let host = std::env::var("BOTTLE_GATE_HOST").map_err(io::Error::other)?;
    let asked = prompt
        .strip_prefix("Password for 'https://")
        .and_then(|p| p.rsplit('@').next())
        .unwrap_or_default();
    if asked.split([':', '/', '\'']).next() != Some(host.as_str()) {
        return Err(io::Error::other("asked for something else than the upstream's password"));
    }
    let fd = std::env::var("BOTTLE_GATE_TOKEN_FD")
        .ok()
        .and_then(|n| n.parse::<i32>().ok())
        .filter(|n| *n > 2);
    let fd = fd.ok_or_else(|| io::Error::other("no token"))?;
    // SAFETY: this process was given the file under that number, and opened nothing itself; it ends
    // with it.
    let file = fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut token = Zeroizing::new(vec![0; 64 << 10]);
    let n = file.read_at(&mut token, 0)?; // its position is everybody's
    let mut out = io::stdout().lock();
    out.write_all(&token[..n])?;
    out.write_all(b"\n")?;
    out.flush()
}
