//! What may not follow CONNECT, to a route that is intercepted, to one with `passthrough`, and to one
//! with `tls = false`.

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

/// The kind of the tunnel's route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// TLS is intercepted.
    Intercepted,
    /// `passthrough = true`.
    Passthrough,
    /// `tls = false`.
    Plain,
}
use Kind::{Intercepted, Passthrough, Plain};

/// Name, rule, kind of the route, and the guest's first bytes. The tunnel is to `api.test:443`.
#[derive(Debug)]
pub struct Case(pub &'static str, pub Rule, pub Kind, pub FirstBytes);

const WHOLE: usize = 1 << 14;
const ECH: &[u8] = &[0xfe, 0x0d, 0, 2, 0, 0];
const SECOND_NAME: &[u8] = b"\0\0\0\x0f\0\x0d\0\0\x0aother.test";

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("plain http", Rule::NotTls, Intercepted, Bytes(b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("post, which hudsucker tunnels raw", Rule::NotTls, Intercepted, Bytes(b"POST /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("ssh", Rule::NotTls, Intercepted, Bytes(b"SSH-2.0-x\r\n")),
    Case("http/2 with prior knowledge", Rule::NotTls, Intercepted, Bytes(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")),
    Case("a tls alert", Rule::NotTls, Intercepted, Bytes(b"\x15\x03\x01\x00\x02\x02\x28")),
    Case("nothing but zeros", Rule::NotTls, Intercepted, Bytes(b"\0\0\0\0\0\0\0\0")),
    Case("tls for another host", Rule::SniMismatch, Intercepted, Hello("other.test", WHOLE, &[])),
    Case("tls for another host, in small records", Rule::SniMismatch, Intercepted, Hello("other.test", 16, &[])),
    Case("tls without a name", Rule::NoSni, Intercepted, Hello("", WHOLE, &[])),
    Case("plain http, left alone", Rule::NotTls, Passthrough, Bytes(b"GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("ssh, left alone", Rule::NotTls, Passthrough, Bytes(b"SSH-2.0-x\r\n")),
    Case("garbage that begins like tls, left alone", Rule::NotTls, Passthrough, Bytes(b"\x16\x03\x01\x00\x05hello")),
    Case("tls for another host, left alone", Rule::SniMismatch, Passthrough, Hello("other.test", WHOLE, &[])),
    Case("tls for another host in small records, left alone", Rule::SniMismatch, Passthrough, Hello("other.test", 1, &[])),
    Case("tls for a host below, left alone", Rule::SniMismatch, Passthrough, Hello("x.api.test", WHOLE, &[])),
    Case("tls without a name, left alone", Rule::NoSni, Passthrough, Hello("", WHOLE, &[])),
    Case("tls with an encrypted name, left alone", Rule::Ech, Passthrough, Hello("api.test", WHOLE, ECH)),
    Case("tls with two names, left alone", Rule::NotTls, Passthrough, Hello("api.test", WHOLE, SECOND_NAME)),
    Case("tls to a plain route", Rule::WrongScheme, Plain, Hello("api.test", WHOLE, &[])),
    Case("tls in small records to a plain route", Rule::WrongScheme, Plain, Hello("api.test", 16, &[])),
    Case("ssh to a plain route", Rule::NotHttp, Plain, Bytes(b"SSH-2.0-x\r\n")),
    Case("a tls alert to a plain route", Rule::NotHttp, Plain, Bytes(b"\x15\x03\x01\x00\x02\x02\x28")),
    Case("zeros to a plain route", Rule::NotHttp, Plain, Bytes(b"\0\0\0\0\0\0\0\0")),
    Case("a mail client to a plain route", Rule::NotHttp, Plain, Bytes(b"ehlo x\r\n")),
    Case("a line break to a plain route", Rule::NotHttp, Plain, Bytes(b"\r\nGET /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n")),
    Case("a long word to a plain route", Rule::NotHttp, Plain, Bytes(b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA")),
];
