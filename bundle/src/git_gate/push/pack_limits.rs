//! The sizes that a pack's objects claim, read while the pack arrives. git expands deltas, commits,
//! trees and tags in memory, whether or not a ref leads to them, so their size is checked before
//! git gets them. Blobs are not checked here: git streams large ones, and the scan can name their
//! path.
//!
//! The format is gitformat-pack(5): a header of 12 bytes, then for each object its type and size,
//! the base of a delta, and zlib data. A delta starts with the size of its base and of its result.

use flate2::{Decompress, FlushDecompress, Status};

use crate::git_gate::refusal::{Refusal, Rule};

/// Size of a pack's header, in bytes.
const HEADER_BYTES: usize = 12;
/// Size of the id of a delta's base, in bytes.
const ID_BYTES: usize = 20;
/// Most bytes of a variable-length number. In a longer one git shifts bits by more than 63, and so
/// may read another number.
const MAX_VARINT_BYTES: usize = 10;
/// Most bytes that all objects of a pack may inflate to. A pack of some MiB can claim terabytes.
const MAX_INFLATED_BYTES: u64 = 8 << 30;
/// Size of the buffer for inflated data, in bytes.
const BUFFER_BYTES: usize = 32 << 10;

const BLOB: u8 = 3;
const OFS_DELTA: u8 = 6;
const REF_DELTA: u8 = 7;

/// Reads a pack as it arrives.
pub struct PackLimits {
    /// Largest object, in bytes.
    max_object: u64,
    state: State,
    objects_left: u32,
    /// Bytes that all objects so far claim to inflate to.
    claimed: u64,
    buffer: Vec<u8>,
}

enum State {
    /// Collects the pack's header.
    Header(Vec<u8>),
    /// Collects type and size of an object, and the base of a delta.
    Entry(Vec<u8>),
    /// Inflates the data of an object.
    Data(Box<ObjectData>),
    /// After the last object.
    Trailer,
}

struct ObjectData {
    zlib: Decompress,
    /// Bytes that are still to come, inflated.
    left: u64,
    /// The start of a delta, until the size of its result is known; `None` for other objects.
    delta: Option<Vec<u8>>,
}

fn malformed(why: &str) -> Refusal {
    Refusal::new(Rule::Pack, format!("the pack is malformed: {why}"))
}

impl PackLimits {
    /// Objects may have at most `max_object` bytes.
    #[must_use]
    pub fn new(max_object: u64) -> Self {
        let buffer = vec![0; BUFFER_BYTES];
        Self { max_object, state: State::Header(Vec::new()), objects_left: 0, claimed: 0, buffer }
    }

    /// Takes the next bytes of the pack.
    ///
    /// # Errors
    /// [`Rule::MaxBlob`], [`Rule::Pack`].
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            match &mut self.state {
                State::Header(header) => {
                    take(header, HEADER_BYTES, &mut bytes);
                    if header.len() == HEADER_BYTES {
                        let count = header.last_chunk::<4>().copied().unwrap_or_default();
                        self.objects_left = u32::from_be_bytes(count);
                        self.state = self.next_object();
                    }
                }
                State::Entry(entry) => {
                    entry.push(bytes[0]);
                    bytes = &bytes[1..];
                    if let Some((kind, size)) = read_entry(entry)? {
                        self.state = self.start_data(kind, size)?;
                    }
                }
                State::Data(data) => {
                    let ended = data.inflate(&mut bytes, &mut self.buffer, self.max_object)?;
                    if ended {
                        self.state = self.next_object();
                    }
                }
                State::Trailer => return Ok(()),
            }
        }
        Ok(())
    }

    fn next_object(&mut self) -> State {
        match self.objects_left.checked_sub(1) {
            Some(left) => {
                self.objects_left = left;
                State::Entry(Vec::new())
            }
            None => State::Trailer,
        }
    }

    fn start_data(&mut self, kind: u8, size: u64) -> Result<State, Refusal> {
        let delta = matches!(kind, OFS_DELTA | REF_DELTA);
        if kind != BLOB && !delta {
            check_size(size, self.max_object)?;
        }
        self.claimed = self.claimed.saturating_add(size);
        if self.claimed > MAX_INFLATED_BYTES {
            return Err(Refusal::new(Rule::MaxPack, "the pack's objects inflate to over 8 GiB"));
        }
        let zlib = Decompress::new(true);
        let data = ObjectData { zlib, left: size, delta: delta.then(Vec::new) };
        Ok(State::Data(Box::new(data)))
    }
}

