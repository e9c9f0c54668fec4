//! How an upstream is reached: its host keys or CAs, and the credential that only git-gate has.
//!
//! ssh gets a configuration file of git-gate's and no other (`-F`), with the pinned host keys. It
//! uses no agent, except the daemon's own ([`super::ssh::agent`]) for a key that is held in memory.
//! git would pass options of ssh through a shell, so `GIT_SSH` names this program under another
//! name ([`super::helper`]), which runs ssh with that file.
//!
//! An https token is in a memory file. git's programs inherit it and pass it on to `GIT_ASKPASS`,
//! which is this program as well: the token is in no argument, environment variable, file or URL.
//! git asks for it only for the host of the URL, because redirects are off.

use std::collections::BTreeMap;
use std::ffi::{CStr, OsString};
use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_policy::{Access, GateUpstream, Secret, TokenName};

use super::exec::{ConfinedCommand, NetworkAccess};
use super::helper;
use super::programs::Programs;
use super::ssh::agent::Agent;
use super::ssh::config::{Identity, ssh_config};
use super::ssh::key::Key;

/// How one upstream is reached.
#[derive(Debug)]
pub struct Remote {
    url: String,
    protocol: &'static str,
    env: Vec<(&'static str, OsString)>,
    config: Vec<(&'static str, String)>,
    ro: Vec<PathBuf>,
    network: NetworkAccess,
    token: Option<Arc<OwnedFd>>,
    agent: Option<Agent>,
}

/// Directories that a [`Remote`] uses.
#[derive(Debug, Clone, Copy)]
pub struct RemoteDirs<'a> {
    /// The upstream's own, for the files that ssh or TLS need.
    pub files: &'a Path,
    /// Where the helpers are, see [`super::helper`].
    pub helpers: &'a Path,
    /// Where the agent's socket goes.
    pub sockets: &'a Path,
}

impl RemoteDirs<'_> {
    fn write(&self, name: &str, text: &str) -> Result<PathBuf, String> {
        let path = self.files.join(name);
        fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(path)
    }
}

type Tokens = BTreeMap<TokenName, Secret>;

fn token<'a>(tokens: &'a Tokens, name: &TokenName) -> Result<&'a Secret, String> {
    tokens.get(name).ok_or_else(|| format!("token {name} has no value"))
}

impl Remote {
    /// Writes the files that ssh or TLS need.
    ///
    /// # Errors
    /// One line: what is missing, or what does not fit together.
    pub fn new(
        upstream: &GateUpstream,
        tokens: &Tokens,
        dirs: RemoteDirs<'_>,
        programs: &Programs,
    ) -> Result<Self, String> {
        let mut this = Self {
            url: upstream.url.as_str().to_owned(),
            protocol: if upstream.url.is_ssh() { "ssh" } else { "https" },
            env: Vec::new(),
            config: Vec::new(),
            ro: vec![dirs.files.to_owned(), dirs.helpers.to_owned()],
            network: NetworkAccess::Outgoing,
            token: None,
            agent: None,
        };
        if upstream.url.is_ssh() {
            this.set_up_ssh(upstream, tokens, dirs, programs)?;
        } else {
            this.set_up_https(upstream, tokens, dirs)?;
        }
        Ok(this)
    }

    fn set_up_ssh(
        &mut self,
        upstream: &GateUpstream,
        tokens: &Tokens,
        dirs: RemoteDirs<'_>,
        programs: &Programs,
    ) -> Result<(), String> {
        let ssh = programs.ssh.as_ref().ok_or("an ssh upstream needs --ssh")?;
        let hosts = upstream.known_hosts.as_ref().ok_or("an ssh upstream needs known_hosts")?;
        let known_hosts = dirs.write("known_hosts", hosts)?;
        let socket = dirs.sockets.join(format!("agent-{}", upstream.name));
        let public_key;
        let identity = match &upstream.access {
            Access::None => Identity::None,
            Access::IdentityFile(path) => {
                fs::File::open(path)
                    .map_err(|e| format!("identity file {}: {e}", path.display()))?;
                self.ro.push(path.clone());
                Identity::File(path)
            }
            Access::Key(name) => {
                let key =
                    Key::read(token(tokens, name)?).map_err(|e| format!("key {name}: {e}"))?;
                public_key = dirs.write("key.pub", &key.public_line())?;
                let agent =
                    Agent::bind(key, &socket).map_err(|e| format!("{}: {e}", socket.display()))?;
                self.network = NetworkAccess::Agent;
                self.agent = Some(agent);
                Identity::Agent { socket: &socket, public_key: &public_key }
            }
            Access::Token(_) => return Err("a token is for an https upstream".to_owned()),
        };
        let server = (upstream.url.host(), upstream.url.port());
        let address = upstream.connect.as_ref().map(SocketAddr::ip);
        let config = ssh_config(server, address, &known_hosts, identity)?;
        let config = dirs.write("ssh_config", &config)?;
        if let Some(to) = upstream.connect {
            self.env.push((helper::PORT_VAR, to.port().to_string().into()));
        }
        self.env.push(("GIT_SSH", dirs.helpers.join(helper::SSH_NAME).into()));
        self.env.push(("GIT_SSH_VARIANT", "ssh".into()));
        self.env.push((helper::SSH_VAR, ssh.into()));
        self.env.push((helper::SSH_CONFIG_VAR, config.into()));
        Ok(())
    }

