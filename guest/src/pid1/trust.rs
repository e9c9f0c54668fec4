//! Installs the bottle's certificate authority wherever the image's TLS clients look for one.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use bottle_channel::trust::{CA, CA_BUNDLE, JAVA_TRUST_STORE};

use super::files::{append, make_parents, replace};
use super::keystore;

/// Debian's `update-ca-certificates` reads this, in case the agent runs it.
const LOCAL: &str = "/usr/local/share/ca-certificates/bottle.crt";
/// OpenSSL's default when no variable names another file. Debian's OpenSSL has no such file.
const OPENSSL_DEFAULT: &str = "/usr/lib/ssl/cert.pem";

/// Makes every client trust `certificate` (PEM).
pub fn install(certificate: &str) -> io::Result<()> {
    for path in [CA, LOCAL] {
        write(path, certificate.as_bytes())?;
    }
    append(CA_BUNDLE, certificate)?;
    make_parents(Path::new(OPENSSL_DEFAULT), None, None)?;
    if fs::symlink_metadata(OPENSSL_DEFAULT).is_err() {
        symlink(CA_BUNDLE, OPENSSL_DEFAULT)?;
    }
    // The CAs that the image trusts, and the bottle's.
    write(JAVA_TRUST_STORE, &keystore::of(&String::from_utf8_lossy(&fs::read(CA_BUNDLE)?)))
}

fn write(path: &str, content: &[u8]) -> io::Result<()> {
    make_parents(Path::new(path), None, None)?;
    replace(path, content, 0o644, 0, 0)
}
