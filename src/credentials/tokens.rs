//! Token values, resolved on the host and held in memory only.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bottle_policy::{Secret, TokenName};
use zeroize::{Zeroize, Zeroizing};

use super::digest::Digest;
use super::login;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::process::die_with_parent;
use crate::manifest::TokenSource;
use crate::plan::LaunchPlan;

/// Longest time that a token's command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest token, bytes.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Reads every token that the plan names.
pub(crate) async fn resolve(
    plan: &LaunchPlan,
    bundle: &Path,
) -> Result<BTreeMap<TokenName, Secret>> {
    let mut values = BTreeMap::new();
    for (name, source) in &plan.tokens {
        // Before the agent runs, a command's standard error goes to the operator.
        values.insert(
            name.clone(),
            value(name, source, RefreshContext { bundle, rejected: None }, Stdio::inherit())
                .await?,
        );
    }
    Ok(values)
}

/// What resolving a login needs.
#[derive(Clone, Copy)]
pub(crate) struct RefreshContext<'a> {
    /// `bottle-bundle`, which renews it.
    pub bundle: &'a Path,
    /// The value that an upstream rejected.
    pub rejected: Option<&'a Digest>,
}

/// Reads one token. A command's standard error goes to `stderr`.
pub(crate) async fn value(
    name: &TokenName,
    source: &TokenSource,
    how: RefreshContext<'_>,
    stderr: Stdio,
) -> Result<Secret> {
    value_in(Path::new("."), name, source, how, stderr).await
}

/// The same, with `dir` as working directory of a command.
pub(crate) async fn value_in(
    dir: &Path,
    name: &TokenName,
    source: &TokenSource,
    how: RefreshContext<'_>,
    stderr: Stdio,
) -> Result<Secret> {
    let value = match source {
        TokenSource::Env(env) => std::env::var(env.to_string()).map_err(|_| {
            missing(name, &format!("the environment variable {env} is not set"))
                .hint(format!("export {env}=…"))
        })?,
        TokenSource::File { path, .. } => read(path).map_err(|e| missing(name, &e))?,
        TokenSource::Command { argv, .. } => {
            run(dir, argv, stderr).await.map_err(|e| missing(name, &e))?
        }
        TokenSource::Login { .. } => {
            let token = login::token(source, how.bundle, how.rejected)
                .await
                .map_err(|e| missing(name, &e))?;
            token.as_str().to_owned()
        }
        TokenSource::Generated => generated()?,
    };
    secret(name, value)
}

fn missing(name: &TokenName, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("token {name} cannot be resolved: {why}"))
}

/// Strips the line end and refuses a value that no header can hold, while the operator can correct
/// it.
fn secret(name: &TokenName, mut value: String) -> Result<Secret> {
    let trimmed = Secret::new(value.trim_end_matches(['\n', '\r']).to_owned());
    value.zeroize();
    let text = trimmed.expose();
    if text.is_empty()
        || text.len() > MAX_TOKEN_BYTES
        || !text.bytes().all(|b| (0x21..0x7f).contains(&b) || b == b' ')
    {
        return Err(missing(
            name,
            "its value is empty, too long, or has characters that no header can carry",
        ));
    }
    Ok(trimmed)
}

fn read(path: &Path) -> Result<String, String> {
    let stderr = |e: std::io::Error| format!("{}: {e}", path.display());
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(path)
        .map_err(stderr)?;
    if !file.metadata().map_err(stderr)?.is_file() {
        return Err(format!("{} is not a regular file", path.display()));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_TOKEN_BYTES + 1));
    file.take(MAX_TOKEN_BYTES as u64 + 1).read_to_string(&mut text).map_err(stderr)?;
    if text.len() > MAX_TOKEN_BYTES {
        return Err(format!("{} is larger than {MAX_TOKEN_BYTES} bytes", path.display()));
    }
    Ok(std::mem::take(&mut *text))
}

/// Runs the operator's own command with the operator's environment.
async fn run(dir: &Path, argv: &[String], stderr: Stdio) -> Result<String, String> {
    let (program, args) = argv.split_first().ok_or("its command is empty")?;
    let mut command = tokio::process::Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null()).stderr(stderr).kill_on_drop(true);
    die_with_parent(&mut command);
    let running = command.output();
    let output = tokio::time::timeout(COMMAND_DEADLINE, running)
        .await
        .map_err(|_| format!("{program} did not finish in {} s", COMMAND_DEADLINE.as_secs()))?
        .map_err(|e| format!("{program}: {e}"))?;
    let printed = Zeroizing::new(output.stdout);
    if !output.status.success() {
        return Err(format!("{program} failed ({})", output.status));
    }
    std::str::from_utf8(&printed)
        .map(str::to_owned)
        .map_err(|_| format!("{program} printed what is not text"))
}

/// 32 random bytes as hex: the demo's token.
fn generated() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context(ErrorKind::Internal, || "no randomness".into())?;
    Ok(format!("demo-{}", hex::encode(bytes)))
}
