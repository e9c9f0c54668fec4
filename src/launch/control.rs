//! The control socket: how other `bottle` commands reach the orchestrator that owns a running
//! bottle.
//!
//! A client connects to `RUNTIME/SLUG/control.sock` (private to the user), writes one header, and
//! for [`Request::Exec`] then speaks the guest's exec frames, which are passed on byte for byte.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bottle_channel::{
    CopyInRequest, CopyOutRequest, ExecRequest, HostOpen, Session, TtySize, read_header,
    write_header,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::live_policy::{MAX_POLICY_BYTES, PolicySwitch, Reload};
use crate::plan::LaunchPlan;
use crate::state::BottleDir;
use crate::supervise::{Decide, DecisionOutcome, DecisionRequest};

/// Longest request; the longest has a policy in it.
const MAX_REQUEST_BYTES: usize = MAX_POLICY_BYTES + (1 << 20);
const MAX_ANSWER_BYTES: usize = 1 << 20;
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
const BUFFER_BYTES: usize = 64 * 1024;
/// Additional time for a teardown that has deploy keys to revoke.
const REVOKE_DEADLINE: Duration = Duration::from_secs(60);

/// What a client asks for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "request", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Request {
    /// Run a command as the agent's user (or root) in the agent's environment.
    Exec {
        /// Program and arguments.
        argv: Vec<String>,
        /// A terminal of this size.
        tty: Option<TtySize>,
        /// The client's TERM.
        term: Option<String>,
        /// Whether standard input follows.
        stdin: bool,
        /// Working directory; none: the agent's.
        cwd: Option<String>,
        /// As the guest's root.
        root: bool,
    },
    /// Write a tar stream below a directory of the guest.
    CopyIn {
        /// Absolute path of a directory.
        dest_dir: String,
    },
    /// Read a file or directory of the guest as tar.
    CopyOut {
        /// Absolute path.
        path: String,
    },
    /// Tear the bottle down. The connection closes when nothing is left.
    Stop,
    /// Decide a proposal. Answered by one header, a [`DecisionOutcome`].
    Decide(Decide),
    /// Put another policy in force. Answered by one header, a [`ReloadOutcome`].
    Reload(Reload),
}

/// Whether a new policy is in force.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum ReloadOutcome {
    /// The daemon confirmed it.
    InForce,
    /// The old policy stays.
    Failed {
        /// Kind of the error.
        kind: ErrorKind,
        /// The error with its causes.
        why: String,
        /// What the operator can type next.
        hints: Vec<String>,
    },
}

/// The guest, once it runs. Clients that run something in it wait for this.
#[derive(Clone)]
pub(super) struct RunningGuest {
    pub(super) session: Session<HostOpen>,
    pub(super) plan: Arc<LaunchPlan>,
    pub(super) env: BTreeMap<String, String>,
}

/// Serves clients for as long as the launch lives.
pub(super) struct Control {
    listener: UnixListener,
    guest: watch::Receiver<Option<RunningGuest>>,
    stop: Arc<Notify>,
    broker: mpsc::Sender<DecisionRequest>,
    policies: Arc<PolicySwitch>,
}

impl Control {
    /// Listens from the start of the launch. Requests that need a guest wait until `guest` holds
    /// one.
    pub(super) fn listen(
        dir: &BottleDir,
        guest: watch::Receiver<Option<RunningGuest>>,
        stop: Arc<Notify>,
        broker: mpsc::Sender<DecisionRequest>,
        policies: Arc<PolicySwitch>,
    ) -> Result<Self> {
        let path = dir.control_socket();
        let listener = UnixListener::bind(&path)
            .context(ErrorKind::Io, || format!("cannot listen on {path}"))?;
        Ok(Self { listener, guest, stop, broker, policies })
    }

    pub(super) async fn serve(self) {
        let shared = Arc::new(self);
        while let Ok((client, _)) = shared.listener.accept().await {
            let control = Arc::clone(&shared);
            tokio::spawn(async move {
                if let Err(e) = control.answer(client).await {
                    tracing::debug!("control: {e:#}");
                }
            });
        }
    }

