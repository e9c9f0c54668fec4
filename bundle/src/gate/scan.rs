//! What is in a push: every new object is looked at by `bottle_scan` and gitleaks, every new path
//! by [`super::paths`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use bottle_policy::{EmailPattern, Fingerprint, Push};
use bottle_scan::{Direction, Profile};
use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::call::{Call, Running};
use super::commands::Id;
use super::leaks::{Leaks, is_lock_file, unpacked};
use super::paths;
use super::refusal::{Guards, Refusal, Rule};

/// Bytes of an object that are looked at in one go.
const PIECE: usize = 64 << 10;
/// Largest object that is looked at as a whole: a compressed file, a link, a list of submodules.
const WHOLE: usize = 8 << 20;
/// Most of a find that its fingerprint is made of, bytes.
const EXTENT: usize = 512;
/// Rules of `bottle_scan` that ordinary code trips: they warn, here too.
const WARN_ONLY: &[&str] = &[
    "jwt",
    "url-password",
    "authorization-header",
    "netrc",
    "basic-auth-header",
    "assigned-secret",
];
/// Mode of a symbolic link.
const LINK: u32 = 0o120_000;
/// The rule that nobody can allow.
const OWN: &str = "bundle-secret";

/// An object that the upstream does not have.
#[derive(Debug)]
pub struct New {
    /// Its id.
    pub id: Id,
    /// The commit that brings it, if it is not one.
    pub commit: Option<Id>,
    /// A path of it, if it has one.
    pub path: String,
}

/// A path that a commit changes.
#[derive(Debug)]
pub struct Change {
    /// The commit.
    pub commit: Id,
    /// The path, where it is no UTF-8 with U+FFFD.
    pub path: String,
    /// What is there now: a mode as in trees, octal.
    pub mode: u32,
    /// What is there now.
    pub id: Id,
    /// What was there in a parent.
    pub old: Option<Id>,
}

impl Change {
    fn is_special(&self) -> bool {
        self.mode == LINK || is_gitmodules(&self.path)
    }
}

/// Something that is not to be pushed.
#[derive(Debug)]
pub struct Finding {
    /// Which of the gate's rules it is.
    pub kind: Rule,
    /// Id of the scanner's rule.
    pub rule: String,
    /// Commit and file, or what else.
    pub place: String,
    /// Line there, from 1; 0 where there are none.
    pub line: u64,
    /// Redacted.
    pub sample: String,
    /// What an operator allows it by.
    pub fingerprint: Fingerprint,
    /// Whether it only warns.
    pub warn: bool,
    object: usize,
    path: String,
    value: Zeroizing<Vec<u8>>,
    /// Whether `value` is what stands there; else it is the id of a file that holds it.
    literal: bool,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if self.line > 0 {
            write!(f, ":{}", self.line)?;
        }
        write!(f, " {} {} (fingerprint {})", self.rule, self.sample, self.fingerprint)
    }
}

/// What is looked for.
pub struct Scan<'a> {
    /// The bundle's secrets and the rules, none of which stops at its first find.
    pub profile: &'a Profile,
    /// Limits, addresses and what is allowed.
    pub push: &'a Push,
    /// The rules in force.
    pub guards: &'a Guards,
    /// gitleaks, unless there is none.
    pub leaks: Option<Leaks>,
    /// What was found.
    pub findings: Vec<Finding>,
    objects: Vec<(String, String)>,
}

impl<'a> Scan<'a> {
    /// Nothing was looked at yet.
    pub fn new(
        profile: &'a Profile,
        push: &'a Push,
        guards: &'a Guards,
        leaks: Option<Leaks>,
    ) -> Self {
        Self { profile, push, guards, leaks, findings: Vec::new(), objects: Vec::new() }
    }

