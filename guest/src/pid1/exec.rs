//! Runs one process for an exec stream.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use bottle_channel::exec::{ExitStatus, FromGuest, ToGuest};
use bottle_channel::frame::{FrameError, FrameReader, FrameWriter};
use bottle_channel::{ChannelStream, ExecRequest};
use nix::libc;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::oneshot;

use super::port::Port;
use super::reaper::Reaper;
use super::spawn::{Ends, resize, spawn};

/// Time between SIGHUP and SIGKILL after the host has hung up.
const HANGUP_GRACE: Duration = Duration::from_secs(2);
/// Maximum silence while the rest of a terminal's output is read. Another process may keep the
/// terminal open after this one has ended.
const TERMINAL_DRAIN: Duration = Duration::from_millis(200);
/// Maximum bytes of stdin kept for a process that does not read.
const MAX_STDIN_BACKLOG: usize = 256 * 1024;
/// Control-D, which is the end of input on a terminal.
const END_OF_INPUT: u8 = 4;
const BUFFER_BYTES: usize = 32 * 1024;

type Reader = FrameReader<ReadHalf<ChannelStream>>;
type Writer = FrameWriter<WriteHalf<ChannelStream>>;

pub async fn serve(request: ExecRequest, stream: ChannelStream, reaper: &Reaper) {
    let (from, to) = tokio::io::split(stream);
    let (mut from, mut to) = (FrameReader::new(from), FrameWriter::new(to));
    // There must be no await between these two; see Reaper.
    let spawned = spawn(&request).map(|spawned| (reaper.watch(spawned.pid), spawned));
    let (mut exit, spawned) = match spawned {
        Ok(started) => started,
        Err(error) => {
            let _ = FromGuest::Error(error).send(&mut to).await;
            let _ = to.shutdown().await;
            return;
        }
    };
    let ends = match spawned.ends {
        Ends::Terminal(master) => Port::new(master).map(|terminal| (Io::Terminal(terminal), None)),
        Ends::Pipes { stdin, stdout, stderr } => Io::pipes(stdin, stdout, stderr),
    };
    let (done, ends) = match ends {
        Ok((io, stdin)) => {
            let done = tokio::select! {
                done = output(&io, &mut to, &mut exit) => done,
                () = input(&io, stdin, &mut from) => Err(None),
            };
            (done, Some(io))
        }
        Err(_) => (Err(None), None),
    };
    match done {
        Ok(status) => {
            let _ = FromGuest::Exit(status).send(&mut to).await;
            let _ = to.shutdown().await;
        }
        Err(status) => {
            // Closing the terminal also hangs up its session.
            drop(ends);
            if status.is_none() {
                hang_up(spawned.pid, exit).await;
            }
        }
    }
}

/// Our ends of the process's streams, except for a piped stdin.
enum Io {
    Terminal(Port),
    Pipes { stdout: Port, stderr: Port },
}

impl Io {
    fn pipes(
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> io::Result<(Self, Option<Port>)> {
        let port = |fd: OwnedFd| {
            nix::fcntl::fcntl(&fd, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK))?;
            Port::new(fd)
        };
        Ok((
            Self::Pipes { stdout: port(stdout)?, stderr: port(stderr)? },
            stdin.map(port).transpose()?,
        ))
    }
}

/// Number of bytes read; `None` at the end of the stream. A terminal ends with an error (EIO).
async fn read(port: &Port, buf: &mut Vec<u8>) -> Option<usize> {
    buf.resize(BUFFER_BYTES, 0);
    let mut into = tokio::io::ReadBuf::new(buf);
    match std::future::poll_fn(|cx| port.poll_read(cx, &mut into)).await {
        Ok(()) if !into.filled().is_empty() => Some(into.filled().len()),
        _ => None,
    }
}

