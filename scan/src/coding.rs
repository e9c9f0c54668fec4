//! Content codings, decoded as the bytes come, with bounded memory.

use std::fmt;

use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};
use flate2::{Decompress, FlushDecompress, Status};

use crate::UnknownCoding;

mod zstd;
use zstd::Zstd;

/// Codings of one body.
const MOST: usize = 2;
/// Decoded bytes below which nothing is a bomb, and how many times its compressed size a body may
/// grow beyond that.
const BOMB: u64 = 1 << 20;
const BOMB_TIMES: u64 = 200;
/// Bytes decoded in one go.
const BUFFER: usize = 16 << 10;

/// Why decoding ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The coding is broken, or there is something after its end.
    Corrupt,
    /// It grows too much.
    Bomb,
    /// What was decoded is to be blocked.
    Found,
}

type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), Stop>;

/// A coding that can be undone piece by piece.
trait Undo: Send + Sync {
    /// Takes coded bytes, and gives what they stand for.
    fn push(&mut self, input: &[u8], sink: Sink<'_>) -> Result<(), Stop>;
    /// Whether the coded bytes may end here.
    fn is_whole(&self) -> bool;
    /// Of the bytes that it was given, how many have not had their effect.
    fn pending(&self) -> usize {
        0
    }
}

/// One coding being undone.
pub(crate) struct Decoder {
    /// Bytes that it was given, and that came out.
    taken: u64,
    out: u64,
    undo: Box<dyn Undo>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("out", &self.out).finish_non_exhaustive()
    }
}

impl Decoder {
    fn new(undo: impl Undo + 'static) -> Self {
        Self { taken: 0, out: 0, undo: Box::new(undo) }
    }

    /// Bytes that it was given.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that it was given and that have had their effect.
    pub(crate) fn done(&self) -> u64 {
        self.taken - self.undo.pending() as u64
    }
}

/// The decoders of a Content-Encoding, the last coding first.
pub(crate) fn decoders(codings: &str) -> Result<Vec<Decoder>, UnknownCoding> {
    let unknown = || UnknownCoding(codings.to_owned());
    let mut decoders = Vec::new();
    for coding in codings.rsplit(',').map(str::trim) {
        let is = |name: &str| coding.eq_ignore_ascii_case(name);
        if coding.is_empty() || is("identity") || is("aws-chunked") {
            continue;
        }
        decoders.push(match coding {
            _ if is("gzip") || is("x-gzip") => Decoder::new(Gzip::default()),
            _ if is("deflate") => Decoder::new(Deflate::default()),
            _ if is("br") => Decoder::new(Brotli::default()),
            _ if is("zstd") => Decoder::new(Zstd::default()),
            _ => return Err(unknown()),
        });
    }
    if decoders.len() > MOST { Err(unknown()) } else { Ok(decoders) }
}

/// What the first bytes of a body say.
pub(crate) enum Guess {
    /// Too few to say.
    Short,
    /// No compressed file.
    None,
    Is(Decoder),
}

/// Whether a body is a compressed file.
pub(crate) fn guess(first: &[u8]) -> Guess {
    const GZIP: &[u8] = &[0x1f, 0x8b, 8];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    match first {
        [] | [0x78] => Guess::Short,
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Guess::Is(Decoder::new(Deflate::default())),
        _ if first.starts_with(GZIP) => Guess::Is(Decoder::new(Gzip::default())),
        _ if first.starts_with(ZSTD) => Guess::Is(Decoder::new(Zstd::default())),
        _ if GZIP.starts_with(first) || ZSTD.starts_with(first) => Guess::Short,
        _ => Guess::None,
    }
}

/// Undoes all codings of `input`; `taken` is how many compressed bytes there were with it.
pub(crate) fn run(
    decoders: &mut [Decoder],
    input: &[u8],
    taken: u64,
    sink: Sink<'_>,
) -> Result<(), Stop> {
    let Some((Decoder { taken: given, out, undo }, rest)) = decoders.split_first_mut() else {
        return sink(input);
    };
    *given += input.len() as u64;
    undo.push(input, &mut |text| {
        *out += text.len() as u64;
        if *out > BOMB && *out / BOMB_TIMES > taken {
            return Err(Stop::Bomb);
        }
        run(rest, text, taken, sink)
    })
}

/// Whether the body may end here.
pub(crate) fn finish(decoders: &[Decoder]) -> Result<(), Stop> {
    if decoders.iter().all(|decoder| decoder.undo.is_whole()) { Ok(()) } else { Err(Stop::Corrupt) }
}

