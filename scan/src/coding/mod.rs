//! Content codings, decoded as the bytes come, with bounded memory.

mod brotli;
mod flate;
mod shared;
mod zstd;

use std::fmt;

use crate::shared::UnknownCoding;

use brotli::Brotli;
use flate::{Deflate, Gzip};
pub(crate) use shared::Stop;
use shared::{Decode, Sink};
use zstd::Zstd;

/// Most codings of one body.
const MAX_CODINGS: usize = 2;
/// A body may decode to this many bytes whatever its compressed size is.
const BOMB_MIN_BYTES: u64 = 1 << 20;
/// Beyond that, it may grow to this many times its compressed size.
const BOMB_RATIO: u64 = 200;

/// The decoder of one coding, and its counters.
pub(crate) struct Decoder {
    /// Bytes that it was given, and that came out.
    taken: u64,
    out: u64,
    decode: Box<dyn Decode>,
}

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder").field("out", &self.out).finish_non_exhaustive()
    }
}

impl Decoder {
    fn new(decode: impl Decode + 'static) -> Self {
        Self { taken: 0, out: 0, decode: Box::new(decode) }
    }

    /// Bytes that it was given.
    pub(crate) fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes that it was given and that have had their effect.
    pub(crate) fn done(&self) -> u64 {
        self.taken - self.decode.pending() as u64
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
    if decoders.len() > MAX_CODINGS { Err(unknown()) } else { Ok(decoders) }
}

/// What the first bytes of a body say about its format.
pub(crate) enum Sniff {
    /// Too few to say.
    Short,
    /// It is no compressed file.
    None,
    Is(Decoder),
}

/// Recognizes a compressed file by its first bytes.
pub(crate) fn sniff(first: &[u8]) -> Sniff {
    const GZIP: &[u8] = &[0x1f, 0x8b, 8];
    const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    match first {
        [] | [0x78] => Sniff::Short,
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => Sniff::Is(Decoder::new(Deflate::default())),
        _ if first.starts_with(GZIP) => Sniff::Is(Decoder::new(Gzip::default())),
        _ if first.starts_with(ZSTD) => Sniff::Is(Decoder::new(Zstd::default())),
        _ if GZIP.starts_with(first) || ZSTD.starts_with(first) => Sniff::Short,
        _ => Sniff::None,
    }
}

/// Decodes all codings of `input`. `taken` counts the compressed bytes so far, these included.
pub(crate) fn run(
    decoders: &mut [Decoder],
    input: &[u8],
    taken: u64,
    sink: Sink<'_>,
) -> Result<(), Stop> {
    let Some((Decoder { taken: given, out, decode }, rest)) = decoders.split_first_mut() else {
        return sink(input);
    };
    *given += input.len() as u64;
    decode.push(input, &mut |text| {
        *out += text.len() as u64;
        if *out > BOMB_MIN_BYTES && *out / BOMB_RATIO > taken {
            return Err(Stop::Bomb);
        }
        run(rest, text, taken, sink)
    })
}

/// Whether the body may end here.
pub(crate) fn finish(decoders: &[Decoder]) -> Result<(), Stop> {
    if decoders.iter().all(|decoder| decoder.decode.is_whole()) {
        Ok(())
    } else {
        Err(Stop::Corrupt)
    }
}

/// Stands in where a body looked like a compressed file and is none.
struct Nothing;

impl Decode for Nothing {
    fn push(&mut self, _: &[u8], _: Sink<'_>) -> Result<(), Stop> {
        Ok(())
    }

    fn is_whole(&self) -> bool {
        true
    }
}

impl Decoder {
    /// A decoder that nothing comes out of.
    pub(crate) fn nothing() -> Self {
        Self::new(Nothing)
    }
}