    async fn answer(&self, mut client: UnixStream) -> Result<()> {
        let what = || "a client's request cannot be read".to_owned();
        // The directory is private already. This check holds even if its mode is changed.
        let uid = client
            .peer_cred()
            .map(|c| c.uid())
            .ok()
            .filter(|uid| *uid == nix::unistd::geteuid().as_raw());
        let Some(uid) = uid else {
            return Err(Error::new(ErrorKind::Usage, "a client of another user was turned away"));
        };
        let request =
            tokio::time::timeout(HEADER_DEADLINE, read_header(&mut client, MAX_REQUEST_BYTES))
                .await;
        let request = request.context(ErrorKind::Usage, what)?.context(ErrorKind::Usage, what)?;
        if matches!(request, Request::Stop) {
            self.stop.notify_one();
            let _ = client.read_u8().await; // until this process ends, or the client goes
            return Ok(());
        }
        let request = match request {
            Request::Decide(decide) => {
                return respond(&mut client, &self.decide(decide, uid).await).await;
            }
            Request::Reload(reload) => {
                return respond(&mut client, &self.reload(&reload).await).await;
            }
            request => request,
        };
        let mut guest = self.guest.clone();
        let guest = guest
            .wait_for(Option::is_some)
            .await
            .context(ErrorKind::Engine, || "the bottle did not come up".into())?
            .clone();
        let guest = guest
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the bottle is up without a guest"))?;
        let open = match request {
            Request::Stop | Request::Decide(_) | Request::Reload(_) => return Ok(()),
            Request::Exec { argv, tty, term, stdin, cwd, root } => {
                HostOpen::Exec(guest.exec(argv, tty, term, stdin, cwd, root))
            }
            Request::CopyIn { dest_dir } => {
                let image = &guest.plan.image.facts.guest;
                HostOpen::CopyIn(CopyInRequest {
                    dest_dir,
                    uid: Some(image.uid),
                    gid: Some(image.gid),
                })
            }
            Request::CopyOut { path } => HostOpen::CopyOut(CopyOutRequest { path }),
        };
        let mut stream = guest
            .session
            .open(&open)
            .await
            .context(ErrorKind::Guest, || "the guest does not answer".into())?;
        let _ = tokio::io::copy_bidirectional_with_sizes(
            &mut client,
            &mut stream,
            BUFFER_BYTES,
            BUFFER_BYTES,
        )
        .await;
        Ok(())
    }
}

impl Control {
    async fn decide(&self, decide: Decide, uid: u32) -> DecisionOutcome {
        let (sender, answer) = oneshot::channel();
        let refused = || DecisionOutcome::Refused {
            why: "this bottle's agent cannot ask: its manifest does not say supervise".into(),
            hint: None,
        };
        match self.broker.send(DecisionRequest { decide, uid, outcome: sender }).await {
            Ok(()) => answer.await.unwrap_or_else(|_| refused()),
            Err(_) => refused(),
        }
    }

    async fn reload(&self, reload: &Reload) -> ReloadOutcome {
        match self.policies.reload(reload).await {
            Ok(()) => ReloadOutcome::InForce,
            Err(e) => {
                let hints = e.hints().into_iter().map(str::to_owned).collect();
                ReloadOutcome::Failed { kind: e.kind(), why: e.chain(), hints }
            }
        }
    }
}

async fn respond(client: &mut UnixStream, answer: &impl Serialize) -> Result<()> {
    write_header(client, answer)
        .await
        .context(ErrorKind::Usage, || "a client did not wait for its answer".to_owned())
}

impl RunningGuest {
    fn exec(
        &self,
        argv: Vec<String>,
        tty: Option<TtySize>,
        term: Option<String>,
        stdin: bool,
        cwd: Option<String>,
        root: bool,
    ) -> ExecRequest {
        let image = &self.plan.image.facts.guest;
        let mut env = self.env.clone();
        if let Some(term) = term {
            env.insert("TERM".into(), term);
        }
        let (uid, gid) = if root { (0, 0) } else { (image.uid, image.gid) };
        if root {
            env.insert("HOME".into(), "/root".into());
            env.insert("USER".into(), "root".into());
        }
        ExecRequest {
            argv,
            env,
            cwd: cwd.or_else(|| Some(image.workdir.clone())),
            uid,
            gid,
            tty,
            stdin,
        }
    }
}

/// Connects to the orchestrator of a running bottle and sends `request`.
///
/// # Errors
/// `Usage` when no such bottle runs.
pub async fn connect(dir: &BottleDir, request: &Request) -> Result<UnixStream> {
    let absent = || {
        Error::new(ErrorKind::Usage, format!("bottle {:?} is not running", dir.slug()))
            .hint(format!("bottle list   # then: bottle launch {}", dir.slug()))
    };
    let mut stream =
        UnixStream::connect(dir.recorded_control_socket()).await.map_err(|_| absent())?;
    write_header(&mut stream, request).await.map_err(|_| absent())?;
    stream.flush().await.map_err(|_| absent())?;
    Ok(stream)
}

/// Longest time for a decision or a reload, which may have to wait for two reloads.
const ANSWER_DEADLINE: Duration = Duration::from_secs(15);

/// Sends `request` to the orchestrator of a running bottle, and returns its answer or `late()`.
async fn ask<T: DeserializeOwned>(
    dir: &BottleDir,
    request: &Request,
    late: impl Fn() -> Error,
) -> Result<T> {
    let mut stream = connect(dir, request).await?;
    tokio::time::timeout(ANSWER_DEADLINE, read_header(&mut stream, MAX_ANSWER_BYTES))
        .await
        .map_err(|_| late())?
        .map_err(|_| late())
}

