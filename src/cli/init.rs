//! `bottle init`: writes a manifest for the project in this directory.

use std::io::{IsTerminal, Write};
use std::path::Path;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

use super::output::ask_line;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::host::stderr::note;
use crate::manifest::{self, Provider, Slug};
use crate::manifest_files::FILE_NAME;

/// Write bottle.toml and an agent's file for the project in this directory.
///
/// Asks three questions on a terminal. With --yes, or without a terminal, uses the flags and their
/// defaults.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Provider of the agent.
    #[arg(long, value_parser = providers())]
    provider: Option<Provider>,
    /// Name of the agent.
    #[arg(long)]
    name: Option<String>,
    /// Let the agent read (GET, HEAD) from this host, such as docs.rs.
    #[arg(long = "allow", value_name = "HOST")]
    hosts: Vec<String>,
    /// Ask no questions.
    #[arg(short, long)]
    yes: bool,
}

/// The agents of vendors, for `--provider`.
fn providers() -> impl clap::builder::TypedValueParser<Value = Provider> {
    let words = vendors().map(|p| PossibleValue::new(p.as_str()).help(p.title));
    PossibleValuesParser::new(words).try_map(|word| word.parse::<Provider>())
}

/// Agents whose credential a manifest can configure.
fn vendors() -> impl Iterator<Item = Provider> {
    Provider::all().filter(|p| p.has_settings)
}

/// Asks which agent it is; the first one where there is no clear answer.
fn ask_provider() -> Result<Provider> {
    let titles: Vec<_> = vendors().map(|p| p.title).collect();
    let first = vendors().next().map_or("", Provider::as_str);
    let answer = ask(&format!("{}? [{first}]", titles.join(" or ")), first)?;
    let meant = vendors().find(|p| answer.starts_with(p.as_str().get(..2).unwrap_or_default()));
    meant.map_or_else(default_provider, Ok)
}

fn default_provider() -> Result<Provider> {
    vendors().next().ok_or_else(|| Error::new(ErrorKind::Internal, "no provider has settings"))
}

const PROMPT: &str = "You work on this project in a bottle: a machine of your own that \
    reaches only what its manifest names.\n\
    Read the README first. Run the tests before you call something done.\n";
/// What is added to .gitignore.
const IGNORED_FILE: &str = ".env";

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let here = super::plan_args::here()?;
        if here.join(FILE_NAME).symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Config, format!("{FILE_NAME} exists already"))
                .hint("bottle plan NAME   # shows what it amounts to"));
        }
        let asking = !self.yes && std::io::stdin().is_terminal();
        let provider = match self.provider {
            Some(provider) => provider,
            None if asking => ask_provider()?,
            None => default_provider()?,
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None if asking => ask("The agent's name? [dev]", "dev")?,
            None => "dev".to_owned(),
        };
        let name: Slug = name.parse().map_err(|e| Error::new(ErrorKind::Usage, format!("{e}")))?;
        let hosts = if self.hosts.is_empty() && asking {
            let answer = ask(
                "Which hosts may it read from, besides its model's? (such as docs.rs; none)",
                "",
            )?;
            answer.split([',', ' ']).filter(|h| !h.is_empty()).map(str::to_owned).collect()
        } else {
            self.hosts.clone()
        };
        let agent = format!("agents/{name}.md");
        let files = [
            (FILE_NAME.to_owned(), bottle_toml(provider, &hosts)?),
            (agent.clone(), agent_file(provider)),
        ];
        check(&files, &agent)?;
        if here.join(&agent).symlink_metadata().is_ok() {
            return Err(Error::new(ErrorKind::Config, format!("{agent} exists already"))
                .hint("--name with another name"));
        }
        std::fs::create_dir_all(here.join("agents"))
            .context(ErrorKind::Io, || "cannot make agents/".into())?;
        for (path, text) in &files {
            new_file(&here.join(path), text)?;
            note(format_args!("bottle: wrote {path}"));
        }
        if ignore(&here)? {
            note(format_args!(
                "bottle: {IGNORED_FILE} is in .gitignore now, so it is copied into no bottle"
            ));
        }
        note(format_args!("bottle: next: bottle plan {name}; bottle launch {name}"));
        Ok(0)
    }
}