    fn set_up_https(
        &mut self,
        upstream: &GateUpstream,
        tokens: &Tokens,
        dirs: RemoteDirs<'_>,
    ) -> Result<(), String> {
        let url = &upstream.url;
        if let Some(pem) = &upstream.ca {
            let ca = dirs.write("ca.pem", pem)?;
            self.config.push(("http.sslCAInfo", ca.display().to_string()));
        }
        if let Some(to) = upstream.connect {
            if to.port() != url.port() {
                return Err(format!("connect: an https upstream keeps its port ({})", url.port()));
            }
            let resolve = format!("{}:{}:{}", url.host(), url.port(), to.ip());
            self.config.push(("http.curloptResolve", resolve));
        }
        match &upstream.access {
            Access::None => Ok(()),
            Access::Token(name) => {
                let value = token(tokens, name)?.expose();
                if value.chars().any(char::is_control) {
                    return Err(format!(
                        "token {name}: it contains a line break or another control character"
                    ));
                }
                let (user, password) = value.split_once(':').unwrap_or(("x-access-token", value));
                let file = memory_file(password).map_err(|e| format!("memory file: {e}"))?;
                self.token = Some(Arc::new(file));
                self.config.push(("credential.username", user.to_owned()));
                self.config.push(("http.proactiveAuth", "basic".to_owned()));
                self.env.push(("GIT_ASKPASS", dirs.helpers.join(helper::ASKPASS_NAME).into()));
                self.env.push((helper::HOST_VAR, url.host().into()));
                Ok(())
            }
            Access::IdentityFile(_) | Access::Key(_) => {
                Err("a key is for an ssh upstream".to_owned())
            }
        }
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
            network: NetworkAccess::Outgoing,
            token: None,
            agent: None,
        }
    }

    /// The upstream's URL, which contains no credential.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Gives `git` what it needs to reach the upstream.
    pub fn reached_by(&self, mut git: ConfinedCommand) -> ConfinedCommand {
        for (name, value) in &self.env {
            git = git.env(name, value);
        }
        for (key, value) in &self.config {
            git = git.config(*key, value.clone());
        }
        for path in &self.ro {
            git = git.ro(path);
        }
        if let Some(fd) = &self.token {
            git = git.env(helper::TOKEN_FD_VAR, fd.as_raw_fd().to_string());
        }
        git.config(format!("protocol.{}.allow", self.protocol), "always")
            .env("GIT_ALLOW_PROTOCOL", self.protocol)
            .network(self.network, self.token.clone())
    }

    /// Whether ssh uses the daemon's agent, and so needs Unix sockets.
    pub fn needs_agent(&self) -> bool {
        self.network == NetworkAccess::Agent
    }

    /// Files of the host that git's programs read on the way.
    pub fn files(&self) -> &[PathBuf] {
        &self.ro
    }

    /// Starts the agent, if there is one. To be called inside the runtime.
    pub fn serve_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.serve();
        }
    }
}

fn memory_file(text: &str) -> io::Result<OwnedFd> {
    const NAME: &CStr = c"gate";
    // SAFETY: a static C string and a flag; the result is checked before it is owned.
    let fd = unsafe { libc::memfd_create(NAME.as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor was just made, and nothing else owns it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut file = fs::File::from(fd);
    file.write_all(text.as_bytes())?;
    Ok(file.into())
}
