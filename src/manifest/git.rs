//! `[[bottles.X.git]]`.

use std::path::PathBuf;

use bottle_policy::{Forge, GateUrl, Push, RefPattern, Stale, TokenName, UpstreamName};

use super::files::{Files, host_path};
use super::tokens::{self, TokenNames};
use super::url::base_url;
use super::walk::{Tab, Val};
use super::{DeployKey, GitSpec, GitUpstream, Location, TokenSource, quote};

const MOST: usize = 64;
const MOST_PATTERNS: usize = 64;
const MOST_ALLOWED: usize = 1024;

/// A token's source, and where the manifest says it.
type Sourced = (TokenSource, Location, String);

/// An upstream whose tokens have no names yet.
pub(super) struct Draft {
    spec: GitSpec,
    at: Location,
    token: Option<Sourced>,
    deploy_key: Option<DraftKey>,
}

struct DraftKey {
    forge: Forge,
    api: String,
    repo: String,
    token: Sourced,
    ca_file: Option<PathBuf>,
    write: bool,
}

impl Draft {
    /// Where its tokens come from.
    pub fn sources(&self) -> impl Iterator<Item = &TokenSource> {
        self.token.iter().chain(self.deploy_key.iter().map(|k| &k.token)).map(|(source, ..)| source)
    }

    /// Names its tokens.
    pub fn finish(mut self, t: &Tab<'_>, names: &mut TokenNames) -> Option<GitUpstream> {
        let mut name =
            |(source, at, path): Sourced, base: &str| -> Option<(TokenName, TokenSource)> {
                let name = names
                    .name(&source, base)
                    .map_err(|why| t.src.faults.push(&at, &path, why, None))
                    .ok()?;
                Some((name, source))
            };
        if let Some(token) = self.token {
            self.spec.token = Some(name(token, &format!("{}_GIT", self.spec.name))?);
        }
        if let Some(DraftKey { forge, api, repo, token, ca_file, write }) = self.deploy_key {
            let token = name(token, &format!("{}_FORGE", self.spec.name))?;
            self.spec.deploy_key = Some(DeployKey { forge, api, repo, token, ca_file, write });
        }
        Some(GitUpstream { at: self.at, spec: self.spec })
    }
}

/// Reads the list.
pub(super) fn drafts(list: &Val<'_>, files: &dyn Files) -> Vec<Draft> {
    let elements = list.list(MOST).unwrap_or_default();
    let drafts: Vec<Draft> = elements.iter().filter_map(|e| upstream(&e.table()?, files)).collect();
    for (i, d) in drafts.iter().enumerate() {
        // Names are directories, and some file systems fold case.
        let same =
            |f: &&Draft| f.spec.name.to_string().eq_ignore_ascii_case(&d.spec.name.to_string());
        if let Some(first) = drafts[..i].iter().find(same) {
            let hint = format!("the first is at {}; give each a `name` of its own", first.at);
            let message = format!("two upstreams are called {}", quote(&d.spec.name.to_string()));
            list.src.faults.push(&d.at, &list.path, message, Some(hint));
        }
    }
    drafts
}

fn upstream(t: &Tab<'_>, files: &dyn Files) -> Option<Draft> {
    let url = t.req("url").and_then(|v| url(&v));
    let identity_file = t.opt("identity_file").map(|v| (v.at.clone(), path(files, &v)));
    let known_hosts = t.opt("known_hosts").map_or(Some(None), |v| path(files, &v).map(Some));
    let ca_file = t.opt("ca_file").map(|v| (v.at.clone(), path(files, &v)));
    let token = t.opt("token").map(|v| (v.at.clone(), sourced(&v, files)));
    let deploy_key = t.opt("deploy_key");
    let attest_key = t.opt("attest_key").map_or(Some(None), |v| path(files, &v).map(Some));
    let stale = t.opt("stale").map_or(Some(Stale::default()), |v| {
        v.choice(&[("refuse", Stale::Refuse), ("allow", Stale::Allow)])
    });
    let push = push(t);
    let name = match t.opt("name") {
        Some(v) => v.parse::<UpstreamName>(),
        None => url.as_ref().and_then(|u| default_name(t, u)),
    };
    t.finish();
    let (url, push) = (url?, push?);
    let fault = |at: &Location, message: &str, hint: &str| {
        t.src.faults.push(at, &t.path, message, Some(hint.to_owned()))
    };
    match (url.is_ssh(), &identity_file, &token, &ca_file) {
        (false, Some((at, _)), ..) => {
            fault(at, "an https upstream has no identity_file", "use token = { env = \"…\" }")
        }
        (true, _, Some((at, _)), _) => fault(
            at,
            "an ssh upstream has no token",
            "use identity_file = \"~/.ssh/…\" or deploy_key",
        ),
        (true, _, _, Some((at, _))) => {
            fault(at, "an ssh upstream has no ca_file", "its host is known by known_hosts")
        }
        _ => {}
    }
    let deploy_key = match &deploy_key {
        Some(v) if !url.is_ssh() => v.none(
            "an https upstream has no deploy_key",
            Some("use its ssh URL, or a token".to_owned()),
        )?,
        Some(v) if identity_file.is_some() => {
            v.none("both identity_file and deploy_key", Some("keep one of them".to_owned()))?
        }
        Some(v) => Some(key(&v.table()?, files, &url, push.is_some())?),
        None => None,
    };
    let given = |file: Option<(Location, Option<PathBuf>)>| {
        file.map_or(Some(None), |(_, path)| path.map(Some))
    };
    let token = token.map_or(Some(None), |(_, token)| token.map(Some))?;
    let (identity_file, ca_file) = (given(identity_file)?, given(ca_file)?);
    let (name, known_hosts, attest_key, stale) = (name?, known_hosts?, attest_key?, stale?);
    let spec = GitSpec {
        name,
        url,
        identity_file,
        deploy_key: None,
        known_hosts,
        token: None,
        ca_file,
        attest_key,
        stale,
        push,
    };
    Some(Draft { spec, at: t.at.clone(), token, deploy_key })
}

