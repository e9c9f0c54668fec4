//! One push: refs are decided upon, the pack goes into a quarantine, is looked at, forwarded, and
//! only then the mirror's.

use std::collections::HashMap;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::git_gate::audit::Ticket;
use crate::git_gate::body::{Inflow, Reply};
use crate::git_gate::exec::{Call, Ended};
use crate::git_gate::fetch::mirror::{LOCAL, Refs, Repo, Rules, private_dir, ran};
use crate::git_gate::pkt_line;
use crate::git_gate::push::attest::{self, Notes};
use crate::git_gate::push::commands::{Capabilities, Head, HeadReader, Id};
use crate::git_gate::push::ref_policy::RefPolicy;
use crate::git_gate::push::revwalk::{ancestry, changes, kinds, new_objects};
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::scan::gitleaks::Leaks;
use crate::git_gate::scan::objects::{Finding, Scan, neutral};
use crate::git_gate::server::Gate;

/// How often an attested push is tried again, as others attest theirs.
const ATTEST_TRIES: u32 = 5;
/// For the upstream to take a push.
const FORWARD: Duration = Duration::from_secs(1800);
/// For git to read a pack after its last byte came.
const INDEX: Duration = Duration::from_secs(600);
/// What is read of a refused push before it is answered.
const DRAIN: (u64, Duration) = (1 << 30, Duration::from_secs(60));
/// Findings that a message names.
const SHOWN: usize = 20;
/// A sign of life while nothing is said.
const ALIVE: Duration = Duration::from_secs(5);

/// A directory that goes away with the push.
#[derive(Debug)]
struct Quarantine(PathBuf);

impl Quarantine {
    fn new(repo: &Repo) -> Result<Self, Refusal> {
        let bad = |e: &dyn std::fmt::Display| Refusal::host("make room for the push", e);
        let mut name = [0; 8];
        getrandom::fill(&mut name).map_err(|e| bad(&e))?;
        let this = Self(repo.quarantine.join(hex::encode(name)));
        private_dir(&this.objects().join("pack")).map_err(|e| bad(&e))?;
        private_dir(&this.objects().join("info")).map_err(|e| bad(&e))?;
        let mirror = repo.mirror.join("objects");
        fs::write(this.objects().join("info/alternates"), format!("{}\n", mirror.display()))
            .map_err(|e| bad(&e))?;
        Ok(this)
    }

    fn objects(&self) -> PathBuf {
        self.0.join("objects")
    }
}

impl Drop for Quarantine {
    fn drop(&mut self) {
        if let Err(e) = fs::remove_dir_all(&self.0) {
            tracing::error!("{}: {e}", self.0.display());
        }
    }
}

/// Takes a push. The answer begins once all of the request is read.
///
/// # Errors
/// The request is none; what its refs may not be is in the answer instead.
pub async fn receive(
    gate: Arc<Gate>,
    repo: Arc<Repo>,
    mut inflow: Inflow,
    mut ticket: Ticket,
) -> Result<Reply, (Refusal, Ticket)> {
    let (head, rest) = match read_head(&mut inflow).await {
        Ok(it) => it,
        Err(refusal) => {
            inflow.drain(DRAIN.0, DRAIN.1).await;
            return Err((refusal, ticket));
        }
    };
    if head.commands.is_empty() {
        // git asks with an empty list whether it may, before it sends much.
        ticket.finish();
        return Ok(Vec::new().into());
    }
    ticket.refs(&head.commands);
    let taken = take(&gate, &repo, &head, &rest, &mut inflow).await;
    ticket.up(inflow.taken);
    let Taken { quarantine, leaks, refs, rules } = match taken {
        Ok(it) => it,
        Err(refusal) => {
            inflow.drain(DRAIN.0, DRAIN.1).await;
            let mut out = Vec::new();
            say(&mut out, head.capabilities, &refusal_text(&refusal, &[]));
            report(&mut out, &head, Some(&refusal));
            ticket.fail(&refusal);
            return Ok(out.into());
        }
    };
    let (tx, rx) = mpsc::channel(16);
    // From here on it does not matter whether the client is still there.
    let tasks = gate.tasks.clone();
    tasks.spawn(async move {
        let out = Out { tx, capabilities: head.capabilities };
        let mut found = Vec::new();
        let done = forward(
            &gate,
            &repo,
            &head,
            (&quarantine, leaks, &refs, &rules),
            &mut ticket,
            &out,
            &mut found,
        )
        .await;
        drop(quarantine);
        let mut bytes = Vec::new();
        match &done {
            Ok(()) => ticket.finish(),
            Err(refusal) => {
                say(&mut bytes, head.capabilities, &refusal_text(refusal, &found));
                ticket.fail(refusal);
            }
        }
        report(&mut bytes, &head, done.err().as_ref());
        let _ = out.tx.send(bytes.into()).await; // whoever is gone reads nothing
    });
    Ok(Reply::Made(rx))
}

