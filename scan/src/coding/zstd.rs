//! Zstandard (RFC 8878), block by block.
//!
//! ruzstd (0.8.1) gives out what it decoded only when a whole window has come after it, or the
//! frame has ended; a text that is awaited would never be seen. So it is told that the frame has
//! ended before the first block: an empty last block, after which it goes on decoding, but shows
//! all it has. What it shows is left in its buffer, as later blocks refer to it; when that has
//! grown by half, it is emptied and given the last window again, as blocks that are not compressed.

use std::io::{self, Write};

use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::shared::{Decode, Sink, Stop};

/// Largest window, bytes (RFC 8878, 3.1.1.1.2, recommends to support at least this, and RFC 9659 to
/// send no larger).
const WINDOW: u64 = 8 << 20;
/// Largest block, bytes.
const BLOCK: usize = 128 << 10;
/// A frame's header that promises neither a size nor a checksum: both are dealt with here.
const HEADER: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd, 0, 0];
/// A last block, not compressed, of no bytes.
const EMPTY: &[u8] = &[1, 0, 0];
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

pub(super) struct Zstd {
    decoder: FrameDecoder,
    /// Bytes of what comes next that are not complete.
    pending: Vec<u8>,
    part: Part,
    window: usize,
    /// Bytes that the decoder shows and that were given on.
    seen: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Header,
    Block {
        checksum: bool,
    },
    Checksum,
    /// Bytes of a skippable frame.
    Skip(u32),
}

impl Default for Zstd {
    fn default() -> Self {
        Self {
            decoder: FrameDecoder::new(),
            pending: Vec::new(),
            part: Part::Header,
            window: 0,
            seen: 0,
        }
    }
}

/// What stands complete at the beginning of the pending bytes.
enum Next {
    Missing,
    Frame { len: usize, window: u64, checksum: bool },
    Skippable { len: usize, skip: u32 },
    Block { len: usize, last: bool },
    Checksum,
}

impl Zstd {
    fn next(&self) -> Result<Next, Stop> {
        let bytes = &self.pending[..];
        match self.part {
            Part::Header => header(bytes),
            Part::Block { .. } => {
                let [a, b, c, ..] = *bytes else { return Ok(Next::Missing) };
                let value = u32::from_le_bytes([a, b, c, 0]);
                let size = (value >> 3) as usize;
                let content = match (value >> 1) & 3 {
                    0 | 2 => size,
                    1 => 1,
                    _ => return Err(Stop::Corrupt),
                };
                if size > BLOCK {
                    return Err(Stop::Corrupt);
                }
                let len = 3 + content;
                Ok(if bytes.len() < len {
                    Next::Missing
                } else {
                    Next::Block { len, last: value & 1 == 1 }
                })
            }
            Part::Checksum => Ok(if bytes.len() < 4 { Next::Missing } else { Next::Checksum }),
            Part::Skip(_) => Ok(Next::Missing),
        }
    }

    /// Deals with the pending bytes as far as they are complete; whether there was anything.
    fn step(&mut self, sink: Sink<'_>) -> Result<bool, Stop> {
        let len = match self.next()? {
            Next::Missing => return Ok(false),
            Next::Frame { len, window, checksum } => {
                self.window = usize::try_from(window).map_err(|_| Stop::Corrupt)?;
                self.decoder.reset(HEADER).map_err(|_| Stop::Corrupt)?;
                self.decode(EMPTY)?;
                self.seen = 0;
                self.part = Part::Block { checksum };
                len
            }
            Next::Skippable { len, skip } => {
                self.part = if skip == 0 { Part::Header } else { Part::Skip(skip) };
                len
            }
            Next::Block { len, last } => {
                let block = std::mem::take(&mut self.pending);
                let done = self.decode(&block[..len]).and_then(|()| self.show(sink));
                self.pending = block;
                done?;
                self.part = match self.part {
                    Part::Block { checksum: false } if last => Part::Header,
                    Part::Block { checksum: true } if last => Part::Checksum,
                    part => part,
                };
                len
            }
            // What the text is does not depend on it, and a reader may ignore it.
            Next::Checksum => {
                self.part = Part::Header;
                4
            }
        };
        self.pending.drain(..len);
        Ok(true)
    }

