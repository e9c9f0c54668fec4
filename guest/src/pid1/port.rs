//! The virtio-serial port as a tokio stream.

use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const PAGE: usize = 4096;

/// Any non-blocking descriptor that epoll supports: the channel's port, a pipe or a terminal.
pub struct Port(AsyncFd<std::fs::File>);

impl Port {
    /// Takes a descriptor that is already non-blocking.
    pub fn new(fd: OwnedFd) -> io::Result<Self> {
        // SAFETY: the File is never moved out, and nothing replaces its descriptor while it is
        // registered.
        unsafe { AsyncFd::register(std::fs::File::from(fd)) }
            .map(Self)
            .map_err(|e| e.into_parts().1)
    }

    pub fn file(&self) -> &std::fs::File {
        self.0.get_ref()
    }

    /// Reads until the buffer is nearly full or no data is left. One read of a virtio port returns
    /// at most a page.
    pub fn poll_read(&self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        loop {
            let mut guard = match self.0.poll_read_ready(cx) {
                Poll::Ready(guard) => guard?,
                Poll::Pending if buf.filled().len() > before => return Poll::Ready(Ok(())),
                Poll::Pending => return Poll::Pending,
            };
            match guard.try_io(|fd| fd.get_ref().read(buf.initialize_unfilled())) {
                Ok(Ok(n)) => {
                    buf.advance(n);
                    if n == 0 || buf.remaining() < PAGE {
                        return Poll::Ready(Ok(()));
                    }
                }
                // The end or the error will be seen again after the data before it was returned.
                Ok(Err(e)) if buf.filled().len() == before => return Poll::Ready(Err(e)),
                Ok(Err(_)) => return Poll::Ready(Ok(())),
                Err(_would_block) => {}
            }
        }
    }

    pub fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(cx))?;
            if let Ok(result) = guard.try_io(|fd| fd.get_ref().write(bytes)) {
                return Poll::Ready(result);
            }
        }
    }
}

impl AsyncRead for Port {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Port::poll_read(&self, cx, buf)
    }
}

impl AsyncWrite for Port {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Port::poll_write(&self, cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
