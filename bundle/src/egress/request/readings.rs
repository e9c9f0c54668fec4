//! The ways in which servers read one path. Servers and the proxies before them differ in how often
//! they decode escapes, and in whether they do so before or after they resolve `..`. All sequences
//! of the steps below are tried, so that a route can be matched against each result.

/// Most readings of a path, and most bytes of all of them together.
const MOST: (usize, usize) = (64, 256 * 1024);

/// One thing that a server may do to a path. A step that has nothing to do returns its input.
type Step = fn(&[u8]) -> Vec<u8>;

/// Steps of a server that has not decoded the path yet.
const BEFORE_DECODING: &[Step] = &[decode_unreserved, resolve_dots, merge_slashes, drop_parameters];

/// Steps of a server that has decoded it once.
const AFTER_DECODING: &[Step] =
    &[decode, fold, turn_backslashes, resolve_dots, merge_slashes, drop_parameters, cut_short];

/// Whether every server reads `path` as it is written.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    !path.bytes().any(|b| matches!(b, b'%' | b'\\' | b';'))
        && !path.contains("//")
        && !path.split('/').any(|segment| matches!(segment, "." | ".."))
}

/// The readings of `path`, which starts with `/`. `None` if there are too many.
#[must_use]
pub fn readings(path: &str) -> Option<Vec<String>> {
    let most = (MOST.1 / path.len().max(1)).clamp(1, MOST.0);
    let encoded = closure(vec![path.as_bytes().to_vec()], BEFORE_DECODING, most)?;
    let mut decoded: Vec<Vec<u8>> = Vec::new();
    for path in encoded {
        let path = decode(&path);
        if !decoded.contains(&path) {
            decoded.push(path);
        }
    }
    let all = closure(decoded, AFTER_DECODING, most)?;
    Some(all.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect())
}

/// All paths that `steps` make of `paths` in any order.
fn closure(mut paths: Vec<Vec<u8>>, steps: &[Step], most: usize) -> Option<Vec<Vec<u8>>> {
    let mut at = 0;
    while let Some(path) = paths.get(at).cloned() {
        for step in steps {
            let next = step(&path);
            if !paths.contains(&next) {
                if paths.len() >= most {
                    return None;
                }
                paths.push(next);
            }
        }
        at += 1;
    }
    Some(paths)
}

/// Decodes all escapes once.
fn decode(path: &[u8]) -> Vec<u8> {
    decode_if(path, |_| true)
}

/// Decodes escapes of characters that never need one (RFC 3986 section 6.2.2.2).
fn decode_unreserved(path: &[u8]) -> Vec<u8> {
    decode_if(path, |b| b.is_ascii_alphanumeric() || b"-._~".contains(&b))
}

/// Decodes the escapes of bytes for which `wanted` holds. What is no escape stays.
fn decode_if(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            out.push(first);
        } else if let Some(byte) =
            hex(after, 2).and_then(|n| u8::try_from(n).ok()).filter(|b| wanted(*b))
        {
            out.push(byte);
            rest = &after[2..];
        } else if let Some(c) = unicode_escape(after).filter(|_| wanted(b'%')) {
            out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
            rest = &after[5..];
        } else {
            out.push(b'%');
        }
    }
    out
}

/// The number in the first `digits` hexadecimal digits of `text`.
fn hex(text: &[u8], digits: usize) -> Option<u32> {
    let text = text.get(..digits).filter(|t| t.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// The character of `u2215`, which IIS reads after a `%`.
fn unicode_escape(text: &[u8]) -> Option<char> {
    text.first().filter(|u| u.eq_ignore_ascii_case(&b'u'))?;
    char::from_u32(hex(&text[1..], 4)?)
}

/// Replaces overlong UTF-8 and compatibility forms (such as a full-width slash) by the ASCII that
/// lenient decoders make of them.
fn fold(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while !rest.is_empty() {
        let (code, length) = code_point(rest);
        match code {
            Some(code @ 0xff01..=0xff5e) => out.push((code - 0xfee0) as u8),
            Some(0x2024 | 0x3002 | 0xfe52 | 0xff61) => out.push(b'.'),
            Some(0x2025) => out.extend_from_slice(b".."),
            Some(0x2026) => out.extend_from_slice(b"..."),
            Some(0x2044 | 0x2215 | 0x29f8) => out.push(b'/'),
            Some(0x2216 | 0x29f5 | 0xfe68) => out.push(b'\\'),
            Some(code @ 0..=0x7f) => out.push(code as u8),
            _ => out.extend_from_slice(&rest[..length]),
        }
        rest = &rest[length..];
    }
    out
}

/// The first code point of `bytes`, which may be overlong, and its length in bytes. Bytes that are
/// no code point count one by one.
fn code_point(bytes: &[u8]) -> (Option<u32>, usize) {
    let first = bytes[0];
    let (length, start) = match first {
        0..=0x7f => return (Some(first.into()), 1),
        0xc0..=0xdf => (2, first & 0x1f),
        0xe0..=0xef => (3, first & 0x0f),
        0xf0..=0xf7 => (4, first & 0x07),
        0xf8..=0xfb => (5, first & 0x03),
        0xfc..=0xfd => (6, first & 0x01),
        _ => return (None, 1),
    };
    let Some(tail) = bytes.get(1..length).filter(|t| t.iter().all(|b| b & 0xc0 == 0x80)) else {
        return (None, 1);
    };
    (Some(tail.iter().fold(start.into(), |code, b| (code << 6) | u32::from(b & 0x3f))), length)
}

/// Replaces `\` by `/`.
fn turn_backslashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|b| if *b == b'\\' { b'/' } else { *b }).collect()
}