/// Asks a question to which an empty line means `default`.
fn ask(question: &str, default: &str) -> Result<String> {
    let answer = ask_line(question)?;
    Ok(if answer.is_empty() { default.to_owned() } else { answer })
}

fn bottle_toml(provider: Provider, hosts: &[String]) -> Result<String> {
    let mut text = format!(
        "# What agents of this project may reach: docs/manifest.md of bot-bottle tells every key.\n\
         version = 1\n\n[bottles.dev]\n\
         # A copy of this directory, without what .gitignore names; `bottle pull` brings work \
         back.\n\
         workspace = {{ mode = \"copy\" }}\nresources = {{ cpus = 2, memory = \"2GiB\" }}\n\n\
         [bottles.dev.provider.{0}]\n\
         # The credential stays on this host. Without a line here it is the usual variable's;\n\
         # this uses your own login of {0} instead:\n# forward_host_credentials = true\n",
        provider.as_str()
    );
    for host in hosts {
        let known: bottle_policy::HostPattern = host.parse().map_err(|e| {
            Error::new(ErrorKind::Usage, format!("{e}"))
                .hint("a name such as docs.rs, without https:// or a path")
        })?;
        text += &format!(
            "\n[[bottles.dev.egress]]\nhost = \"{known}\"\nmethods = [\"GET\", \"HEAD\"]\n"
        );
    }
    Ok(text)
}

fn agent_file(provider: Provider) -> String {
    format!("+++\nbottle = \"dev\"\nprovider = \"{}\"\n+++\n\n{PROMPT}", provider.as_str())
}

/// Reads what is about to be written as a launch would read it.
fn check(files: &[(String, String)], agent: &str) -> Result<()> {
    let all = files
        .iter()
        .map(|(path, text)| (path.clone(), text.clone().into_bytes()))
        .filter(|(path, _)| path == agent)
        .collect();
    let text = files.iter().find(|(path, _)| path == FILE_NAME).map_or("", |(_, text)| text);
    manifest::parse(text.as_bytes(), Path::new(FILE_NAME), &manifest::MemFiles { files: all })
        .map(drop)
        .map_err(|e| {
            Error::new(ErrorKind::Internal, format!("what would be written is wrong:\n{e}"))
        })
}

fn new_file(path: &Path, text: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .context(ErrorKind::Io, what)?;
    file.write_all(text.as_bytes()).context(ErrorKind::Io, what)
}

/// Adds [`IGNORED_FILE`] to .gitignore; true when it was not there.
fn ignore(dir: &Path) -> Result<bool> {
    let path = dir.join(".gitignore");
    let what = || format!("cannot write {}", path.display());
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).context(ErrorKind::Io, what),
    };
    if old.lines().any(|line| line.trim() == IGNORED_FILE) {
        return Ok(false);
    }
    let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
    std::fs::write(&path, format!("{old}{gap}{IGNORED_FILE}\n")).context(ErrorKind::Io, what)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_manifest() {
        for provider in vendors() {
            let hosts = ["docs.rs".to_owned(), "*.example.com".to_owned()];
            let files = [
                (FILE_NAME.to_owned(), bottle_toml(provider, &hosts).unwrap()),
                ("agents/dev.md".to_owned(), agent_file(provider)),
            ];
            check(&files, "agents/dev.md").unwrap();
        }
        assert!(bottle_toml(default_provider().unwrap(), &["https://x/y".to_owned()]).is_err());
    }

    #[test]
    fn gitignore_gets_its_line_once() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".gitignore"), "target").unwrap();
        assert!(ignore(dir.path()).unwrap() && !ignore(dir.path()).unwrap());
        assert_eq!(
            std::fs::read_to_string(dir.path().join(".gitignore")).unwrap(),
            "target\n.env\n"
        );
    }
}
