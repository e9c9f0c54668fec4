//! Copies files into and out of the guest, as tar streams.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, lchown};
use std::path::{Path, PathBuf};

use bottle_channel::copy::{CopyReport, OutFrame};
use bottle_channel::frame::FrameWriter;
use bottle_channel::untar::extract_for;
use bottle_channel::{ChannelStream, CopyInRequest, CopyOutRequest, Reply};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

use super::files::make_parents;
use super::reply::reply;

/// Size of a chunk in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks in flight between the stream and the thread that reads or writes the files.
const MAX_CHUNKS: usize = 4;

pub async fn receive(request: CopyInRequest, stream: ChannelStream) {
    let (mut from, to) = tokio::io::split(stream);
    let (sender, receiver) = mpsc::channel(MAX_CHUNKS);
    let work = tokio::task::spawn_blocking(move || {
        unpack(&request, Input { chunks: receiver, chunk: Vec::new(), at: 0, ended: false })
    });
    // A cut stream must not look like the end of the tar: only a clean end sends an empty chunk.
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        let Ok(n) = from.read_buf(&mut chunk).await else { break };
        if sender.send(chunk).await.is_err() || n == 0 {
            break;
        }
    }
    drop(sender);
    let report = match work.await {
        Ok(Ok(report)) => Reply::Ok(report),
        Ok(Err(e)) => Reply::Error(explain(&e)),
        Err(e) => Reply::Error(e.to_string()),
    };
    reply(to, &report).await;
}

/// The error and its causes in one line: the tar crate hides the cause one level down.
fn explain(error: &io::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}

/// A blocking reader over the chunks. It fails when they stop without an empty one.
struct Input {
    chunks: mpsc::Receiver<Vec<u8>>,
    chunk: Vec<u8>,
    at: usize,
    ended: bool,
}

impl Read for Input {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.at == self.chunk.len() && !self.ended {
            self.chunk = self.chunks.blocking_recv().ok_or(io::ErrorKind::UnexpectedEof)?;
            self.at = 0;
            self.ended = self.chunk.is_empty();
        }
        let n = buf.len().min(self.chunk.len() - self.at);
        buf[..n].copy_from_slice(&self.chunk[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

fn unpack(request: &CopyInRequest, mut input: Input) -> io::Result<CopyReport> {
    let CopyInRequest { dest_dir, uid, gid } = request;
    let dest = Path::new(dest_dir);
    if !dest.is_absolute() {
        return Err(io::Error::other("the destination is not an absolute path"));
    }
    make_parents(&dest.join("x"), *uid, *gid)?;
    let mut report = CopyReport::default();
    if let (Some(uid), Some(gid)) = (uid, gid) {
        report = extract_for(&mut input, &dest.canonicalize()?, (*uid, *gid))
            .map_err(io::Error::other)?;
    } else {
        let mut archive = tar::Archive::new(&mut input);
        archive.set_preserve_permissions(true);
        archive.set_preserve_ownerships(true);
        archive.set_preserve_mtime(true);
        archive.set_overwrite(true);
        for entry in archive.entries()? {
            let mut entry = entry?;
            let path = entry.path()?.into_owned();
            let inside = path.components().all(|c| {
                matches!(c, std::path::Component::Normal(_) | std::path::Component::CurDir)
            });
            if !inside {
                return Err(io::Error::other(format!(
                    "{}: leads out of the destination",
                    path.display()
                )));
            }
            let target = dest.join(&path);
            make_parents(&target, *uid, *gid)?;
            report.bytes += entry.size();
            report.files += 1;
            if !entry.unpack_in(dest)? {
                return Err(io::Error::other(format!(
                    "{}: leads out of the destination",
                    path.display()
                )));
            }
            if uid.is_some() || gid.is_some() {
                lchown(&target, *uid, *gid)?;
            }
        }
    }
    // Read beyond the end of the tar to the end of the stream, to know that it was not cut.
    io::copy(&mut input, &mut io::sink())?;
    Ok(report)
}

pub async fn send(request: CopyOutRequest, stream: ChannelStream) {
    let (_from, to) = tokio::io::split(stream);
    let mut to = FrameWriter::new(to);
    let (sender, mut chunks) = mpsc::channel::<Vec<u8>>(MAX_CHUNKS);
    let work = tokio::task::spawn_blocking(move || {
        pack(&request, Output { chunks: sender, chunk: Vec::with_capacity(CHUNK_BYTES) })
    });
    while let Some(chunk) = chunks.recv().await {
        if OutFrame::Data(&chunk).send(&mut to).await.is_err() {
            return;
        }
    }
    let report = match work.await {
        Ok(Ok(report)) => Reply::Ok(report),
        Ok(Err(e)) => Reply::Error(explain(&e)),
        Err(e) => Reply::Error(e.to_string()),
    };
    if OutFrame::Done(report).send(&mut to).await.is_ok() {
        let _ = to.shutdown().await;
    }
}

struct Output {
    chunks: mpsc::Sender<Vec<u8>>,
    chunk: Vec<u8>,
}

impl Write for Output {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = buf.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&buf[..n]);
        if self.chunk.len() == CHUNK_BYTES {
            self.flush()?;
        }
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.chunk.is_empty() {
            return Ok(());
        }
        let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_BYTES));
        self.chunks.blocking_send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

fn pack(request: &CopyOutRequest, output: Output) -> io::Result<CopyReport> {
    let path = Path::new(&request.path);
    if !path.is_absolute() {
        return Err(io::Error::other("not an absolute path"));
    }
    let name = PathBuf::from(path.file_name().unwrap_or(".".as_ref()));
    let mut report = CopyReport::default();
    let mut tar = tar::Builder::new(output);
    // The path itself may be a link. Its target is copied.
    let start = fs::canonicalize(path)
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
    add(&mut tar, &start, &name, &mut report)?;
    tar.into_inner()?.flush()?;
    Ok(report)
}

fn add<W: Write>(
    tar: &mut tar::Builder<W>,
    path: &Path,
    name: &Path,
    report: &mut CopyReport,
) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        // It was removed after its directory was read.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let kind = meta.file_type();
    if kind.is_socket() || kind.is_fifo() || kind.is_block_device() || kind.is_char_device() {
        return Ok(());
    }
    report.files += 1;
    let mut header = tar::Header::new_gnu();
    header.set_metadata(&meta);
    if kind.is_symlink() {
        header.set_size(0);
        return tar.append_link(&mut header, name, fs::read_link(path)?);
    }
    if kind.is_dir() {
        header.set_size(0);
        tar.append_data(&mut header, name, io::empty())?;
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            add(tar, &entry.path(), &name.join(entry.file_name()), report)?;
        }
        return Ok(());
    }
    header.set_size(meta.size());
    report.bytes += meta.size();
    // The header is sent before the content is read: a file that shrinks meanwhile is padded, one
    // that grows is cut.
    let content = fs::File::open(path)?.chain(io::repeat(0)).take(meta.size());
    tar.append_data(&mut header, name, content)
}
