//! Fetches: `git upload-pack` on the mirror, or the initial clone while that is in progress.

use std::sync::Arc;

use bottle_policy::Stale;
use bytes::Bytes;
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::initial_clone::{CloneReply, InitialClone, MAX_REQUEST_BYTES};
use super::mirror::Mirror;
use crate::git_gate::audit::RequestAudit;
use crate::git_gate::body::{RequestBody, ResponseBody, UploadPackOutput};
use crate::git_gate::exec::RunningCommand;
use crate::git_gate::refusal::Refusal;
use crate::git_gate::shared::Shared;

/// Pieces of a pack that wait for the client to read them.
const PACK_QUEUE: usize = 16;
/// The start of a ref advertisement of protocol versions 0 and 1, gitprotocol-http(5).
const SERVICE_LINE: &[u8] = b"001e# service=git-upload-pack\n0000";

/// A fetch, with its value of `Git-Protocol`.
pub struct Fetch {
    /// What all requests share.
    pub shared: Arc<Shared>,
    /// The mirror.
    pub mirror: Arc<Mirror>,
    /// `version=0`, `version=1` or `version=2`.
    pub protocol: Option<&'static str>,
}

impl Fetch {
    fn is_v2(&self) -> bool {
        self.protocol == Some("version=2")
    }

    /// The ref advertisement, after the mirror was brought up to date.
    ///
    /// # Errors
    /// The audit log is full, or the mirror cannot be refreshed.
    pub async fn advertise(
        &self,
        stale: Stale,
        mut audit: RequestAudit,
    ) -> Result<ResponseBody, (Refusal, RequestAudit)> {
        let started = async {
            audit.admit()?;
            match self.is_v2() {
                true => self.mirror.refresh_or_initial_clone(stale).await?,
                false => self.mirror.refresh(stale).await?,
            }
            self.start_upload_pack(&["--advertise-refs"])
        };
        match started.await {
            Ok(running) => {
                let prefix = if self.is_v2() { b"" } else { SERVICE_LINE };
                Ok(upload_pack_body(prefix, running, audit))
            }
            Err(refusal) => Err((refusal, audit)),
        }
    }

    /// The answer to a request of `git-upload-pack`.
    ///
    /// # Errors
    /// The audit log is full, the body is broken, or the initial clone failed.
    pub async fn answer(
        &self,
        mut body: RequestBody,
        mut audit: RequestAudit,
    ) -> Result<ResponseBody, (Refusal, RequestAudit)> {
        match self.try_answer(&mut body, &mut audit).await {
            Ok(answer) => {
                audit.up(body.received);
                Ok(match answer {
                    Answer::Refs(refs) => {
                        audit.down(refs.len() as u64);
                        audit.finish();
                        refs.into()
                    }
                    Answer::Pack(clone, pack) => self.pass_on(clone, pack, audit),
                    Answer::UploadPack(running) => upload_pack_body(b"", running, audit),
                })
            }
            Err(refusal) => Err((refusal, audit)),
        }
    }

    async fn try_answer(
        &self,
        body: &mut RequestBody,
        audit: &mut RequestAudit,
    ) -> Result<Answer, Refusal> {
        audit.admit()?;
        let mut request = Vec::new();
        if let Some(clone) = self.mirror.initial_clone() {
            let complete = body.collect(&mut request, MAX_REQUEST_BYTES).await?;
            match clone.reply(&request).filter(|_| complete && self.is_v2()) {
                Some(CloneReply::Refs(refs)) => return Ok(Answer::Refs(refs)),
                Some(CloneReply::Pack) => {
                    if let Some(pack) = clone.pack().await {
                        return Ok(Answer::Pack(clone, pack));
                    }
                }
                None => {}
            }
            clone.complete().await?;
        }
        let mut running = self.start_upload_pack(&[])?;
        // The request is small, and git's HTTP transport sends all of it before it reads an answer.
        if let Some(mut stdin) = running.stdin.take() {
            let mut chunk = Some(Bytes::from(request));
            while let Some(bytes) = chunk {
                if stdin.write_all(&bytes).await.is_err() {
                    break; // upload-pack ended early and told the client why
                }
                chunk = body.next().await?;
            }
        }
        Ok(Answer::UploadPack(running))
    }

    fn start_upload_pack(&self, args: &[&str]) -> Result<RunningCommand, Refusal> {
        let git = self.mirror.git().args(["upload-pack", "--stateless-rpc"]).args(args);
        let git = git.arg(&self.mirror.path);
        let git = self.protocol.into_iter().fold(git, |git, v| git.env("GIT_PROTOCOL", v));
        git.start().map_err(|e| Refusal::host("run git", &e))
    }

    /// Sends the pack of the initial clone as it arrives.
    fn pass_on(
        &self,
        clone: Arc<InitialClone>,
        pack: File,
        mut audit: RequestAudit,
    ) -> ResponseBody {
        let (tx, rx) = mpsc::channel(PACK_QUEUE);
        audit.event().answer = Some("the first fetch, passed on as it arrived".to_owned());
        self.shared.tasks.spawn(async move {
            match clone.send(pack, &tx, |bytes| audit.down(bytes)).await {
                Ok(()) => audit.finish(),
                Err(refusal) => audit.fail(&refusal),
            }
        });
        ResponseBody::Channel(rx)
    }
}

/// What a request is answered with.
enum Answer {
    /// A list of refs from the initial clone.
    Refs(Vec<u8>),
    /// The growing pack of the initial clone.
    Pack(Arc<InitialClone>, File),
    /// A git that has got the whole request.
    UploadPack(RunningCommand),
}

fn upload_pack_body(
    prefix: &'static [u8],
    running: RunningCommand,
    audit: RequestAudit,
) -> ResponseBody {
    ResponseBody::UploadPack(Box::new(UploadPackOutput::new(prefix, running, audit)))
}