/// The way to the client's terminal.
struct Out {
    tx: mpsc::Sender<Bytes>,
    capabilities: Capabilities,
}

impl Out {
    async fn line(&self, text: &str) {
        let mut bytes = Vec::new();
        say(&mut bytes, self.capabilities, &[text.to_owned()]);
        if !bytes.is_empty() {
            let _ = timeout(ALIVE, self.tx.send(bytes.into())).await; // a client that does not read must not stop the push
        }
    }

    /// Says nothing now and then, so that nobody between takes the silence for the end.
    async fn waiting<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = tokio::time::sleep(ALIVE) => {
                    if self.capabilities.side_band {
                        let _ = self.tx.try_send(Bytes::from_static(b"0005\x02"));
                    }
                }
            }
        }
    }
}

fn say(out: &mut Vec<u8>, capabilities: Capabilities, lines: &[String]) {
    if capabilities.side_band {
        for line in lines {
            pkt_line::band(out, 2, format!("{line}\n").as_bytes());
        }
    }
}

/// What became of each ref: all of them, or none.
fn report(out: &mut Vec<u8>, head: &Head, refusal: Option<&Refusal>) {
    let Capabilities { report_status, side_band } = head.capabilities;
    if !report_status {
        return;
    }
    let mut lines = Vec::new();
    let unpacked = if refusal.is_some_and(|r| matches!(r.rule, Rule::Pack | Rule::MaxPack)) {
        "unpack refused by git-gate\n"
    } else {
        "unpack ok\n"
    };
    pkt_line::data(&mut lines, unpacked.as_bytes());
    for command in &head.commands {
        let line = match refusal {
            None => format!("ok {}\n", command.name),
            Some(refusal) => format!("ng {} git-gate: {}\n", command.name, refusal.line()),
        };
        pkt_line::data(&mut lines, line.as_bytes());
    }
    pkt_line::flush(&mut lines);
    if side_band {
        pkt_line::band(out, 1, &lines);
        pkt_line::flush(out);
    } else {
        out.extend_from_slice(&lines);
    }
}

fn refusal_text(refusal: &Refusal, found: &[Finding]) -> Vec<String> {
    let mut lines = vec![format!("git-gate: {}", refusal.line())];
    lines.extend(found.iter().take(SHOWN).map(|f| format!("  {f}")));
    if found.len() > SHOWN {
        lines.push(format!("  and {} more", found.len() - SHOWN));
    }
    lines.extend(refusal.hint.iter().map(|hint| format!("hint: {hint}")));
    lines.push("nothing was pushed".to_owned());
    lines
}

async fn read_head(inflow: &mut Inflow) -> Result<(Head, Vec<u8>), Refusal> {
    let mut reader = HeadReader::default();
    while let Some(bytes) = inflow.next().await? {
        if let Some(done) = reader.push(&bytes)? {
            return Ok(done);
        }
    }
    Err(Refusal::new(Rule::PktLine, "the request ends before its list of refs does"))
}

/// A push whose pack is all there.
struct Taken {
    quarantine: Quarantine,
    leaks: Option<Leaks>,
    /// What it was compared with.
    refs: Refs,
    /// What it is judged by.
    rules: Arc<Rules>,
}