    /// Looks at everything. `texts` are names of refs and the like.
    ///
    /// # Errors
    /// What is not a finding but a refusal of the whole: sizes, addresses, a scanner that fails.
    pub async fn all(
        &mut self,
        batch: &Call,
        new: &[New],
        changes: &[Change],
        texts: &[&str],
    ) -> Result<(), Refusal> {
        let mut running = batch.start().map_err(|e| Refusal::host("read the objects", &e))?;
        let (ask, mut asked) = mpsc::unbounded_channel::<Vec<u8>>();
        let mut stdin =
            running.stdin.take().ok_or_else(|| Refusal::host("read the objects", &"no stdin"))?;
        // Writes while the answers are read: either pipe may be full.
        let writer = tokio::spawn(async move {
            while let Some(lines) = asked.recv().await {
                if stdin.write_all(&lines).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
        });
        let Running { stdout, .. } = &mut running;
        let mut out = BufReader::with_capacity(PIECE, stdout);
        self.texts(changes, texts).await?;

        let mut by_id: HashMap<&Id, Vec<&Change>> = HashMap::new();
        for change in changes {
            by_id.entry(&change.id).or_default().push(change);
        }
        let say = |word: &str, ids: &mut dyn Iterator<Item = &Id>| {
            let mut lines = Vec::new();
            for id in ids {
                lines.extend_from_slice(format!("{word} {id}\n").as_bytes());
            }
            lines.extend_from_slice(b"flush\n");
            ask.send(lines).map_err(|e| Refusal::host("read the objects", &e))
        };
        say("info", &mut new.iter().map(|n| &n.id))?;
        let mut wanted = Vec::new();
        for object in new {
            let (kind, size) = header(&mut out).await?;
            self.guards.check(size > self.push.max_blob, Rule::MaxBlob, || {
                format!(
                    "{} is larger than the {} bytes that an object may have",
                    shown(&object.path, &object.id),
                    self.push.max_blob
                )
            })?;
            if kind != "tree" {
                wanted.push(object);
            }
        }
        say("contents", &mut wanted.iter().map(|n| &n.id))?;
        for object in wanted {
            let (kind, size) = header(&mut out).await?;
            let at = by_id.get(&object.id).map(Vec::as_slice).unwrap_or_default();
            match kind.as_str() {
                "blob" => self.blob(&mut out, object, at, size).await?,
                _ => self.text_object(&mut out, object, &kind, size).await?,
            }
            out.read_u8().await.map_err(|e| Refusal::host("read the objects", &e))?;
        }
        if let Some(leaks) = self.leaks.take() {
            let found = leaks.finish().await?;
            self.take_leaks(found);
        }
        let known: HashSet<&Id> = new.iter().map(|n| &n.id).collect();
        // A file that the upstream has can become a link by its mode alone.
        let special: Vec<&Id> = by_id
            .iter()
            .filter(|(id, at)| !known.contains(*id) && at.iter().any(|c| c.is_special()))
            .map(|(id, _)| *id)
            .collect();
        say("contents", &mut special.iter().copied())?;
        for id in &special {
            let (_, size) = header(&mut out).await?;
            let content = whole(&mut out, size).await?;
            self.special(by_id.get(id).map(Vec::as_slice).unwrap_or_default(), &content);
            out.read_u8().await.map_err(|e| Refusal::host("read the objects", &e))?;
        }
        let old = self.old_versions(changes, &known);
        say("contents", &mut old.iter().map(|(id, _)| *id))?;
        for (_, path) in &old {
            let (_, size) = header(&mut out).await?;
            let content = whole(&mut out, size).await?;
            // The upstream has it in an older version of the same file: nothing new leaves.
            self.findings.retain(|f| {
                !(f.path == *path
                    && f.kind == Rule::Secret
                    && f.rule != OWN
                    && f.literal
                    && f.value.len() >= 8
                    && contains(&content, &f.value))
            });
            out.read_u8().await.map_err(|e| Refusal::host("read the objects", &e))?;
        }
        drop(ask);
        let _ = writer.await;
        let allowed = &self.push.allow;
        self.findings.retain(|f| f.rule == OWN || !allowed.contains(&f.fingerprint));
        let guards = self.guards;
        self.findings.retain(|f| !guards.is_off(f.kind));
        Ok(())
    }

    /// Names that go up with the objects.
    async fn texts(&mut self, changes: &[Change], texts: &[&str]) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        let object = self.begin("the names of refs", "").await?;
        for text in texts {
            self.one_text(object, "the name of a ref", text, 0).await?;
        }
        self.end().await?;
        let object = self.begin("a path", "").await?;
        for change in changes {
            if !seen.insert((&change.path, change.mode)) {
                continue;
            }
            let place = format!("commit {} {}", change.commit.short(), neutral(&change.path));
            if let Some((kind, why)) = paths::path(&change.path) {
                self.note_tree(kind, &why, &place, 0, &change.path);
            }
            if change.path.to_ascii_lowercase().ends_with(".p12")
                || change.path.to_ascii_lowercase().ends_with(".pfx")
            {
                self.note_tree(
                    Rule::Secret,
                    "pkcs12: a file of private keys",
                    &place,
                    0,
                    &change.path,
                );
            }
            self.one_text(object, &place, &change.path, 0).await?;
        }
        self.end().await
    }

