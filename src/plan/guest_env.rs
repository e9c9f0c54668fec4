//! The guest's variables that the manifest and the command line set.

use std::collections::BTreeMap;
use std::path::Path;

use super::inputs::{Host, Options};
use super::types::Question;
use crate::manifest::{Bottle, EnvEntry, EnvPart, EnvValue, ManifestError};
use crate::values::{EnvName, Location};

/// The guest's variables whose values are known, and the questions for the others.
pub(super) fn guest_env(
    bottle: &Bottle,
    host: &Host<'_>,
    options: &Options,
    faults: &mut Vec<ManifestError>,
) -> (BTreeMap<EnvName, String>, Vec<Question>) {
    let (mut env, mut questions) = (BTreeMap::new(), Vec::new());
    let command_line = Location::whole(Path::new("--env"));
    for (name, value) in &options.env {
        if name.is_reserved() {
            faults.push(ManifestError::new(
                &command_line,
                "env",
                format!("the variable {name} is reserved: the launch sets it in every guest"),
                None,
            ));
        } else if value.contains('\0') {
            faults.push(ManifestError::new(
                &command_line,
                "env",
                format!("the value of {name} has a NUL character"),
                None,
            ));
        } else {
            env.insert(name.clone(), value.clone());
        }
    }
    for (name, entry) in bottle.env.iter().filter(|(name, _)| !options.env.contains_key(name)) {
        match &entry.value {
            EnvValue::Ask(question) => {
                questions.push(Question { name: name.clone(), question: question.clone() })
            }
            EnvValue::Template(parts) => {
                env.insert(name.clone(), template(name, entry, parts, host, faults));
            }
        }
    }
    (env, questions)
}

/// A value with the host's variables filled in.
fn template(
    name: &EnvName,
    entry: &EnvEntry,
    parts: &[EnvPart],
    host: &Host<'_>,
    faults: &mut Vec<ManifestError>,
) -> String {
    let mut value = String::new();
    for part in parts {
        match part {
            EnvPart::Text(text) => value.push_str(text),
            EnvPart::HostVar(variable) => match (host.env)(variable.as_str()) {
                Some(text) => value.push_str(&text),
                None => faults.push(ManifestError::new(
                    &entry.at,
                    format!("env.{name}"),
                    format!("the variable {variable} is not set on this host"),
                    Some(format!("export {variable}=…, or pass --env {name}=…")),
                )),
            },
        }
    }
    value
}
