//! The contents of gzip and zip files.

use std::io::Read as _;

/// Most bytes that are unpacked of one file.
const MAX_UNPACKED_BYTES: u64 = 32 << 20;

/// The contents of a gzip or zip file, as far as they can be read and at most 32 MiB; empty for any
/// other file.
#[must_use]
pub fn unpack(file: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    if file.starts_with(&[0x1f, 0x8b]) {
        // A broken file gives what is before the damage.
        let decoder = flate2::read::MultiGzDecoder::new(file);
        let _ = decoder.take(MAX_UNPACKED_BYTES).read_to_end(&mut out);
    } else {
        let mut rest = Some(file);
        while let Some(member) = rest {
            rest = unpack_zip_member(member, &mut out);
        }
    }
    out
}

/// Appends the zip member at the start of `file`, APPNOTE 4.3.7. Returns what follows it.
fn unpack_zip_member<'a>(file: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    let short =
        |at: usize| file.get(at..at + 2).map(|b| usize::from(u16::from_le_bytes([b[0], b[1]])));
    if !file.starts_with(b"PK\x03\x04") {
        return None;
    }
    let (method, name, extra) = (short(8)?, short(26)?, short(28)?);
    let size = short(18)? | (short(20)? << 16);
    let data = file.get(30 + name + extra..)?;
    let room = MAX_UNPACKED_BYTES.saturating_sub(out.len() as u64);
    out.push(b'\n');
    let used = match method {
        8 => {
            let mut decoder = flate2::bufread::DeflateDecoder::new(data);
            let _ = (&mut decoder).take(room).read_to_end(out);
            usize::try_from(decoder.total_in()).ok()?
        }
        _ => {
            out.extend_from_slice(&data[..size.min(data.len()).min(usize::try_from(room).ok()?)]);
            size
        }
    };
    let rest = data.get(used..)?;
    // There may be a data descriptor in between; the next member is found by its signature.
    let next = rest.windows(4).take(64).position(|w| w == b"PK\x03\x04")?;
    (room > 0).then(|| &rest[next..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn compressed_files_are_read_as_far_as_they_go() {
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(b"planted").unwrap();
        let mut gzip = gzip.finish().unwrap();
        assert_eq!(unpack(&gzip), b"planted");
        gzip.truncate(gzip.len() - 4);
        assert_eq!(unpack(&gzip), b"planted");
        let mut deflate =
            flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::default());
        deflate.write_all(b"second").unwrap();
        let deflate = deflate.finish().unwrap();
        let member = |method: u8, name: &str, data: &[u8]| {
            let len = u32::try_from(data.len()).unwrap().to_le_bytes();
            let mut all = b"PK\x03\x04\x14\0\0\0".to_vec();
            all.extend([method, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            all.extend(len);
            all.extend(len);
            all.extend(u16::try_from(name.len()).unwrap().to_le_bytes());
            all.extend([0, 0]);
            all.extend(name.as_bytes());
            all.extend(data);
            all
        };
        let zip =
            [member(0, "a", b"first"), member(8, "b", &deflate), member(0, "c", b"third")].concat();
        assert_eq!(unpack(&zip), b"\nfirst\nsecond\nthird");
        for bad in [
            &b"PK\x03\x04"[..],
            b"\x1f\x8b",
            b"PK\x03\x04aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            let _ = unpack(bad);
        }
    }
}
