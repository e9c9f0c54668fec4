//! `[bottles.X]`.

use std::collections::BTreeMap;

use super::files::{Files, inside};
use super::tokens::{self, TokenNames};
use super::url::base_url;
use super::walk::{Tab, Val};
use super::{
    Asking, Bottle, ByteSize, EgressChain, EnvEntry, EnvName, EnvPart, EnvValue, Interval,
    Provider, ProviderSettings, Resources, Slug, Supervise, Workspace, WorkspaceMode, egress, git,
};

use crate::provider::Auth;

/// Most guest variables of a bottle.
const MAX_ENV: usize = 256;
const MIN_MEMORY: ByteSize = ByteSize::mib(256);
const MAX_MEMORY: ByteSize = ByteSize::mib(1 << 20);
const MIN_DISK: ByteSize = ByteSize::mib(64);
const MAX_DISK: ByteSize = ByteSize::mib(16 << 20);

/// Reads one bottle.
pub(super) fn bottle(t: &Tab<'_>, files: &dyn Files) -> Option<Bottle> {
    let image = t
        .opt("image")
        .map_or(Some(None), |v| v.parse::<Slug>().map(|name| Some((name, v.at.clone()))));
    let env = t.opt("env").map_or(Some(BTreeMap::new()), |v| Some(env(&v.table()?)));
    let supervise = t.opt("supervise").map_or(Some(None), |v| supervise(&v));
    let workspace =
        t.opt("workspace").map_or_else(|| Some(no_workspace()), |v| workspace(&v.table()?, files));
    let resources =
        t.opt("resources").map_or_else(|| Some(Resources::default()), |v| resources(&v.table()?));
    let egress_list = t.opt("egress");
    let drafts = egress_list.as_ref().map(|v| egress::drafts(v, files)).unwrap_or_default();
    let git_list = t.opt("git");
    let git = git_list.as_ref().map(|v| git::drafts(v, files)).unwrap_or_default();
    let bundle_egress =
        t.opt("bundle").map_or(Some(EgressChain::default()), |v| bundle(&v.table()?));
    let provider =
        t.opt("provider").map_or(Some(BTreeMap::new()), |v| providers(&v.table()?, files));
    t.finish();

    let mut names = TokenNames::default();
    names.reserve(
        drafts
            .iter()
            .filter_map(egress::Draft::source)
            .chain(git.iter().flat_map(git::Draft::sources)),
    );
    let egress = egress_list.map(|v| egress::finish(&v, drafts, &mut names)).unwrap_or_default();
    let git = git.into_iter().filter_map(|d| d.finish(t, &mut names)).collect();
    Some(Bottle {
        at: t.at.clone(),
        image: image?,
        env: env?,
        supervise: supervise?,
        workspace: workspace?,
        resources: resources?,
        egress,
        git,
        bundle_egress: bundle_egress?,
        provider: provider?,
    })
}

/// The default: an empty directory in the guest.
pub(super) fn no_workspace() -> Workspace {
    Workspace { mode: WorkspaceMode::None, path: None, at: None }
}

/// `true`, or a table of the details.
fn supervise(v: &Val<'_>) -> Option<Option<Supervise>> {
    let yes = |asking| Some(Supervise { at: v.at.clone(), asking });
    if !v.is_table() {
        return v.bool().map(|on| if on { yes(Asking::default()) } else { None });
    }
    let t = v.table()?;
    let notify = t.opt("notify").map_or(Some(Vec::new()), |v| {
        let words = v.list(32)?;
        words.iter().map(|w| w.line(4096).map(str::to_owned)).collect()
    });
    let expires = t.opt("expires").map_or(Some(None), |v| match v.parse::<Interval>()? {
        e if e < Interval::seconds(10) || e > Interval::seconds(7 * 24 * 3600) => {
            v.none(format!("`{}` must be between 10s and 168h, not {e}", v.path), None)
        }
        e => Some(Some(e)),
    });
    t.finish();
    Some(yes(Asking { notify: notify?, expires: expires? }))
}

