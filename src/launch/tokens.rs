//! Token values, resolved on the host and held in memory only.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use bottle_policy::{Secret, TokenName};
use zeroize::Zeroize;

use crate::error::{Context, Error, Kind, Result};
use crate::manifest::TokenSource;
use crate::plan::LaunchPlan;

/// Longest time that a token's command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// Longest token, in bytes.
const LIMIT: usize = 64 * 1024;

/// Reads every token that the plan names.
pub(super) async fn resolve(plan: &LaunchPlan) -> Result<BTreeMap<TokenName, Secret>> {
    let mut values = BTreeMap::new();
    for (name, source) in &plan.tokens {
        let value = match source {
            TokenSource::Env(env) => std::env::var(env.to_string())
                .map_err(|_| missing(name, &format!("the environment variable {env} is not set")).hint(format!("export {env}=…")))?,
            TokenSource::File(file) => read(file).map_err(|e| missing(name, &e))?,
            TokenSource::Command(command) => run(command).await.map_err(|e| missing(name, &e))?,
            TokenSource::Generated => generated()?,
        };
        values.insert(name.clone(), secret(name, value)?);
    }
    Ok(values)
}

fn missing(name: &TokenName, why: &str) -> Error {
    Error::new(Kind::Config, format!("token {name} cannot be resolved: {why}"))
}

/// Strips the line end; what could not be a header value is refused here, where the operator can mend it.
fn secret(name: &TokenName, mut value: String) -> Result<Secret> {
    let trimmed = Secret::new(value.trim_end_matches(['\n', '\r']).to_owned());
    value.zeroize();
    let text = trimmed.expose();
    if text.is_empty() || text.len() > LIMIT || !text.bytes().all(|b| (0x21..0x7f).contains(&b) || b == b' ') {
        return Err(missing(name, "its value is empty, too long, or has characters that no header can carry"));
    }
    Ok(trimmed)
}

fn read(path: &Path) -> Result<String, String> {
    let size = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?.len();
    if size > LIMIT as u64 {
        return Err(format!("{} is larger than {LIMIT} bytes", path.display()));
    }
    std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))
}

/// Runs the operator's own command with the operator's environment; its standard error stays the operator's.
async fn run(argv: &[String]) -> Result<String, String> {
    let (program, args) = argv.split_first().ok_or("its command is empty")?;
    let running =
        tokio::process::Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output();
    let output = tokio::time::timeout(COMMAND_DEADLINE, running)
        .await
        .map_err(|_| format!("{program} did not finish in {} s", COMMAND_DEADLINE.as_secs()))?
        .map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program} failed ({})", output.status));
    }
    String::from_utf8(output.stdout).map_err(|_| format!("{program} printed what is not text"))
}

/// 32 random bytes as hex: the demo's token.
fn generated() -> Result<String> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).context(Kind::Internal, || "no randomness".into())?;
    Ok(format!("demo-{}", hex::encode(bytes)))
}
