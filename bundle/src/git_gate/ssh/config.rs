//! The configuration file of ssh for one upstream, ssh_config(5).

use std::path::Path;

/// The options that are the same for every upstream.
const OPTIONS: &[&str] = &[
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

/// The key that ssh authenticates with.
#[derive(Debug, Clone, Copy)]
pub enum Identity<'a> {
    /// None.
    None,
    /// A private key file.
    File(&'a Path),
    /// The key with the public key file `public_key`, held by the agent on `socket`.
    Agent {
        /// The agent's socket.
        socket: &'a Path,
        /// The public key file.
        public_key: &'a Path,
    },
}

/// The file's text, for the server `host`:`port`. If `address` is set, ssh connects there instead
/// of looking `host` up. `known_hosts` has the only accepted host keys.
///
/// # Errors
/// A path that cannot be written in ssh's configuration.
pub fn ssh_config(
    (host, port): (&str, u16),
    address: Option<std::net::IpAddr>,
    known_hosts: &Path,
    identity: Identity<'_>,
) -> Result<String, String> {
    let alias = if port == 22 { host.to_owned() } else { format!("[{host}]:{port}") };
    let mut lines = vec![
        format!("UserKnownHostsFile {}", quoted(known_hosts)?),
        format!("HostKeyAlias {alias}"),
    ];
    lines.extend(address.map(|ip| format!("HostName {ip}")));
    let (agent, file) = match identity {
        Identity::None => ("none".to_owned(), "none".to_owned()),
        Identity::File(path) => ("none".to_owned(), quoted(path)?),
        Identity::Agent { socket, public_key } => (quoted(socket)?, quoted(public_key)?),
    };
    lines.extend([format!("IdentityAgent {agent}"), format!("IdentityFile {file}")]);
    lines.extend(OPTIONS.iter().map(|line| (*line).to_owned()));
    Ok(lines.join("\n") + "\n")
}

/// `path` in quotes, with `%` escaped.
fn quoted(path: &Path) -> Result<String, String> {
    let text =
        path.to_str().filter(|t| !t.contains(['"', '\\']) && !t.chars().any(char::is_control));
    let text = text
        .ok_or_else(|| format!("{}: ssh's configuration cannot name this path", path.display()))?;
    Ok(format!("\"{}\"", text.replace('%', "%%")))
}
