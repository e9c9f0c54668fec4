//! The first bytes of a tunnel that is not intercepted. More bytes change no answer, and a name
//! that we read is the name that a server reads: of what rustls accepts we say the same, or refuse
//! it.
#![no_main]

use bottle_bundle::egress::tunnel::client_hello::{ClientHello, NotClientHello, peek};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

/// The server name that rustls reads; `None` when it accepts no ClientHello, or waits for more.
fn accepted(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    loop {
        let read = acceptor.read_tls(&mut bytes).ok()?;
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                return Some(accepted.client_hello().server_name().map(str::to_ascii_lowercase));
            }
            Ok(None) if read == 0 => return None,
            Ok(None) => {}
            Err(_) => return None,
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let Some((&cut, bytes)) = data.split_first() else { return };
    let whole = peek(bytes);
    let part = peek(&bytes[..bytes.len() * usize::from(cut) / 256]);
    match &part {
        Ok(None) => {}
        decided => assert_eq!(decided, &whole),
    }
    let Some(theirs) = accepted(bytes) else { return };
    match whole {
        Err(NotClientHello) => {}
        Ok(None) => panic!("rustls has a hello where we wait for more"),
        Ok(Some(ClientHello { server_name, .. })) => {
            if let Some(theirs) = theirs {
                assert_eq!(server_name, Some(theirs));
            }
        }
    }
});