fn url(v: &Val<'_>) -> Option<GateUrl> {
    let text = v.line(2048)?;
    let hint = (text.starts_with("https://") && text.contains('@'))
        .then(|| "say token = { env = \"…\" } instead".to_owned());
    text.parse().map_err(|e: bottle_policy::GateTextError| v.fail(e.to_string(), hint)).ok()
}

fn path(files: &dyn Files, v: &Val<'_>) -> Option<PathBuf> {
    host_path(files, v.line(4096)?).map_err(|why| v.fail(format!("`{}` {why}", v.path), None)).ok()
}

fn sourced(v: &Val<'_>, files: &dyn Files) -> Option<Sourced> {
    Some((tokens::source(v, files)?, v.at.clone(), v.path.clone()))
}

/// `x` of `…/me/x.git`.
fn default_name(t: &Tab<'_>, url: &GateUrl) -> Option<UpstreamName> {
    let last = url.repo().rsplit('/').next().unwrap_or_default();
    let name = last.parse().map_err(|e: bottle_policy::GateTextError| {
        t.fail(e.to_string(), Some("give it a `name`".to_owned()))
    });
    name.ok()
}

/// What may be pushed: nothing, without `branches` and `tags`.
fn push(t: &Tab<'_>) -> Option<Option<Push>> {
    let patterns = |v: Option<Val<'_>>| {
        v.map_or(Some(Vec::new()), |v| v.parsed_list::<RefPattern>(MOST_PATTERNS))
    };
    let emails = |v: Option<Val<'_>>| v.map_or(Some(Vec::new()), |v| v.parsed_list(MOST_PATTERNS));
    let bytes =
        |v: Option<Val<'_>>, default| v.map_or(Some(default), |v| v.amount().map(|a| a.get()));
    let usual = Push::to(Vec::new());
    let (branches, tags) = (t.opt("branches"), t.opt("tags"));
    let keys =
        ["protected", "authors", "committers", "allow", "max_pack", "max_blob", "max_objects"];
    let [protected, authors, committers, allow, max_pack, max_blob, max_objects] =
        keys.map(|key| t.opt(key));
    if branches.is_none() && tags.is_none() {
        for v in [protected, authors, committers, allow, max_pack, max_blob, max_objects]
            .into_iter()
            .flatten()
        {
            v.fail(
                format!("`{}` has no use: nothing may be pushed", v.path),
                Some("say which branches = [\"{agent}/*\"]".to_owned()),
            );
        }
        return Some(None);
    }
    let push = Push {
        branches: patterns(branches)?,
        protected: patterns(protected)?,
        tags: patterns(tags)?,
        max_pack: bytes(max_pack, usual.max_pack)?,
        max_blob: bytes(max_blob, usual.max_blob)?,
        max_objects: max_objects.map_or(Some(usual.max_objects), |v| {
            v.int(1, 10_000_000).and_then(|n| u32::try_from(n).ok())
        })?,
        authors: emails(authors)?,
        committers: emails(committers)?,
        allow: allow
            .map_or(Some(Vec::new()), |v| v.parsed_list(MOST_ALLOWED))?
            .into_iter()
            .collect(),
    };
    Some(Some(push))
}

fn key(t: &Tab<'_>, files: &dyn Files, url: &GateUrl, pushes: bool) -> Option<DraftKey> {
    let forge = t.req("forge").and_then(|v| v.choice(&Forge::ALL));
    let api = t.opt("api").map(|v| base_url(&v));
    let repo = t
        .opt("repo")
        .map_or_else(|| Some(url.repo().to_owned()), |v| v.line(1024).map(ToOwned::to_owned));
    let token = t.req("token").and_then(|v| sourced(&v, files));
    let ca_file = t.opt("ca_file").map_or(Some(None), |v| path(files, &v).map(Some));
    let write = t.opt("write").map(|v| (v.at.clone(), v.bool()));
    t.finish();
    let (forge, repo) = (forge?, repo?);
    let segments: Vec<&str> = repo.split('/').collect();
    let plain = |s: &&str| {
        !s.is_empty()
            && !s.starts_with('.')
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b))
    };
    let deep = if forge == Forge::GitLab { segments.len() >= 2 } else { segments.len() == 2 };
    if !deep || !segments.iter().all(plain) {
        t.fail(
            format!("not a repository of a {} forge: {}", forge.as_str(), quote(&repo)),
            Some("say repo = \"owner/name\"".to_owned()),
        );
        return None;
    }
    let write = match write {
        Some((at, Some(false))) if pushes => {
            let hint = Some("leave write out".to_owned());
            t.src.faults.push(
                &at,
                &t.path,
                "branches may be pushed, and the key may not write",
                hint,
            );
            return None;
        }
        Some((_, write)) => write?,
        None => pushes,
    };
    let api = match api {
        Some(api) => api?.trim_end_matches('/').to_owned(),
        None => forge.api(url.host()),
    };
    Some(DraftKey { forge, api, repo, token: token?, ca_file: ca_file?, write })
}