    async fn one_text(
        &mut self,
        object: usize,
        place: &str,
        text: &str,
        line: u64,
    ) -> Result<(), Refusal> {
        for found in self.profile.text(Direction::Request, text.as_bytes()) {
            let value = Zeroizing::new(text.as_bytes().to_vec());
            // The place is the find.
            let place = if place.contains(text) { "a path".to_owned() } else { place.to_owned() };
            self.note(object, &found, place, line, (value, false));
        }
        if let Some(leaks) = &mut self.leaks {
            leaks.feed(text.as_bytes()).await?;
            leaks.feed(b"\n").await?;
        }
        Ok(())
    }

    fn note(
        &mut self,
        object: usize,
        found: &bottle_scan::Finding,
        place: String,
        line: u64,
        (value, literal): (Zeroizing<Vec<u8>>, bool),
    ) {
        let own = &*found.rule == OWN;
        let rule = found.rule.to_string();
        let warn = WARN_ONLY.contains(&rule.as_str());
        let hashed: &[u8] = if own { b"" } else { &value };
        let fingerprint = Fingerprint::of(&rule, hashed);
        let sample = if own {
            found.secret.as_ref().map_or_else(String::new, |name| format!("(the bundle's {name})"))
        } else {
            found.sample.clone()
        };
        let path = self.objects[object].1.clone();
        self.findings.push(Finding {
            kind: Rule::Secret,
            rule,
            place,
            line,
            sample,
            fingerprint,
            warn,
            object,
            path,
            value,
            literal,
        });
    }

    fn note_tree(&mut self, kind: Rule, why: &str, place: &str, line: u64, path: &str) {
        let fingerprint = Fingerprint::of(kind.code(), path.as_bytes());
        self.findings.push(Finding {
            kind,
            rule: kind.code().to_owned(),
            place: place.to_owned(),
            line,
            sample: why.to_owned(),
            fingerprint,
            warn: false,
            object: usize::MAX,
            path: path.to_owned(),
            value: Zeroizing::default(),
            literal: false,
        });
    }

    async fn begin(&mut self, place: &str, path: &str) -> Result<usize, Refusal> {
        if let Some(leaks) = &mut self.leaks {
            leaks.begin();
        }
        self.objects.push((place.to_owned(), path.to_owned()));
        Ok(self.objects.len() - 1)
    }

    async fn end(&mut self) -> Result<(), Refusal> {
        match &mut self.leaks {
            Some(leaks) => leaks.end().await,
            None => Ok(()),
        }
    }

    async fn blob(
        &mut self,
        out: &mut BufReader<&mut ChildStdout>,
        object: &New,
        at: &[&Change],
        size: u64,
    ) -> Result<(), Refusal> {
        // A lock file is excused from a rule; a file that is something else, too, is not.
        let first = at.iter().find(|c| !is_lock_file(&c.path)).or(at.first());
        let (commit, path) = first.map_or((object.commit.as_ref(), object.path.as_str()), |c| {
            (Some(&c.commit), c.path.as_str())
        });
        let place = format!("commit {} {}", commit.map_or("-", Id::short), neutral(path));
        let number = self.begin(&place, path).await?;
        let whole = self.stream(out, number, &object.id, size).await?;
        self.special(at, &whole);
        self.end().await?;
        let inner = unpacked(&whole);
        if !inner.is_empty() {
            let number = self.begin(&format!("{place} (unpacked)"), path).await?;
            self.look(number, &object.id, &inner).await?;
            self.end().await?;
        }
        Ok(())
    }

