//! How a keyword looks inside Base64 and hex.

use zeroize::Zeroizing;

use crate::rules::Rule;
use crate::shared::{Encoding, GRAM};

pub(crate) const BASE64: &[u8; 64] =
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The value of a Base64 digit of either alphabet.
pub(crate) fn base64_value(digit: u8) -> Option<u8> {
    match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// The digits of `bytes` in an alphabet of 2^`bits`, when `before` bytes that are not known precede
/// it in its group: those digits that depend on `bytes` alone.
pub(crate) fn digits(
    bytes: &[u8],
    before: usize,
    alphabet: &[u8],
    bits: usize,
) -> Zeroizing<Vec<u8>> {
    let total = (before + bytes.len()) * 8;
    let first = (before * 8).div_ceil(bits);
    let digit = |i: usize| {
        let value = (i * bits..(i + 1) * bits).fold(0, |value, bit| {
            let byte = bytes[bit / 8 - before];
            (value << 1) | usize::from((byte >> (7 - bit % 8)) & 1)
        });
        alphabet[value]
    };
    let mut out = Zeroizing::new(Vec::with_capacity(total / bits));
    out.extend((first..total / bits).map(digit));
    out
}

/// A gram with each of its digits that differs between the two alphabets of Base64 in either way.
pub(crate) fn base64_variants(gram: [u8; GRAM]) -> Vec<[u8; GRAM]> {
    let mut grams = vec![gram];
    for i in 0..GRAM {
        for j in 0..grams.len() {
            let mut gram = grams[j];
            gram[i] = match gram[i] {
                b'+' => b'-',
                b'/' => b'_',
                _ => continue,
            };
            grams.push(gram);
        }
    }
    grams
}

/// The first bytes by which `keyword` is found in an encoded text.
pub(crate) fn grams(rule: &Rule, keyword: &[u8]) -> Vec<([u8; GRAM], Encoding)> {
    let mut grams = Vec::new();
    for keyword in cases(rule, keyword) {
        for (before, len) in [(0_u8, 3), (1, 4), (2, 4)] {
            for bytes in filled(rule, &keyword, len) {
                let digits = digits(&bytes, usize::from(before), BASE64, 6);
                let Some(gram) = digits.first_chunk() else { continue };
                for gram in base64_variants(*gram) {
                    grams.push((gram, Encoding::Base64 { before }));
                }
            }
        }
        let hex: Vec<u8> = keyword
            .iter()
            .flat_map(|b| [b >> 4, b & 15])
            .map(|digit| b"0123456789abcdef"[usize::from(digit)])
            .collect();
        grams.extend(hex.first_chunk().map(|gram| (*gram, Encoding::Hex)));
    }
    grams.sort_unstable();
    grams.dedup();
    grams
}

/// The ways in which a keyword's case is usually written.
fn cases(rule: &Rule, keyword: &[u8]) -> Vec<Vec<u8>> {
    let lower = keyword.to_ascii_lowercase();
    let mut title = lower.clone();
    title[..1].make_ascii_uppercase();
    if rule.nocase {
        vec![keyword.to_ascii_uppercase(), title, lower]
    } else {
        vec![keyword.into()]
    }
}

/// The first `len` bytes of a keyword; one that is too short is filled up with what the class has.
fn filled(rule: &Rule, keyword: &[u8], len: usize) -> Vec<Vec<u8>> {
    let mut all = vec![keyword[..keyword.len().min(len)].to_vec()];
    while all.first().is_some_and(|bytes| bytes.len() < len) {
        let class = || (0..=u8::MAX).filter(|b| rule.class.has(*b));
        all = all
            .iter()
            .flat_map(|bytes| class().map(move |b| [&bytes[..], &[b]].concat()))
            .collect();
    }
    all
}
