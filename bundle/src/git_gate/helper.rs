//! The programs that git starts on the way to an upstream: ssh, and the program that knows the
//! password. Both are this program under another name.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;

use zeroize::Zeroizing;

/// The name under which this program is `GIT_SSH`.
pub const SSH_NAME: &str = "gate-ssh";
/// The name under which this program is `GIT_ASKPASS`.
pub const ASKPASS_NAME: &str = "gate-askpass";

/// Environment variable with the path of OpenSSH's client.
pub const SSH_VAR: &str = "BOTTLE_GATE_SSH";
/// Environment variable with the path of its configuration file.
pub const SSH_CONFIG_VAR: &str = "BOTTLE_GATE_SSH_CONFIG";
/// Environment variable with a port to connect to instead of the URL's.
pub const PORT_VAR: &str = "BOTTLE_GATE_PORT";
/// Environment variable with the host that the password is for.
pub const HOST_VAR: &str = "BOTTLE_GATE_HOST";
/// Environment variable with the number of the open file that contains the password.
pub const TOKEN_FD_VAR: &str = "BOTTLE_GATE_TOKEN_FD";

/// Largest password, in bytes.
const MAX_PASSWORD_BYTES: usize = 64 << 10;

/// Runs the helper that `args` names, if it names one.
#[must_use]
pub fn run(args: &[OsString]) -> Option<ExitCode> {
    let name = Path::new(args.first()?).file_name()?.to_str()?;
    let done = match name {
        SSH_NAME => exec_ssh(&args[1..]),
        ASKPASS_NAME => print_password(args.get(1)),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{name}: {e}");
            ExitCode::FAILURE
        }
    })
}

/// Replaces this process by ssh with git-gate's configuration file. It returns only on failure.
fn exec_ssh(args: &[OsString]) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let var = |name: &str| {
        std::env::var_os(name).ok_or_else(|| io::Error::other(format!("{name} is not set")))
    };
    let mut command = std::process::Command::new(var(SSH_VAR)?);
    command.arg("-F").arg(var(SSH_CONFIG_VAR)?);
    let mut args = args.iter();
    match std::env::var_os(PORT_VAR) {
        None => drop(command.args(args)),
        Some(port) => {
            // git passes `-p PORT` if the URL has a port; ssh uses the first `-p`.
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
    for name in [SSH_VAR, SSH_CONFIG_VAR, PORT_VAR] {
        command.env_remove(name);
    }
    Err(command.exec())
}

/// Prints the password, if `prompt` asks for the upstream's.
fn print_password(prompt: Option<&OsString>) -> io::Result<()> {
    let prompt = prompt.and_then(|p| p.to_str()).unwrap_or_default();
    let host = std::env::var(HOST_VAR).map_err(io::Error::other)?;
    let asked = prompt
        .strip_prefix("Password for 'https://")
        .and_then(|p| p.rsplit('@').next())
        .unwrap_or_default();
    if asked.split([':', '/', '\'']).next() != Some(host.as_str()) {
        return Err(io::Error::other("this is not a prompt for the upstream's password"));
    }
    let fd = std::env::var(TOKEN_FD_VAR)
        .ok()
        .and_then(|n| n.parse::<i32>().ok())
        .filter(|n| *n > 2)
        .ok_or_else(|| io::Error::other("there is no token"))?;
    // SAFETY: this process was given the open file with that number, and opened none itself; it
    // ends with it.
    let file = fs::File::from(unsafe { OwnedFd::from_raw_fd(fd) });
    let mut password = Zeroizing::new(vec![0; MAX_PASSWORD_BYTES]);
    // The position of the file is shared with other helpers, so it is not used.
    let n = file.read_at(&mut password, 0)?;
    let mut out = io::stdout().lock();
    out.write_all(&password[..n])?;
    out.write_all(b"\n")?;
    out.flush()
}
