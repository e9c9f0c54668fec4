//! What comes from git, decoded and bounded, and what goes to it, as it is made.

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

use crate::git_gate::audit::Ticket;
use crate::git_gate::exec::Running;
use crate::git_gate::refusal::{Refusal, Rule};

/// Bytes that are decoded in one go: they become at most a thousand times as many.
const SLICE: usize = 1024;
/// Bytes of a child's output that go on at once.
const PIECE: usize = 64 << 10;

/// A request's body.
pub struct Inflow {
    inner: Incoming,
    gzip: Option<GzDecoder<Vec<u8>>>,
    pending: Bytes,
    /// Decoded bytes so far.
    pub taken: u64,
    most: u64,
    silence: Duration,
    ended: bool,
}

impl Inflow {
    /// At most `most` decoded bytes of `inner`, and never longer than `silence` without any.
    pub fn new(inner: Incoming, gzip: bool, most: u64, silence: Duration) -> Self {
        let gzip = gzip.then(|| GzDecoder::new(Vec::new()));
        Self { inner, gzip, pending: Bytes::new(), taken: 0, most, silence, ended: false }
    }

    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// [`Rule::BodyTooLarge`], [`Rule::Coding`], [`Rule::Timeout`], [`Rule::Aborted`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let broken = || Refusal::new(Rule::Coding, "the body is not gzip, or is cut short");
        while !self.ended {
            if self.pending.is_empty() {
                let frame = timeout(self.silence, self.inner.frame()).await;
                match frame
                    .map_err(|_| Refusal::new(Rule::Timeout, "the request stopped in its middle"))?
                {
                    Some(Ok(frame)) => self.pending = frame.into_data().unwrap_or_default(),
                    Some(Err(_)) => {
                        return Err(Refusal::new(
                            Rule::Aborted,
                            "the bottle closed the connection inside the request",
                        ));
                    }
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
                    let slice = self.pending.split_to(self.pending.len().min(SLICE));
                    gzip.write_all(&slice).map_err(|_| broken())?;
                    std::mem::take(gzip.get_mut()).into()
                }
            };
            if !chunk.is_empty() {
                return self.count(chunk);
            }
        }
        Ok(None)
    }

    /// Appends what comes to `to`, until that has more than `most` bytes. Whether it has come to
    /// its end.
    ///
    /// # Errors
    /// As [`Inflow::next`].
    pub async fn collect(&mut self, to: &mut Vec<u8>, most: usize) -> Result<bool, Refusal> {
        while to.len() <= most {
            match self.next().await? {
                Some(bytes) => to.extend_from_slice(&bytes),
                None => return Ok(true),
            }
        }
        Ok(false)
    }

    fn count(&mut self, chunk: Bytes) -> Result<Option<Bytes>, Refusal> {
        self.taken += chunk.len() as u64;
        if self.taken > self.most {
            return Err(Refusal::new(
                Rule::BodyTooLarge,
                format!("the request is larger than {} bytes", self.most),
            ));
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    /// Reads on for a while and throws away: a client that is refused in the middle of its body
    /// reads the answer only when it has sent all of it.
    pub async fn drain(&mut self, most: u64, time: Duration) {
        let mut left = most;
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

/// What git is sent.
pub enum Reply {
    /// A short text.
    Text(Full<Bytes>),
    /// What a child says.
    Child(Box<Outflow>),
    /// What is made bit by bit.
    Made(mpsc::Receiver<Bytes>),
}

impl From<Vec<u8>> for Reply {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Text(Full::new(bytes.into()))
    }
}

type Ending = Pin<Box<dyn Future<Output = Result<(), Refusal>> + Send>>;

/// What `git upload-pack` says, up to its end, with the audit line there.
pub struct Outflow {
    prefix: Option<Bytes>,
    running: Option<Running>,
    ending: Option<Ending>,
    ticket: Ticket,
    buffer: Box<[u8]>,
}

impl Outflow {
    /// `prefix`, then what `running` says. `fed` is true once all of the request was given to it.
    pub fn new(prefix: Vec<u8>, running: Running, ticket: Ticket) -> Self {
        let prefix = (!prefix.is_empty()).then(|| prefix.into());
        Self { prefix, running: Some(running), ending: None, ticket, buffer: vec![0; PIECE].into() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Some(prefix) = self.prefix.take() {
            self.ticket.down(prefix.len() as u64);
            return Poll::Ready(Some(Ok(Frame::data(prefix))));
        }
        loop {
            if let Some(ending) = &mut self.ending {
                let done = ready!(ending.as_mut().poll(cx));
                self.ending = None;
                return match done {
                    Ok(()) => {
                        self.ticket.finish();
                        Poll::Ready(None)
                    }
                    Err(refusal) => {
                        self.ticket.fail(&refusal);
                        Poll::Ready(Some(Err(io::ErrorKind::ConnectionAborted.into())))
                    }
                };
            }
            let Some(running) = &mut self.running else { return Poll::Ready(None) };
            let mut into = ReadBuf::new(&mut self.buffer);
            let read = ready!(Pin::new(&mut running.stdout).poll_read(cx, &mut into));
            match read.map(|()| into.filled().len()) {
                Ok(n @ 1..) => {
                    self.ticket.down(n as u64);
                    return Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(
                        &self.buffer[..n],
                    )))));
                }
                Ok(0) | Err(_) => {
                    let running = self.running.take();
                    self.ending = Some(Box::pin(async move {
                        let Some(running) = running else { return Ok(()) };
                        let ended = running
                            .end()
                            .await
                            .map_err(|e| Refusal::host("see how git ended", &e))?;
                        // upload-pack has told the client itself what was wrong with what it asked
                        // for.
                        if ended.status.success() {
                            Ok(())
                        } else {
                            Err(Refusal::new(
                                Rule::Command,
                                format!("upload-pack: {}", ended.reason()),
                            ))
                        }
                    }));
                }
            }
        }
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        match self.get_mut() {
            Self::Text(text) => Pin::new(text).poll_frame(cx).map_err(|never| match never {}),
            Self::Child(child) => child.poll(cx),
            Self::Made(made) => made.poll_recv(cx).map(|bytes| bytes.map(|b| Ok(Frame::data(b)))),
        }
    }
}
