//! Whether an agent's credential is there, and what the operator can do when it is not.

use bottle_policy::TokenName;

use super::login_file::usable;
use crate::error::{Error, ErrorKind, Result};
use crate::plan::LaunchPlan;
use crate::provider::TokenSource;
use crate::values::neutral;

/// Refuses a plan whose agent has no credential on this host, before the operator is asked to agree
/// to it.
///
/// # Errors
/// `Config` with the command that helps.
pub fn require(plan: &LaunchPlan, is_set: &dyn Fn(&str) -> bool) -> Result<()> {
    if plan.settings.is_none() {
        return Ok(());
    }
    let own = format!("{}:api", plan.provider);
    let used = plan
        .policy
        .routes
        .iter()
        .filter(|r| r.name == own)
        .filter_map(|r| r.inject.as_ref())
        .map(|i| &i.token);
    for (name, source) in used.filter_map(|name| Some((name, plan.tokens.get(name)?))) {
        match source {
            TokenSource::Env(variable) if !is_set(variable.as_str()) => {
                let hint = format!(
                    "export {variable}=…   # or use this host's own login: bottle launch {} --login",
                    plan.agent
                );
                return Err(Error::new(
                    ErrorKind::Config,
                    format!("{} has no credential: {variable} is not set", plan.provider),
                )
                .hint(hint));
            }
            TokenSource::Login { provider, file, .. } => {
                let why = |why| {
                    Error::new(ErrorKind::Config, format!("{provider} has no credential: {why}"))
                        .hint(provider.login_command())
                };
                usable(*provider, file).map_err(why)?;
            }
            TokenSource::File { path, .. } if !path.is_file() => {
                return Err(Error::new(
                    ErrorKind::Config,
                    format!(
                        "{} has no credential: {name} is not in {}",
                        plan.provider,
                        path.display()
                    ),
                )
                .hint(format!("ls -l {}", path.display())));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A line for the operator about a token that an upstream rejects: what to do about it.
#[must_use]
pub fn hint_for_rejected_token(plan: &LaunchPlan, name: &TokenName) -> String {
    let what = match plan.tokens.get(name) {
        Some(TokenSource::Env(variable)) if plan.settings.is_some() => {
            format!(
                "export {variable}=… with one that is good, or use this host's own login: bottle launch {} --login",
                plan.agent
            )
        }
        Some(TokenSource::Env(variable)) => {
            format!("export {variable}=… with one that is good, and launch again")
        }
        Some(TokenSource::File { path, .. }) => {
            format!("put one that is good into {}", path.display())
        }
        Some(TokenSource::Command { argv, .. }) => {
            format!("its command gives no other: {}", argv.first().map_or("", String::as_str))
        }
        Some(TokenSource::Login { provider, .. }) => provider.login_command().to_owned(),
        Some(TokenSource::Generated) | None => format!("bottle logs {}", plan.slug),
    };
    format!("bottle: an upstream does not take token {name} (401 Unauthorized); {}", neutral(&what))
}
