//! `bottle.toml` and agent files → [`Manifest`]. Parse, don't validate: what leaves here needs no
//! further check.
//!
//! [`parse`] works on any [`Files`]; [`crate::manifest_files`] finds and reads the real ones. All
//! faults of all files are reported at once, each with file, line and column. docs/manifest.md
//! describes the manifest for users.

mod agent;
mod bottle;
mod builtin;
mod egress;
mod error;
mod files;
mod git;
mod limits;
mod tokens;
mod types;
mod url;
mod walk;

use std::path::Path;

pub use error::{ManifestError, ManifestErrors};
pub use files::{Files, MAX_FILE, MemFiles, host_path, inside};
pub use types::*;

pub use crate::provider::{Provider, ProviderSettings, TokenSource};
pub use crate::values::{
    ByteSize, EnvName, Interval, Location, NameError, Resources, Slug, neutral,
};
pub(crate) use crate::values::{nearest, quote};

use toml_edit::Document;
use walk::{Faults, Source, Tab};

/// Most agents of a manifest, and most bottles.
const MAX_NAMES: usize = 256;

/// Parses the bytes of `file` (a name for messages) and the agent files that `files` lists, over
/// the built-ins.
///
/// # Errors
/// Everything that is wrong, each with its place.
pub fn parse(bytes: &[u8], file: &Path, files: &dyn Files) -> Result<Manifest, ManifestErrors> {
    let faults = Faults::default();
    let mut manifest = Manifest::built_in();
    manifest.dir = Some(files.dir().to_path_buf());
    manifest.file = Some(files.dir().join(file.file_name().unwrap_or(file.as_os_str())));
    let mut references = Vec::new();
    // A broken bottle still has its name, so that agents that use it are not called wrong as well.
    let mut bottles: Vec<Slug> = manifest.bottles.keys().cloned().collect();

    if let Some(text) = utf8(bytes, file, &faults) {
        let src = Source::new(file, text, 0, &faults);
        if let Some(doc) = document(&src, text) {
            let root = Tab::new(&src, doc.as_table(), String::new(), src.at(None));
            if let Some(v) = root.req("version") {
                v.int(1, 1);
            }
            let agents = root.opt("agents").and_then(|v| v.table());
            for (name, tab) in agents.iter().flat_map(named) {
                references.extend(agent::agent(&tab, files, None).map(|parsed| (name, parsed)));
            }
            let tables = root.opt("bottles").and_then(|v| v.table());
            for (name, tab) in tables.iter().flat_map(named) {
                bottles.push(name.clone());
                manifest.bottles.extend(bottle::bottle(&tab, files).map(|b| (name, b)));
            }
            root.finish();
        }
    }
    references.extend(agent_files(file, files, &faults));
    for (name, parsed) in references {
        let agent::Parsed { agent, bottle_at } = parsed;
        if !bottles.contains(&agent.bottle) {
            let known = bottles.iter().map(Slug::as_str);
            let hint = match nearest(agent.bottle.as_str(), known) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("define [bottles.{}]", agent.bottle),
            };
            faults.push(
                &bottle_at,
                &format!("agents.{name}.bottle"),
                format!("no bottle `{}`", agent.bottle),
                Some(hint),
            );
        }
        match manifest.agents.get(&name).filter(|first| first.at != Location::built_in()) {
            Some(first) => {
                let hint = format!("the first is at {}", first.at);
                faults.push(
                    &agent.at,
                    &format!("agents.{name}"),
                    format!("two agents are called `{name}`"),
                    Some(hint),
                );
            }
            None => drop(manifest.agents.insert(name, agent)),
        }
    }
    match faults.into_list() {
        Some(list) => Err(ManifestErrors(list)),
        None => Ok(manifest),
    }
}

/// The agent files beside the manifest `file`.
fn agent_files(file: &Path, files: &dyn Files, faults: &Faults) -> Vec<(Slug, agent::Parsed)> {
    let dir = file.parent().unwrap_or(Path::new("")).join("agents");
    let names = match files.agents() {
        Ok(names) => names,
        Err(why) => {
            faults.push(&Location::whole(&dir), "", why, None);
            return Vec::new();
        }
    };
    let parsed = names.iter().filter_map(|name| {
        let shown = dir.join(name);
        let bytes = match files.read(&Path::new("agents").join(name)) {
            Ok(bytes) => bytes,
            Err(why) => {
                faults.push(&Location::whole(&shown), "", why, None);
                return None;
            }
        };
        let text = utf8(&bytes, &shown, faults)?;
        let whole = Source::new(&shown, text, 0, faults);
        let slug = agent::file_agent_name(&whole, name);
        let (range, body) = agent::front_matter(&whole, text)?;
        let src = Source::new(&shown, text, range.start, faults);
        let doc = document(&src, &text[range])?;
        let root = Tab::new(&src, doc.as_table(), String::new(), whole.at(None));
        Some((slug?, agent::agent(&root, files, Some(body))?))
    });
    parsed.collect()
}

/// The sub-tables of a table whose keys are names.
fn named<'a>(t: &Tab<'a>) -> Vec<(Slug, Tab<'a>)> {
    let mut out = Vec::new();
    for (key, key_at, value) in t.entries(MAX_NAMES) {
        let table = value.table();
        match key.parse::<Slug>() {
            Ok(name) => out.extend(table.map(|t| (name, t))),
            Err(e) => t.src.faults.push(&key_at, &value.path, e.to_string(), None),
        }
    }
    out
}

fn utf8<'a>(bytes: &'a [u8], file: &Path, faults: &Faults) -> Option<&'a str> {
    if bytes.len() as u64 > MAX_FILE {
        faults.push(&Location::whole(file), "", "the file is longer than 1 MiB", None);
        return None;
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(e) => {
            let good = std::str::from_utf8(&bytes[..e.valid_up_to()]).unwrap_or_default();
            let at = Source::new(file, good, 0, faults).at(Some(&(good.len()..good.len())));
            faults.push(&at, "", "the file is not UTF-8 text", None);
            None
        }
    }
}

fn document<'a>(src: &Source<'_>, text: &'a str) -> Option<Document<&'a str>> {
    match Document::parse(text) {
        Ok(doc) => Some(doc),
        Err(e) => {
            let message = e.message().lines().collect::<Vec<_>>().join("; ");
            src.faults.push(&src.at(e.span().as_ref()), "", message, None);
            None
        }
    }
}
