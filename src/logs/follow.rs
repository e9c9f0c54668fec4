//! The lines of a file that another process appends to, replaces or cuts short.

use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest line that is kept whole, in bytes; the rest of a longer one is left out.
const LONGEST: usize = 64 * 1024;

/// Reads whole lines, as far as there are any.
pub(crate) struct Growing {
    path: PathBuf,
    open: Option<BufReader<File>>,
    /// Bytes read of the open file.
    offset: u64,
    /// A line whose end has not been seen yet.
    part: Vec<u8>,
    /// Bytes of that line, kept or not.
    part_len: u64,
}

impl Growing {
    /// Begins at the start of `path`, which need not exist yet.
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), open: None, offset: 0, part: Vec::new(), part_len: 0 }
    }

    /// The next line without its end; `None` when there is none for now.
    ///
    /// # Errors
    /// The file is there and cannot be read.
    pub(crate) fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
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
            let taken = end.map_or(buffer.len(), |end| end + 1);
            let text = &buffer[..end.unwrap_or(taken)];
            self.part.extend_from_slice(&text[..text.len().min(LONGEST - self.part.len())]);
            file.consume(taken);
            self.offset += taken as u64;
            self.part_len += taken as u64;
            if end.is_some() {
                self.part_len = 0;
                return Ok(Some(std::mem::take(&mut self.part)));
            }
        }
    }

    fn reopen(&mut self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(e),
        };
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a regular file"));
        }
        self.open = Some(BufReader::new(file));
        (self.offset, self.part_len) = (0, 0);
        self.part.clear();
        Ok(true)
    }

    /// At the end of what is open: whether the path still means it, and it was not cut short. Else
    /// the next read starts anew.
    fn is_current(&mut self) -> io::Result<bool> {
        let Some(file) = &mut self.open else { return Ok(true) };
        let ours = file.get_ref().metadata()?;
        if ours.len() < self.offset {
            // A writer that finds half a line removes it and goes on there.
            let (whole, offset) = (self.offset - self.part_len, ours.len());
            if offset == whole {
                file.seek(SeekFrom::Start(offset))?;
                (self.offset, self.part_len) = (offset, 0);
                self.part.clear();
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
            // Gone for now: what is open stays, another may come.
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(true),
            Err(e) => Err(e),
        }
    }
}
