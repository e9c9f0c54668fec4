//! The scan of a push: every new object by our own scanner and gitleaks, every changed path by
//! [`super::tree_paths`].

use std::collections::{BTreeMap, HashMap, HashSet};

use bottle_policy::{EmailPattern, Push};
use bottle_scan::{Direction, Profile};
use bytes::Bytes;
use zeroize::Zeroizing;

use super::archive::unpack;
use super::cat_file::CatFile;
use super::finding::{Finding, Findings, OWN_SECRET};
use super::gitleaks::GitleaksRun;
use super::text_window::{PIECE_BYTES, TextWindow};
use super::tree_paths::{self, is_lock_file};
use crate::git_gate::exec::ConfinedCommand;
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::refusal::{Checks, Refusal, Rule};
use crate::git_gate::text::printable;

/// Largest object that is kept in memory as a whole, in bytes: an archive, a symbolic link, a
/// `.gitmodules`.
const MAX_WHOLE_BYTES: usize = 8 << 20;
/// Most older versions of files that findings are compared with.
const MAX_OLD_VERSIONS: usize = 64;
/// Mode of a symbolic link.
const SYMLINK_MODE: u32 = 0o120_000;

/// An object that the upstream does not have.
#[derive(Debug)]
pub struct NewObject {
    /// Its id.
    pub id: ObjectId,
    /// The commit that brings it; its own id if it is a commit.
    pub commit: Option<ObjectId>,
    /// One of its paths; empty if it has none.
    pub path: String,
}

/// A path that a commit changes.
#[derive(Debug)]
pub struct PathChange {
    /// The commit.
    pub commit: ObjectId,
    /// The path. Bytes that are not UTF-8 are replaced by U+FFFD.
    pub path: String,
    /// The new mode.
    pub mode: u32,
    /// The new object.
    pub id: ObjectId,
    /// The object in a parent commit.
    pub old: Option<ObjectId>,
}

impl PathChange {
    /// Whether the content must be looked at as a whole: a symbolic link or a `.gitmodules`.
    fn is_special(&self) -> bool {
        let name = self.path.rsplit('/').next();
        self.mode == SYMLINK_MODE || name.is_some_and(|n| n.eq_ignore_ascii_case(".gitmodules"))
    }

    fn place(&self) -> String {
        format!("commit {} {}", self.commit.short(), printable(&self.path))
    }
}

/// The scan of one push.
pub struct PushScan<'a> {
    profile: &'a Profile,
    push: &'a Push,
    checks: &'a Checks,
    gitleaks: Option<GitleaksRun>,
    findings: Findings,
}

type ChangesById<'a> = HashMap<&'a ObjectId, Vec<&'a PathChange>>;

impl<'a> PushScan<'a> {
    /// A scan by `profile`, which must report every finding, and by `gitleaks` if there is one.
    pub fn new(
        profile: &'a Profile,
        push: &'a Push,
        checks: &'a Checks,
        gitleaks: Option<GitleaksRun>,
    ) -> Self {
        Self { profile, push, checks, gitleaks, findings: Findings::default() }
    }

    /// Scans everything. `git` has the objects of the push; `ref_names` go upstream, too.
    ///
    /// # Errors
    /// What refuses the push without a finding: sizes, addresses, a scanner that fails.
    pub async fn run(
        mut self,
        git: &ConfinedCommand,
        new: &[NewObject],
        changes: &[PathChange],
        ref_names: &[&str],
    ) -> Result<Vec<Finding>, Refusal> {
        let mut cat = CatFile::start(git)?;
        self.scan_names(changes, ref_names).await?;
        let mut by_id = ChangesById::new();
        for change in changes {
            by_id.entry(&change.id).or_default().push(change);
        }
        self.scan_contents(&mut cat, new, &by_id).await?;
        if let Some(gitleaks) = self.gitleaks.take() {
            let found = gitleaks.finish().await?;
            self.findings.add_gitleaks_findings(found);
        }
        let new: HashSet<&ObjectId> = new.iter().map(|n| &n.id).collect();
        self.scan_known_special(&mut cat, &new, &by_id).await?;
        self.drop_old_findings(&mut cat, &new, changes).await?;
        let (push, checks) = (self.push, self.checks);
        let mut findings = self.findings.list;
        findings.retain(|f| f.rule == OWN_SECRET || !push.allow.contains(&f.fingerprint));
        findings.retain(|f| checks.enabled(f.kind));
        Ok(findings)
    }

