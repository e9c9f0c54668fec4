//! Another policy while the daemon runs: whoever replaces the file (rename over it, or write it anew) puts it in force.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bottle_policy::Policy;
use bottle_policy::audit::{AuditEvent, AuditWriter, Line, Verdict};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::routes::Live;

/// Largest policy file, bytes.
const MAX: u64 = 4 << 20;

/// Reads a policy file.
///
/// # Errors
/// One line: file, line, key and what is wrong.
pub fn read(path: &Path) -> Result<Policy, String> {
    let at = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let size = std::fs::metadata(path).map_err(|e| at(&e))?.len();
    if size > MAX {
        return Err(at(&"larger than 4 MiB"));
    }
    let text = std::fs::read(path).map_err(|e| at(&e))?;
    Policy::from_json(&text).map_err(|e| at(&e))
}

/// Watches a policy file from its creation on; to be made before the daemon confines itself.
pub struct Watch {
    inotify: Inotify,
    name: OsString,
    path: PathBuf,
}

impl Watch {
    /// Watches the directory of `path`: a rename puts another file there.
    ///
    /// # Errors
    /// The system has no watch to give.
    pub fn new(path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC)?;
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        inotify.add_watch(dir, AddWatchFlags::IN_MOVED_TO | AddWatchFlags::IN_CLOSE_WRITE)?;
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_owned();
        Ok(Self { inotify, name, path: path.to_owned() })
    }

    /// Puts each new policy in force, in a thread of its own, as long as the process lives.
    ///
    /// # Errors
    /// The thread cannot be started.
    pub fn run(self, live: Arc<Live>, log: Arc<AuditWriter>) -> io::Result<()> {
        std::thread::Builder::new().name("reload".to_owned()).stack_size(512 * 1024).spawn(move || {
            while let Ok(events) = self.inotify.read_events() {
                if events.iter().any(|e| e.name.as_ref() == Some(&self.name)) {
                    self.apply(&live, &log);
                }
            }
        })?;
        Ok(())
    }

    fn apply(&self, live: &Live, log: &AuditWriter) {
        let before = live.now().policy().digest();
        let applied = read(&self.path).and_then(|policy| {
            let digest = policy.digest();
            if digest == before {
                return Ok(None);
            }
            live.replace(policy).map(|()| Some(digest)).map_err(|e| format!("{}: {e}", self.path.display()))
        });
        let (verdict, reason) = match applied {
            Ok(None) => return,
            Ok(Some(digest)) => (Verdict::Allow, format!("policy {digest} in force, was {before}")),
            Err(why) => (Verdict::Deny, format!("the policy {before} stays in force: {why}")),
        };
        tracing::info!("{reason}");
        let mut event = AuditEvent::new("egress", "policy", verdict);
        event.reason = Some(reason);
        if let Err(e) = log.append(Line::Opening, event) {
            tracing::error!("{e}");
        }
    }
}
