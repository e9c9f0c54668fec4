//! Everything that a guest with the key can send: frames of the multiplexer, headers of streams,
//! and frames of an exec and of a copy on streams that the host opened. The host must not panic,
//! hang, or exceed the channel's bounds.
#![no_main]

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bottle_channel::{
    CopyOutRequest, ExecRequest, GuestOpen, HostOpen, Session, copy, frame, mux, run_exec,
};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// A transport that returns the guest's bytes in pieces of `step`, and accepts what the host writes
/// except every fifth time.
struct Guest<'a> {
    bytes: &'a [u8],
    step: usize,
    writes: usize,
}

impl AsyncRead for Guest<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let (now, later) =
            self.bytes.split_at(self.step.min(self.bytes.len()).min(buf.remaining()));
        buf.put_slice(now);
        self.bytes = later;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Guest<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes += 1;
        if self.writes % 5 == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&step, bytes)) = data.split_first() else { return };
    let _ = frame::parse_frame(bytes);
    let limits = mux::wire::Limits {
        host: true,
        max_header: mux::MAX_GUEST_HEADER,
        max_peer_streams: mux::MAX_GUEST_STREAMS,
    };
    let _ = mux::wire::parse(bytes, &limits);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let guest = Guest { bytes, step: usize::from(step).max(1) * 7, writes: 0 };
        let (session, mut incoming, driver) = Session::host(guest);
        let request = ExecRequest {
            argv: vec!["true".into()],
            env: Default::default(),
            cwd: None,
            uid: 0,
            gid: 0,
            tty: None,
            stdin: true,
        };
        // These are the streams 1 and 3.
        let exec = session.open(&HostOpen::Exec(request)).await.expect("a stream");
        let out = session
            .open(&HostOpen::CopyOut(CopyOutRequest { path: "/".into() }))
            .await
            .expect("a stream");
        let (_controls, receiver) = tokio::sync::mpsc::channel(1);
        let exec = run_exec(exec, &b"input"[..], tokio::io::sink(), tokio::io::sink(), receiver);
        let out = copy::copy_out_stream(out, tokio::io::sink());
        let accept = async {
            let mut held = Vec::new();
            while let Some((GuestOpen::Endpoint { .. }, mut stream)) = incoming.next().await {
                assert!(held.len() <= mux::MAX_GUEST_STREAMS);
                let mut some = [0; 64];
                if let Poll::Ready(Ok(())) = std::future::poll_fn(|cx| {
                    Poll::Ready(Pin::new(&mut stream).poll_read(cx, &mut ReadBuf::new(&mut some)))
                })
                .await
                {
                    let _ = tokio::io::AsyncWriteExt::write_all(&mut stream, b"answer").await;
                }
                held.push(stream);
            }
        };
        let all = async { tokio::join!(driver, exec, out, accept) };
        let _results = tokio::time::timeout(Duration::from_secs(5), all)
            .await
            .expect("everything ends when the transport ends");
    });
});