/// Inflates until the input is used up or the coding ends; in the latter case, what is left of the
/// input.
fn inflate<'a>(
    flate: &mut Decompress,
    buffer: &mut Vec<u8>,
    mut input: &'a [u8],
    sink: Sink<'_>,
) -> Result<Option<&'a [u8]>, Stop> {
    buffer.resize(BUFFER, 0);
    loop {
        let before = (flate.total_in(), flate.total_out());
        let status =
            flate.decompress(input, buffer, FlushDecompress::None).map_err(|_| Stop::Corrupt)?;
        let count = |n: u64| usize::try_from(n).map_err(|_| Stop::Corrupt);
        let (used, made) =
            (count(flate.total_in() - before.0)?, count(flate.total_out() - before.1)?);
        input = input.get(used..).ok_or(Stop::Corrupt)?;
        if made > 0 {
            sink(buffer.get(..made).ok_or(Stop::Corrupt)?)?;
        }
        match status {
            Status::StreamEnd => return Ok(Some(input)),
            _ if used == 0 && made == 0 || input.is_empty() && made < buffer.len() => {
                return Ok(None);
            }
            _ => {}
        }
    }
}

/// RFC 1952, any number of members.
struct Gzip {
    part: Part,
    flate: Decompress,
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
    size: u32,
}

/// Where in a member the next byte is.
#[derive(Debug, Clone, Copy)]
enum Part {
    /// Its fixed header: how many bytes of it there were, and its flags once known.
    Head {
        at: u8,
        flags: u8,
    },
    /// The length of the extra field: bytes of it so far, its value.
    ExtraLen {
        at: u8,
        len: u16,
        flags: u8,
    },
    Extra {
        left: u16,
        flags: u8,
    },
    /// Name and comment, each ended by a zero.
    Text {
        flags: u8,
    },
    HeadCrc {
        left: u8,
    },
    Body,
    /// CRC-32 and size of the text.
    Trailer {
        at: u8,
        value: [u8; 8],
    },
}

const HEAD_CRC: u8 = 2;
const EXTRA: u8 = 4;
const TEXTS: u8 = 8 | 16;
const RESERVED: u8 = 0xe0;

impl Default for Gzip {
    fn default() -> Self {
        let part = Part::Head { at: 0, flags: 0 };
        Self {
            part,
            flate: Decompress::new(false),
            buffer: Vec::new(),
            crc: crc32fast::Hasher::new(),
            size: 0,
        }
    }
}

impl Gzip {
    /// What follows the parts of the header that `flags` still names.
    fn header(flags: u8) -> Part {
        match flags {
            _ if flags & EXTRA != 0 => Part::ExtraLen { at: 0, len: 0, flags: flags & !EXTRA },
            _ if flags & TEXTS != 0 => Part::Text { flags },
            _ if flags & HEAD_CRC != 0 => Part::HeadCrc { left: 2 },
            _ => Part::Body,
        }
    }

    fn byte(&mut self, byte: u8) -> Result<(), Stop> {
        self.part = match self.part {
            Part::Head { at, .. } if at < 3 && byte != [0x1f, 0x8b, 8][usize::from(at)] => {
                return Err(Stop::Corrupt);
            }
            Part::Head { at: 3, .. } if byte & RESERVED != 0 => return Err(Stop::Corrupt),
            Part::Head { at: 3, .. } => Part::Head { at: 4, flags: byte },
            Part::Head { at: 9, flags } => Self::header(flags),
            Part::Head { at, flags } => Part::Head { at: at + 1, flags },
            Part::ExtraLen { at: 0, flags, .. } => {
                Part::ExtraLen { at: 1, len: u16::from(byte), flags }
            }
            Part::ExtraLen { len, flags, .. } => match len | (u16::from(byte) << 8) {
                0 => Self::header(flags),
                left => Part::Extra { left, flags },
            },
            Part::Extra { left: 1, flags } => Self::header(flags),
            Part::Extra { left, flags } => Part::Extra { left: left - 1, flags },
            // Of the two the lower flag comes first; clear that.
            Part::Text { flags } if byte == 0 => {
                Self::header(if flags & 8 != 0 { flags & !8 } else { flags & !16 })
            }
            Part::Text { flags } => Part::Text { flags },
            Part::HeadCrc { left: 2 } => Part::HeadCrc { left: 1 },
            Part::HeadCrc { .. } | Part::Body => Part::Body,
            Part::Trailer { at, mut value } => {
                value[usize::from(at)] = byte;
                if at < 7 {
                    Part::Trailer { at: at + 1, value }
                } else {
                    let sum = std::mem::take(&mut self.crc).finalize();
                    let size = std::mem::take(&mut self.size);
                    if value != ((u64::from(size) << 32) | u64::from(sum)).to_le_bytes() {
                        return Err(Stop::Corrupt);
                    }
                    self.flate.reset(false);
                    Part::Head { at: 0, flags: 0 }
                }
            }
        };
        Ok(())
    }
}

