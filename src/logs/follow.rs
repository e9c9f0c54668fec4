//! The lines of a file that another process appends to, replaces or cuts short.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest line that is kept whole, in bytes; the rest of a longer one is left out.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// Reads the whole lines that a file has so far, and later those that were added.
pub(crate) struct LineFollower {
    path: PathBuf,
    /// How much of the end of a file is read when it is opened, in bytes.
    tail_bytes: u64,
    open: Option<BufReader<File>>,
    /// Bytes read of the open file.
    offset: u64,
    /// A line whose end has not been seen yet.
    partial: Vec<u8>,
    /// Bytes of that line, kept or not.
    partial_bytes: u64,
    /// The line that is being read began before the part of the file that is read.
    skips_line: bool,
}

impl LineFollower {
    /// Begins at the start of `path`, which need not exist yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self::from_end(path, u64::MAX)
    }

    /// Begins with the first whole line in the last `tail_bytes` of `path`.
    pub(crate) fn from_end(path: &Path, tail_bytes: u64) -> Self {
        Self {
            path: path.to_owned(),
            tail_bytes,
            open: None,
            offset: 0,
            partial: Vec::new(),
            partial_bytes: 0,
            skips_line: false,
        }
    }

    /// The next line without its end; `None` when there is none for now.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(crate) fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        loop {
            if self.open.is_none() && !self.reopen()? {
                return Ok(None);
            }
            let Some(file) = &mut self.open else { return Ok(None) };
            let buffer = file.fill_buf()?;
            if buffer.is_empty() {
                if self.is_current()? {
                    return Ok(None);
                }
                continue;
            }
            let end = buffer.iter().position(|b| *b == b'\n');
            let consumed = end.map_or(buffer.len(), |end| end + 1);
            let text = &buffer[..end.unwrap_or(consumed)];
            let room = MAX_LINE_BYTES - self.partial.len();
            self.partial.extend_from_slice(&text[..text.len().min(room)]);
            file.consume(consumed);
            self.offset += consumed as u64;
            self.partial_bytes += consumed as u64;
            if end.is_some() {
                self.partial_bytes = 0;
                let line = std::mem::take(&mut self.partial);
                if !std::mem::take(&mut self.skips_line) {
                    return Ok(Some(line));
                }
            }
        }
    }

    fn reopen(&mut self) -> io::Result<bool> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        let meta = file.metadata()?;
        if !meta.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        self.offset = meta.len().saturating_sub(self.tail_bytes);
        file.seek(SeekFrom::Start(self.offset))?;
        self.open = Some(BufReader::new(file));
        self.partial_bytes = 0;
        self.partial.clear();
        self.skips_line = self.offset > 0;
        Ok(true)
    }

    /// At the end of the open file: true when the path still names it and it was not cut short.
    /// Otherwise the next read begins anew.
    fn is_current(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.open else { return Ok(true) };
        let ours = file.get_ref().metadata()?;
        if ours.len() < self.offset {
            // A writer that finds half a line removes it and appends from there.
            let (whole, offset) = (self.offset - self.partial_bytes, ours.len());
            if offset == whole {
                file.seek(SeekFrom::Start(offset))?;
                (self.offset, self.partial_bytes) = (offset, 0);
                self.partial.clear();
                return Ok(true);
            }
            self.open = None;
            return Ok(false);
        }
        match std::fs::metadata(&self.path) {
            Ok(now) if (now.dev(), now.ino()) == (ours.dev(), ours.ino()) => Ok(true),
            Ok(_) => {
                // Something may have been written between our last read and the move.
                let mut byte = [0];
                if file.get_mut().read(&mut byte)? > 0 {
                    file.seek(SeekFrom::Start(self.offset))?;
                    return Ok(false);
                }
                self.open = None;
                Ok(false)
            }
            // Gone for now: what is open stays open, and another file may take its place.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }
}

/// Bytes of `file` up to the end of its last whole line: a daemon may be writing the next one. A
/// file without any line end counts as a whole. Leaves `file` at its start.
pub(crate) fn whole_lines_bytes(file: &mut File) -> io::Result<u64> {
    /// Longest line of an audit log, in bytes.
    const MAX_AUDIT_LINE_BYTES: u64 = 256 * 1024;
    let len = file.metadata()?.len();
    let start = len.saturating_sub(MAX_AUDIT_LINE_BYTES);
    file.seek(SeekFrom::Start(start))?;
    let mut end = Vec::new();
    file.take(len - start).read_to_end(&mut end)?;
    file.seek(SeekFrom::Start(0))?;
    let unfinished = end.iter().rev().take_while(|b| **b != b'\n').count() as u64;
    let no_line_end = unfinished == end.len() as u64;
    Ok(if no_line_end { len } else { start + end.len() as u64 - unfinished })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn append(path: &Path, text: &str) {
        let mut file = File::options().create(true).append(true).open(path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    fn lines(follower: &mut LineFollower) -> Vec<String> {
        let next = || follower.next_line().unwrap().map(|l| String::from_utf8(l).unwrap());
        std::iter::from_fn(next).collect()
    }

    #[test]
    fn each_line_comes_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut follower = LineFollower::from_end(&path, 1000);
        append(&path, "a\nb");
        assert_eq!(lines(&mut follower), ["a"]);
        append(&path, "c\n");
        assert_eq!(lines(&mut follower), ["bc"]);
        assert!(lines(&mut follower).is_empty());
    }

    #[test]
    fn only_whole_lines_of_the_tail_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        append(&path, "first\nsecond\nthird\n");
        assert_eq!(lines(&mut LineFollower::from_end(&path, 10)), ["third"]);
        assert_eq!(lines(&mut LineFollower::new(&path)), ["first", "second", "third"]);
        let mut follower = LineFollower::from_end(&path, 3);
        assert!(lines(&mut follower).is_empty());
        append(&path, "fourth\n");
        assert_eq!(lines(&mut follower), ["fourth"]);
    }
}