    /// Looks at what is more than a file: a link, a list of submodules.
    fn special(&mut self, at: &[&Change], content: &[u8]) {
        let text = String::from_utf8_lossy(content);
        for change in at.iter().filter(|c| c.is_special()) {
            let place = format!("commit {} {}", change.commit.short(), neutral(&change.path));
            let found = if change.mode == LINK {
                paths::symlink(&change.path, &text).map(|(kind, why)| (kind, why, 0))
            } else {
                paths::gitmodules(&text)
            };
            if let Some((kind, why, line)) = found {
                self.note_tree(
                    kind,
                    &why,
                    &place,
                    line as u64,
                    &format!("{}\0{text}", change.path),
                );
            }
        }
    }

    /// Looks at an object as it comes; gives its content where that is small enough.
    async fn stream(
        &mut self,
        out: &mut BufReader<&mut ChildStdout>,
        number: usize,
        id: &Id,
        size: u64,
    ) -> Result<Vec<u8>, Refusal> {
        let broken = |e: &dyn fmt::Display| Refusal::host("look at the objects", e);
        let mut stream = self.profile.stream(Direction::Request, "").map_err(|e| broken(&e))?;
        let (mut whole, mut left, mut lines) = (Vec::new(), size, Lines::default());
        let (mut pass, mut found) = (Vec::new(), Vec::new());
        while left > 0 {
            let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
            out.read_exact(&mut piece).await.map_err(|e| broken(&e))?;
            left -= piece.len() as u64;
            if let Some(leaks) = &mut self.leaks {
                leaks.feed(&piece).await?;
            }
            if usize::try_from(size).is_ok_and(|s| s <= WHOLE) {
                whole.extend_from_slice(&piece);
            }
            let piece = Bytes::from(piece);
            lines.push(&piece);
            stream.push(piece, &mut pass, &mut found);
            pass.clear();
            self.take(number, id, &lines, &mut found);
            tokio::task::yield_now().await;
        }
        stream.finish(&mut pass, &mut found);
        self.take(number, id, &lines, &mut found);
        Ok(whole)
    }

    /// Looks at what is in memory.
    async fn look(&mut self, number: usize, id: &Id, content: &[u8]) -> Result<(), Refusal> {
        let mut stream = self
            .profile
            .stream(Direction::Request, "")
            .map_err(|e| Refusal::host("look at the objects", &e))?;
        let (mut pass, mut found, mut lines) = (Vec::new(), Vec::new(), Lines::default());
        for piece in content.chunks(PIECE) {
            if let Some(leaks) = &mut self.leaks {
                leaks.feed(piece).await?;
            }
            lines.push(piece);
            stream.push(Bytes::copy_from_slice(piece), &mut pass, &mut found);
            pass.clear();
            self.take(number, id, &lines, &mut found);
        }
        stream.finish(&mut pass, &mut found);
        self.take(number, id, &lines, &mut found);
        Ok(())
    }

    fn take(
        &mut self,
        number: usize,
        id: &Id,
        lines: &Lines,
        found: &mut Vec<bottle_scan::Finding>,
    ) {
        for found in found.drain(..) {
            let place = self.objects[number].0.clone();
            let coded =
                matches!(&*found.rule, "coding" | "coding-bomb") || lines.looks_compressed();
            // Of what is inside a compressed file neither place nor text is known: then it is this
            // very file.
            let (line, (value, literal)) =
                match lines.extent(found.offset).filter(|v| !coded && v.len() >= 8) {
                    Some(value) => (lines.number(found.offset), (value, true)),
                    None => (0, (Zeroizing::new(id.as_str().as_bytes().to_vec()), false)),
                };
            self.note(number, &found, place, line, (value, literal));
        }
    }

    async fn text_object(
        &mut self,
        out: &mut BufReader<&mut ChildStdout>,
        object: &New,
        kind: &str,
        size: u64,
    ) -> Result<(), Refusal> {
        let what = if kind == "tag" { "tag" } else { "commit" };
        let number = self.begin(&format!("{what} {} message", object.id.short()), "").await?;
        let content = self.stream(out, number, &object.id, size).await?;
        self.end().await?;
        let head = content.split(|b| *b == b'\n').take_while(|line| !line.is_empty());
        for line in head {
            let rules: &[(&[u8], &[EmailPattern], Rule)] = &[
                (b"author ", &self.push.authors, Rule::Author),
                (b"committer ", &self.push.committers, Rule::Committer),
                (b"tagger ", &self.push.committers, Rule::Committer),
            ];
            for (key, patterns, rule) in rules {
                let Some(who) = line.strip_prefix(*key).filter(|_| !patterns.is_empty()) else {
                    continue;
                };
                let email = email(who);
                let known =
                    email.as_ref().is_some_and(|email| patterns.iter().any(|p| p.matches(email)));
                self.guards.check(!known, *rule, || {
                    let email = email.map_or_else(|| "no address".to_owned(), |e| neutral(&e));
                    format!(
                        "{what} {} is by {email}, which the policy does not allow",
                        object.id.short()
                    )
                })?;
            }
        }
        Ok(())
    }

