//! Bodies: requests, decoded and bounded; responses, streamed as they are made.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use flate2::write::GzDecoder;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::git_gate::audit::RequestAudit;
use crate::git_gate::exec::RunningCommand;
use crate::git_gate::refusal::{Refusal, Rule};

/// Compressed bytes that are decoded in one step. gzip expands them at most a thousand times.
const GZIP_STEP_BYTES: usize = 1024;
/// Bytes of a child's output in one frame.
const FRAME_BYTES: usize = 64 << 10;

/// The body of a request.
pub struct RequestBody {
    inner: Incoming,
    gzip: Option<GzDecoder<Vec<u8>>>,
    pending: Bytes,
    /// Count of decoded bytes so far.
    pub received: u64,
    max: u64,
    idle: Duration,
    ended: bool,
}

impl RequestBody {
    /// At most `max` decoded bytes of `inner`, with at most `idle` between two frames.
    pub fn new(inner: Incoming, gzip: bool, max: u64, idle: Duration) -> Self {
        let gzip = gzip.then(|| GzDecoder::new(Vec::new()));
        Self { inner, gzip, pending: Bytes::new(), received: 0, max, idle, ended: false }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Rule::BodyTooLarge`], [`Rule::Coding`], [`Rule::Timeout`], [`Rule::Aborted`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let broken = || Refusal::new(Rule::Coding, "the body is not gzip, or it is cut short");
        while !self.ended {
            if self.pending.is_empty() {
                match self.frame().await? {
                    Some(data) => self.pending = data,
                    None => {
                        self.ended = true;
                        if let Some(gzip) = self.gzip.take() {
                            let rest = gzip.finish().map_err(|_| broken())?;
                            return self.count(rest.into());
                        }
                    }
                }
                continue;
            }
            let chunk = match &mut self.gzip {
                None => std::mem::take(&mut self.pending),
                Some(gzip) => {
                    let step = self.pending.split_to(self.pending.len().min(GZIP_STEP_BYTES));
                    gzip.write_all(&step).map_err(|_| broken())?;
                    std::mem::take(gzip.get_mut()).into()
                }
            };
            if !chunk.is_empty() {
                return self.count(chunk);
            }
        }
        Ok(None)
    }

    /// The data of the next frame, which may be empty; `None` at the end.
    async fn frame(&mut self) -> Result<Option<Bytes>, Refusal> {
        let stalled = |_| Refusal::new(Rule::Timeout, "the request stalled before its end");
        match timeout(self.idle, self.inner.frame()).await.map_err(stalled)? {
            Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
            Some(Err(_)) => Err(Refusal::new(
                Rule::Aborted,
                "the bottle closed the connection inside the request",
            )),
            None => Ok(None),
        }
    }

    /// Appends to `to` until the body ends or `to` has more than `max` bytes. Returns whether the
    /// body has ended.
    ///
    /// # Errors
    /// As [`RequestBody::next`].
    pub async fn collect(&mut self, to: &mut Vec<u8>, max: usize) -> Result<bool, Refusal> {
        while to.len() <= max {
            match self.next().await? {
                Some(bytes) => to.extend_from_slice(&bytes),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    fn count(&mut self, chunk: Bytes) -> Result<Option<Bytes>, Refusal> {
        self.received += chunk.len() as u64;
        if self.received > self.max {
            return Err(Refusal::new(
                Rule::BodyTooLarge,
                format!("the request is larger than {} bytes", self.max),
            ));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Reads and discards up to `max` bytes for at most `time`. A client that is refused inside its
    /// body reads the answer only after it has sent all of it.
    pub async fn drain(&mut self, max: u64, time: Duration) {
        let mut left = max;
        let _ = timeout(time, async {
            while let Some(Ok(frame)) = self.inner.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len) as u64);
                if left == 0 {
                    break;
                }
            }
        })
        .await;
    }
}

/// The body of a response.
pub enum ResponseBody {
    /// Bytes that are ready.
    Full(Full<Bytes>),
    /// The output of `git upload-pack`.
    UploadPack(Box<UploadPackOutput>),
    /// Bytes that another task sends.
    Channel(mpsc::Receiver<Bytes>),
}

impl From<Vec<u8>> for ResponseBody {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Full(Full::new(bytes.into()))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Full(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Self::UploadPack(output) => output.poll(cx),
            Self::Channel(rx) => rx.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
        }
    }
}

type Exit = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// What `git upload-pack` writes, up to its end, where the audit line is written.
pub struct UploadPackOutput {
    prefix: Option<Bytes>,
    running: Option<RunningCommand>,
    exit: Option<Exit>,
    audit: RequestAudit,
    buffer: Box<[u8]>,
}

impl UploadPackOutput {
    /// `prefix`, then the standard output of `running`, which has got all of its input.
    pub fn new(prefix: &'static [u8], running: RunningCommand, audit: RequestAudit) -> Self {
        let prefix = (!prefix.is_empty()).then(|| Bytes::from_static(prefix));
        Self {
            prefix,
            running: Some(running),
            exit: None,
            audit,
            buffer: vec![0; FRAME_BYTES].into(),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(prefix) = self.prefix.take() {
            self.audit.down(prefix.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        loop {
            if let Some(exit) = &mut self.exit {
                let result = ready!(exit.as_mut().poll(cx));
                self.exit = None;
                return match result {
                    Ok(()) => {
                        self.audit.finish();
                        Poll::Ready(None)
                    }
                    Err(refusal) => {
                        self.audit.fail(&refusal);
                        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
                    }
                };
            }
            let Some(running) = &mut self.running else { return Poll::Ready(None) };
            let mut into = ReadBuf::new(&mut self.buffer);
            let read = ready!(Pin::new(&mut running.stdout).poll_read(cx, &mut into));
            if let Ok(n @ 1..) = read.map(|()| into.filled().len()) {
                self.audit.down(n as u64);
                let data = Bytes::copy_from_slice(&self.buffer[..n]);
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.exit = self.running.take().map(|running| Box::pin(exit(running)) as Exit);
        }
    }
}

/// Waits for upload-pack. It has told the client itself if something was wrong with the request.
async fn exit(running: RunningCommand) -> Result<(), Refusal> {
    let output = running.end().await.map_err(|e| Refusal::host("see how git ended", &e))?;
    if output.status.success() {
        return Ok(());
    }
    Err(Refusal::new(Rule::Command, format!("upload-pack: {}", output.reason())))
}