impl Undo for Gzip {
    fn push(&mut self, mut input: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        while let Some((first, rest)) = input.split_first() {
            if !matches!(self.part, Part::Body) {
                self.byte(*first)?;
                input = rest;
                continue;
            }
            let (crc, size) = (&mut self.crc, &mut self.size);
            let left = inflate(&mut self.flate, &mut self.buffer, input, &mut |text| {
                crc.update(text);
                *size = size.wrapping_add(u32::try_from(text.len()).unwrap_or_default());
                sink(text)
            })?;
            let Some(left) = left else { return Ok(()) };
            self.part = Part::Trailer { at: 0, value: [0; 8] };
            input = left;
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        matches!(self.part, Part::Head { at: 0, .. })
    }
}

/// RFC 1950 or, as some send it, RFC 1951 alone.
#[derive(Default)]
struct Deflate {
    /// The first byte, until the second tells which it is.
    first: Option<u8>,
    flate: Option<Decompress>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Undo for Deflate {
    fn push(&mut self, mut input: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        if input.is_empty() {
            return Ok(());
        }
        if self.flate.is_none() {
            let Some(first) = self.first else {
                self.first = Some(input[0]);
                return self.push(&input[1..], sink);
            };
            let zlib = first & 15 == 8 && u16::from_be_bytes([first, input[0]]) % 31 == 0;
            self.flate = Some(Decompress::new(zlib));
            self.push(&[first], sink)?;
        }
        let Some(flate) = &mut self.flate else { return Err(Stop::Corrupt) };
        if !self.ended {
            let Some(left) = inflate(flate, &mut self.buffer, input, sink)? else { return Ok(()) };
            self.ended = true;
            input = left;
        }
        if input.is_empty() { Ok(()) } else { Err(Stop::Corrupt) }
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}

/// RFC 7932, without the large windows of later.
struct Brotli {
    state: BrotliState<StandardAlloc, StandardAlloc, StandardAlloc>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Default for Brotli {
    fn default() -> Self {
        let alloc = StandardAlloc::default;
        Self {
            state: BrotliState::new_strict(alloc(), alloc(), alloc()),
            buffer: Vec::new(),
            ended: false,
        }
    }
}

impl Undo for Brotli {
    fn push(&mut self, input: &[u8], sink: Sink<'_>) -> Result<(), Stop> {
        if input.is_empty() {
            return Ok(());
        }
        if self.ended {
            return Err(Stop::Corrupt);
        }
        self.buffer.resize(BUFFER, 0);
        let (mut left, mut at, mut total) = (input.len(), 0, 0);
        loop {
            let (mut room, mut made) = (self.buffer.len(), 0);
            let state = &mut self.state;
            let result = BrotliDecompressStream(
                &mut left,
                &mut at,
                input,
                &mut room,
                &mut made,
                &mut self.buffer,
                &mut total,
                state,
            );
            if made > 0 {
                sink(&self.buffer[..made])?;
            }
            match result {
                BrotliResult::NeedsMoreOutput => {}
                // It says so too when its own window holds more than there was room for (5.0.3).
                BrotliResult::NeedsMoreInput if made == self.buffer.len() => {}
                BrotliResult::NeedsMoreInput => return Ok(()),
                BrotliResult::ResultSuccess => {
                    self.ended = true;
                    return if left == 0 { Ok(()) } else { Err(Stop::Corrupt) };
                }
                BrotliResult::ResultFailure => return Err(Stop::Corrupt),
            }
        }
    }

    fn is_whole(&self) -> bool {
        self.ended
    }
}

/// What looked like a compressed file and was none.
struct Nothing;

impl Undo for Nothing {
    fn push(&mut self, _: &[u8], _: Sink<'_>) -> Result<(), Stop> {
        Ok(())
    }

    fn is_whole(&self) -> bool {
        true
    }
}

impl Decoder {
    /// One that nothing comes out of.
    pub(crate) fn nothing() -> Self {
        Self::new(Nothing)
    }
}
