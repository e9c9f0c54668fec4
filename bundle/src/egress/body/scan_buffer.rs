//! A queue of body chunks that the scanner looks through before they go on.

use std::collections::VecDeque;

use bottle_scan::{Finding, Stream};
use bytes::Bytes;

/// Chunks on their way through the scanner.
pub struct ScanBuffer {
    scan: Option<Stream>,
    /// Chunks that may go on.
    pub ready: VecDeque<Bytes>,
    /// Whether the last chunk has arrived.
    pub ended: bool,
}

impl ScanBuffer {
    /// A buffer that searches with `scan`, or passes everything on.
    pub fn new(scan: Option<Stream>) -> Self {
        Self { scan, ready: VecDeque::new(), ended: false }
    }

    /// Whether anything is searched.
    pub fn scans(&self) -> bool {
        self.scan.is_some()
    }

    /// Takes a chunk; returns what was found.
    pub fn push(&mut self, chunk: Bytes) -> Vec<Finding> {
        let mut found = Vec::new();
        match &mut self.scan {
            None => self.ready.push_back(chunk),
            Some(scan) => {
                let mut out = Vec::new();
                scan.push(chunk, &mut out, &mut found);
                self.ready.extend(out);
            }
        }
        found
    }

    /// Takes the end of the body; returns what was found in what the scanner still held.
    pub fn finish(&mut self) -> Vec<Finding> {
        let (mut out, mut found) = (Vec::new(), Vec::new());
        if let Some(scan) = self.scan.as_mut().filter(|_| !self.ended) {
            scan.finish(&mut out, &mut found);
            self.ready.extend(out);
        }
        self.ended = true;
        found
    }

    /// Whether every chunk has gone on.
    pub fn is_done(&self) -> bool {
        self.ended && self.ready.is_empty()
    }

    /// Bytes that may go on but have not.
    pub fn ready_bytes(&self) -> u64 {
        self.ready.iter().map(|chunk| chunk.len() as u64).sum()
    }
}