    fn take_leaks(&mut self, leaks: Vec<super::leaks::Leak>) {
        for leak in leaks {
            let Some((place, path)) = self.objects.get(leak.object).cloned() else { continue };
            if leak.rule == "generic-api-key" && is_lock_file(&path) {
                continue;
            }
            // What both found is one finding, with one fingerprint.
            let twin = self.findings.iter().any(|f| {
                f.object == leak.object
                    && !f.warn
                    && f.line == leak.line
                    && (contains(&f.value, leak.secret.as_bytes())
                        || contains(leak.secret.as_bytes(), &f.value))
            });
            if twin {
                continue;
            }
            let value = Zeroizing::new(leak.secret.as_bytes().to_vec());
            let fingerprint = Fingerprint::of(&leak.rule, &value);
            let head: String =
                leak.secret.chars().take(if leak.secret.len() >= 12 { 4 } else { 0 }).collect();
            let line = if path.is_empty() && !place.ends_with("message") { 0 } else { leak.line };
            self.findings.push(Finding {
                kind: Rule::Secret,
                rule: leak.rule,
                place,
                line,
                sample: format!("{}****", neutral(&head)),
                fingerprint,
                warn: false,
                object: leak.object,
                path,
                value,
                literal: true,
            });
        }
        // A warning where there is a finding says nothing more.
        let hard: HashSet<(usize, u64)> =
            self.findings.iter().filter(|f| !f.warn).map(|f| (f.object, f.line)).collect();
        self.findings.retain(|f| !f.warn || !hard.contains(&(f.object, f.line)));
    }

    /// For each file in which something was found: its versions that the upstream has.
    fn old_versions<'c>(&self, changes: &'c [Change], new: &HashSet<&Id>) -> Vec<(&'c Id, String)> {
        let files: HashSet<&str> = self
            .findings
            .iter()
            .filter(|f| f.kind == Rule::Secret && !f.path.is_empty())
            .map(|f| f.path.as_str())
            .collect();
        let mut all: BTreeMap<(&Id, &str), ()> = BTreeMap::new();
        for change in changes.iter().filter(|c| files.contains(c.path.as_str())) {
            if let Some(old) = change.old.as_ref().filter(|old| !new.contains(old)) {
                all.insert((old, &change.path), ());
            }
        }
        all.into_keys().take(64).map(|(id, path)| (id, path.to_owned())).collect()
    }
}

fn is_gitmodules(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.eq_ignore_ascii_case(".gitmodules"))
}

fn shown(path: &str, id: &Id) -> String {
    if path.is_empty() { id.short().to_owned() } else { neutral(path) }
}

/// Text of the guest's, for a terminal.
pub(super) fn neutral(text: &str) -> String {
    bottle_policy::text::replace(text, '\u{fffd}', 200)
}

/// The address in `NAME <ADDRESS> TIME ZONE`: the last one, as git reads it.
fn email(who: &[u8]) -> Option<String> {
    let end = who.iter().rposition(|b| *b == b'>')?;
    let start = who[..end].iter().rposition(|b| *b == b'<')? + 1;
    std::str::from_utf8(&who[start..end]).ok().map(|e| e.trim().to_owned())
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    let Some(first) = part.first() else { return false };
    let mut rest = text;
    while let Some(at) = rest.iter().position(|b| b == first) {
        if rest[at..].starts_with(part) {
            return true;
        }
        rest = &rest[at + 1..];
    }
    false
}