fn env(t: &Tab<'_>) -> BTreeMap<EnvName, EnvEntry> {
    let mut out = BTreeMap::new();
    for (key, key_at, v) in t.entries(MAX_ENV) {
        let name = match key.parse::<EnvName>() {
            Ok(name) if name.is_reserved() => {
                let hint = "the launch sets it in every guest".to_owned();
                t.src.faults.push(
                    &key_at,
                    &v.path,
                    format!("the variable {name} is reserved"),
                    Some(hint),
                );
                None
            }
            Ok(name) => Some(name),
            Err(e) => {
                t.src.faults.push(&key_at, &v.path, e.to_string(), None);
                None
            }
        };
        let entry = v.str().and_then(|text| {
            env_value(text).map_err(|(why, hint)| v.fail(format!("`{}` {why}", v.path), hint)).ok()
        });
        if let (Some(name), Some(value)) = (name, entry) {
            out.insert(name, EnvEntry { at: v.at, value });
        }
    }
    out
}

/// `?question`, or text with `${NAME}`; `??` and `$${` are a literal `?` and `${`.
fn env_value(text: &str) -> Result<EnvValue, (String, Option<String>)> {
    if text.len() > 64 * 1024 {
        return Err(("is longer than 64 KiB".to_owned(), None));
    }
    if let Some(c) = text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t')) {
        return Err((format!("has a control character ({})", c.escape_default()), None));
    }
    let text = match text.strip_prefix('?') {
        Some(rest) if rest.starts_with('?') => rest,
        Some(question) if question.trim().is_empty() => {
            return Err((
                "asks nothing".to_owned(),
                Some("write the question after the ?, or ?? for a literal ?".to_owned()),
            ));
        }
        Some(question) => return Ok(EnvValue::Ask(question.trim().to_owned())),
        None => text,
    };
    let (mut parts, mut literal, mut rest) = (Vec::new(), String::new(), text);
    while let Some(at) = rest.find("${") {
        let (before, after) = (&rest[..at], &rest[at + 2..]);
        if let Some(before) = before.strip_suffix('$') {
            literal.push_str(before);
            literal.push_str("${");
            rest = after;
            continue;
        }
        literal.push_str(before);
        let Some((name, tail)) = after.split_once('}') else {
            return Err((
                "has a ${ without }".to_owned(),
                Some("write $${ for a literal ${".to_owned()),
            ));
        };
        let name = name.parse().map_err(|e: super::NameError| {
            (format!("has a ${{…}}: {e}"), Some("write $${ for a literal ${".to_owned()))
        })?;
        if !literal.is_empty() {
            parts.push(EnvPart::Text(std::mem::take(&mut literal)));
        }
        parts.push(EnvPart::HostVar(name));
        rest = tail;
    }
    literal.push_str(rest);
    if !literal.is_empty() {
        parts.push(EnvPart::Text(literal));
    }
    Ok(EnvValue::Template(parts))
}

fn workspace(t: &Tab<'_>, files: &dyn Files) -> Option<Workspace> {
    let modes = [
        ("copy", WorkspaceMode::Copy),
        ("clone", WorkspaceMode::Clone),
        ("none", WorkspaceMode::None),
    ];
    let mode = t.req("mode").and_then(|v| v.choice(&modes));
    let path = t.opt("path");
    t.finish();
    let mode = mode?;
    if mode == WorkspaceMode::None {
        if let Some(v) = path {
            return v.none(format!("`{}` has no use with mode = \"none\"", v.path), None);
        }
        return Some(Workspace { mode, path: None, at: Some(t.at.clone()) });
    }
    let text = path.as_ref().map_or(Some("."), |v| v.line(4096))?;
    match inside(text).and_then(|p| files.subdir(&p)) {
        Ok(dir) => Some(Workspace { mode, path: Some(dir), at: Some(t.at.clone()) }),
        Err(why) => {
            let (at, key) = path.map_or((t.at.clone(), t.path.clone()), |v| (v.at, v.path));
            t.src.faults.push(&at, &key, format!("`{key}`: {why}"), None);
            None
        }
    }
}

