//! Both ends prove that they have the launch's key, before anything else is parsed.
//!
//! ```text
//! each side → other   MAGIC(8) version(u16 LE) role(u8) nonce(32)        "hello"
//! guest     → host    HMAC-SHA256(key, GUEST_LABEL ‖ guest hello ‖ host hello)
//! host      → guest   HMAC-SHA256(key, HOST_LABEL  ‖ guest hello ‖ host hello)
//! ```
//! The host sends nothing that depends on the key until the guest has proved the key. Magic and
//! version come first, so that an image and an orchestrator of different versions fail with
//! [`HandshakeError::Version`]. The caller sets the deadline.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::key::Key;

/// Version of the protocol: handshake, multiplexer, headers and frames.
pub const VERSION: u16 = 1;

const MAGIC: &[u8; 8] = b"\0BOTTLE\n";
const NONCE_LEN: usize = 32;
const HELLO_LEN: usize = MAGIC.len() + 2 + 1 + NONCE_LEN;
const MAC_LEN: usize = 32;
const GUEST_LABEL: &[u8] = b"bot-bottle channel: guest proves the key\0";
const HOST_LABEL: &[u8] = b"bot-bottle channel: host proves the key\0";

/// Why a handshake failed.
#[derive(Debug, Error)]
pub enum HandshakeError {
    /// The stream failed or ended.
    #[error("the channel closed during the handshake: {0}")]
    Io(#[from] std::io::Error),
    /// The other end does not speak this protocol.
    #[error("the other end of the channel is not a bottle")]
    Magic,
    /// Image and orchestrator have different versions.
    #[error(
        "the other end speaks channel version {theirs}, this one {ours}: rebuild the image and `bottle` from one checkout"
    )]
    Version {
        /// This end's version.
        ours: u16,
        /// The other end's.
        theirs: u16,
    },
    /// The hello has our own role: it was reflected.
    #[error("the other end of the channel claims this end's role")]
    Role,
    /// The other end does not have the key of this launch.
    #[error("the other end of the channel does not hold this launch's key")]
    WrongKey,
}

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Role {
    Host = b'H',
    Guest = b'G',
}

type Hello = [u8; HELLO_LEN];

/// Authenticates the guest on `io`, then proves the key to it.
///
/// # Errors
/// See [`HandshakeError`]. After an error, `io` must be dropped.
pub async fn host_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    key: &Key,
) -> Result<(), HandshakeError> {
    let (host, guest) = exchange(io, Role::Host).await?;
    let mut proof = [0; MAC_LEN];
    io.read_exact(&mut proof).await?;
    mac(key, GUEST_LABEL, &guest, &host)
        .verify_slice(&proof)
        .map_err(|_| HandshakeError::WrongKey)?;
    io.write_all(&mac(key, HOST_LABEL, &guest, &host).finalize().into_bytes()).await?;
    io.flush().await?;
    Ok(())
}

/// Proves the key to the host on `io`, then checks the host's proof.
///
/// # Errors
/// See [`HandshakeError`]. After an error, `io` must be dropped.
pub async fn guest_handshake<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    key: &Key,
) -> Result<(), HandshakeError> {
    let (guest, host) = exchange(io, Role::Guest).await?;
    io.write_all(&mac(key, GUEST_LABEL, &guest, &host).finalize().into_bytes()).await?;
    io.flush().await?;
    let mut proof = [0; MAC_LEN];
    match io.read_exact(&mut proof).await {
        // A host that closes the channel here has refused our proof.
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => {
            return Err(HandshakeError::WrongKey);
        }
        other => other?,
    };
    mac(key, HOST_LABEL, &guest, &host).verify_slice(&proof).map_err(|_| HandshakeError::WrongKey)
}

/// Sends our hello and reads the other end's. Returns (ours, theirs).
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
    io: &mut S,
    role: Role,
) -> Result<(Hello, Hello), HandshakeError> {
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|e| std::io::Error::other(e.to_string()))?;
    let mut ours = [0; HELLO_LEN];
    ours[..8].copy_from_slice(MAGIC);
    ours[8..10].copy_from_slice(&VERSION.to_le_bytes());
    ours[10] = role as u8;
    ours[11..].copy_from_slice(&nonce);
    io.write_all(&ours).await?;
    io.flush().await?;

    // Magic and version are read first: another version may have a hello of another length.
    let mut theirs = [0; HELLO_LEN];
    io.read_exact(&mut theirs[..10]).await?;
    if &theirs[..8] != MAGIC {
        return Err(HandshakeError::Magic);
    }
    let version = u16::from_le_bytes([theirs[8], theirs[9]]);
    if version != VERSION {
        return Err(HandshakeError::Version { ours: VERSION, theirs: version });
    }
    io.read_exact(&mut theirs[10..]).await?;
    let expected = match role {
        Role::Host => Role::Guest,
        Role::Guest => Role::Host,
    };
    if theirs[10] != expected as u8 {
        return Err(HandshakeError::Role);
    }
    Ok((ours, theirs))
}

fn mac(key: &Key, label: &[u8], guest: &Hello, host: &Hello) -> Hmac<Sha256> {
    // HMAC takes a key of any length, so this cannot fail.
    #[allow(clippy::expect_used)]
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(label);
    mac.update(guest);
    mac.update(host);
    mac
}
