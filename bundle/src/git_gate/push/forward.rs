//! A push that is in quarantine: its objects are checked and scanned, sent to the upstream, and
//! then moved into the mirror.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::attest::{self, NOTES_REF, Notes};
use super::head::PushHead;
use super::pack::{Quarantine, ReceivedPack};
use super::report::{ClientProgress, MAX_SHOWN_FINDINGS};
use super::revwalk::{Walk, check_ancestry, check_kinds, new_objects, path_changes};
use super::upstream::{Upstream, UpstreamRules};
use crate::git_gate::audit::RequestAudit;
use crate::git_gate::exec::{CommandOutput, ConfinedCommand};
use crate::git_gate::fetch::mirror::{LOCAL_TIME, Mirror};
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::refusal::{Refusal, Rule};
use crate::git_gate::scan::gitleaks::GitleaksRun;
use crate::git_gate::scan::push_scan::{NewObject, PathChange, PushScan};
use crate::git_gate::shared::Shared;
use crate::git_gate::text::printable;

/// How often an attested push is repeated because somebody else's push changed the notes.
const MAX_ATTEST_RETRIES: u32 = 5;
/// Time for the upstream to take a push.
const FORWARD_TIME: Duration = Duration::from_secs(1800);
/// Most bytes that `git push` may write to its standard output.
const MAX_PUSH_OUTPUT: usize = 1 << 20;
/// Most lines of the upstream's own messages that are passed on.
const MAX_UPSTREAM_LINES: usize = 20;

/// What the upstream itself said, line by line.
type UpstreamLines = Vec<String>;

/// Forwards one push.
pub struct Forward<'a> {
    /// What all requests share.
    pub shared: &'a Shared,
    /// Where it goes.
    pub upstream: &'a Upstream,
    /// The ref updates.
    pub head: &'a PushHead,
    /// The client's terminal.
    pub client: &'a ClientProgress,
}