fn resources(t: &Tab<'_>) -> Option<Resources> {
    let default = Resources::default();
    let cpus = t
        .opt("cpus")
        .map_or(Some(default.cpus), |v| v.int(1, 64).and_then(|n| u8::try_from(n).ok()));
    let memory = t.opt("memory").map_or(Some(default.memory), |v| size(&v, MIN_MEMORY, MAX_MEMORY));
    let disk = t.opt("disk").map_or(Some(default.disk), |v| size(&v, MIN_DISK, MAX_DISK));
    t.finish();
    Some(Resources { cpus: cpus?, memory: memory?, disk: disk? })
}

fn bundle(t: &Tab<'_>) -> Option<EgressChain> {
    let chains = EgressChain::ALL.map(|c| (c.as_str(), c));
    let egress = t.opt("egress").map_or(Some(EgressChain::default()), |v| v.choice(&chains));
    t.finish();
    egress
}

fn size(v: &Val<'_>, min: ByteSize, max: ByteSize) -> Option<ByteSize> {
    let size = ByteSize::parse_binary(v.str()?).map_err(|e| v.fail(e.to_string(), None)).ok()?;
    if size < min || size > max {
        return v.none(format!("`{}` must be between {min} and {max}, not {size}", v.path), None);
    }
    if size.get() % ByteSize::mib(1).get() != 0 {
        return v.none(format!("`{}` must be whole MiB", v.path), None);
    }
    Some(size)
}

fn providers(t: &Tab<'_>, files: &dyn Files) -> Option<BTreeMap<Provider, ProviderSettings>> {
    let mut out = BTreeMap::new();
    let mut whole = true;
    for provider in Provider::all().filter(|p| p.has_settings) {
        if let Some(v) = t.opt(provider.as_str()) {
            match v.table().and_then(|t| settings(&t, files)) {
                Some(settings) => drop(out.insert(provider, settings)),
                None => whole = false,
            }
        }
    }
    t.finish();
    whole.then_some(out)
}

fn settings(t: &Tab<'_>, files: &dyn Files) -> Option<ProviderSettings> {
    let model = t.opt("model").map_or(Some(None), |v| v.line(128).map(|m| Some(m.to_owned())));
    let url = |key| t.opt(key).map_or(Some(None), |v| base_url(&v).map(Some));
    let (base_url, login_url) = (url("base_url"), url("login_url"));
    let token = t.opt("token").map_or(Some(None), |v| tokens::source(&v, files).map(Some));
    let forward = t.opt("forward_host_credentials").map_or(Some(false), |v| v.bool());
    let ask = t.opt("ask").map_or(Some(false), |v| v.bool());
    let kinds = [("api-key", Auth::ApiKey), ("bearer", Auth::Bearer)];
    let auth = t.opt("auth").map_or(Some(None), |v| v.choice(&kinds).map(Some));
    let connect = t.opt("connect").map_or(Some(None), |v| egress::connect(&v).map(Some));
    let ca = t.opt("ca_file").map_or(Some(None), |v| egress::ca(&v, Some(true), files).map(Some));
    t.finish();
    let (token, forward) = (token?, forward?);
    if forward && token.is_some() {
        t.fail(
            format!("`{}` has both token and forward_host_credentials", t.path),
            Some("keep one of them".to_owned()),
        );
        return None;
    }
    let at = t.at.clone();
    Some(ProviderSettings {
        at,
        model: model?,
        base_url: base_url?,
        token,
        forward_host_credentials: forward,
        login_url: login_url?,
        auth: auth?,
        connect: connect?,
        ca: ca?,
        ask: ask?,
    })
}
