//! Internationalised host names of proposals: both of their forms, and whether one looks like
//! another name.
//!
//! A host is kept in its ASCII form (`xn--mnchen-3ya.de`, RFC 3492). Labels are judged as browsers
//! judge them (UTS 39, "highly restrictive"): scripts that are not written together, and labels
//! whose letters all look like Latin ones, are look-alikes.

use std::str::FromStr;

use crate::pattern::HostPattern;

/// Marks a label that holds other characters than ASCII.
const PREFIX: &str = "xn--";
/// Longest label, bytes.
const MAX_LABEL: usize = 63;

/// Parses a host as an agent may write it: in either form, and with the dot at its end that some
/// tools print. A look-alike is taken only in its ASCII form, which looks like nothing else.
///
/// # Errors
/// One line.
pub fn parse_host(text: &str) -> Result<HostPattern, String> {
    let host = ascii_form(text)?;
    if !text.is_ascii() && is_disguised(host.as_str()) {
        return Err(format!(
            "not a host: {text:?} mixes scripts to look like another; it is {host}"
        ));
    }
    Ok(host)
}

fn ascii_form(text: &str) -> Result<HostPattern, String> {
    let name = text.strip_suffix('.').unwrap_or(text);
    let parse = |name: &str| HostPattern::from_str(name).map_err(|e| e.to_string());
    if name.is_ascii() {
        return parse(name);
    }
    let refused = || {
        format!("not a host: {name:?}; write it in its ASCII form (xn--…), as its DNS entry has it")
    };
    let labels = name.split('.').map(|label| {
        let lower = label.to_lowercase();
        if lower.is_ascii() {
            return Ok(lower);
        }
        let ordinary = lower.chars().all(|c| script(c).is_some_and(Script::is_known));
        let ascii = format!("{PREFIX}{}", encode(&lower).ok_or_else(refused)?);
        if ordinary && ascii.len() <= MAX_LABEL { Ok(ascii) } else { Err(refused()) }
    });
    parse(&labels.collect::<Result<Vec<String>, String>>()?.join("."))
}

/// The form that people read, safe to show, when it differs from the ASCII form.
#[must_use]
pub(crate) fn unicode_form(host: &str) -> Option<String> {
    let labels: Vec<String> =
        host.split('.').map(|l| decode_label(l).unwrap_or_else(|| l.to_owned())).collect();
    let shown = labels.join(".");
    (shown != host).then(|| crate::text::escape(&shown).into_owned())
}

/// Whether a label of `host` is written to look like another one, whatever that is.
pub(crate) fn is_disguised(host: &str) -> bool {
    let top_level = host.rsplit('.').next().map(str::to_owned).unwrap_or_default();
    let top_level = decode_label(&top_level).unwrap_or(top_level);
    host.split('.').filter(|label| label.starts_with(PREFIX)).any(|label| {
        let Some(shown) = decode_label(label) else { return true }; // no such name exists
        let scripts: Vec<Option<Script>> = shown.chars().filter_map(specific).collect();
        // All its letters look Latin, and nothing else says which script it is.
        let whole = !scripts.contains(&Some(Script::Latin))
            && shown.chars().all(|c| c.is_ascii() || is_twin(c))
            && top_level.is_ascii();
        !are_written_together(&scripts) || whole
    })
}

/// Whether `host` and `other` look alike and are not the same: as a whole, or from one of their
/// dots on, as in `x.g1thub.com` and `api.github.com`.
pub(crate) fn look_alike(host: &str, other: &str) -> bool {
    let tail = |name: &str, labels: usize| {
        let all: Vec<&str> = name.split('.').collect();
        (all.len() >= labels).then(|| all[all.len() - labels..].join("."))
    };
    (1..=host.split('.').count())
        .filter_map(|n| Some((tail(host, n)?, tail(other, n)?)))
        .any(|(a, b)| a != b && skeleton(&a) == skeleton(&b))
}

/// What `host` looks like: every letter becomes the ASCII letter that it resembles.
fn skeleton(host: &str) -> String {
    let shown = host.split('.').map(|l| decode_label(l).unwrap_or_else(|| l.to_owned()));
    let plain: String = shown.collect::<Vec<_>>().join(".").chars().filter_map(fold).collect();
    plain.replace("rn", "m").replace("vv", "w").replace('_', "-")
}

