//! Writes a Java trust store (JKS) without keytool and without a JVM.
//!
//! The format is that of the JDK's `sun.security.provider.JavaKeyStore`, which every JVM since 1.2
//! reads.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

/// The password of every JVM's own trust store. It protects nothing: the digest only detects
/// accidental damage.
const PASSWORD: &str = "changeit";
const MAGIC: u32 = 0xfeed_feed;
const VERSION: u32 = 2;
const TRUSTED_CERTIFICATE: u32 = 2;

/// A trust store with the certificates in `pem`, under the aliases `ca-0`, `ca-1`, …. Anything else
/// in `pem` is skipped.
pub(super) fn of(pem: &str) -> Vec<u8> {
    let certificates = certificates(pem);
    let mut store = Vec::new();
    for word in [MAGIC, VERSION, length(certificates.len())] {
        store.extend(word.to_be_bytes());
    }
    for (n, certificate) in certificates.iter().enumerate() {
        store.extend(TRUSTED_CERTIFICATE.to_be_bytes());
        text(&mut store, &format!("ca-{n}"));
        store.extend(0_u64.to_be_bytes()); // when it was added, milliseconds
        text(&mut store, "X.509");
        store.extend(length(certificate.len()).to_be_bytes());
        store.extend(certificate);
    }
    let mut digest = Sha1::new();
    digest.update(PASSWORD.encode_utf16().flat_map(u16::to_be_bytes).collect::<Vec<_>>());
    digest.update(b"Mighty Aphrodite");
    digest.update(&store);
    store.extend(digest.finalize());
    store
}

/// `n` as u32. The sizes here are those of files of at most 1 MiB.
fn length(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Appends an ASCII text as Java's `writeUTF` does.
fn text(store: &mut Vec<u8>, ascii: &str) {
    store.extend(u16::try_from(ascii.len()).unwrap_or(u16::MAX).to_be_bytes());
    store.extend(ascii.as_bytes());
}

/// The DER of each certificate.
fn certificates(pem: &str) -> Vec<Vec<u8>> {
    let blocks = pem.split("-----BEGIN CERTIFICATE-----").skip(1);
    let bodies = blocks.filter_map(|block| Some(block.split_once("-----END CERTIFICATE-----")?.0));
    bodies
        .filter_map(|body| STANDARD.decode(body.split_ascii_whitespace().collect::<String>()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_has_each_certificate_and_its_digest() {
        let pem = "junk\n-----BEGIN CERTIFICATE-----\nAQID\nBA==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n\
                   -----BEGIN CERTIFICATE-----\nBQ==\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nBQ==";
        let store = hex::encode(of(pem));
        let entry = |alias: &str, der: &str, length: u8| {
            format!("00000002{alias}00000000000000000005582e353039{length:08x}{der}")
        };
        let body = format!(
            "feedfeed0000000200000002{}{}",
            entry("000463612d30", "01020304", 4),
            entry("000463612d31", "05", 1)
        );
        // The digest is what Python's hashlib gives for this body; tests/bottles_clients.rs shows
        // that a JVM agrees.
        assert_eq!(store, format!("{body}a5c5d7b7ae4484babcce3710653d02155d89ea91"));
    }
}
