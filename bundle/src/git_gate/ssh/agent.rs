//! An ssh agent for one key, so that a key which came over standard input touches no disk.
//! draft-ietf-sshm-ssh-agent: it lists its key and signs with it; everything else fails.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::git_gate::ssh::key::{Key, string, take};

/// Longest message of a client, bytes.
const MESSAGE: usize = 64 << 10;
/// SSH_AGENT_FAILURE and the two requests with their answers.
const FAILURE: u8 = 5;
const LIST: (u8, u8) = (11, 12);
const SIGN: (u8, u8) = (13, 14);

/// One key and a socket to ask for its signatures.
#[derive(Debug)]
pub struct Agent {
    key: Key,
    socket: PathBuf,
    listener: Mutex<Option<UnixListener>>,
}

impl Agent {
    /// Makes the socket, in a private directory.
    ///
    /// # Errors
    /// As bind(2).
    pub fn bind(key: Key, socket: &Path) -> io::Result<Self> {
        let _ = std::fs::remove_file(socket);
        let listener = UnixListener::bind(socket)?;
        listener.set_nonblocking(true)?;
        Ok(Self { key, socket: socket.to_owned(), listener: Mutex::new(Some(listener)) })
    }

    /// Answers from now on. To be called inside the runtime, once.
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
                    let _ = talk(stream, &key).await; // a client that goes away
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

async fn talk(mut stream: UnixStream, key: &Key) -> io::Result<()> {
    loop {
        let len = stream.read_u32().await? as usize;
        if len == 0 || len > MESSAGE {
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
    if *kind == LIST.0 {
        reply.push(LIST.1);
        reply.extend_from_slice(&1u32.to_be_bytes());
        string(&mut reply, key.blob());
        string(&mut reply, b"");
        return Some(reply);
    }
    if *kind != SIGN.0 || take(&mut rest)? != key.blob() {
        return None;
    }
    let data = take(&mut rest)?;
    reply.push(SIGN.1);
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