impl ObjectData {
    /// Inflates as much of `bytes` as belongs to this object. Returns whether the object has ended.
    fn inflate(
        &mut self,
        bytes: &mut &[u8],
        buffer: &mut [u8],
        max_object: u64,
    ) -> Result<bool, Refusal> {
        loop {
            let (read, written) = (self.zlib.total_in(), self.zlib.total_out());
            let status = self
                .zlib
                .decompress(bytes, buffer, FlushDecompress::None)
                .map_err(|_| malformed("an object is not zlib data"))?;
            let read = usize::try_from(self.zlib.total_in() - read).unwrap_or(usize::MAX);
            let written = self.zlib.total_out() - written;
            *bytes = bytes.get(read..).unwrap_or_default();
            self.left = self
                .left
                .checked_sub(written)
                .ok_or_else(|| malformed("an object is larger than its header says"))?;
            let piece = &buffer[..usize::try_from(written).unwrap_or_default()];
            if let Some(size) = self.result_size(piece)? {
                check_size(size, max_object)?;
            }
            match status {
                Status::StreamEnd if self.left == 0 && self.delta.is_none() => return Ok(true),
                Status::StreamEnd => return Err(malformed("an object is cut short")),
                _ if read == 0 && written == 0 && bytes.is_empty() => return Ok(false),
                _ if read == 0 && written == 0 => {
                    return Err(malformed("an object is not zlib data"));
                }
                _ => {}
            }
        }
    }

    /// The size of a delta's result, once it is known.
    fn result_size(&mut self, piece: &[u8]) -> Result<Option<u64>, Refusal> {
        let Some(start) = &mut self.delta else { return Ok(None) };
        let room = (2 * MAX_VARINT_BYTES).saturating_sub(start.len());
        start.extend(piece.iter().take(room));
        let Some((_, base)) = varint(start)? else { return Ok(None) };
        let Some((size, _)) = varint(&start[base..])? else { return Ok(None) };
        self.delta = None;
        Ok(Some(size))
    }
}

fn check_size(size: u64, max: u64) -> Result<(), Refusal> {
    if size <= max {
        return Ok(());
    }
    let reason = format!("an object in the pack is larger than max_blob, {max} bytes");
    Err(Refusal::new(Rule::MaxBlob, reason))
}

/// Moves bytes from `from` to `to` until that has `len`.
fn take(to: &mut Vec<u8>, len: usize, from: &mut &[u8]) {
    let (taken, rest) = from.split_at((len - to.len()).min(from.len()));
    to.extend_from_slice(taken);
    *from = rest;
}

/// A little-endian number of 7 bits a byte at the start of `bytes`, and its length. `None` if it is
/// not complete.
fn varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, Refusal> {
    let Some(end) = last_byte(bytes)? else { return Ok(None) };
    let value = bytes[..=end].iter().rev().fold(0_u64, |n, b| (n << 7) | u64::from(b & 0x7f));
    Ok(Some((value, end + 1)))
}

/// The index of the last byte of a variable-length number; `None` if it is not complete.
fn last_byte(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    match bytes.iter().position(|b| b & 0x80 == 0) {
        Some(end) if end < MAX_VARINT_BYTES => Ok(Some(end)),
        None if bytes.len() < MAX_VARINT_BYTES => Ok(None),
        _ => Err(malformed("a size is too long")),
    }
}

