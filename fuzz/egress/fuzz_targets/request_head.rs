//! A guest's bytes go through the strict reader and on to hyper. However the bytes are split, the
//! reader passes on the same; httparse reads each head that it passes in the same way; and hyper sees
//! as many requests, with bodies of the same length, as our own reading does.
#![no_main]

use std::cell::RefCell;
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use bottle_bundle::egress::http1::chunked::Chunked;
use bottle_bundle::egress::http1::request_head::{Framing, HeadReader};
use bottle_bundle::egress::http1::strict_reader::{Peer, SENTINEL, StrictReader};
use bottle_bundle::egress::refusal::Checks;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A guest that sends `bytes` in pieces of `step` bytes, then ends. What is written to it is lost.
struct Guest<'a> {
    bytes: &'a [u8],
    step: usize,
}

impl AsyncRead for Guest<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let (now, later) =
            self.bytes.split_at(self.step.min(self.bytes.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest<'_> {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Peer for Guest<'_> {
    fn is_gone(&self) -> bool {
        false
    }
}

/// Everything that the reader passes on, and whether it broke off.
fn passed(bytes: &[u8], step: usize) -> (Vec<u8>, bool) {
    let mut reader = pin!(StrictReader::new(Guest { bytes, step }, Checks::default(), HEAD_TIME));
    let (mut all, mut some) = (Vec::new(), [0; 4096]);
    loop {
        let mut buf = ReadBuf::new(&mut some);
        match reader.as_mut().poll_read(&mut Context::from_waker(Waker::noop()), &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => return (all, false),
            Poll::Ready(Ok(())) => all.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => return (all, true),
            Poll::Pending => return (all, false),
        }
    }
}

/// A request: its method, and the length of its body if all of it was there.
type Seen = (String, Option<u64>);

/// The requests in what was passed on, by our own reading.
fn ours(mut bytes: &[u8]) -> Vec<Seen> {
    let mut all = Vec::new();
    while !bytes.is_empty() && !bytes.starts_with(SENTINEL.as_bytes()) {
        let Ok(Some((length, framing))) = HeadReader::default().feed(bytes, &Checks::default())
        else {
            panic!("what was passed on is no head")
        };
        let (head, rest) = bytes.split_at(length);
        let mut lines = [httparse::EMPTY_HEADER; 100];
        let mut parsed = httparse::Request::new(&mut lines);
        assert_eq!(
            parsed.parse(head),
            Ok(httparse::Status::Complete(length)),
            "httparse reads another head"
        );
        let count = head.windows(2).filter(|w| w == b"\r\n").count() - 2;
        assert_eq!(parsed.headers.len(), count, "httparse reads other headers");
        let method = parsed.method.unwrap_or_default().to_owned();
        let (body, after) = match framing {
            Framing::Empty => (Some(0), rest),
            Framing::Tunnel => (Some(0), &rest[rest.len()..]),
            Framing::Sized(n) => {
                match usize::try_from(n).ok().and_then(|n| rest.split_at_checked(n)) {
                    Some((_, after)) => (Some(n), after),
                    None => (None, &rest[rest.len()..]),
                }
            }
            Framing::Chunked => match Chunked::default().feed(rest) {
                Ok((n, true)) => (Some(dechunked(&rest[..n])), &rest[n..]),
                _ => (None, &rest[rest.len()..]),
            },
        };
        all.push((method, body));
        bytes = after;
    }
    all
}

/// Length of the data in a complete chunked body, bytes.
fn dechunked(mut body: &[u8]) -> u64 {
    let mut all = 0;
    loop {
        let line = body.windows(2).position(|w| w == b"\r\n").expect("a size line");
        let size = usize::from_str_radix(std::str::from_utf8(&body[..line]).expect("digits"), 16)
            .expect("a size");
        if size == 0 {
            return all;
        }
        all += size as u64;
        body = &body[line + 2 + size + 2..];
    }
}

/// Set when hyper wants to be polled again.
struct Again(AtomicBool);

impl Wake for Again {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The requests that hyper sees behind the reader.
fn theirs(bytes: &[u8], step: usize) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let service = hyper::service::service_fn(|request: Request<Incoming>| {
        let seen = seen.clone();
        async move {
            let method = request.method().as_str().to_owned();
            if method == SENTINEL {
                return Ok::<_, Infallible>(Response::new(Empty::<&[u8]>::new()));
            }
            seen.borrow_mut().push((method, None));
            let n = seen.borrow().len() - 1;
            let connect = request.method() == hyper::Method::CONNECT;
            let body = if connect {
                Some(0)
            } else {
                request.into_body().collect().await.ok().map(|b| b.to_bytes().len() as u64)
            };
            seen.borrow_mut()[n].1 = body;
            Ok(Response::new(Empty::new()))
        }
    });
    let io = TokioIo::new(StrictReader::new(Guest { bytes, step }, Checks::default(), HEAD_TIME));
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.max_buf_size(128 * 1024);
    let mut served = pin!(builder.serve_connection(io, service));
    let again = Arc::new(Again(AtomicBool::new(true)));
    let waker = Waker::from(again.clone());
    while again.0.swap(false, Ordering::Relaxed) {
        if served.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
            break;
        }
    }
    let seen = seen.borrow().clone();
    seen
}

/// Longer than any run.
const HEAD_TIME: std::time::Duration = std::time::Duration::from_secs(3600);

fuzz_target!(|data: &[u8]| {
    let Some((&step, bytes)) = data.split_first() else { return };
    let step = usize::from(step).max(1);
    let whole = passed(bytes, usize::MAX);
    let cut = passed(bytes, step);
    if !whole.1 {
        assert_eq!(whole, cut, "what is passed on depends on how it arrives");
    }
    assert_eq!(whole.1, cut.1);
    let (ours, theirs) = (ours(&cut.0), theirs(bytes, step));
    // hyper stops reading where it is done with a connection (Connection: close, HTTP/1.0): less is
    // right, other is not.
    assert!(theirs.len() <= ours.len(), "hyper sees more requests: {theirs:?}, we: {ours:?}");
    for (theirs, ours) in theirs.iter().zip(&ours) {
        assert_eq!(theirs.0, ours.0);
        assert!(theirs.1.is_none() || theirs.1 == ours.1, "hyper: {theirs:?}, we: {ours:?}");
    }
});