/// Checks the refs, then reads the pack into a quarantine of its own. gitleaks is started first: it
/// warms up meanwhile.
async fn take(
    gate: &Gate,
    repo: &Repo,
    head: &Head,
    rest: &[u8],
    inflow: &mut Inflow,
) -> Result<Taken, Refusal> {
    let refs = repo.refs().await?;
    let rules = repo.rules();
    let (push, patterns) = rules.push.as_ref().ok_or_else(read_only)?;
    check_refs(gate, patterns, head, &refs)?;
    let quarantine = Quarantine::new(repo)?;
    let leaks = gate.warm.take(&repo.programs)?;

    let mut meter = Meter { head: Vec::new(), size: 0 };
    let mut args = vec![
        "index-pack".to_owned(),
        "--stdin".to_owned(),
        "--fix-thin".to_owned(),
        "--threads=2".to_owned(),
    ];
    if !gate.guards.is_off(Rule::Pack) {
        args.push("--strict".to_owned());
    }
    let objects = quarantine.objects();
    let call = repo.git().ro(&quarantine.0).rw(&objects).objects(&objects).args(args);
    let mut running = call.start().map_err(|e| Refusal::host("read the pack", &e))?;
    let mut stdin = running.stdin.take();
    let mut chunk = Some(Bytes::copy_from_slice(rest));
    while let Some(bytes) = chunk {
        meter.push(&bytes);
        gate.guards.check(meter.size > push.max_pack, Rule::MaxPack, || {
            format!("the pack is larger than the {} bytes that a push may have", push.max_pack)
        })?;
        gate.guards.check(
            meter.objects().is_some_and(|n| n > push.max_objects),
            Rule::MaxObjects,
            || {
                format!(
                    "the pack has more than the {} objects that a push may have",
                    push.max_objects
                )
            },
        )?;
        if let Some(to) = &mut stdin {
            if to.write_all(&bytes).await.is_err() {
                stdin = None; // it says why below
            }
        }
        chunk = inflow.next().await?;
    }
    drop(stdin);
    if meter.objects() == Some(0) && meter.size == 32 {
        return Ok(Taken { quarantine, leaks, refs, rules }); // a branch of what is known
    }
    let end = async {
        let mut said = Vec::new();
        let _ = running.stdout.read_to_end(&mut said).await;
        running.end().await
    };
    let ended = timeout(INDEX, end)
        .await
        .map_err(|_| Refusal::new(Rule::Pack, "the pack takes too long to read"))?;
    let ended = ended.map_err(|e| Refusal::host("read the pack", &e))?;
    if ended.status.success() {
        Ok(Taken { quarantine, leaks, refs, rules })
    } else {
        Err(bad_pack(&ended))
    }
}

fn bad_pack(ended: &Ended) -> Refusal {
    if ended.complaint.contains("No space left") || ended.complaint.contains("File too large") {
        return Refusal::host("keep the pack, the disk being full", &ended.reason());
    }
    if ended.status.code().is_none() {
        return Refusal::host("read the pack: git was ended by its limits", &ended.status);
    }
    let reason = ended.reason();
    if reason.contains("unresolved deltas") || reason.contains("did not receive expected object") {
        return Refusal::new(
            Rule::Connectivity,
            "the push builds on objects that the upstream does not have",
        );
    }
    Refusal::new(Rule::Pack, format!("git does not accept the pack: {}", neutral(&reason)))
}

/// What of a pack is known without reading it.
struct Meter {
    head: Vec<u8>,
    size: u64,
}

impl Meter {
    fn push(&mut self, bytes: &[u8]) {
        self.size += bytes.len() as u64;
        self.head.extend(bytes.iter().take(12 - self.head.len().min(12)));
    }

    /// How many objects it says it has.
    fn objects(&self) -> Option<u32> {
        self.head
            .strip_prefix(b"PACK")?
            .get(4..8)
            .and_then(|n| n.try_into().ok())
            .map(u32::from_be_bytes)
    }
}

fn read_only() -> Refusal {
    Refusal::new(Rule::ReadOnly, "this bottle may not push to this upstream")
}

fn check_refs(gate: &Gate, policy: &RefPolicy, head: &Head, refs: &Refs) -> Result<(), Refusal> {
    for command in &head.commands {
        policy.check(command, refs.get(&command.name), &gate.guards).map_err(|mut refusal| {
            refusal.reason = format!("{}: {}", neutral(&command.name), refusal.reason);
            refusal
        })?;
    }
    Ok(())
}

