//! What may not follow CONNECT, to a route that is intercepted and to one with `passthrough`.

use super::Rule;

/// The first bytes of the guest.
#[derive(Debug, Clone, Copy)]
pub enum FirstBytes {
    /// These bytes.
    Bytes(&'static [u8]),
    /// A real ClientHello for this name (without a name for `""`), in records of so many bytes, with
    /// this additional extension.
    Hello(&'static str, usize, &'static [u8]),
}
use FirstBytes::{Bytes, Hello};

/// Name, rule, whether the route is passthrough, and the guest's first bytes. The tunnel is to
/// `api.test:443`.
#[derive(Debug)]
pub struct Case(pub &'static str, pub Rule, pub bool, pub FirstBytes);

const WHOLE: usize = 1 << 14;
const ECH: &[u8] = &[0xfe, 0x0d, 0, 2, 0, 0];
const SECOND_NAME: &[u8] = b"\0\0\0\x0f\0\x0d\0\0\x0aother.test";

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("plain http", Rule::NotTls, false, Bytes(b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("post, which hudsucker tunnels raw", Rule::NotTls, false, Bytes(b"POST /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("ssh", Rule::NotTls, false, Bytes(b"SSH-2.0-x\r\n")),
    Case("http/2 with prior knowledge", Rule::NotTls, false, Bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    Case("a tls alert", Rule::NotTls, false, Bytes(b"\x15\x03\x01\x00\x02\x02\x28")),
    Case("nothing but zeros", Rule::NotTls, false, Bytes(b"\0\0\0\0\0\0\0\0")),
    Case("tls for another host", Rule::SniMismatch, false, Hello("other.test", WHOLE, &[])),
    Case("tls for another host, in small records", Rule::SniMismatch, false, Hello("other.test", 16, &[])),
    Case("tls without a name", Rule::NoSni, false, Hello("", WHOLE, &[])),
    Case("plain http, left alone", Rule::NotTls, true, Bytes(b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("ssh, left alone", Rule::NotTls, true, Bytes(b"SSH-2.0-x\r\n")),
    Case("garbage that begins like tls, left alone", Rule::NotTls, true, Bytes(b"\x16\x03\x01\x00\x05hello")),
    Case("tls for another host, left alone", Rule::SniMismatch, true, Hello("other.test", WHOLE, &[])),
    Case("tls for another host in small records, left alone", Rule::SniMismatch, true, Hello("other.test", 1, &[])),
    Case("tls for a host below, left alone", Rule::SniMismatch, true, Hello("x.api.test", WHOLE, &[])),
    Case("tls without a name, left alone", Rule::NoSni, true, Hello("", WHOLE, &[])),
    Case("tls with an encrypted name, left alone", Rule::Ech, true, Hello("api.test", WHOLE, ECH)),
    Case("tls with two names, left alone", Rule::NotTls, true, Hello("api.test", WHOLE, SECOND_NAME)),
];