    /// Scans the names that go upstream with the objects: of refs and of paths.
    async fn scan_names(
        &mut self,
        changes: &[PathChange],
        ref_names: &[&str],
    ) -> Result<(), Refusal> {
        let object = self.begin("the names of refs", "");
        for name in ref_names {
            self.scan_name(object, "the name of a ref", name).await?;
        }
        self.end().await?;
        let object = self.begin("a path", "");
        let mut seen = HashSet::new();
        for change in changes {
            if !seen.insert((&change.path, change.mode)) {
                continue;
            }
            let place = change.place();
            if let Some((kind, why)) = tree_paths::path(&change.path) {
                self.findings.add_path_finding(kind, &why, &place, 0, &change.path);
            }
            let lower = change.path.to_ascii_lowercase();
            if lower.ends_with(".p12") || lower.ends_with(".pfx") {
                let why = "pkcs12: a file of private keys";
                self.findings.add_path_finding(Rule::Secret, why, &place, 0, &change.path);
            }
            self.scan_name(object, &place, &change.path).await?;
        }
        self.end().await
    }

    async fn scan_name(&mut self, object: usize, place: &str, name: &str) -> Result<(), Refusal> {
        for found in self.profile.text(Direction::Request, name.as_bytes()) {
            let value = Zeroizing::new(name.as_bytes().to_vec());
            // A place that quotes the name would show what was found.
            let place = if place.contains(name) { "a path".to_owned() } else { place.to_owned() };
            self.findings.add_scan_finding(object, &found, (place, 0), (value, false));
        }
        if let Some(gitleaks) = &mut self.gitleaks {
            gitleaks.feed(name.as_bytes()).await?;
            gitleaks.feed(b"\n").await?;
        }
        Ok(())
    }

    /// Checks the sizes of all new objects, then scans all of them but trees.
    async fn scan_contents(
        &mut self,
        cat: &mut CatFile,
        new: &[NewObject],
        by_id: &ChangesById<'_>,
    ) -> Result<(), Refusal> {
        cat.request_info(new.iter().map(|n| &n.id))?;
        let mut wanted = Vec::new();
        for object in new {
            let (kind, size) = cat.header().await?;
            self.checks.refuse_if(size > self.push.max_blob, Rule::MaxBlob, || {
                let name = match object.path.as_str() {
                    "" => object.id.short().to_owned(),
                    path => printable(path),
                };
                format!("{name} is larger than max_blob, {} bytes", self.push.max_blob)
            })?;
            if kind != "tree" {
                wanted.push(object);
            }
        }
        cat.request_contents(wanted.iter().map(|n| &n.id))?;
        for object in wanted {
            let (kind, size) = cat.header().await?;
            let changes = by_id.get(&object.id).map(Vec::as_slice).unwrap_or_default();
            match kind.as_str() {
                "blob" => self.scan_blob(cat, object, changes, size).await?,
                _ => self.scan_commit_or_tag(cat, object, &kind, size).await?,
            }
            cat.end_of_object().await?;
        }
        Ok(())
    }

    /// Scans the targets of symbolic links that are files at the upstream: a change of the mode
    /// alone makes a link of one.
    async fn scan_known_special(
        &mut self,
        cat: &mut CatFile,
        new: &HashSet<&ObjectId>,
        by_id: &ChangesById<'_>,
    ) -> Result<(), Refusal> {
        let special: Vec<&ObjectId> = by_id
            .iter()
            .filter(|(id, changes)| !new.contains(*id) && changes.iter().any(|c| c.is_special()))
            .map(|(id, _)| *id)
            .collect();
        cat.request_contents(special.iter().copied())?;
        for id in special {
            let content = cat.object(MAX_WHOLE_BYTES).await?;
            self.scan_special(by_id.get(id).map(Vec::as_slice).unwrap_or_default(), &content);
        }
        Ok(())
    }

