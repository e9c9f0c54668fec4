//! `[agents.X]` and `agents/X.md`.

use super::files::{Files, inside};
use super::walk::{Source, Tab, Val};
use super::{Agent, Location, Provider, Skill, Slug, quote};

/// Most skills of an agent.
const MAX_SKILLS: usize = 128;

/// An agent, and where its bottle is named.
pub(super) struct Parsed {
    pub agent: Agent,
    pub bottle_at: Location,
}

/// Reads one agent. `body` is the text below an agent file's front matter; without it, the prompt
/// is under its keys.
pub(super) fn agent(t: &Tab<'_>, files: &dyn Files, body: Option<&str>) -> Option<Parsed> {
    let bottle = t.req("bottle").and_then(|v| v.parse::<Slug>().map(|name| (name, v.at)));
    let providers: Vec<_> = Provider::all().map(|p| (p.as_str(), p)).collect();
    let provider = t.req("provider").and_then(|v| v.choice(&providers));
    let (inline, file) = (t.opt("prompt"), t.opt("prompt_file"));
    let prompt = match (inline, file, body) {
        (Some(v), _, Some(_)) | (None, Some(v), Some(_)) => v.none(
            format!("`{}` has no place in an agent file", v.path),
            Some("the text below the second +++ is the prompt".to_owned()),
        ),
        (None, None, body) => Some(body.map(str::to_owned)),
        (Some(_), Some(v), None) => v.none(
            format!("`{}` has both prompt and prompt_file", t.path),
            Some("keep one of them".to_owned()),
        ),
        (Some(v), None, None) => v.str().map(|s| Some(s.to_owned())),
        (None, Some(v), None) => prompt_file(&v, files).map(Some),
    };
    if prompt.as_ref().is_some_and(|p| p.as_ref().is_some_and(|p| p.contains('\0'))) {
        t.fail("the prompt has a NUL character", None);
    }
    let skills = t.opt("skills").map_or(Some(Vec::new()), |v| skills(&v, files));
    let command = match (t.opt("command"), provider) {
        (Some(v), provider) if provider.is_none_or(|p| p.takes_command) => v.argv(),
        (Some(v), Some(other)) => v.none(
            format!("`{}` belongs to provider \"command\", not \"{other}\"", v.path),
            Some("leave it out, or name the other provider".to_owned()),
        ),
        _ => Some(Vec::new()),
    };
    t.finish();
    let (bottle, bottle_at) = bottle?;
    let prompt = prompt?.filter(|p| !p.trim().is_empty());
    Some(Parsed {
        agent: Agent {
            at: t.at.clone(),
            bottle,
            provider: provider?,
            prompt,
            skills: skills?,
            command: command?,
        },
        bottle_at,
    })
}

fn prompt_file(v: &Val<'_>, files: &dyn Files) -> Option<String> {
    let read = inside(v.line(4096)?).and_then(|path| files.read(&path));
    match read.map(String::from_utf8) {
        Ok(Ok(text)) => Some(text),
        Ok(Err(_)) => v.none(format!("`{}`: the file is not UTF-8 text", v.path), None),
        Err(why) => v.none(format!("`{}`: {why}", v.path), None),
    }
}

fn skills(v: &Val<'_>, files: &dyn Files) -> Option<Vec<Skill>> {
    let names = v.parsed_list::<Slug>(MAX_SKILLS)?;
    let elements = v.list(MAX_SKILLS)?;
    let found = names.into_iter().zip(elements).map(|(name, element)| match files.skill(&name) {
        Ok(dir) => Some(Skill { name, dir }),
        Err(why) => element.none(
            format!("no skill `{name}`: {why}"),
            Some("a skill is a directory with a SKILL.md".to_owned()),
        ),
    });
    found.collect::<Vec<_>>().into_iter().collect()
}

/// Splits an agent file into the range of its front matter and its body.
pub(super) fn front_matter<'a>(
    src: &Source<'a>,
    text: &'a str,
) -> Option<(std::ops::Range<usize>, &'a str)> {
    let hint = || Some("an agent file is: +++, its keys as TOML, +++, the prompt".to_owned());
    let start = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
    let mut offset = start;
    let mut opened = None;
    for line in text[start..].split_inclusive('\n') {
        let fence = line.trim_end() == "+++";
        match opened {
            None if fence => opened = Some(offset + line.len()),
            None => {
                let what = if line.trim_end() == "---" {
                    "front matter is TOML between +++ lines, not ---"
                } else {
                    "the file does not begin with +++"
                };
                src.faults.push(&src.at(None), "", what, hint());
                return None;
            }
            Some(begin) if fence => {
                return Some((begin..offset, text[offset + line.len()..].trim()));
            }
            Some(_) => {}
        }
        offset += line.len();
    }
    let what = if opened.is_some() {
        "the front matter has no closing +++ line"
    } else {
        "the file is empty"
    };
    src.faults.push(&src.at(None), "", what, hint());
    None
}

/// The name that an agent file gives its agent.
pub(super) fn file_agent_name(src: &Source<'_>, file_name: &str) -> Option<Slug> {
    let stem = file_name.strip_suffix(".md").unwrap_or(file_name);
    stem.parse()
        .map_err(|_| {
            src.faults.push(
                &src.at(None),
                "",
                format!("the file's name gives no agent name: {}", quote(stem)),
                Some("a-z, 0-9 and -, at most 32 characters, then .md".to_owned()),
            )
        })
        .ok()
}