/// Letters that look like the ASCII letter at the beginning of their row, with marks or without.
const TWINS: [(char, &str); 26] = [
    ('a', "аαɑ"),
    ('b', "ьƅ"),
    ('c', "сϲᴄ"),
    ('d', "ԁɗ"),
    ('e', "еєҽ"),
    ('f', "ſƒ"),
    ('g', "ɡցġ"),
    ('h', "һհ"),
    ('l', "іιıӏյɩ"), // i, l and 1 look alike, too
    ('j', "јϳ"),
    ('k', "кκ"),
    ('m', "м"),
    ('n', "пηո"),
    ('o', "оοօσ"),
    ('p', "рρք"),
    ('q', "ԛզ"),
    ('r', "гᴦ"),
    ('s', "ѕꜱ"),
    ('t', "тτ"),
    ('u', "υսʋ"),
    ('v', "νѵ"),
    ('w', "ԝωшա"),
    ('x', "хχ"),
    ('y', "уγү"),
    ('z', "ᴢʐ"),
    ('-', "‐‑–"),
];

/// Latin letters with marks, behind the letter without.
const MARKED: [(char, &str); 20] = [
    ('a', "àáâãäåāăąǎạảấầẩẫậắằẳẵặ"),
    ('c', "çćĉċč"),
    ('d', "ďđḍ"),
    ('e', "èéêëēĕėęěẹẻẽếềểễệ"),
    ('g', "ĝğġģǧ"),
    ('h', "ĥħḥ"),
    ('l', "ìíîïĩīĭįǐỉịĺļľł"),
    ('j', "ĵ"),
    ('k', "ķḳ"),
    ('m', "ṁṃ"),
    ('n', "ñńņňṅṇ"),
    ('o', "òóôõöøōŏőơǒọỏốồổỗộớờởỡợ"),
    ('p', "ṗ"),
    ('r', "ŕŗřṛ"),
    ('s', "śŝşšșṣ"),
    ('t', "ţťŧțṭ"),
    ('u', "ùúûüũūŭůűųưǔụủứừửữự"),
    ('w', "ŵẁẃẅ"),
    ('y', "ýÿŷỳỵỷỹ"),
    ('z', "źżžẓ"),
];

fn is_twin(c: char) -> bool {
    TWINS.iter().any(|(_, twins)| twins.contains(c))
}