    fn decode(&mut self, block: &[u8]) -> Result<(), Stop> {
        self.decoder
            .decode_blocks(block, BlockDecodingStrategy::UptoBlocks(1))
            .map(drop)
            .map_err(|_| Stop::Corrupt)
    }

    /// Gives on what the decoder has beyond what was seen.
    fn show(&mut self, sink: Sink<'_>) -> Result<(), Stop> {
        let mut peek = Peek { seen: self.seen, sink, done: Ok(()), shown: 0 };
        // The writer takes nothing, which leaves all in the buffer.
        self.decoder.collect_to_writer(&mut peek).map_err(|_| Stop::Corrupt)?;
        let (done, shown) = (peek.done, peek.shown);
        done?;
        // All of it was shown: the buffer is in one piece, as nothing was ever taken from its
        // front.
        if shown != self.decoder.can_collect() {
            return Err(Stop::Corrupt);
        }
        self.seen = shown;
        if shown > self.window + (self.window / 2).max(2 * BLOCK) {
            let all = self.decoder.collect().unwrap_or_default();
            for part in all[all.len() - self.window..].chunks(BLOCK) {
                let size = u32::try_from(part.len()).map_err(|_| Stop::Corrupt)?;
                let mut block = (size << 3).to_le_bytes()[..3].to_vec();
                block.extend_from_slice(part);
                self.decode(&block)?;
            }
            self.seen = self.window;
        }
        Ok(())
    }
}

struct Peek<'a> {
    seen: usize,
    sink: Sink<'a>,
    done: Result<(), Stop>,
    shown: usize,
}

impl Write for Peek<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.shown = buffer.len();
        if let Some(new) = buffer.get(self.seen..).filter(|new| !new.is_empty()) {
            self.done = (self.sink)(new);
        }
        Ok(0)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn header(bytes: &[u8]) -> Result<Next, Stop> {
    let Some((magic, rest)) = bytes.split_first_chunk::<4>() else { return Ok(Next::Missing) };
    if (0x184D_2A50..=0x184D_2A5F).contains(&u32::from_le_bytes(*magic)) {
        let skip = rest.first_chunk().map(|len| u32::from_le_bytes(*len));
        return Ok(skip.map_or(Next::Missing, |skip| Next::Skippable { len: 8, skip }));
    }
    if *magic != MAGIC {
        return Err(Stop::Corrupt);
    }
    let Some((descriptor, rest)) = rest.split_first() else { return Ok(Next::Missing) };
    let single = descriptor & 0x20 != 0;
    // A dictionary would have to be known, and the reserved bit's meaning too.
    if descriptor & 3 != 0 || descriptor & 8 != 0 {
        return Err(Stop::Corrupt);
    }
    let size_len = match descriptor >> 6 {
        0 => usize::from(single),
        n => 1 << n,
    };
    let len = usize::from(!single) + size_len;
    let Some(fields) = rest.get(..len) else { return Ok(Next::Missing) };
    let window = if single {
        let mut size = [0; 8];
        size[..size_len].copy_from_slice(fields);
        u64::from_le_bytes(size) + if size_len == 2 { 256 } else { 0 }
    } else {
        let base = 1_u64 << (10 + (fields[0] >> 3));
        base + base / 8 * u64::from(fields[0] & 7)
    };
    if window > WINDOW {
        Err(Stop::Corrupt)
    } else {
        Ok(Next::Frame { len: 5 + len, window, checksum: descriptor & 4 != 0 })
    }
}

impl Decode for Zstd {
    fn push(&mut self, mut input: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        while !input.is_empty() {
            if let Part::Skip(left) = self.part {
                let skip = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                input = &input[skip..];
                let left = left - u32::try_from(skip).unwrap_or(left);
                self.part = if left == 0 { Part::Header } else { Part::Skip(left) };
                continue;
            }
            let some = input.len().min(BLOCK);
            self.pending.extend_from_slice(&input[..some]);
            input = &input[some..];
            while self.step(sink)? {}
            if matches!(self.part, Part::Skip(_)) {
                let pending = std::mem::take(&mut self.pending);
                self.push(&pending, sink)?;
            }
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.part == Part::Header && self.pending.is_empty()
    }

    fn pending(&self) -> usize {
        self.pending.len()
    }
}
