//! gzip (RFC 1952), zlib (RFC 1950) and bare deflate (RFC 1951).

use flate2::{Decompress, FlushDecompress, Status};

use super::shared::{BUFFER, Decode, Sink, Stop};

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
pub(super) struct Gzip {
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

impl Decode for Gzip {
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
pub(super) struct Deflate {
    /// The first byte, until the second tells which it is.
    first: Option<u8>,
    flate: Option<Decompress>,
    buffer: Vec<u8>,
    ended: bool,
}

impl Decode for Deflate {
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