/// The ASCII character that `c` looks like, or `c`; none for a mark.
fn fold(c: char) -> Option<char> {
    let row = TWINS.iter().chain(&MARKED).find(|(_, all)| all.contains(c));
    Some(match c {
        '0' => 'o',
        '1' | 'i' => 'l',
        '\u{300}'..='\u{36f}' => return None,
        _ => row.map_or(c, |(ascii, _)| *ascii),
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Script {
    Latin,
    Greek,
    Cyrillic,
    Armenian,
    Hebrew,
    Arabic,
    Devanagari,
    Thai,
    Georgian,
    Kana,
    Bopomofo,
    Hangul,
    Han,
    /// Some other: the number of its block of 128 characters.
    Block(u32),
}

impl Script {
    fn is_known(self) -> bool {
        !matches!(self, Self::Block(_))
    }
}

/// The script of `c`. None: it is in no host name.
fn script(c: char) -> Option<Script> {
    Some(match c {
        'a'..='z' | '0'..='9' | '-' => Script::Latin,
        '\u{133}' | '\u{140}' | '\u{149}' | '\u{17f}' => return None,
        '\u{df}'..='\u{f6}' | '\u{f8}'..='\u{17f}' | '\u{1a0}'..='\u{1a1}' => Script::Latin,
        '\u{1af}'..='\u{1b0}' | '\u{1cd}'..='\u{1dc}' | '\u{218}'..='\u{21b}' => Script::Latin,
        '\u{1e00}'..='\u{1e99}' | '\u{1ea0}'..='\u{1ef9}' => Script::Latin,
        '\u{3ac}'..='\u{3ce}' => Script::Greek,
        '\u{430}'..='\u{45f}' | '\u{48a}'..='\u{52f}' => Script::Cyrillic,
        '\u{561}'..='\u{586}' => Script::Armenian,
        '\u{5d0}'..='\u{5ea}' => Script::Hebrew,
        '\u{620}'..='\u{64a}' | '\u{660}'..='\u{669}' | '\u{671}'..='\u{6d3}' => Script::Arabic,
        '\u{900}'..='\u{97f}' => Script::Devanagari,
        '\u{e01}'..='\u{e4e}' => Script::Thai,
        '\u{10d0}'..='\u{10fa}' => Script::Georgian,
        '\u{3005}' | '\u{3400}'..='\u{4dbf}' | '\u{4e00}'..='\u{9fff}' => Script::Han,
        '\u{3041}'..='\u{3096}' | '\u{30a1}'..='\u{30fa}' | '\u{30fc}' => Script::Kana,
        '\u{3105}'..='\u{312f}' => Script::Bopomofo,
        '\u{ac00}'..='\u{d7a3}' => Script::Hangul,
        c if c.is_alphanumeric() && c.to_lowercase().eq([c]) => Script::Block(u32::from(c) >> 7),
        _ => return None,
    })
}

/// The script of `c` (none: it is in no host name), or nothing for what all scripts share.
fn specific(c: char) -> Option<Option<Script>> {
    if c.is_ascii_digit() || c == '-' { None } else { Some(script(c)) }
}

/// Whether one label may have all of these: one script, or those of Japanese, Korean and Chinese,
/// with Latin or without.
fn are_written_together(scripts: &[Option<Script>]) -> bool {
    use Script::{Bopomofo, Han, Hangul, Kana, Latin};
    let only = |allowed: &[Script]| scripts.iter().all(|s| s.is_some_and(|s| allowed.contains(&s)));
    let one = scripts
        .first()
        .is_none_or(|first| first.is_some() && scripts.iter().all(|script| script == first));
    one || [[Latin, Han, Kana], [Latin, Han, Hangul], [Latin, Han, Bopomofo]]
        .iter()
        .any(|allowed| only(allowed))
}

/// The Unicode form of a label with [`PREFIX`]. None when it has none, or is not how that is
/// written.
fn decode_label(label: &str) -> Option<String> {
    let shown = decode(label.strip_prefix(PREFIX)?)?;
    (!shown.is_ascii() && encode(&shown).as_deref() == label.strip_prefix(PREFIX)).then_some(shown)
}

// Punycode's parameters, RFC 3492 section 5.
const BASE: u32 = 36;
const T_MIN: u32 = 1;
const T_MAX: u32 = 26;
const FIRST: u32 = 128;
const INITIAL_BIAS: u32 = 72;

fn threshold(k: u32, bias: u32) -> u32 {
    k.saturating_sub(bias).clamp(T_MIN, T_MAX)
}

/// RFC 3492 section 6.1.
fn adapt(delta: u32, count: u32, first: bool) -> u32 {
    let mut delta = delta / if first { 700 } else { 2 };
    delta += delta / count;
    let mut k = 0;
    while delta > (BASE - T_MIN) * T_MAX / 2 {
        delta /= BASE - T_MIN;
        k += BASE;
    }
    k + (BASE - T_MIN + 1) * delta / (delta + 38)
}

/// RFC 3492 section 6.2. None when `text` is no punycode.
fn decode(text: &str) -> Option<String> {
    let (basic, rest) = text.rsplit_once('-').unwrap_or(("", text));
    let mut out: Vec<char> = basic.chars().collect();
    let (mut n, mut i, mut bias) = (FIRST, 0_u32, INITIAL_BIAS);
    let mut digits = rest.bytes().peekable();
    while digits.peek().is_some() {
        let (before, mut weight) = (i, 1_u32);
        for k in (BASE..).step_by(BASE as usize) {
            let digit = match digits.next()? {
                c @ b'a'..=b'z' => u32::from(c - b'a'),
                c @ b'0'..=b'9' => u32::from(c - b'0') + 26,
                _ => return None,
            };
            i = i.checked_add(digit.checked_mul(weight)?)?;
            let t = threshold(k, bias);
            if digit < t {
                break;
            }
            weight = weight.checked_mul(BASE - t)?;
        }
        let count = u32::try_from(out.len()).ok()? + 1;
        bias = adapt(i - before, count, before == 0);
        n = n.checked_add(i / count)?;
        i %= count;
        out.insert(i as usize, char::from_u32(n)?);
        i += 1;
    }
    Some(out.into_iter().collect())
}

/// RFC 3492 section 6.3. None when `text` is longer than any label.
fn encode(text: &str) -> Option<String> {
    let all: Vec<u32> = text.chars().map(u32::from).collect();
    if all.len() > MAX_LABEL {
        return None;
    }
    let mut out: String = text.chars().filter(char::is_ascii).collect();
    let basic = u32::try_from(out.len()).ok()?;
    if basic > 0 {
        out.push('-');
    }
    let (mut n, mut delta, mut bias, mut done) = (FIRST, 0_u32, INITIAL_BIAS, basic);
    while (done as usize) < all.len() {
        let next = all.iter().copied().filter(|c| *c >= n).min()?;
        delta = delta.checked_add((next - n).checked_mul(done + 1)?)?;
        n = next;
        for c in &all {
            if *c < n {
                delta += 1;
            }
            if *c == n {
                let mut q = delta;
                for k in (BASE..).step_by(BASE as usize) {
                    let t = threshold(k, bias);
                    if q < t {
                        break;
                    }
                    out.push(digit(t + (q - t) % (BASE - t))?);
                    q = (q - t) / (BASE - t);
                }
                out.push(digit(q)?);
                bias = adapt(delta, done + 1, done == basic);
                delta = 0;
                done += 1;
            }
        }
        delta += 1;
        n += 1;
    }
    Some(out)
}

fn digit(value: u32) -> Option<char> {
    char::from_digit(value, BASE).map(|_| match u8::try_from(value).unwrap_or(0) {
        v @ 0..=25 => char::from(b'a' + v),
        v => char::from(b'0' + (v - 26)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both forms of real host names.
    const ORDINARY: [(&str, &str); 12] = [
        ("münchen.de", "xn--mnchen-3ya.de"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("straße.de", "xn--strae-oqa.de"),
        ("łódź.pl", "xn--d-uga0v4h.pl"),
        ("việt.vn", "xn--vit-5kz.vn"),
        ("пример.рф", "xn--e1afmkfd.xn--p1ai"),
        ("рос.рф", "xn--n1ade.xn--p1ai"),
        ("παράδειγμα.gr", "xn--hxajbheg2az3al.gr"),
        ("例え.jp", "xn--r8jz45g.jp"),
        ("日本語eラーニング.jp", "xn--e-7euudtf2bwc1334d0ecl32k.jp"),
        ("한국.kr", "xn--3e0b707e.kr"),
        ("中国.cn", "xn--fiqs8s.cn"),
    ];

    #[test]
    fn ordinary_names_have_two_forms_and_are_no_disguise() {
        for (shown, ascii) in ORDINARY {
            let host = parse_host(shown).unwrap();
            assert_eq!(host.as_str(), ascii);
            assert_eq!(unicode_form(ascii).as_deref(), Some(shown));
            assert!(!is_disguised(host.as_str()), "{shown} {host}");
        }
        assert_eq!(parse_host("*.MÜNCHEN.de.").unwrap().as_str(), "*.xn--mnchen-3ya.de");
        assert_eq!(parse_host("api.example.com.").unwrap().as_str(), "api.example.com");
        assert_eq!(unicode_form("api.example.com"), None);
    }

    #[test]
    fn what_no_registrar_takes_is_refused() {
        for bad in [
            "a.com..",
            ".",
            "ｇithub.com",
            "git hub.com",
            "e\u{301}a.com",
            "git\u{200b}hub.com",
            "ﬁle.com",
            "a。com",
            "☃.net",
            "\u{202e}moc.evil",
            &format!("{}.com", "ü".repeat(80)),
        ] {
            assert!(parse_host(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn disguises_are_found() {
        for disguised in [
            "gіthub.com", // Cyrillic і
            "аррӏе.com",  // all Cyrillic
            "οοο.com",    // all Greek
            "раураl.com", // Cyrillic but for the l
            "日本а.com",  // Han and Cyrillic
            "api.gіthub.com",
        ] {
            let host = ascii_form(disguised).unwrap();
            assert!(is_disguised(host.as_str()), "{disguised} {host}");
            assert!(parse_host(disguised).is_err() && parse_host(host.as_str()).is_ok());
        }
        // No name has these forms: not punycode, plain ASCII in punycode, invisible, a symbol.
        for odd in ["xn--a.com", "xn--github-.com", "xn--9999999999.com", "xn--n3h.net"] {
            assert!(is_disguised(odd), "{odd}");
        }
        assert!(is_disguised(&format!("xn--{}.com", encode("git\u{200b}hub").unwrap())));
        assert!(!is_disguised("github.com") && !is_disguised("*.example.com"));
    }

    #[test]
    fn names_that_look_like_another_are_found() {
        let ascii = |name: &str| ascii_form(name).unwrap().as_str().to_owned();
        for (host, other) in [
            ("g1thub.com", "github.com"),
            ("glthub.com", "github.com"),
            ("githüb.com", "github.com"),
            ("gíthub.com", "github.com"),
            ("x.g1thub.com", "api.github.com"),
            ("exarnple.com", "example.com"),
            ("vvorker.test", "worker.test"),
            ("g00gle.com", "google.com"),
            ("münchen.de", "munchen.de"),
            ("api_x.test", "api-x.test"),
        ] {
            assert!(look_alike(&ascii(host), &ascii(other)), "{host} {other}");
        }
        for (host, other) in [
            ("github.com", "github.com"),
            ("api.github.com", "github.com"),
            ("gitlab.com", "github.com"),
            ("github.org", "github.com"),
            ("münchen.de", "köln.de"),
            ("b.co.uk", "a.co.uk"),
        ] {
            assert!(!look_alike(&ascii(host), &ascii(other)), "{host} {other}");
        }
    }
}
