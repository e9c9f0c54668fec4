//! Credentials on their way out, in every part of a request and in every encoding. The route is
//! `api.test`, and its token is one of the secrets. The other secret is a provider's key, which the
//! bundle does not know.

use super::Rule;

/// The secret that is sent.
#[derive(Debug, Clone, Copy)]
pub enum Payload {
    /// A provider's key.
    Provider,
    /// A private key in PEM.
    PrivateKey,
    /// The bundle's own token, unchanged.
    Own,
    /// The token in base64, after so many other bytes.
    Base64(usize),
    /// The token in base64url, after so many other bytes.
    Base64Url(usize),
    /// The token in hex.
    Hex,
    /// The token in upper-case hex.
    HexUpper,
    /// The token with every byte as `%xx`.
    Percent,
    /// The token with every third byte as `%xx`.
    PercentSome,
    /// The token with every byte as `\u00xx`.
    Unicode,
}
use Payload::{
    Base64, Base64Url, Hex, HexUpper, Own, Percent, PercentSome, PrivateKey, Provider, Unicode,
};

/// Where in the request the secret is.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// In the query.
    Query,
    /// In the path.
    Path,
    /// In a header.
    Header,
    /// In a cookie.
    Cookie,
    /// In a JSON body.
    Body,
    /// In a body, one byte a chunk.
    Bytewise,
    /// In a body with these codings, the first applied first.
    Coded(&'static [&'static str]),
    /// In a coded body without Content-Encoding.
    Undeclared(&'static str),
    /// In the body of an HTTP/2 request.
    Http2,
    /// In a WebSocket's message.
    Message,
    /// In a WebSocket's message of many frames, with a ping between them.
    Fragments,
    /// In a WebSocket's ping.
    Ping,
    /// In a trailer.
    Trailer,
    /// This body with this Content-Encoding, without a secret.
    Literal(&'static str, &'static [u8]),
    /// 20 MB of zeros in gzip.
    Bomb,
}
use Part::{
    Body, Bomb, Bytewise, Coded, Cookie, Fragments, Header, Http2, Literal, Message, Path, Ping,
    Query, Trailer, Undeclared,
};

/// Name, rule, secret, and where it is.
#[derive(Debug)]
pub struct Case(pub &'static str, pub Rule, pub Payload, pub Part);

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("a provider's key in the query", Rule::Secret, Provider, Query),
    Case("a provider's key in the path", Rule::Secret, Provider, Path),
    Case("a provider's key in a header", Rule::Secret, Provider, Header),
    Case("a provider's key in a cookie", Rule::Secret, Provider, Cookie),
    Case("a provider's key in a body", Rule::Secret, Provider, Body),
    Case("a provider's key, one byte a chunk", Rule::Secret, Provider, Bytewise),
    Case("a provider's key in gzip", Rule::Secret, Provider, Coded(&["gzip"])),
    Case("a provider's key in deflate", Rule::Secret, Provider, Coded(&["deflate"])),
    Case("a provider's key in raw deflate", Rule::Secret, Provider, Coded(&["raw-deflate"])),
    Case("a provider's key in brotli", Rule::Secret, Provider, Coded(&["br"])),
    Case("a provider's key in zstd", Rule::Secret, Provider, Coded(&["zstd"])),
    Case("a provider's key in gzip in brotli", Rule::Secret, Provider, Coded(&["gzip", "br"])),
    Case("a provider's key in gzip twice", Rule::Secret, Provider, Coded(&["gzip", "gzip"])),
    Case("a provider's key in a gzip file", Rule::Secret, Provider, Undeclared("gzip")),
    Case("a provider's key over http/2", Rule::Secret, Provider, Http2),
    Case("a provider's key in a websocket's message", Rule::Secret, Provider, Message),
    Case("a provider's key in fragments of a message", Rule::Secret, Provider, Fragments),
    Case("a provider's key in a ping", Rule::Secret, Provider, Ping),
    Case("a provider's key in a trailer", Rule::Secret, Provider, Trailer),
    Case("a private key in a body", Rule::Secret, PrivateKey, Body),
    Case("a private key in gzip", Rule::Secret, PrivateKey, Coded(&["gzip"])),
    Case("the bundle's token in the query", Rule::Secret, Own, Query),
    Case("the bundle's token in the path", Rule::Secret, Own, Path),
    Case("the bundle's token in another header", Rule::Secret, Own, Header),
    Case("the bundle's token in a body", Rule::Secret, Own, Body),
    Case("the bundle's token, one byte a chunk", Rule::Secret, Own, Bytewise),
    Case("the bundle's token in gzip", Rule::Secret, Own, Coded(&["gzip"])),
    Case("the bundle's token in brotli", Rule::Secret, Own, Coded(&["br"])),
    Case("the bundle's token over http/2", Rule::Secret, Own, Http2),
    Case("the bundle's token in a websocket's message", Rule::Secret, Own, Message),
    Case("the bundle's token in fragments of a message", Rule::Secret, Own, Fragments),
    Case("the bundle's token in a trailer", Rule::Secret, Own, Trailer),
    Case("the bundle's token in base64", Rule::Secret, Base64(0), Body),
    Case("the bundle's token in base64 after a byte", Rule::Secret, Base64(1), Body),
    Case("the bundle's token in base64 after two bytes", Rule::Secret, Base64(2), Body),
    Case("the bundle's token in base64url", Rule::Secret, Base64Url(1), Query),
    Case("the bundle's token in base64, one byte a chunk", Rule::Secret, Base64(1), Bytewise),
    Case("the bundle's token in base64 in gzip", Rule::Secret, Base64(2), Coded(&["gzip"])),
    Case("the bundle's token in hex", Rule::Secret, Hex, Body),
    Case("the bundle's token in capital hex", Rule::Secret, HexUpper, Query),
    Case("the bundle's token in hex, one byte a chunk", Rule::Secret, Hex, Bytewise),
    Case("the bundle's token in escapes", Rule::Secret, Percent, Query),
    Case("the bundle's token in some escapes", Rule::Secret, PercentSome, Query),
    Case("the bundle's token in escapes in a form", Rule::Secret, PercentSome, Body),
    Case("the bundle's token in escapes, one byte a chunk", Rule::Secret, Percent, Bytewise),
    Case("the bundle's token in json escapes", Rule::Secret, Unicode, Body),
    Case("the bundle's token in json escapes, in a message", Rule::Secret, Unicode, Fragments),
    Case("a coding that nobody knows", Rule::Coding, Provider, Literal("rot13", b"hello")),
    Case("three codings", Rule::Coding, Provider, Literal("gzip, gzip, gzip", b"hello")),
    Case("gzip that is none", Rule::Coding, Provider, Literal("gzip", b"hello, this is no gzip")),
    Case("gzip with more behind its end", Rule::Coding, Provider, Literal("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x03\0\0\0\0\0\0\0\0\0hello behind the end")),
    Case("zstd with a window of a gigabyte", Rule::Coding, Provider, Literal("zstd", b"\x28\xb5\x2f\xfd\x00\xa0\x09\x00\x00a")),
    Case("a gzip bomb", Rule::Coding, Provider, Bomb),
];
