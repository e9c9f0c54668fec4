//! A layer: an uncompressed tar that can be written more than once.

use std::io::{self, Write};

use sha2::{Digest, Sha256};

use crate::error::PackError;

/// Something that writes the same tar each time.
pub trait Layer {
    /// Writes the whole tar.
    ///
    /// # Errors
    /// When the source cannot be read, or `to` cannot be written.
    fn write(&self, to: &mut dyn Write) -> Result<(), PackError>;

    /// SHA-256 of the tar, and its size in bytes.
    ///
    /// # Errors
    /// As [`Layer::write`].
    fn measure(&self) -> Result<([u8; 32], u64), PackError> {
        let mut meter = Meter::new(io::sink());
        self.write(&mut meter)?;
        Ok(meter.finish())
    }
}

/// A writer that counts and hashes what goes through it.
pub struct Meter<W> {
    to: W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Meter<W> {
    pub fn new(to: W) -> Self {
        Self { to, hash: Sha256::new(), bytes: 0 }
    }

    pub fn finish(self) -> ([u8; 32], u64) {
        (self.hash.finalize().into(), self.bytes)
    }
}

impl<W: Write> Write for Meter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.to.write(bytes)?;
        self.hash.update(&bytes[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}
