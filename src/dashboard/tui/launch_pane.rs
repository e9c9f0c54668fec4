//! The pane that shows the plan of a launch, and then its progress.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use crate::host::process::{Child, Program, Sink};
use crate::values::neutral;

/// Longest run of `bottle plan`.
const PLAN_DEADLINE: Duration = Duration::from_secs(60);
/// How much of the end of a launch's output is shown, in bytes.
const SHOWN_BYTES: u64 = 16 << 10;

/// A launch that is planned or runs.
pub struct LaunchPane {
    pub agent: String,
    pub lines: Vec<String>,
    launch: Option<Launch>,
}

/// A launch that was started here.
struct Launch {
    child: Child,
    /// What it prints. The file has no name, so nobody can put another one in its place.
    output: File,
}

/// `bottle ARGS…`, with the operator's environment.
fn bottle(args: &[&str]) -> io::Result<Program> {
    Ok(Program::new("bottle", std::env::current_exe()?).args(args).inherit_env())
}

fn lines_of(text: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(text).lines().map(neutral).collect()
}

impl LaunchPane {
    /// What `bottle plan` prints for `agent`.
    pub fn plan(agent: &str) -> Self {
        let output = bottle(&["plan", agent]).and_then(|program| program.output(PLAN_DEADLINE));
        let lines = match output {
            Ok(Some(output)) => lines_of(&[output.stdout, output.stderr].concat()),
            Ok(None) => vec!["bottle plan does not end".to_owned()],
            Err(e) => vec![format!("cannot run bottle plan: {e}")],
        };
        Self { agent: agent.to_owned(), lines, launch: None }
    }

    /// Starts `bottle launch`, which goes on when the dashboard ends.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(agent: &str) -> io::Result<Self> {
        let output = tempfile::tempfile()?;
        let child = bottle(&["launch", agent, "--yes"])?
            .stdout(Sink::File(output.try_clone()?))
            .stderr(Sink::File(output.try_clone()?))
            .outlives_parent()
            .start()?;
        let launch = Some(Launch { child, output });
        Ok(Self { agent: agent.to_owned(), lines: Vec::new(), launch })
    }

    /// Reads the progress; true when there is more.
    pub fn refresh(&mut self) -> bool {
        let Some(launch) = &self.launch else { return false };
        let ended = launch.child.try_wait().ok().flatten();
        let mut lines = lines_of(&launch.tail().unwrap_or_default());
        if let Some(status) = ended {
            lines.push(format!("({} has ended: {status})", self.agent));
            self.launch = None;
        }
        let changed = lines != self.lines;
        self.lines = lines;
        changed
    }
}

impl Launch {
    /// The end of what it printed. Reads at an offset, since the child shares the file's position.
    fn tail(&self) -> io::Result<Vec<u8>> {
        let length = self.output.metadata()?.len();
        let start = length.saturating_sub(SHOWN_BYTES);
        let mut text = vec![0; usize::try_from(length - start).unwrap_or(0)];
        self.output.read_exact_at(&mut text, start)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_planted_link_is_not_written_to() {
        // Here `bottle` is this test program, which prints that it does not know `--yes`.
        let agent = format!("planted-{}", std::process::id());
        let victim = tempfile::NamedTempFile::new().unwrap();
        let guessed = format!("bottle-launch-{}-{agent}.log", std::process::id());
        let link = std::env::temp_dir().join(guessed);
        std::os::unix::fs::symlink(victim.path(), &link).unwrap();
        let began = Instant::now();
        let mut pane = LaunchPane::launch(&agent).unwrap();
        while pane.launch.is_some() && began.elapsed() < Duration::from_secs(60) {
            pane.refresh();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(pane.lines.len() > 1 && pane.lines.iter().any(|l| l.contains("has ended")));
        assert_eq!(std::fs::read(victim.path()).unwrap(), b"");
        // Negative control: a log with a name that can be guessed is written through the link.
        let mut named = File::options().append(true).open(&link).unwrap();
        named.write_all(b"overwritten").unwrap();
        assert_eq!(std::fs::read(victim.path()).unwrap(), b"overwritten");
        std::fs::remove_file(link).unwrap();
    }
}