/// Has the orchestrator of a running bottle decide a proposal.
///
/// # Errors
/// `Usage` when the bottle does not run. `Engine` when it does not answer; then the proposal's file
/// shows what was decided.
pub async fn decide(dir: &BottleDir, decide: Decide) -> Result<DecisionOutcome> {
    let late = || {
        Error::new(ErrorKind::Engine, "the bottle does not answer; it may have decided")
            .hint(format!("bottle proposals show {}/{}", dir.slug(), decide.id))
    };
    ask(dir, &Request::Decide(decide.clone()), late).await
}

/// Has the orchestrator of a running bottle put another policy in force.
///
/// # Errors
/// `Usage` when the bottle does not run, or another reload came first. `Config` when the daemon
/// refuses the policy. `Engine` when the daemon or the orchestrator does not answer.
pub async fn reload(dir: &BottleDir, reload: Reload) -> Result<()> {
    let late = || {
        let text = "the bottle does not answer; it may have taken the new policy";
        Error::new(ErrorKind::Engine, text).hint(format!("bottle logs {}", dir.slug()))
    };
    match ask(dir, &Request::Reload(reload), late).await? {
        ReloadOutcome::InForce => Ok(()),
        ReloadOutcome::Failed { kind, why, hints } => {
            Err(hints.into_iter().fold(Error::new(kind, why), Error::hint))
        }
    }
}

/// Longest time to wait for a teardown, in which a large workspace may be saved.
pub const STOP_DEADLINE: Duration = Duration::from_secs(120);

/// Asks the orchestrator to tear the bottle down and waits until it has, at most `deadline`.
///
/// # Errors
/// `Usage` when no such bottle runs, `Internal` when it is not gone in time.
pub async fn stop(dir: &BottleDir, deadline: Duration) -> Result<()> {
    let mut stream = connect(dir, &Request::Stop).await?;
    let mut byte = [0];
    let deadline = if dir.deploy_keys().exists() { deadline + REVOKE_DEADLINE } else { deadline };
    let late = || {
        Error::new(
            ErrorKind::Internal,
            format!("bottle {:?} is not gone after {} s", dir.slug(), deadline.as_secs()),
        )
        .hint("bottle cleanup")
    };
    tokio::time::timeout(deadline, stream.read(&mut byte)).await.map_err(|_| late())?.ok();
    if dir.journal().exists() {
        return Err(late());
    }
    if dir.deploy_keys().exists() {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("bottle {:?} is gone, but not all of its deploy keys are revoked", dir.slug()),
        )
        .hint("bottle cleanup   # says which, and tries again"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bottle_policy::{Policy, ReloadReport, Route};

    use super::*;
    use crate::live_policy::NewPolicy;
    use crate::state::Roots;

    fn policy(host: &str) -> Policy {
        Policy::new(vec![Route::to("a", host.parse().unwrap())])
    }

    #[tokio::test]
    async fn a_reload_goes_through_the_orchestrator_and_so_does_its_error() {
        let home = tempfile::tempdir().unwrap();
        let roots = Roots::at(home.path().join("s"), home.path().join("r")).unwrap();
        let dir = roots.bottle("b").unwrap();
        std::fs::create_dir(dir.runtime()).unwrap();
        let file = dir.runtime().join("policy.json");
        std::fs::write(&file, serde_json::to_vec(&policy("old.example")).unwrap()).unwrap();
        let policies = Arc::new(PolicySwitch::new(&dir));
        let (_guest, no_guest) = watch::channel(None);
        let (broker, _decisions) = mpsc::channel(1);
        let switch = Arc::clone(&policies);
        let control = Control::listen(&dir, no_guest, Arc::default(), broker, switch).unwrap();
        tokio::spawn(control.serve());
        let ask = |against: &str, new: &str| {
            let policy = NewPolicy::Egress(policy(new));
            reload(&dir, Reload { against: against.to_owned(), policy })
        };
        let old = policy("old.example").digest();

        let e = ask("1234", "new.example").await.unwrap_err();
        assert_eq!((e.kind(), e.hint_text()), (ErrorKind::Usage, Some("bottle reload b")), "{e}");

        let newest = policies.newest::<Policy>();
        let answers = [
            ReloadReport::refused(None, "it is odd"),
            ReloadReport::in_force(policy("new.example").digest()),
        ];
        for (report, confirmed) in answers.into_iter().zip([false, true]) {
            let before = std::fs::read(&file).unwrap();
            let daemon = async {
                while std::fs::read(&file).unwrap() == before {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                newest.send_replace(Some(report));
            };
            let (done, ()) = tokio::join!(ask(&old, "new.example"), daemon);
            assert_eq!(
                done.as_ref().map_err(Error::kind),
                if confirmed { Ok(&()) } else { Err(ErrorKind::Config) }
            );
            assert_eq!(std::fs::read(&file).unwrap() == before, !confirmed);
        }
    }
}
