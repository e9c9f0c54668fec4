//! `bottle init`: a manifest for the project one stands in.

use std::io::{BufRead, IsTerminal, Write};
use std::path::Path;

use crate::error::{Context, Error, Kind, Result};
use crate::host::stderr::{prompt, say};
use crate::manifest::{self, FILE_NAME, Slug};

/// Write bottle.toml and an agent's file for the project in this directory.
///
/// Asks three questions on a terminal; with --yes, or where there is none, the flags and their
/// defaults answer.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The agent's provider.
    #[arg(long, value_enum)]
    provider: Option<Choice>,
    /// The agent's name.
    #[arg(long)]
    name: Option<String>,
    /// Hosts that the agent may read from (GET, HEAD), such as docs.rs.
    #[arg(long = "allow", value_name = "HOST")]
    hosts: Vec<String>,
    /// Ask nothing.
    #[arg(short, long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Choice {
    /// Claude Code.
    Claude,
    /// Codex.
    Codex,
}

impl Choice {
    fn word(self) -> &'static str {
        match self {
            Self::Claude => "claude",
            Self::Codex => "codex",
        }
    }
}

const PROMPT: &str = "You work on this project in a bottle: a machine of your own that reaches only what its manifest names.\n\
    Read the README first. Run the tests before you call something done.\n";
/// What git is told to leave alone.
const IGNORED: &str = ".env";

impl Args {
    pub(super) fn run(&self) -> Result<u8> {
        let here = super::plan_args::here()?;
        if here.join(FILE_NAME).symlink_metadata().is_ok() {
            return Err(Error::new(Kind::Config, format!("there is a {FILE_NAME} already"))
                .hint("bottle plan NAME   # shows what it amounts to"));
        }
        let asking = !self.yes && std::io::stdin().is_terminal();
        let provider = match self.provider {
            Some(choice) => choice,
            None if asking
                && ask("Claude Code or Codex? [claude]", "claude")?.starts_with("co") =>
            {
                Choice::Codex
            }
            None => Choice::Claude,
        };
        let name = match &self.name {
            Some(name) => name.clone(),
            None if asking => ask("The agent's name? [dev]", "dev")?,
            None => "dev".to_owned(),
        };
        let name: Slug = name.parse().map_err(|e| Error::new(Kind::Usage, format!("{e}")))?;
        let hosts = if self.hosts.is_empty() && asking {
            let said = ask(
                "Which hosts may it read from, besides its model's? (such as docs.rs; none)",
                "",
            )?;
            said.split([',', ' ']).filter(|h| !h.is_empty()).map(str::to_owned).collect()
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
            return Err(Error::new(Kind::Config, format!("there is {agent} already"))
                .hint("--name with another name"));
        }
        std::fs::create_dir_all(here.join("agents"))
            .context(Kind::Config, || "cannot make agents/".into())?;
        for (path, text) in &files {
            new_file(&here.join(path), text)?;
            say(format_args!("bottle: wrote {path}"));
        }
        if ignore(&here)? {
            say(format_args!("bottle: {IGNORED} is in .gitignore now, and so in no bottle"));
        }
        say(format_args!("bottle: next: bottle plan {name}; bottle launch {name}"));
        Ok(0)
    }
}

fn ask(question: &str, default: &str) -> Result<String> {
    prompt(format_args!("{question} "));
    let mut answer = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut answer)
        .context(Kind::Internal, || "cannot read the answer".into())?;
    let answer = answer.trim();
    Ok(if answer.is_empty() { default.to_owned() } else { answer.to_owned() })
}

fn bottle_toml(provider: Choice, hosts: &[String]) -> Result<String> {
    let mut text = format!(
        "# What agents of this project may reach: docs/manifest.md of bot-bottle tells every key.\nversion = 1\n\n[bottles.dev]\n\
         # A copy of this directory, without what .gitignore names; `bottle pull` brings work back.\n\
         workspace = {{ mode = \"copy\" }}\nresources = {{ cpus = 2, memory = \"2GiB\" }}\n\n\
         [bottles.dev.provider.{0}]\n# The credential stays on this host. Without a line here it is the usual variable's;\n\
         # this uses your own login of {0} instead:\n# forward_host_credentials = true\n",
        provider.word()
    );
    for host in hosts {
        let known: bottle_policy::HostPattern = host.parse().map_err(|e| {
            Error::new(Kind::Usage, format!("{e}"))
                .hint("a name such as docs.rs, without https:// or a path")
        })?;
        text += &format!(
            "\n[[bottles.dev.egress]]\nhost = \"{known}\"\nmethods = [\"GET\", \"HEAD\"]\n"
        );
    }
    Ok(text)
}

fn agent_file(provider: Choice) -> String {
    format!("+++\nbottle = \"dev\"\nprovider = \"{}\"\n+++\n\n{PROMPT}", provider.word())
}

/// What is about to be written is read as a launch would read it.
fn check(files: &[(String, String)], agent: &str) -> Result<()> {
    let all = files
        .iter()
        .map(|(path, text)| (path.clone(), text.clone().into_bytes()))
        .filter(|(path, _)| path == agent)
        .collect();
    let text = files.iter().find(|(path, _)| path == FILE_NAME).map_or("", |(_, text)| text);
    manifest::parse(text.as_bytes(), Path::new(FILE_NAME), &manifest::MemFiles { files: all })
        .map(drop)
        .map_err(|e| Error::new(Kind::Internal, format!("what would be written is wrong:\n{e}")))
}

fn new_file(path: &Path, text: &str) -> Result<()> {
    let what = || format!("cannot write {}", path.display());
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(path)
        .context(Kind::Config, what)?;
    file.write_all(text.as_bytes()).context(Kind::Config, what)
}

/// Adds what no bottle should get to .gitignore; whether it was not there.
fn ignore(dir: &Path) -> Result<bool> {
    let path = dir.join(".gitignore");
    let what = || format!("cannot write {}", path.display());
    let old = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(e) => return Err(e).context(Kind::Config, what),
    };
    if old.lines().any(|line| line.trim() == IGNORED) {
        return Ok(false);
    }
    let gap = if old.is_empty() || old.ends_with('\n') { "" } else { "\n" };
    std::fs::write(&path, format!("{old}{gap}{IGNORED}\n")).context(Kind::Config, what)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_a_manifest() {
        for provider in [Choice::Claude, Choice::Codex] {
            let hosts = ["docs.rs".to_owned(), "*.example.com".to_owned()];
            let files = [
                (FILE_NAME.to_owned(), bottle_toml(provider, &hosts).unwrap()),
                ("agents/dev.md".to_owned(), agent_file(provider)),
            ];
            check(&files, "agents/dev.md").unwrap();
        }
        assert!(bottle_toml(Choice::Claude, &["https://x/y".to_owned()]).is_err());
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