/// `ID KIND SIZE` as `cat-file --batch-command` says it.
async fn header(out: &mut BufReader<&mut ChildStdout>) -> Result<(String, u64), Refusal> {
    let mut line = String::new();
    (&mut *out)
        .take(256)
        .read_line(&mut line)
        .await
        .map_err(|e| Refusal::host("read the objects", &e))?;
    let mut words = line.split_whitespace().skip(1);
    match (words.next(), words.next().and_then(|n| n.parse().ok())) {
        (Some(kind), Some(size)) => Ok((kind.to_owned(), size)),
        _ => Err(Refusal::new(Rule::Connectivity, "an object that is named is not there")),
    }
}

/// A content, of which what is over the limit is read and left out.
async fn whole(out: &mut BufReader<&mut ChildStdout>, size: u64) -> Result<Vec<u8>, Refusal> {
    let mut content = Vec::new();
    let broken = |e: std::io::Error| Refusal::host("read the objects", &e);
    let kept = size.min(WHOLE as u64);
    (&mut *out).take(kept).read_to_end(&mut content).await.map_err(broken)?;
    tokio::io::copy(&mut (&mut *out).take(size - kept), &mut tokio::io::sink())
        .await
        .map_err(broken)?;
    Ok(content)
}

/// Where lines begin, and the last bytes of a text that is too long to be kept.
#[derive(Debug, Default)]
struct Lines {
    kept: Vec<u8>,
    /// Where `kept` begins, and the line there, from 0.
    start: u64,
    line: u64,
    magic: Vec<u8>,
}

impl Lines {
    fn push(&mut self, piece: &[u8]) {
        self.magic.extend(piece.iter().take(4 - self.magic.len().min(4)));
        let over = (self.kept.len() + piece.len()).saturating_sub(2 * PIECE).min(self.kept.len());
        self.line += self.kept[..over].iter().filter(|b| **b == b'\n').count() as u64;
        self.start += over as u64;
        self.kept.drain(..over);
        self.kept.extend_from_slice(piece);
    }

    fn looks_compressed(&self) -> bool {
        let m = &self.magic;
        m.starts_with(&[0x1f, 0x8b])
            || m.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])
            || (m.first() == Some(&0x78) && m.len() > 1 && !m[1].is_ascii_graphic())
    }

    fn number(&self, offset: u64) -> u64 {
        let before = usize::try_from(offset.saturating_sub(self.start))
            .unwrap_or(usize::MAX)
            .min(self.kept.len());
        self.line + 1 + self.kept[..before].iter().filter(|b| **b == b'\n').count() as u64
    }

    /// What is at `offset`, to the end of its line. A candidate begins with its keyword, and what
    /// tells keys apart may come lines after that: a short line takes what follows with it.
    fn extent(&self, offset: u64) -> Option<Zeroizing<Vec<u8>>> {
        let rest = self.kept.get(usize::try_from(offset.checked_sub(self.start)?).ok()?..)?;
        let line = rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
        let end = if line < 32 || rest.starts_with(b"-----BEGIN") { rest.len() } else { line };
        Some(Zeroizing::new(rest[..end.min(EXTENT)].to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_words_are_found_in_texts_of_any_length() {
        let mut lines = Lines::default();
        let mut text = b"first\nsecond key='abcdefgh' x\n".repeat(20_000);
        text.extend_from_slice(b"last token-here");
        for piece in text.chunks(PIECE) {
            lines.push(piece);
        }
        let at =
            |needle: &[u8]| text.windows(needle.len()).rposition(|w| w == needle).unwrap() as u64;
        assert_eq!(lines.number(at(b"last")), 40_001);
        assert_eq!(&**lines.extent(at(b"token-here")).unwrap(), b"token-here");
        assert_eq!(
            &**lines.extent(at(b"abcdefgh")).unwrap(),
            b"abcdefgh' x\nlast token-here",
            "a short line takes the next with it"
        );
        assert!(lines.extent(3).is_none(), "long gone");
    }

    #[test]
    fn an_address_is_the_last_one() {
        assert_eq!(email(b"A <a@b> 1 +0000").as_deref(), Some("a@b"));
        assert_eq!(email(b"A <ok@b> <evil@c> 1 +0000").as_deref(), Some("evil@c"));
        assert_eq!(email(b"A 1 +0000"), None);
    }

    #[test]
    fn the_rules_that_warn_are_rules() {
        let scanner = bottle_scan::Scanner::new(&[]);
        assert!(WARN_ONLY.iter().all(|id| scanner.rules().any(|rule| rule == *id)));
    }
}
