//! Token values, resolved on the host and held in memory only.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use bottle_policy::{Secret, TokenName};
use zeroize::{Zeroize, Zeroizing};

use super::digest::Digest;
use super::login;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::fs::read_small_text;
use crate::host::process::{Program, Sink};
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
            value(name, source, RefreshContext { bundle, rejected: None }, Sink::Inherit).await?,
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
    stderr: Sink,
) -> Result<Secret> {
    value_in(Path::new("."), name, source, how, stderr).await
}

/// The same, with `dir` as working directory of a command.
pub(crate) async fn value_in(
    dir: &Path,
    name: &TokenName,
    source: &TokenSource,
    how: RefreshContext<'_>,
    stderr: Sink,
) -> Result<Secret> {
    let value = match source {
        TokenSource::Env(env) => std::env::var(env.to_string()).map_err(|_| {
            missing(name, &format!("the environment variable {env} is not set"))
                .hint(format!("export {env}=…"))
        })?,
        TokenSource::File { path, .. } => {
            let text = read_small_text(path, MAX_TOKEN_BYTES);
            std::mem::take(&mut *text.map_err(|e| missing(name, &e.chain()))?)
        }
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

/// Runs the operator's own command with the operator's environment.
async fn run(dir: &Path, argv: &[String], stderr: Sink) -> Result<String, String> {
    let (program, args) = argv.split_first().ok_or("its command is empty")?;
    let command = Program::new("a token's command", program)
        .args(args)
        .dir(dir)
        .inherit_env()
        .in_foreground() // it may ask the operator at the terminal
        .stderr(stderr);
    let output = command
        .output_async(COMMAND_DEADLINE)
        .await
        .map_err(|e| format!("{program}: {e}"))?
        .ok_or_else(|| format!("{program} did not finish in {} s", COMMAND_DEADLINE.as_secs()))?;
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
