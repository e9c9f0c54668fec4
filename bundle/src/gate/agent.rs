//! An ssh agent for one key, so that a key which came over standard input touches no disk. draft-ietf-sshm-ssh-agent: it lists
//! its key and signs with it; everything else fails.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine as _;
use bottle_policy::Secret;
use rustls::SignatureScheme;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use zeroize::Zeroizing;

const BASE64: base64::engine::GeneralPurpose = base64::engine::general_purpose::STANDARD;
const KIND: &[u8] = b"ssh-ed25519";
/// Longest message of a client, bytes.
const MESSAGE: usize = 64 << 10;
/// SSH_AGENT_FAILURE and the two requests with their answers.
const FAILURE: u8 = 5;
const LIST: (u8, u8) = (11, 12);
const SIGN: (u8, u8) = (13, 14);

/// DER of an ed25519 PKCS#8 key (RFC 8410, version 1) up to its 32 bytes.
const PKCS8: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];

/// Why a text is no key that the agent can use. Says nothing of the text.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Not PEM, or not one of the two formats.
    #[error("not an OpenSSH or PKCS#8 private key")]
    Format,
    /// A key with a passphrase.
    #[error("the key has a passphrase")]
    Encrypted,
    /// Another algorithm.
    #[error("not an ed25519 key (others can be used from an identity file)")]
    Algorithm,
    /// The socket.
    #[error("agent socket: {0}")]
    Socket(#[from] io::Error),
}

/// One key and a socket to ask for its signatures.
pub struct Agent {
    key: Arc<dyn SigningKey>,
    blob: Vec<u8>,
    socket: PathBuf,
    listener: Mutex<Option<UnixListener>>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent").field("socket", &self.socket).finish_non_exhaustive()
    }
}

impl Agent {
    /// Reads the key and makes the socket, in a private directory.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn bind(pem: &Secret, socket: &Path) -> Result<Self, KeyError> {
        let der = pkcs8(pem.expose())?;
        let key = rustls::crypto::ring::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(&der[..])).map_err(|_| KeyError::Algorithm)?;
        // SubjectPublicKeyInfo of ed25519 ends in the 32 bytes of the key (RFC 8410).
        let spki = key.public_key().ok_or(KeyError::Algorithm)?;
        let public = spki.as_ref().last_chunk::<32>().ok_or(KeyError::Algorithm)?;
        let mut blob = Vec::new();
        string(&mut blob, KIND);
        string(&mut blob, public);
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok(Self { key, blob, socket: socket.to_owned(), listener: Mutex::new(Some(listener)) })
    }

    /// The public key as in a `.pub` file.
    pub fn public_line(&self) -> String {
        format!("ssh-ed25519 {}\n", BASE64.encode(&self.blob))
    }

    /// Answers from now on. To be called inside the runtime, once.
    pub fn serve(&self) {
        let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        let (key, blob) = (self.key.clone(), self.blob.clone());
        tokio::spawn(async move {
            let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let (key, blob) = (key.clone(), blob.clone());
                tokio::spawn(async move {
                    let _ = talk(stream, &*key, &blob).await; // a client that goes away
                });
            }
        });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.socket);
    }
}

async fn talk(mut stream: UnixStream, key: &dyn SigningKey, blob: &[u8]) -> io::Result<()> {
    loop {
        let len = stream.read_u32().await? as usize;
        if len == 0 || len > MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; len];
        stream.read_exact(&mut message).await?;
        let reply = answer(&message, key, blob).unwrap_or_else(|| vec![FAILURE]);
        stream.write_u32(u32::try_from(reply.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&reply).await?;
    }
}

fn answer(message: &[u8], key: &dyn SigningKey, blob: &[u8]) -> Option<Vec<u8>> {
    let (kind, mut rest) = message.split_first()?;
    let mut reply = Vec::new();
    if *kind == LIST.0 {
        reply.push(LIST.1);
        reply.extend_from_slice(&1u32.to_be_bytes());
        string(&mut reply, blob);
        string(&mut reply, b"");
        return Some(reply);
    }
    if *kind != SIGN.0 || take(&mut rest)? != blob {
        return None;
    }
    let data = take(&mut rest)?;
    let signature = key.choose_scheme(&[SignatureScheme::ED25519])?.sign(data).ok()?;
    let mut inner = Vec::new();
    string(&mut inner, KIND);
    string(&mut inner, &signature);
    reply.push(SIGN.1);
    string(&mut reply, &inner);
    Some(reply)
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
    out.extend_from_slice(bytes);
}

fn take<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (len, rest) = from.split_first_chunk::<4>()?;
    let (bytes, rest) = rest.split_at_checked(u32::from_be_bytes(*len) as usize)?;
    *from = rest;
    Some(bytes)
}

/// The key in PKCS#8 DER.
fn pkcs8(pem: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    if let Some(body) = pem.trim().strip_prefix("-----BEGIN OPENSSH PRIVATE KEY-----") {
        let body = body.strip_suffix("-----END OPENSSH PRIVATE KEY-----").ok_or(KeyError::Format)?;
        let text = Zeroizing::new(body.bytes().filter(|b| !b.is_ascii_whitespace()).collect::<Vec<u8>>());
        let bytes = Zeroizing::new(BASE64.decode(&*text).map_err(|_| KeyError::Format)?);
        return openssh(&bytes);
    }
    match PrivateKeyDer::from_pem_slice(pem.as_bytes()) {
        Ok(PrivateKeyDer::Pkcs8(key)) => Ok(Zeroizing::new(key.secret_pkcs8_der().to_vec())),
        Ok(_) => Err(KeyError::Algorithm),
        Err(_) => Err(KeyError::Format),
    }
}

/// PROTOCOL.key of OpenSSH: `openssh-key-v1`, cipher, kdf, its options, one public key, then the private part.
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
        let mut private = take(&mut rest)?.get(8..)?; // two check numbers
        if take(&mut private)? != KIND {
            return Some(Err(KeyError::Algorithm));
        }
        let _public = take(&mut private)?;
        let seed = take(&mut private)?.first_chunk::<32>()?;
        let mut der = Zeroizing::new(Vec::with_capacity(PKCS8.len() + 32));
        der.extend_from_slice(&PKCS8);
        der.extend_from_slice(seed);
        Some(Ok(der))
    };
    read().unwrap_or(Err(KeyError::Format))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_key_is_listed_and_signed_with() {
        let dir = tempfile::tempdir().unwrap();
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        let agent = Agent::bind(&Secret::new(pem), &dir.path().join("s")).unwrap();
        let list = answer(&[11], &*agent.key, &agent.blob).unwrap();
        assert!(list[0] == 12 && list.windows(agent.blob.len()).any(|w| w == agent.blob));
        let mut ask = vec![13];
        string(&mut ask, &agent.blob);
        string(&mut ask, b"data");
        ask.extend([0; 4]);
        assert_eq!(answer(&ask, &*agent.key, &agent.blob).unwrap()[0], 14);
        ask[10] ^= 1;
        assert!(answer(&ask, &*agent.key, &agent.blob).is_none(), "another key");
        for bad in [&[][..], &[17, 0], &[13, 0xff, 0xff, 0xff, 0xff]] {
            assert!(answer(bad, &*agent.key, &agent.blob).is_none());
        }
        for bad in ["", "x", "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n-----END OPENSSH PRIVATE KEY-----\n"] {
            assert!(matches!(pkcs8(bad), Err(KeyError::Format)), "{bad}");
        }
    }
}