async fn forward(
    gate: &Gate,
    repo: &Repo,
    head: &Head,
    (quarantine, leaks, refs, rules): (&Quarantine, Option<Leaks>, &Refs, &Rules),
    ticket: &mut Ticket,
    out: &Out,
    found: &mut Vec<Finding>,
) -> Result<(), Refusal> {
    let (push, _) = rules.push.as_ref().ok_or_else(read_only)?;
    let _turn = out.waiting(repo.pushing.lock()).await;
    let objects = quarantine.objects();
    let git = || repo.git().ro(&quarantine.0).objects(&objects);

    // Whatever is said about what is new must be said of the same refs; that the upstream still has
    // them is for the lease.
    let known: Vec<&Id> = refs.values().collect();
    let (new, changes) = {
        let git = git();
        let work = async {
            tokio::try_join!(
                new_objects(&git, head, &known),
                changes(&git, head, &known),
                kinds(gate, &git, head),
                ancestry(gate, &git, head)
            )
        };
        let (new, changes, (), ()) = out.waiting(work).await?;
        (new, changes)
    };
    ticket.event.objects = Some(new.len() as u64);
    gate.guards.check(new.len() > push.max_objects as usize, Rule::MaxObjects, || {
        format!("the push has more than the {} new objects that it may have", push.max_objects)
    })?;

    let profile = gate.profile.clone();
    let mut scan = Scan::new(&profile, push, &gate.guards, leaks);
    let names: Vec<&str> = head.commands.iter().map(|c| c.name.as_str()).collect();
    let batch = git().args(["cat-file", "--batch-command", "--buffer"]);
    out.waiting(scan.all(&batch, &new, &changes, &names)).await?;
    for warning in scan.findings.iter().filter(|f| f.warn).take(SHOWN) {
        out.line(&format!("git-gate: warning: {warning}")).await;
    }
    ticket.event.findings = scan.findings.iter().map(ToString::to_string).collect();
    scan.findings.retain(|f| !f.warn);
    if let Some(first) = scan.findings.first() {
        let mut refusal =
            Refusal::new(first.kind, format!("{} not to be pushed", count(scan.findings.len())));
        refusal.findings = scan.findings.iter().map(ToString::to_string).collect();
        *found = scan.findings;
        return Err(refusal.hint(
            "take it out of every commit (git commit --amend, git rebase -i) and push again; if it is no secret, the operator can allow its fingerprint",
        ));
    }

    ticket.admit()?;
    let _alone = repo.alone().await;
    // A push can be as slow as its sender likes. Under rules that are not in force any more nothing
    // leaves.
    if !std::ptr::eq(rules, &*repo.rules()) {
        return Err(Refusal::new(
            Rule::Stale,
            "the operator has changed the rules meanwhile: push again",
        ));
    }
    let mut tries = 0;
    let (answer, notes) = loop {
        let notes = match &repo.attestor {
            Some(attestor) => Some(
                out.waiting(attestor.notes(repo, &git().rw(&objects), head, &rules.digest)).await?,
            ),
            None => None,
        };
        match out.waiting(send(repo, git(), head, notes.as_ref())).await {
            // Somebody else's push was attested in between: all or nothing went wrong by that.
            Err(_) if tries < ATTEST_TRIES && attest::moved(repo, notes.as_ref()).await => {
                tries += 1
            }
            answer => break (answer, notes),
        }
    };
    match answer {
        Ok(said) => {
            for line in &said {
                out.line(&format!("upstream: {line}")).await;
            }
            let attested = notes
                .map(|n| format!("; attested by {} {}", attest::NOTES, n.new.short()))
                .unwrap_or_default();
            if !attested.is_empty() {
                out.line(&format!("git-gate: pushed{attested}")).await;
            }
            let line = said.first().map(|l| format!("; {l}")).unwrap_or_default();
            ticket.event.answer = Some(format!("ok{attested}{line}"));
        }
        Err((refusal, said)) => {
            for line in &said {
                out.line(&format!("upstream: {line}")).await;
            }
            ticket.event.answer = Some(refusal.reason.clone());
            return Err(refusal);
        }
    }
    // The upstream has it. If the mirror cannot take it now, the next fetch brings it.
    if let Err(e) = adopt(repo, head, &objects).await {
        tracing::warn!("{}: {}", repo.upstream.name, e.reason);
    }
    Ok(())
}

fn count(n: usize) -> String {
    if n == 1 {
        "something was found that is".to_owned()
    } else {
        format!("{n} things were found that are")
    }
}