impl Forward<'_> {
    /// Forwards `pack`, whose quarantine is removed at the end. `audit` gets the counts, the
    /// findings and the upstream's answer.
    ///
    /// # Errors
    /// The first rule that the push breaks, or why the upstream did not take it.
    pub async fn run(&self, pack: ReceivedPack, audit: &mut RequestAudit) -> Result<(), Refusal> {
        let ReceivedPack { quarantine, gitleaks, refs, rules } = pack;
        let _turn = self.client.keep_alive(self.upstream.push_turn.lock()).await;
        let git = self.git(&quarantine);
        // Everything that is checked is checked against the same refs. The lease of the push makes
        // sure that the upstream still has them.
        let known: Vec<&ObjectId> = refs.values().collect();
        let (new, changes) = self.walk(&git, &known).await?;
        audit.event().objects = Some(new.len() as u64);
        self.scan(&git, &rules, gitleaks, (&new, &changes), audit).await?;

        audit.admit()?;
        let _exclusive = self.upstream.mirror.exclusive().await;
        // A push can take as long as its sender likes. It must not leave under rules that were
        // replaced in the meantime.
        if !Arc::ptr_eq(&rules, &self.upstream.rules()) {
            return Err(Refusal::new(
                Rule::Stale,
                "the operator has changed the rules during this push: push again",
            ));
        }
        self.send_attested(&quarantine, &rules, audit).await?;
        // The upstream has it. If the mirror cannot take it now, the next fetch brings it.
        if let Err(e) = self.adopt(&quarantine.objects()).await {
            tracing::warn!("{}: {}", self.upstream.mirror.config.name, e.reason);
        }
        Ok(())
    }

    /// git on the mirror, with the quarantine's objects.
    fn git(&self, quarantine: &Quarantine) -> ConfinedCommand {
        self.upstream.mirror.git().ro(quarantine.path()).objects(&quarantine.objects())
    }

    /// Lists what is new, and checks how it connects to `known`.
    async fn walk(
        &self,
        git: &ConfinedCommand,
        known: &[&ObjectId],
    ) -> Result<(Vec<NewObject>, Vec<PathChange>), Refusal> {
        let walk = Walk { git, head: self.head, known };
        let work = async {
            tokio::try_join!(
                new_objects(&walk),
                path_changes(&walk),
                check_kinds(&self.shared.checks, &walk),
                check_ancestry(&self.shared.checks, &walk)
            )
        };
        let (new, changes, (), ()) = self.client.keep_alive(work).await?;
        Ok((new, changes))
    }

    async fn scan(
        &self,
        git: &ConfinedCommand,
        rules: &UpstreamRules,
        gitleaks: Option<GitleaksRun>,
        (new, changes): (&[NewObject], &[PathChange]),
        audit: &mut RequestAudit,
    ) -> Result<(), Refusal> {
        let checks = &self.shared.checks;
        let (push, _) = rules.push()?;
        checks.refuse_if(new.len() > push.max_objects as usize, Rule::MaxObjects, || {
            format!("the push has more than max_objects, {} new objects", push.max_objects)
        })?;
        let scan = PushScan::new(&self.shared.objects, push, checks, gitleaks);
        let names: Vec<&str> = self.head.updates.iter().map(|u| u.name.as_str()).collect();
        let findings = self.client.keep_alive(scan.run(git, new, changes, &names)).await?;
        let (warnings, refused): (Vec<_>, Vec<_>) = findings.into_iter().partition(|f| f.warn);
        for warning in warnings.iter().take(MAX_SHOWN_FINDINGS) {
            self.client.line(&format!("git-gate: warning: {warning}")).await;
        }
        audit.event().findings = refused.iter().chain(&warnings).map(ToString::to_string).collect();
        let Some(first) = refused.first() else { return Ok(()) };
        let reason = match refused.len() {
            1 => "something was found that must not be pushed".to_owned(),
            n => format!("{n} things were found that must not be pushed"),
        };
        let mut refusal = Refusal::new(first.kind, reason).hint(
            "remove it from every commit (git commit --amend, git rebase -i) and push again; if it \
             is not a secret, the operator can allow its fingerprint",
        );
        refusal.findings = refused.iter().map(ToString::to_string).collect();
        Err(refusal)
    }

    /// Sends the push with its notes, if the upstream is attested, and tells the client.
    async fn send_attested(
        &self,
        quarantine: &Quarantine,
        rules: &UpstreamRules,
        audit: &mut RequestAudit,
    ) -> Result<(), Refusal> {
        let mirror = &self.upstream.mirror;
        let writing = self.git(quarantine).rw(&quarantine.objects());
        let mut retries = 0;
        let (answer, notes) = loop {
            let notes = match &self.upstream.attestor {
                Some(attestor) => {
                    let notes = attestor.notes(mirror, &writing, self.head, &rules.digest);
                    Some(self.client.keep_alive(notes).await?)
                }
                None => None,
            };
            match self.client.keep_alive(self.send(quarantine, notes.as_ref())).await {
                // Another push changed the notes in the meantime, so this atomic push failed.
                Err(_)
                    if retries < MAX_ATTEST_RETRIES
                        && attest::moved(mirror, notes.as_ref()).await =>
                {
                    retries += 1;
                }
                answer => break (answer, notes),
            }
        };
        let (Ok(lines) | Err((_, lines))) = &answer;
        for line in lines {
            self.client.line(&format!("upstream: {line}")).await;
        }
        match answer {
            Ok(lines) => {
                let attested = notes
                    .map(|n| format!("; attested by {NOTES_REF} {}", n.new.short()))
                    .unwrap_or_default();
                if !attested.is_empty() {
                    self.client.line(&format!("git-gate: pushed{attested}")).await;
                }
                let line = lines.first().map(|l| format!("; {l}")).unwrap_or_default();
                audit.event().answer = Some(format!("ok{attested}{line}"));
                Ok(())
            }
            Err((refusal, _)) => {
                audit.event().answer = Some(refusal.reason.clone());
                Err(refusal)
            }
        }
    }

    /// Runs `git push`. A push that arrived although the connection broke counts as a success.
    async fn send(
        &self,
        quarantine: &Quarantine,
        notes: Option<&Notes>,
    ) -> Result<UpstreamLines, (Refusal, UpstreamLines)> {
        let mirror = &self.upstream.mirror;
        let args = push_args(mirror, self.head, notes);
        let command = mirror.remote.reached_by(self.git(quarantine)).args(args);
        let output = command.run(Vec::new(), MAX_PUSH_OUTPUT, FORWARD_TIME).await;
        let lines = output.as_ref().map(upstream_lines).unwrap_or_default();
        if output.as_ref().is_ok_and(|output| output.status.success()) {
            return Ok(lines);
        }
        let arrived = match mirror.upstream_refs().await {
            Ok(now) => self.head.updates.iter().all(|u| now.refs.get(&u.name) == Some(&u.new)),
            Err(_) => false,
        };
        if arrived && attest::arrived(mirror, notes).await {
            return Ok(lines);
        }
        let refusal = match output {
            Err(e) => Refusal::new(Rule::Upstream, format!("the upstream cannot be reached: {e}")),
            Ok(output) => not_taken(&output),
        };
        Err((refusal, lines))
    }

    /// Moves the pack into the mirror, and updates the mirror's refs.
    async fn adopt(&self, objects: &Path) -> Result<(), Refusal> {
        let mirror = &self.upstream.mirror;
        let bad = |e: &dyn std::fmt::Display| Refusal::host("keep the pushed objects", e);
        let mut files: Vec<PathBuf> = fs::read_dir(objects.join("pack"))
            .map_err(|e| bad(&e))?
            .filter_map(|e| Some(e.ok()?.path()))
            .collect();
        // git uses a pack as soon as its index is there, so the index comes last.
        files.sort_by_key(|f| f.extension().is_some_and(|e| e == "idx"));
        for file in files {
            let name = file.file_name().filter(|n| n.to_string_lossy().starts_with("pack-"));
            let Some(name) = name else { continue };
            fs::rename(&file, mirror.path.join("objects/pack").join(name)).map_err(|e| bad(&e))?;
        }
        let lines =
            self.head.updates.iter().fold(String::new(), |all, u| {
                format!("{all}update {} {} {}\n", u.name, u.new, u.old)
            });
        let update = mirror.git().rw(&mirror.path).args(["update-ref", "--stdin"]);
        let what = "move the mirror's refs";
        update.run_ok(lines.into_bytes(), 1 << 16, LOCAL_TIME, what).await.map(drop)
    }
}

