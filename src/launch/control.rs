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
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::plan::LaunchPlan;
use crate::state::BottleDir;
use crate::supervise::{Decide, DecisionOutcome, DecisionRequest};

const MAX_HEADER_BYTES: usize = 1 << 20;
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
}

impl Control {
    /// Listens from the start of the launch. Requests that need a guest wait until `guest` holds
    /// one.
    pub(super) fn listen(
        dir: &BottleDir,
        guest: watch::Receiver<Option<RunningGuest>>,
        stop: Arc<Notify>,
        broker: mpsc::Sender<DecisionRequest>,
    ) -> Result<Self> {
        let path = dir.control_socket();
        let listener = UnixListener::bind(&path)
            .context(ErrorKind::Io, || format!("cannot listen on {path}"))?;
        Ok(Self { listener, guest, stop, broker })
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
            tokio::time::timeout(HEADER_DEADLINE, read_header(&mut client, MAX_HEADER_BYTES)).await;
        let request = request.context(ErrorKind::Usage, what)?.context(ErrorKind::Usage, what)?;
        if matches!(request, Request::Stop) {
            self.stop.notify_one();
            let _ = client.read_u8().await; // until this process ends, or the client goes
            return Ok(());
        }
        let request = match request {
            Request::Decide(decide) => return self.decide(decide, uid, &mut client).await,
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
            Request::Stop | Request::Decide(_) => return Ok(()),
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
    async fn decide(&self, decide: Decide, uid: u32, client: &mut UnixStream) -> Result<()> {
        let (sender, answer) = oneshot::channel();
        let refused = || DecisionOutcome::Refused {
            why: "this bottle's agent cannot ask: its manifest does not say supervise".into(),
            hint: None,
        };
        let answer = match self.broker.send(DecisionRequest { decide, uid, outcome: sender }).await
        {
            Ok(()) => answer.await.unwrap_or_else(|_| refused()),
            Err(_) => refused(),
        };
        write_header(client, &answer)
            .await
            .context(ErrorKind::Usage, || "a client did not wait for its answer".to_owned())
    }
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

/// Longest time for a decision, which may have to wait for two reloads.
const DECISION_DEADLINE: Duration = Duration::from_secs(15);

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
    let mut stream = connect(dir, &Request::Decide(decide.clone())).await?;
    let answer =
        tokio::time::timeout(DECISION_DEADLINE, read_header(&mut stream, MAX_HEADER_BYTES))
            .await
            .map_err(|_| late())?;
    answer.map_err(|_| late())
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
