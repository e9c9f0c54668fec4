//! The policy file: read at the start, and again whenever somebody replaces it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bottle_policy::ReloadReport;
use bottle_policy::audit::{AuditEvent, AuditVerdict, AuditWriter, Line};
use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use serde::Serialize;

use super::report;
use super::socket::directory;

/// Largest policy file, bytes.
const MAX_BYTES: u64 = 4 << 20;

/// Stack of the watching thread, which parses a policy, bytes.
const STACK_BYTES: usize = 512 << 10;

/// Reads the policy at `path` with `parse`.
///
/// # Errors
/// One line: the path, and what is wrong with the file or the policy.
pub fn read<P, E: std::fmt::Display>(
    path: &Path,
    parse: impl FnOnce(&[u8]) -> Result<P, E>,
) -> Result<P, String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let mut text = Vec::new();
    let file = File::open(path).map_err(|e| at(&e))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(|e| at(&e))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(at(&"larger than 4 MiB"));
    }
    parse(&text).map_err(|e| at(&e))
}

/// Why another policy is not in force.
#[derive(Debug)]
pub struct Refused {
    /// The digest of that policy; `None` when the file holds no policy.
    pub digest: Option<String>,
    /// One line: the path, and what is wrong.
    pub why: String,
}

impl From<String> for Refused {
    fn from(why: String) -> Self {
        Self { digest: None, why }
    }
}

/// Writes the result of a reload to the audit log and then to the orchestrator: the digest of the
/// new policy, or why the old one stays. Writes nothing for `Ok(None)`, the same policy again.
/// `message` makes the daemon's own message of a report.
pub fn report_reload<M: Serialize>(
    daemon: &str,
    log: &AuditWriter,
    before: &str,
    applied: Result<Option<String>, Refused>,
    message: impl FnOnce(ReloadReport) -> M,
) {
    let (verdict, reason, report) = match applied {
        Ok(None) => return,
        Ok(Some(digest)) => (
            AuditVerdict::Allow,
            format!("policy {digest} in force, was {before}"),
            ReloadReport::in_force(digest),
        ),
        Err(Refused { digest, why }) => (
            AuditVerdict::Deny,
            format!("the policy {before} stays in force: {why}"),
            ReloadReport::refused(digest, &why),
        ),
    };
    tracing::info!("{reason}");
    let mut event = AuditEvent::new(daemon, "policy", verdict);
    event.reason = Some(reason);
    if let Err(e) = log.append(Line::Opening, event) {
        tracing::error!("{e}");
    }
    if let Err(e) = report::json(&message(report)) {
        tracing::error!("standard output: {e}");
    }
}

/// Watches the policy file from now on. Create it before the file is first read, so that no change
/// is missed, and before the daemon confines itself.
pub struct PolicyWatch {
    inotify: Inotify,
    name: OsString,
    path: PathBuf,
}

impl PolicyWatch {
    /// Watches the directory of `path`, because a rename puts another file in its place.
    ///
    /// # Errors
    /// One line: the system has no inotify watch left, or the directory cannot be read.
    pub fn new(path: &Path) -> Result<Self, String> {
        Self::watch(path).map_err(|e| format!("{}: {e}", path.display()))
    }

    fn watch(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let changes = AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE;
        inotify.add_watch(directory(path), changes)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Self { inotify, name, path: path.to_owned() })
    }

    /// Calls `changed` after each change, on a thread of its own, for as long as the process lives.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn run(self, mut changed: impl FnMut(&Path) + Send + 'static) -> io::Result<()> {
        let watch = move || {
            loop {
                match self.inotify.read_events() {
                    Ok(events) => {
                        // After a queue overflow it is unknown which file changed.
                        if events.iter().any(|e| {
                            e.name.as_ref() == Some(&self.name)
                                || e.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                        }) {
                            changed(&self.path);
                        }
                    }
                    Err(Errno::EINTR) => {}
                    Err(e) => {
                        let path = self.path.display();
                        return tracing::error!("{path} is not watched any more: {e}");
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("reload".to_owned());
        thread.stack_size(STACK_BYTES).spawn(watch).map(drop)
    }
}