    /// Drops findings that an older version of the same file has at the upstream.
    async fn drop_old_findings(
        &mut self,
        cat: &mut CatFile,
        new: &HashSet<&ObjectId>,
        changes: &[PathChange],
    ) -> Result<(), Refusal> {
        let paths: HashSet<&str> = self
            .findings
            .list
            .iter()
            .filter(|f| f.kind == Rule::Secret && !f.evidence.path.is_empty())
            .map(|f| f.evidence.path.as_str())
            .collect();
        let mut old: BTreeMap<(&ObjectId, &str), ()> = BTreeMap::new();
        for change in changes.iter().filter(|c| paths.contains(c.path.as_str())) {
            if let Some(id) = change.old.as_ref().filter(|id| !new.contains(id)) {
                old.insert((id, &change.path), ());
            }
        }
        let old: Vec<_> = old.into_keys().take(MAX_OLD_VERSIONS).collect();
        cat.request_contents(old.iter().map(|(id, _)| *id))?;
        for (_, path) in old {
            let content = cat.object(MAX_WHOLE_BYTES).await?;
            self.findings.list.retain(|f| !f.is_in_old_version(path, &content));
        }
        Ok(())
    }

    async fn scan_blob(
        &mut self,
        cat: &mut CatFile,
        object: &NewObject,
        changes: &[&PathChange],
        size: u64,
    ) -> Result<(), Refusal> {
        // A rule ignores lock files. Content that also has another path is scanned under that.
        let change = changes.iter().find(|c| !is_lock_file(&c.path)).or(changes.first());
        let (commit, path) = change.map_or((object.commit.as_ref(), object.path.as_str()), |c| {
            (Some(&c.commit), c.path.as_str())
        });
        let place = format!("commit {} {}", commit.map_or("-", ObjectId::short), printable(path));
        let number = self.begin(&place, path);
        let content = self.scan_stream(cat, number, &object.id, size).await?;
        self.scan_special(changes, &content);
        self.end().await?;
        let inner = unpack(&content);
        if !inner.is_empty() {
            let number = self.begin(&format!("{place} (unpacked)"), path);
            self.scan_memory(number, &object.id, &inner).await?;
            self.end().await?;
        }
        Ok(())
    }

    /// Checks symbolic links and `.gitmodules`.
    fn scan_special(&mut self, changes: &[&PathChange], content: &[u8]) {
        let text = String::from_utf8_lossy(content);
        for change in changes.iter().filter(|c| c.is_special()) {
            let found = if change.mode == SYMLINK_MODE {
                tree_paths::symlink(&change.path, &text).map(|(kind, why)| (kind, why, 0))
            } else {
                tree_paths::gitmodules(&text)
            };
            if let Some((kind, why, line)) = found {
                let evidence = format!("{}\0{text}", change.path);
                self.findings.add_path_finding(kind, &why, &change.place(), line as u64, &evidence);
            }
        }
    }

    /// Scans the content of the current object as it is read. Returns all of it if it is small
    /// enough to be kept, else nothing.
    async fn scan_stream(
        &mut self,
        cat: &mut CatFile,
        number: usize,
        id: &ObjectId,
        size: u64,
    ) -> Result<Vec<u8>, Refusal> {
        let failed = |e: &dyn std::fmt::Display| Refusal::host("scan the objects", e);
        let mut stream = self.profile.stream(Direction::Request, "").map_err(|e| failed(&e))?;
        let keep = usize::try_from(size).is_ok_and(|s| s <= MAX_WHOLE_BYTES);
        let (mut content, mut left, mut window) = (Vec::new(), size, TextWindow::default());
        let (mut passed, mut found) = (Vec::new(), Vec::new());
        while left > 0 {
            let len = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            let mut piece = vec![0; len];
            cat.read_exact(&mut piece).await?;
            left -= len as u64;
            if let Some(gitleaks) = &mut self.gitleaks {
                gitleaks.feed(&piece).await?;
            }
            if keep {
                content.extend_from_slice(&piece);
            }
            window.push(&piece);
            stream.push(Bytes::from(piece), &mut passed, &mut found);
            passed.clear();
            self.findings.add_stream_findings(number, id, &window, &mut found);
            tokio::task::yield_now().await;
        }
        stream.finish(&mut passed, &mut found);
        self.findings.add_stream_findings(number, id, &window, &mut found);
        Ok(content)
    }