/// Sends output until the process has ended and everything that it wrote is sent. When the host has
/// gone, the result is `Err(Some)` if the process has ended, and `Err(None)` if it still runs.
async fn output(
    io: &Io,
    to: &mut Writer,
    exit: &mut oneshot::Receiver<ExitStatus>,
) -> Result<ExitStatus, Option<ExitStatus>> {
    let (first, second) = match io {
        Io::Terminal(terminal) => (terminal, None),
        Io::Pipes { stdout, stderr } => (stdout, Some(stderr)),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut first_open, mut second_open) = (true, second.is_some());
    let status = loop {
        tokio::select! {
            n = read(first, &mut out), if first_open => match n {
                Some(n) => FromGuest::Stdout(&out[..n]).send(to).await.map_err(|_| None)?,
                None => first_open = false,
            },
            n = async { match second { Some(port) => read(port, &mut err).await, None => None } }, if second_open => match n {
                Some(n) => FromGuest::Stderr(&err[..n]).send(to).await.map_err(|_| None)?,
                None => second_open = false,
            },
            status = &mut *exit => break status.unwrap_or(ExitStatus::Code(255)),
        }
    };
    let gone = |_: FrameError| Some(status);
    if let Io::Terminal(terminal) = io {
        // When a session leader ends, its terminal hangs up: first comes what it wrote, then EIO.
        while first_open {
            match tokio::time::timeout(TERMINAL_DRAIN, read(terminal, &mut out)).await {
                Ok(Some(n)) => FromGuest::Stdout(&out[..n]).send(to).await.map_err(gone)?,
                _ => first_open = false,
            }
        }
        return Ok(status);
    }
    // Everything that the process wrote is in the pipes now. Descendants may keep them open and
    // write for ever, so read no more than this.
    for (port, open, stdout) in [(Some(first), first_open, true), (second, second_open, false)] {
        let Some(port) = port.filter(|_| open) else { continue };
        let mut left = pending(port);
        while left > 0 {
            let Some(n) = read(port, &mut out).await else { break };
            let part = &out[..n];
            if stdout { FromGuest::Stdout(part) } else { FromGuest::Stderr(part) }
                .send(to)
                .await
                .map_err(gone)?;
            left = left.saturating_sub(n);
        }
    }
    Ok(status)
}

/// Number of bytes that can be read now.
fn pending(port: &Port) -> usize {
    let mut n: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, and `n` outlives the call.
    let result = unsafe { libc::ioctl(port.file().as_raw_fd(), libc::FIONREAD, &raw mut n) };
    if result == 0 { usize::try_from(n).unwrap_or(0) } else { 0 }
}

/// Passes the host's frames to the process. Returns when the host hangs up.
async fn input(io: &Io, mut pipe: Option<Port>, from: &mut Reader) {
    let mut backlog: VecDeque<u8> = VecDeque::new();
    let mut ended = false;
    loop {
        if ended && backlog.is_empty() {
            pipe = None;
        }
        let writer = match io {
            Io::Terminal(terminal) => Some(terminal),
            Io::Pipes { .. } => pipe.as_ref(),
        };
        let takes = writer.is_some() && !ended;
        tokio::select! {
            n = async {
                match writer {
                    Some(port) => std::future::poll_fn(|cx| port.poll_write(cx, backlog.as_slices().0)).await,
                    None => std::future::pending().await,
                }
            }, if !backlog.is_empty() => match n {
                Ok(n) => drop(backlog.drain(..n)),
                Err(_) => {
                    // The process reads no more.
                    backlog.clear();
                    ended = true;
                }
            },
            frame = ToGuest::recv(from), if backlog.len() < MAX_STDIN_BACKLOG => match frame {
                Ok(Some(ToGuest::Stdin(bytes))) => if takes { backlog.extend(bytes) },
                Ok(Some(ToGuest::StdinEof)) => {
                    if takes && matches!(io, Io::Terminal(_)) {
                        backlog.push_back(END_OF_INPUT);
                    }
                    ended = true;
                }
                Ok(Some(ToGuest::Resize(size))) => {
                    if let Io::Terminal(terminal) = io {
                        resize(terminal.file(), size);
                    }
                }
                Ok(None) | Err(_) => return,
            },
        }
    }
}

/// Sends SIGHUP to the process group, and after a grace period SIGKILL to the whole session.
async fn hang_up(pid: i32, mut exit: oneshot::Receiver<ExitStatus>) {
    let leader = Pid::from_raw(pid);
    let _ = killpg(leader, Signal::SIGHUP);
    let _ = killpg(leader, Signal::SIGCONT);
    if tokio::time::timeout(HANGUP_GRACE, &mut exit).await.is_err() {
        let _ = killpg(leader, Signal::SIGKILL);
        for member in session(pid) {
            let _ = kill(member, Signal::SIGKILL);
        }
    }
}

/// Processes of the session `id`.
fn session(id: i32) -> Vec<Pid> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name, which may hold any character, come state, parent, group and session.
            let session: i32 = stat.rsplit_once(')')?.1.split_whitespace().nth(3)?.parse().ok()?;
            (session == id).then_some(Pid::from_raw(pid))
        })
        .collect()
}
