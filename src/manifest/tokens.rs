//! Where tokens come from, and the names under which the bundle knows them.

use std::collections::BTreeMap;

use bottle_policy::TokenName;

use super::files::{Files, host_path};
use super::walk::Val;
use super::{EnvName, Interval, TokenSource};

/// Shortest and longest interval of `refresh`.
const REFRESH: (Interval, Interval) = (Interval::seconds(10), Interval::seconds(7 * 24 * 3600));

/// Reads `{ env = "…" }`, `{ file = "…", refresh = "…" }` or `{ command = […], refresh = "…" }`.
pub(super) fn source(value: &Val<'_>, files: &dyn Files) -> Option<TokenSource> {
    const HINT: &str = "token = { env = \"GITHUB_TOKEN\" }, { file = \"~/.token\" } or { command = [\"gh\", \"auth\", \"token\"] }";
    if !value.is_table() {
        return value.none(
            format!("`{}` must say where the token is, never hold it", value.path),
            Some(HINT.to_owned()),
        );
    }
    let table = value.table()?;
    let (env, file, command) = (table.opt("env"), table.opt("file"), table.opt("command"));
    let refresh = table.opt("refresh");
    table.finish();
    let interval = refresh.as_ref().map_or(Some(None), |v| interval(v).map(Some));
    match (env, file, command) {
        (Some(v), None, None) => match refresh {
            Some(refresh) => refresh.none(
                format!(
                    "`{}` has no use with env: a variable stays what it was at launch",
                    refresh.path
                ),
                Some("use file or command for a token that changes".to_owned()),
            ),
            None => v.parse::<EnvName>().map(TokenSource::Env),
        },
        (None, Some(v), None) => match host_path(files, v.line(4096)?) {
            Ok(path) => Some(TokenSource::File { path, refresh: interval? }),
            Err(why) => v.none(format!("`{}` {why}", v.path), None),
        },
        (None, None, Some(v)) => {
            v.argv().and_then(|argv| Some(TokenSource::Command { argv, refresh: interval? }))
        }
        _ => value.none(
            format!("`{}` needs exactly one of env, file and command", value.path),
            Some(HINT.to_owned()),
        ),
    }
}

fn interval(v: &Val<'_>) -> Option<Interval> {
    let (least, most) = REFRESH;
    match v.parse::<Interval>()? {
        interval if (least..=most).contains(&interval) => Some(interval),
        interval => {
            v.none(format!("`{}` must be between {least} and {most}, not {interval}", v.path), None)
        }
    }
}

/// The token names of one bottle: one name a source, one source a name.
#[derive(Debug, Default)]
pub(super) struct TokenNames(BTreeMap<TokenName, TokenSource>);

impl TokenNames {
    /// Reserves the names of all variables, so that no generated name equals one.
    pub fn reserve<'s>(&mut self, sources: impl IntoIterator<Item = &'s TokenSource>) {
        for source in sources {
            if let TokenSource::Env(env) = source {
                if let Ok(name) = env.as_str().parse() {
                    self.0.insert(name, source.clone());
                }
            }
        }
    }

    /// The name for `source`: the variable's own, or `<BASE>_TOKEN`.
    ///
    /// # Errors
    /// One line: the variable's name is too long to be a token's.
    pub fn name(&mut self, source: &TokenSource, base: &str) -> Result<TokenName, String> {
        if let Some((name, _)) = self.0.iter().find(|(_, s)| *s == source) {
            return Ok(name.clone());
        }
        if let TokenSource::Env(env) = source {
            return Err(format!("the variable's name {env} is longer than a token's may be (64)"));
        }
        let clean: String = base
            .chars()
            .take(40)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' })
            .collect();
        let first = if clean.starts_with(|c: char| c.is_ascii_digit()) { "T_" } else { "" };
        let plain = std::iter::once(format!("{first}{clean}_TOKEN"));
        let candidates = plain.chain((2..=1000).map(|n| format!("{first}{clean}_TOKEN_{n}")));
        for name in candidates.filter_map(|c| c.parse::<TokenName>().ok()) {
            if !self.0.contains_key(&name) {
                self.0.insert(name.clone(), source.clone());
                return Ok(name);
            }
        }
        Err("too many tokens".to_owned())
    }
}