    /// Scans content that is in memory.
    async fn scan_memory(
        &mut self,
        number: usize,
        id: &ObjectId,
        content: &[u8],
    ) -> Result<(), Refusal> {
        let failed = |e: &dyn std::fmt::Display| Refusal::host("scan the objects", e);
        let mut stream = self.profile.stream(Direction::Request, "").map_err(|e| failed(&e))?;
        let (mut passed, mut found) = (Vec::new(), Vec::new());
        let mut window = TextWindow::default();
        for piece in content.chunks(PIECE_BYTES) {
            if let Some(gitleaks) = &mut self.gitleaks {
                gitleaks.feed(piece).await?;
            }
            window.push(piece);
            stream.push(Bytes::copy_from_slice(piece), &mut passed, &mut found);
            passed.clear();
            self.findings.add_stream_findings(number, id, &window, &mut found);
        }
        stream.finish(&mut passed, &mut found);
        self.findings.add_stream_findings(number, id, &window, &mut found);
        Ok(())
    }

    /// Scans a commit or tag as a whole, and checks its addresses.
    async fn scan_commit_or_tag(
        &mut self,
        cat: &mut CatFile,
        object: &NewObject,
        kind: &str,
        size: u64,
    ) -> Result<(), Refusal> {
        let kind = if kind == "tag" { "tag" } else { "commit" };
        let name = format!("{kind} {}", object.id.short());
        let number = self.begin(&format!("{name} message"), "");
        let content = self.scan_stream(cat, number, &object.id, size).await?;
        self.end().await?;
        for line in content.split(|b| *b == b'\n').take_while(|line| !line.is_empty()) {
            self.check_address(&name, line)?;
        }
        Ok(())
    }

    /// Checks a header line of a commit or tag that names a person.
    fn check_address(&self, name: &str, line: &[u8]) -> Result<(), Refusal> {
        let rules: &[(&[u8], &[EmailPattern], Rule)] = &[
            (b"author ", &self.push.authors, Rule::Author),
            (b"committer ", &self.push.committers, Rule::Committer),
            (b"tagger ", &self.push.committers, Rule::Committer),
        ];
        for (key, patterns, rule) in rules {
            let person = line.strip_prefix(*key).filter(|_| !patterns.is_empty());
            let Some(person) = person else { continue };
            let email = email(person);
            let allowed = email.as_ref().is_some_and(|e| patterns.iter().any(|p| p.matches(e)));
            self.checks.refuse_if(!allowed, *rule, || {
                let email = email.map_or_else(|| "no address".to_owned(), |e| printable(&e));
                format!("{name} is by {email}, which the policy does not allow")
            })?;
        }
        Ok(())
    }

    /// Starts the next object. Returns its number.
    fn begin(&mut self, place: &str, path: &str) -> usize {
        if let Some(gitleaks) = &mut self.gitleaks {
            gitleaks.begin();
        }
        self.findings.begin_object(place, path)
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        match &mut self.gitleaks {
            Some(gitleaks) => gitleaks.end().await,
            None => Ok(()),
        }
    }
}

/// The address in `NAME <ADDRESS> TIME ZONE`: the last one, as git reads it.
fn email(person: &[u8]) -> Option<String> {
    let end = person.iter().rposition(|b| *b == b'>')?;
    let start = person[..end].iter().rposition(|b| *b == b'<')? + 1;
    std::str::from_utf8(&person[start..end]).ok().map(|e| e.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_the_last_one() {
        assert_eq!(email(b"A <a@b> 1 +0000").as_deref(), Some("a@b"));
        assert_eq!(email(b"A <ok@b> <evil@c> 1 +0000").as_deref(), Some("evil@c"));
        assert_eq!(email(b"A 1 +0000"), None);
    }
}