/// Every ref is pushed by its exact new id, with a lease on its old one.
fn push_args(mirror: &Mirror, head: &PushHead, notes: Option<&Notes>) -> Vec<String> {
    let mut args: Vec<String> =
        ["push", "--porcelain", "--no-verify", "--no-signed"].map(ToOwned::to_owned).into();
    if head.updates.len() > 1 || notes.is_some() {
        args.push("--atomic".to_owned());
    }
    if let Some(notes) = notes {
        let old = notes.old.as_ref().map_or("", ObjectId::as_str);
        args.push(format!("--force-with-lease={NOTES_REF}:{old}"));
    }
    for update in &head.updates {
        // An empty value means that the ref must not exist.
        let old = if update.old.is_zero() { "" } else { update.old.as_str() };
        args.push(format!("--force-with-lease={}:{old}", update.name));
    }
    args.extend(["--".to_owned(), mirror.remote.url().to_owned()]);
    args.extend(head.updates.iter().map(|u| format!("{}:{}", u.new, u.name)));
    args.extend(notes.map(|n| format!("{}:{NOTES_REF}", n.new)));
    args
}

/// Why the upstream did not take the push, from the output of `git push --porcelain`.
fn not_taken(output: &CommandOutput) -> Refusal {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text
        .lines()
        .filter(|l| l.starts_with('!'))
        .find(|l| !l.contains("atomic push failed"))
        .and_then(|l| l.rsplit('\t').next());
    match line {
        Some(line) if line.contains("stale info") => {
            Refusal::new(Rule::Stale, "the ref has changed at the upstream: fetch first")
        }
        Some(line) => Refusal::new(
            Rule::UpstreamRefused,
            format!("the upstream refused the push: {}", printable(line)),
        ),
        None => Refusal::new(
            Rule::Upstream,
            format!("the upstream did not take the push: {}", printable(&output.reason())),
        ),
    }
}

fn upstream_lines(output: &CommandOutput) -> UpstreamLines {
    output
        .stderr
        .lines()
        .filter_map(|l| l.strip_prefix("remote: "))
        .map(|l| printable(l.trim_end()))
        .filter(|l| !l.is_empty())
        .take(MAX_UPSTREAM_LINES)
        .collect()
}
