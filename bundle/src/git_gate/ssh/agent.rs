//! An ssh agent for one key, so that a key that came over standard input is on no disk. It lists its
//! key and signs with it; all other requests fail. The protocol is draft-ietf-sshm-ssh-agent.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::key::{Key, string, take};

/// Longest message of a client, in bytes.
const MAX_MESSAGE_BYTES: usize = 64 << 10;
/// Message numbers.
const FAILURE: u8 = 5;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;

/// One key, and the socket on which it signs.
#[derive(Debug)]
pub struct Agent {
    key: Key,
    socket: PathBuf,
    listener: Mutex<Option<UnixListener>>,
}

impl Agent {
    /// Creates the socket, whose directory must be private.
    ///
    /// # Errors
    /// As bind(2).
    pub fn bind(key: Key, socket: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok(Self { key, socket: socket.to_owned(), listener: Mutex::new(Some(listener)) })
    }

    /// Answers from now on. To be called once, inside the runtime.
    pub fn serve(&self) {
        let Some(listener) = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take()
        else {
            return;
        };
        let key = self.key.clone();
        tokio::spawn(async move {
            let Ok(listener) = tokio::net::UnixListener::from_std(listener) else { return };
            while let Ok((stream, _)) = listener.accept().await {
                let key = key.clone();
                tokio::spawn(async move {
                    let _ = serve_client(stream, &key).await; // the client may go away
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

async fn serve_client(mut stream: UnixStream, key: &Key) -> io::Result<()> {
    loop {
        let len = stream.read_u32().await? as usize;
        if len == 0 || len > MAX_MESSAGE_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let mut message = vec![0; len];
        stream.read_exact(&mut message).await?;
        let reply = answer(&message, key).unwrap_or_else(|| vec![FAILURE]);
        stream.write_u32(u32::try_from(reply.len()).map_err(io::Error::other)?).await?;
        stream.write_all(&reply).await?;
    }
}

fn answer(message: &[u8], key: &Key) -> Option<Vec<u8>> {
    let (kind, mut rest) = message.split_first()?;
    let mut reply = Vec::new();
    if *kind == REQUEST_IDENTITIES {
        reply.push(IDENTITIES_ANSWER);
        reply.extend_from_slice(&1u32.to_be_bytes());
        string(&mut reply, key.blob());
        string(&mut reply, b"");
        return Some(reply);
    }
    if *kind != SIGN_REQUEST || take(&mut rest)? != key.blob() {
        return None;
    }
    let data = take(&mut rest)?;
    reply.push(SIGN_RESPONSE);
    string(&mut reply, &key.sign(data)?);
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_own_key_is_listed_and_signed_with() {
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
        let key = Key::read(&bottle_policy::Secret::new(pem)).unwrap();
        let list = answer(&[11], &key).unwrap();
        assert!(list[0] == 12 && list.windows(key.blob().len()).any(|w| w == key.blob()));
        let mut ask = vec![13];
        string(&mut ask, key.blob());
        string(&mut ask, b"data");
        ask.extend([0; 4]);
        assert_eq!(answer(&ask, &key).unwrap()[0], 14);
        ask[10] ^= 1;
        assert!(answer(&ask, &key).is_none(), "another key");
        for bad in [&[][..], &[17, 0], &[13, 0xff, 0xff, 0xff, 0xff]] {
            assert!(answer(bad, &key).is_none());
        }
    }
}
