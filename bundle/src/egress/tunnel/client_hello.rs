//! Reads the server name in a ClientHello, the first message of TLS: RFC 8446 sections 4.1.2 and 5.1,
//! RFC 6066 section 3.

/// Most bytes that are read.
pub const MAX_BYTES: usize = 64 * 1024;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const ENCRYPTED_CLIENT_HELLO: u16 = 0xfe0d;

/// What a ClientHello says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name, lower case.
    pub server_name: Option<String>,
    /// Whether it has an encrypted ClientHello (ECH) inside. A client may send a random value in
    /// place of one; the two cannot be told apart.
    pub encrypted: bool,
}

/// The bytes are not a ClientHello.
#[derive(Debug, PartialEq, Eq)]
pub struct NotClientHello;

/// Reads the ClientHello at the start of `bytes`; `None` when more of them are needed.
///
/// # Errors
/// They are something else, or the ClientHello is longer than [`MAX_BYTES`].
pub fn peek(bytes: &[u8]) -> Result<Option<ClientHello>, NotClientHello> {
    // A ClientHello may be split over many small records: put it together first.
    let mut message = Vec::new();
    let mut rest = bytes;
    loop {
        if let Some(length) = message_length(&message)? {
            if message.len() >= length {
                return read(&message[4..length]).ok_or(NotClientHello).map(Some);
            }
        }
        if bytes.first().is_some_and(|kind| *kind != HANDSHAKE) {
            return Err(NotClientHello);
        }
        let Some((head, body)) = rest.split_at_checked(5) else { return wait(bytes) };
        let length = usize::from(u16::from_be_bytes([head[3], head[4]]));
        if head[0] != HANDSHAKE || head[1] != 3 || length == 0 || length > (1 << 14) {
            return Err(NotClientHello);
        }
        let Some((part, after)) = body.split_at_checked(length) else { return wait(bytes) };
        message.extend_from_slice(part);
        rest = after;
    }
}

fn wait(bytes: &[u8]) -> Result<Option<ClientHello>, NotClientHello> {
    if bytes.len() > MAX_BYTES { Err(NotClientHello) } else { Ok(None) }
}

/// Length of the handshake message with its 4-byte head, once the head has arrived.
fn message_length(message: &[u8]) -> Result<Option<usize>, NotClientHello> {
    match message {
        [kind, ..] if *kind != CLIENT_HELLO => Err(NotClientHello),
        [_, a, b, c, ..] => {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize + 4;
            if length > MAX_BYTES { Err(NotClientHello) } else { Ok(Some(length)) }
        }
        _ => Ok(None),
    }
}

/// The bytes that are left to read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (part, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(part)
    }

    fn u8(&mut self) -> Option<usize> {
        Some(usize::from(self.take(1)?[0]))
    }

    fn u16(&mut self) -> Option<u16> {
        let b = self.take(2)?;
        Some(u16::from_be_bytes([b[0], b[1]]))
    }

    /// A part with its length in the two bytes before it.
    fn part(&mut self) -> Option<Reader<'a>> {
        let n = usize::from(self.u16()?);
        self.take(n).map(Reader)
    }
}

fn read(body: &[u8]) -> Option<ClientHello> {
    let mut r = Reader(body);
    r.take(2 + 32)?; // version and random
    let session = r.u8()?;
    r.take(session)?;
    r.part()?; // cipher suites
    let compressions = r.u8()?;
    r.take(compressions)?;
    let mut hello = ClientHello { server_name: None, encrypted: false };
    if r.0.is_empty() {
        return Some(hello); // no extensions: before TLS 1.2
    }
    let mut extensions = r.part()?;
    if !r.0.is_empty() {
        return None;
    }
    let mut named = false;
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut data = extensions.part()?;
        match kind {
            // With two server names, two readers could see two hosts.
            SERVER_NAME if std::mem::replace(&mut named, true) => return None,
            SERVER_NAME => hello.server_name = Some(server_name(&mut data)?),
            ENCRYPTED_CLIENT_HELLO => hello.encrypted = true,
            _ => {}
        }
    }
    Some(hello)
}

/// The host name, if the list has exactly one.
fn server_name(data: &mut Reader<'_>) -> Option<String> {
    let mut list = data.part()?;
    if list.u8()? != 0 {
        return None;
    }
    let name = list.part()?.0;
    let plain =
        !name.is_empty() && name.iter().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(b));
    if !plain || !list.0.is_empty() || !data.0.is_empty() {
        return None;
    }
    std::str::from_utf8(name).ok().map(str::to_ascii_lowercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first message of a real client.
    fn real(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(crate::egress::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let config = std::sync::Arc::new(config);
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).unwrap();
        let mut client = rustls::ClientConnection::new(config, name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same message in records of at most `n` bytes.
    fn cut(record: &[u8], n: usize) -> Vec<u8> {
        let message = &record[5..];
        message
            .chunks(n)
            .flat_map(|c| [&[22, 3, 1, 0, u8::try_from(c.len()).unwrap()], c].concat())
            .collect()
    }

    /// With one more extension.
    fn with(record: &[u8], extension: &[u8]) -> Vec<u8> {
        let mut message = record[5..].to_vec();
        let session = usize::from(message[38]);
        let suites = 39 + session;
        let at = suites
            + 2
            + usize::from(u16::from_be_bytes([message[suites], message[suites + 1]]))
            + 2;
        let grow = u16::try_from(extension.len()).unwrap();
        let all = u16::from_be_bytes([message[at], message[at + 1]]) + grow;
        message[at..at + 2].copy_from_slice(&all.to_be_bytes());
        let length = u16::from_be_bytes([message[2], message[3]]) + grow;
        message[2..4].copy_from_slice(&length.to_be_bytes());
        message.extend_from_slice(extension);
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], &message].concat()
    }

    #[test]
    fn a_real_hello_is_read_however_it_is_cut() {
        let hello = real("API.test");
        let want = Ok(Some(ClientHello { server_name: Some("api.test".into()), encrypted: false }));
        assert_eq!(peek(&hello), want);
        assert_eq!(peek(&[&hello[..], b"more"].concat()), want);
        for n in 0..hello.len() {
            assert_eq!(peek(&hello[..n]), Ok(None), "{n}");
        }
        for n in [1, 7, 100] {
            assert_eq!(peek(&cut(&hello, n)), want, "records of {n}");
        }
        assert_eq!(peek(&real("192.0.2.1")).unwrap().unwrap().server_name, None);
    }

    #[test]
    fn an_encrypted_name_is_told() {
        let hello = with(&real("front.test"), &[0xfe, 0x0d, 0, 2, 0, 0]);
        assert_eq!(
            peek(&hello),
            Ok(Some(ClientHello { server_name: Some("front.test".into()), encrypted: true }))
        );
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        let hello = real("api.test");
        let other = b"\0\0\0\x0d\0\x0b\0\0\x08evil.com";
        assert_eq!(peek(&with(&hello, other)), Err(NotClientHello), "two names");
        for bad in [
            &b"GET / HTTP/1.1\r\n"[..],
            b"\x16\x03\x01\x00\x05hello",
            b"\x15\x03\x01\x00\x02\x02\x28",
            b"\x16\x02\x00\x00\x01\x01",
        ] {
            assert_eq!(peek(bad), Err(NotClientHello), "{bad:?}");
        }
        let endless =
            [&[22u8, 3, 1, 0x3f, 0xff][..], &[1, 0, 0xff, 0xff], &vec![0; 1 << 17]].concat();
        assert_eq!(peek(&endless), Err(NotClientHello));
    }
}