/// Type and size of an object, once `entry` has them and the base of a delta.
fn read_entry(entry: &[u8]) -> Result<Option<(u8, u64)>, Refusal> {
    if entry.len() > 2 * MAX_VARINT_BYTES + ID_BYTES {
        return Err(malformed("the header of an object is too long"));
    }
    let kind = (entry[0] >> 4) & 7;
    let Some(end) = last_byte(entry)? else { return Ok(None) };
    // The first byte has 4 bits of the size, the others 7 each.
    let high = entry[1..=end].iter().rev().fold(0_u64, |n, b| (n << 7) | u64::from(b & 0x7f));
    let size = (high << 4) | u64::from(entry[0] & 0xf);
    let base = &entry[end + 1..];
    let complete = match kind {
        1..=4 => true,
        OFS_DELTA => base.last().is_some_and(|b| b & 0x80 == 0),
        REF_DELTA => base.len() == ID_BYTES,
        _ => return Err(malformed("an object has an unknown type")),
    };
    Ok(complete.then_some((kind, size)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn zlib(data: &[u8]) -> Vec<u8> {
        let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
        zlib.write_all(data).unwrap();
        zlib.finish().unwrap()
    }

    /// A variable-length number of at least 128.
    fn number(n: u64) -> Vec<u8> {
        if n < 128 {
            return vec![u8::try_from(n).unwrap()];
        }
        [vec![(n & 0x7f) as u8 | 0x80], number(n >> 7)].concat()
    }

    /// An object of type `kind`; `base` is what stands between its header and its data.
    fn entry(kind: u8, base: &[u8], data: &[u8]) -> Vec<u8> {
        let size = data.len() as u64;
        let first = (kind << 4) | (size & 0xf) as u8;
        let mut out = match size >> 4 {
            0 => vec![first],
            high => [vec![first | 0x80], number(high)].concat(),
        };
        out.extend_from_slice(base);
        out.extend(zlib(data));
        out
    }

    fn delta(kind: u8, base: &[u8], result: u64) -> Vec<u8> {
        entry(kind, base, &[number(10), number(result), vec![0x90, 10]].concat())
    }

    fn pack(entries: &[Vec<u8>]) -> Vec<u8> {
        let count = u32::try_from(entries.len()).unwrap().to_be_bytes();
        [&b"PACK\0\0\0\x02"[..], &count, &entries.concat(), &[7; 20]].concat()
    }

    fn read(pack: &[u8], piece: usize) -> Result<(), Rule> {
        let mut limits = PackLimits::new(1000);
        pack.chunks(piece).try_for_each(|p| limits.push(p)).map_err(|r| r.rule)
    }

    #[test]
    fn objects_that_git_expands_in_memory_are_limited() {
        let (small, large) = (vec![b'x'; 1000], vec![b'x'; 1001]);
        let id = [0x80; ID_BYTES];
        for (name, entries, want) in [
            ("all kinds", vec![entry(1, b"", &small), entry(2, b"", &small)], Ok(())),
            ("a large blob is left to the scan", vec![entry(BLOB, b"", &large)], Ok(())),
            ("deltas", vec![delta(OFS_DELTA, b"\x81\x02", 1000), delta(REF_DELTA, &id, 9)], Ok(())),
            ("a large commit", vec![entry(1, b"", &large)], Err(Rule::MaxBlob)),
            ("a large tree", vec![entry(2, b"", &large)], Err(Rule::MaxBlob)),
            ("a large tag", vec![entry(4, b"", &large)], Err(Rule::MaxBlob)),
            ("an offset delta", vec![delta(OFS_DELTA, b"\x81\x02", 1001)], Err(Rule::MaxBlob)),
            ("a ref delta", vec![delta(REF_DELTA, &id, 1 << 40)], Err(Rule::MaxBlob)),
            (
                "the last of many",
                [vec![entry(BLOB, b"", &large); 20], vec![delta(REF_DELTA, &id, 1001)]].concat(),
                Err(Rule::MaxBlob),
            ),
            ("an unknown type", vec![entry(5, b"", b"x")], Err(Rule::Pack)),
            ("no zlib", vec![vec![0x31, b'x', b'y', b'z']], Err(Rule::Pack)),
            (
                "more data than the header says",
                vec![[vec![0x31], zlib(b"xx")].concat()],
                Err(Rule::Pack),
            ),
            (
                "less data than the header says",
                vec![[vec![0x33], zlib(b"xx")].concat()],
                Err(Rule::Pack),
            ),
            (
                "a size of eleven bytes",
                vec![[&[0x90][..], &[0x80; 9], &[1], &zlib(b"")].concat()],
                Err(Rule::Pack),
            ),
            (
                "a delta's size of eleven bytes",
                vec![entry(REF_DELTA, &id, &[&[1][..], &[0x80; 10], &[1]].concat())],
                Err(Rule::Pack),
            ),
            (
                "an empty blob, then a large tree",
                vec![entry(BLOB, b"", b""), entry(2, b"", &large)],
                Err(Rule::MaxBlob),
            ),
            ("a delta without its size", vec![entry(REF_DELTA, &id, b"\x80")], Err(Rule::Pack)),
        ] {
            let pack = pack(&entries);
            for piece in [1, 7, 100, pack.len()] {
                assert_eq!(read(&pack, piece), want, "{name}, in pieces of {piece}");
            }
        }
    }
}
