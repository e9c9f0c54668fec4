//! An ed25519 key in OpenSSH's or PKCS#8 format. It is read from memory and stays there.

use std::sync::Arc;

use base64::Engine as _;
use bottle_policy::Secret;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;
/// Name of the algorithm.
const ALGORITHM: &[u8] = b"ssh-ed25519";

/// DER of an ed25519 PKCS#8 key (RFC 8410, version 1) up to its 32 bytes of key.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Why a text is not a key that the agent can use. It quotes nothing of the text.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// It is not PEM, or in neither of the two formats.
    #[error("not an OpenSSH or PKCS#8 private key")]
    Format,
    /// It has a passphrase.
    #[error("the key has a passphrase")]
    Encrypted,
    /// It has another algorithm.
    #[error("not an ed25519 key (others can be used from an identity file)")]
    Algorithm,
}

/// A key pair.
#[derive(Clone)]
pub struct Key {
    key: Arc<dyn SigningKey>,
    blob: Arc<[u8]>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.public_line().trim_end())
    }
}

impl Key {
    /// Reads a private key in OpenSSH's format or in PKCS#8 PEM.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn read(pem: &Secret) -> Result<Self, KeyError> {
        let der = pkcs8(pem.expose())?;
        let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..]))
            .map_err(|_| KeyError::Algorithm)?;
        // The SubjectPublicKeyInfo of ed25519 ends in the 32 bytes of the key (RFC 8410).
        let spki = key.public_key().ok_or(KeyError::Algorithm)?;
        let public = spki.as_ref().last_chunk::<32>().ok_or(KeyError::Algorithm)?;
        let mut blob = Vec::new();
        string(&mut blob, ALGORITHM);
        string(&mut blob, public);
        Ok(Self { key, blob: blob.into() })
    }

    /// The public key in SSH's wire format.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// The public key as a line of a `.pub` file.
    #[must_use]
    pub fn public_line(&self) -> String {
        format!("ssh-ed25519 {}\n", BASE64.encode(&self.blob))
    }

    /// A signature in SSH's wire format. It is `None` if the key cannot be used, which does not
    /// happen with a key that [`Key::read`] accepted.
    #[must_use]
    pub fn sign(&self, data: &[u8]) -> Option<Vec<u8>> {
        let signature = self.key.choose_scheme(&[SignatureScheme::ED25519])?.sign(data).ok()?;
        let mut wire = Vec::new();
        string(&mut wire, ALGORITHM);
        string(&mut wire, &signature);
        Some(wire)
    }

    /// Signs `message` like `ssh-keygen -Y sign -n NAMESPACE`, see OpenSSH's PROTOCOL.sshsig.
    #[must_use]
    pub fn sign_message(&self, namespace: &str, message: &[u8]) -> Option<String> {
        let parts = |wire: &mut Vec<u8>| {
            for part in [namespace, "", "sha512"] {
                string(wire, part.as_bytes());
            }
        };
        let mut signed = b"SSHSIG".to_vec();
        parts(&mut signed);
        string(&mut signed, &Sha512::digest(message));
        let mut wire = b"SSHSIG\0\0\0\x01".to_vec();
        string(&mut wire, &self.blob);
        parts(&mut wire);
        string(&mut wire, &self.sign(&signed)?);
        let text = BASE64.encode(wire);
        let lines = text.as_bytes().chunks(70).map(String::from_utf8_lossy);
        let body = lines.fold(String::new(), |all, line| all + &line + "\n");
        Some(format!("-----BEGIN SSH SIGNATURE-----\n{body}-----END SSH SIGNATURE-----\n"))
    }
}

/// Appends a string in SSH's wire format: its length in four bytes, then its bytes.
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes a string in SSH's wire format from the start of `from`.
pub fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = from.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *from = rest;
    Some(bytes)
}

/// The key of a PEM file, in PKCS#8 DER.
fn pkcs8(pem: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if let Some(body) = pem.trim().strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let body =
            body.strip_suffix("-----END OPENSSH PRIVATE KEY-----").ok_or(KeyError::Format)?;
        let text =
            Zeroizing::new(body.bytes().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<u8>>());
        let bytes = Zeroizing::new(BASE64.decode(&*text).map_err(|_| KeyError::Format)?);
        return openssh(&bytes);
    }
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(key)) => Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
        Ok(_) => Err(KeyError::Algorithm),
        Err(_) => Err(KeyError::Format),
    }
}

/// Converts a key in OpenSSH's format (PROTOCOL.key) to PKCS#8 DER. The format has a magic, the
/// cipher, the key derivation and its options, the count of keys, the public key, and the private
/// part.
fn openssh(bytes: &[u8]) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let read = || -> Option<Result<Zeroizing<Vec<u8>>, KeyError>> {
        let mut rest = bytes.strip_prefix(b"openssh-key-v1\0")?;
        let cipher = take(&mut rest)?;
        let (_kdf, _options) = (take(&mut rest)?, take(&mut rest)?);
        if cipher != b"none" {
            return Some(Err(KeyError::Encrypted));
        }
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        if *count != 1u32.to_be_bytes() {
            return None;
        }
        let _public = take(&mut rest)?;
        let mut private = take(&mut rest)?.get(8..)?; // after two check numbers
        if take(&mut private)? != ALGORITHM {
            return Some(Err(KeyError::Algorithm));
        }
        let _public = take(&mut private)?;
        let seed = take(&mut private)?.first_chunk::<32>()?;
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8_PREFIX.len() + 32));
        der.extend_from_slice(&PKCS8_PREFIX);
        der.extend_from_slice(seed);
        Some(Ok(der))
    };
    read().unwrap_or(Err(KeyError::Format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_not_keys_are_refused() {
        for bad in [
            "",
            "x",
            "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n",
        ] {
            assert!(matches!(pkcs8(bad), Err(KeyError::Format)), "{bad}");
        }
    }
}