/// Resolves `.` and `..` (RFC 3986 section 5.2.4). Empty segments count as segments.
fn resolve_dots(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut segments = path.split(|b| *b == b'/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        match segment {
            b"." => {}
            b".." => drop(kept.pop()),
            _ => {
                kept.push(segment);
                continue;
            }
        }
        if segments.peek().is_none() {
            kept.push(b""); // the path still ends in a slash
        }
    }
    [b"/", &kept.join(&b'/')[..]].concat()
}

/// Replaces `//` by `/`.
fn merge_slashes(path: &[u8]) -> Vec<u8> {
    let mut out = path.to_vec();
    out.dedup_by(|a, b| *a == b'/' && *b == b'/');
    out
}

/// Removes what stands after `;` in each segment, as Java servers do.
fn drop_parameters(path: &[u8]) -> Vec<u8> {
    let name = |s: &[u8]| s.split(|b| *b == b';').next().unwrap_or_default().to_vec();
    path.split(|b| *b == b'/').map(name).collect::<Vec<_>>().join(&b'/')
}

/// Ends the path at a `?`, `#` or control character that was escaped.
fn cut_short(path: &[u8]) -> Vec<u8> {
    let end = path.iter().position(|b| matches!(b, b'?' | b'#') || b.is_ascii_control());
    path[..end.unwrap_or(path.len())].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_path_needs_no_readings() {
        for path in ["/", "/a/b/", "/.well-known/x", "/@scope/name", "/a..b/...", "/a:b=c,d+e"] {
            assert!(is_plain(path), "{path}");
            assert_eq!(readings(path).unwrap(), [path]);
        }
        for path in ["//", "/a//b", "/.", "/a/..", "/a/./b", "/%61", "/a;b", "/a\\b"] {
            assert!(!is_plain(path), "{path}");
        }
    }

    #[test]
    fn harmless_escapes_have_one_reading() {
        for (path, want) in [
            ("/%61%2d%7E", "/a-~"),
            ("/a%20b", "/a b"),
            ("/caf%c3%a9", "/café"),
            ("/@scope%2fname", "/@scope/name"),
            ("/100%25", "/100%"),
            ("/%E6%97%A5", "/日"),
        ] {
            assert_eq!(readings(path).unwrap(), [want], "{path}");
        }
    }

    #[test]
    fn each_order_of_steps_is_a_reading() {
        for (path, wanted) in [
            ("/v1/../x", &["/v1/../x", "/x"][..]),
            ("//key", &["//key", "/key"]),
            ("/v1/..%2fadmin", &["/v1/../admin", "/admin"]),
            ("/v1/..%252fadmin", &["/v1/..%2fadmin", "/v1/../admin", "/admin"]),
            ("/v1/..%25252fadmin", &["/admin"]),
            ("/v1/%2e%2e/admin", &["/admin"]),
            ("/v1/..%5cadmin", &["/v1/..\\admin", "/admin"]),
            ("/v1/..\\admin", &["/v1/..\\admin", "/admin"]),
            ("/v1/%c0%ae%c0%ae%c0%afadmin", &["/admin"]),
            ("/v1/%e0%80%ae./admin", &["/admin"]),
            ("/v1/%ef%bc%8e%ef%bc%8e%ef%bc%8fadmin", &["/admin"]),
            ("/v1/%e2%80%a5/admin", &["/admin"]),
            ("/v1/..%25u2215admin", &["/admin"]),
            ("/v1/..;a=b/admin", &["/v1/..;a=b/admin", "/admin"]),
            ("/v1/..%3b/admin", &["/admin"]),
            ("/v1/admin%3f.json", &["/v1/admin?.json", "/v1/admin"]),
            ("/v1/admin%2500.json", &["/v1/admin"]),
            // Dots may be resolved before or after slashes are merged or decoded.
            ("/a//../b", &["/a/b", "/b"]),
            ("/a%2fb/../x", &["/x", "/a/x"]),
            ("/v1/p%2fq/%2e%2e/%2e%2e/z", &["/z", "/v1/z"]),
        ] {
            let got = readings(path).unwrap();
            let missing = wanted.iter().find(|w| !got.iter().any(|r| r == *w));
            assert!(missing.is_none(), "{path}: {missing:?} is not in {got:?}");
        }
    }

    #[test]
    fn readings_end() {
        for path in [
            "/%25".repeat(4000),
            format!("/%{}2f", "25".repeat(500)),
            "/..%2f%5c;a%252f//..".repeat(100),
            "/a;".repeat(9000),
            format!("/{}", "x%20".repeat(15_000)),
        ] {
            if let Some(all) = readings(&path) {
                assert!(all.len() <= MOST.0, "{}", all.len());
            }
        }
        assert_eq!(readings(&format!("/%{}2f", "25".repeat(500))), None);
    }
}