/// Pushes upstream. Gives what the upstream said.
async fn send(
    repo: &Repo,
    git: Call,
    head: &Head,
    notes: Option<&Notes>,
) -> Result<Vec<String>, (Refusal, Vec<String>)> {
    let mut args = vec![
        "push".to_owned(),
        "--porcelain".to_owned(),
        "--no-verify".to_owned(),
        "--no-signed".to_owned(),
    ];
    if head.commands.len() > 1 || notes.is_some() {
        args.push("--atomic".to_owned());
    }
    if let Some(notes) = notes {
        args.push(format!(
            "--force-with-lease={}:{}",
            attest::NOTES,
            notes.old.as_ref().map_or("", Id::as_str)
        ));
    }
    for c in &head.commands {
        // An empty expectation: the ref must not be there.
        let old = if c.old.is_zero() { "" } else { c.old.as_str() };
        args.push(format!("--force-with-lease={}:{old}", c.name));
    }
    args.extend(["--".to_owned(), repo.remote.url().to_owned()]);
    args.extend(head.commands.iter().map(|c| format!("{}:{}", c.new, c.name)));
    args.extend(notes.map(|n| format!("{}:{}", n.new, attest::NOTES)));
    let call = repo.remote.reached_by(git).args(args);
    let ended = call.run(Vec::new(), 1 << 20, FORWARD).await;
    let said = ended.as_ref().map(upstream_lines).unwrap_or_default();
    match &ended {
        Ok(ended) if ended.status.success() => return Ok(said),
        _ => {}
    }
    // It may have arrived although the connection did not last.
    let arrived = match repo.upstream_refs().await {
        Ok(seen) => head.commands.iter().all(|c| seen.refs.get(&c.name) == Some(&c.new)),
        Err(_) => false,
    };
    if arrived && attest::arrived(repo, notes).await {
        return Ok(said);
    }
    let refusal = match ended {
        Err(e) => Refusal::new(Rule::Upstream, format!("the upstream cannot be reached: {e}")),
        Ok(ended) => {
            let text = String::from_utf8_lossy(&ended.output).into_owned();
            let mut refused = text.lines().filter(|l| l.starts_with('!'));
            let line = refused
                .find(|l| !l.contains("atomic push failed"))
                .and_then(|l| l.rsplit('\t').next());
            match line {
                Some(line) if line.contains("stale info") => Refusal::new(
                    Rule::Stale,
                    "the upstream has something else there by now: fetch first",
                ),
                Some(line) => Refusal::new(
                    Rule::UpstreamRefused,
                    format!("the upstream does not accept it: {}", neutral(line)),
                ),
                None => Refusal::new(
                    Rule::Upstream,
                    format!("the upstream did not take it: {}", neutral(&ended.reason())),
                ),
            }
        }
    };
    Err((refusal, said))
}

fn upstream_lines(ended: &Ended) -> Vec<String> {
    ended
        .complaint
        .lines()
        .filter_map(|l| l.strip_prefix("remote: "))
        .map(|l| neutral(l.trim_end()))
        .filter(|l| !l.is_empty())
        .take(20)
        .collect()
}

/// Moves the pack into the mirror, and its refs on.
async fn adopt(repo: &Repo, head: &Head, objects: &Path) -> Result<(), Refusal> {
    let bad = |e: &dyn std::fmt::Display| Refusal::host("keep the pushed objects", e);
    let mut files: Vec<PathBuf> = fs::read_dir(objects.join("pack"))
        .map_err(|e| bad(&e))?
        .filter_map(|e| Some(e.ok()?.path()))
        .collect();
    // A pack is there once its index is.
    files.sort_by_key(|f| f.extension().is_some_and(|e| e == "idx"));
    for file in files {
        let Some(name) = file.file_name().filter(|n| n.to_string_lossy().starts_with("pack-"))
        else {
            continue;
        };
        fs::rename(&file, repo.mirror.join("objects/pack").join(name)).map_err(|e| bad(&e))?;
    }
    let lines = head
        .commands
        .iter()
        .fold(String::new(), |all, c| format!("{all}update {} {} {}\n", c.name, c.new, c.old));
    let call = repo.git().rw(&repo.mirror).args(["update-ref", "--stdin"]);
    ran(call.run(lines.into_bytes(), 1 << 16, LOCAL).await, "move the mirror's refs").map(drop)
}

/// What the gate can do, and the mirror's refs: the beginning of a push.
#[must_use]
pub fn advertisement(refs: &Refs) -> Vec<u8> {
    const CAPABILITIES: &str =
        "report-status side-band-64k ofs-delta atomic object-format=sha1 agent=bot-bottle-gate";
    let mut out = Vec::new();
    pkt_line::data(&mut out, b"# service=git-receive-pack\n");
    pkt_line::flush(&mut out);
    let mut capabilities = Some(CAPABILITIES);
    let zero = HashMap::from([("capabilities^{}".to_owned(), Id::zero())]);
    let lines: Vec<(&String, &Id)> =
        if refs.is_empty() { zero.iter().collect() } else { refs.iter().collect() };
    for (name, id) in lines {
        let tail = capabilities.take().map(|c| format!("\0{c}")).unwrap_or_default();
        pkt_line::data(&mut out, format!("{id} {name}{tail}\n").as_bytes());
    }
    pkt_line::flush(&mut out);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_repository_can_be_pushed_to() {
        let text = advertisement(&Refs::new());
        assert!(
            text.windows(17).any(|w| w == b"capabilities^{}\0r"),
            "{}",
            String::from_utf8_lossy(&text)
        );
    }
}
