//! Objects, read through one `git cat-file --batch-command`.

use std::fmt;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::ChildStdout;
use tokio::sync::mpsc;

use crate::git_gate::exec::{ConfinedCommand, Process, RunningCommand};
use crate::git_gate::object_id::ObjectId;
use crate::git_gate::refusal::{Refusal, Rule};

/// Size of the read buffer, in bytes.
const BUFFER_BYTES: usize = 64 << 10;
/// Longest header line, in bytes.
const MAX_HEADER_BYTES: u64 = 256;

/// A running `git cat-file`. Answers come in the order of the requests.
pub struct CatFile {
    requests: mpsc::UnboundedSender<Vec<u8>>,
    output: BufReader<ChildStdout>,
    _process: Process,
}

fn failed(e: &dyn fmt::Display) -> Refusal {
    Refusal::host("read the objects", e)
}

impl CatFile {
    /// Starts it with the repository and the objects of `git`.
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub fn start(git: &ConfinedCommand) -> Result<Self, Refusal> {
        let command = git.clone().args(["cat-file", "--batch-command", "--buffer"]);
        let RunningCommand { stdin, stdout, process } = command.start().map_err(|e| failed(&e))?;
        let mut stdin = stdin.ok_or_else(|| failed(&"no stdin"))?;
        let (requests, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        // Requests are written while answers are read, because either pipe may be full.
        tokio::spawn(async move {
            while let Some(lines) = queue.recv().await {
                if stdin.write_all(&lines).await.is_err() || stdin.flush().await.is_err() {
                    break;
                }
            }
        });
        let output = BufReader::with_capacity(BUFFER_BYTES, stdout);
        Ok(Self { requests, output, _process: process })
    }

    /// Asks for types and sizes. Each answer is one [`CatFile::header`].
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub fn request_info<'a>(&self, ids: impl Iterator<Item = &'a ObjectId>) -> Result<(), Refusal> {
        self.request("info", ids)
    }

    /// Asks for contents. Each answer is a [`CatFile::header`], the content, and a
    /// [`CatFile::end_of_object`].
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub fn request_contents<'a>(
        &self,
        ids: impl Iterator<Item = &'a ObjectId>,
    ) -> Result<(), Refusal> {
        self.request("contents", ids)
    }

    fn request<'a>(
        &self,
        command: &str,
        ids: impl Iterator<Item = &'a ObjectId>,
    ) -> Result<(), Refusal> {
        let mut lines = Vec::new();
        for id in ids {
            lines.extend_from_slice(format!("{command} {id}\n").as_bytes());
        }
        lines.extend_from_slice(b"flush\n");
        self.requests.send(lines).map_err(|e| failed(&e))
    }

    /// Type and size in bytes of the next object.
    ///
    /// # Errors
    /// [`Rule::Connectivity`], [`Rule::Host`].
    pub async fn header(&mut self) -> Result<(String, u64), Refusal> {
        let mut line = String::new();
        (&mut self.output)
            .take(MAX_HEADER_BYTES)
            .read_line(&mut line)
            .await
            .map_err(|e| failed(&e))?;
        let mut words = line.split_whitespace().skip(1);
        match (words.next(), words.next().and_then(|n| n.parse().ok())) {
            (Some(kind), Some(size)) => Ok((kind.to_owned(), size)),
            _ => Err(Refusal::new(Rule::Connectivity, "an object that is needed does not exist")),
        }
    }

    /// Fills `piece` with the next bytes of a content.
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub async fn read_exact(&mut self, piece: &mut [u8]) -> Result<(), Refusal> {
        self.output.read_exact(piece).await.map(drop).map_err(|e| failed(&e))
    }

    /// Reads the separator after a content.
    ///
    /// # Errors
    /// [`Rule::Host`].
    pub async fn end_of_object(&mut self) -> Result<(), Refusal> {
        self.read_exact(&mut [0]).await
    }

    /// The next object: the first `max` bytes of its content. The rest is skipped.
    ///
    /// # Errors
    /// [`Rule::Connectivity`], [`Rule::Host`].
    pub async fn object(&mut self, max: usize) -> Result<Vec<u8>, Refusal> {
        let (_, size) = self.header().await?;
        let kept = size.min(max as u64);
        let mut content = Vec::new();
        (&mut self.output).take(kept).read_to_end(&mut content).await.map_err(|e| failed(&e))?;
        let mut rest = (&mut self.output).take(size - kept);
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.map_err(|e| failed(&e))?;
        self.end_of_object().await?;
        Ok(content)
    }
}
