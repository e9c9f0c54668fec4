//! Requests that egress must refuse. Each is run against both chains (bundle/tests/conformance.rs),
//! and against our own without the one rule that stops it (bundle/src/egress/tests/attacks), as a
//! negative control. The route is `api.test`, with the test's token, for GET, POST, MOVE, COPY and
//! TRACE of /v1/*; `other.test` has a route without a token, `plain.test:80` one without TLS.

use super::Rule;

/// Where the attack's bytes are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum At {
    Socket,
    Tunnel,
}

/// The negative control: what happens without the rule.
#[derive(Debug, Clone, Copy)]
pub enum Without {
    /// The request reaches the upstream.
    Reaches,
    /// It reaches the upstream if these rules are disabled too.
    ReachesIfAlso(&'static [Rule]),
    /// hyper stops it even if these rules are disabled too, and nothing is audited.
    Unaudited(&'static [Rule]),
    /// The tunnel opens.
    Opens,
    /// None: the check is a parser, without which there is no request.
    Parser,
}
use Without::{Opens, Parser, Reaches, ReachesIfAlso, Unaudited};

/// Name, the rule that stops it, where its bytes are sent, the bytes, and the negative control.
#[derive(Debug)]
pub struct Case(pub &'static str, pub Rule, pub At, pub &'static str, pub Without);

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("lf without cr in the request line", Rule::BareLf, At::Tunnel, "GET /v1/a HTTP/1.1\nHost: api.test\r\n\r\n", Reaches),
    Case("lf without cr in a header", Rule::BareLf, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\nX: y\r\n\r\n", Reaches),
    Case("lf without cr at the end", Rule::BareLf, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\n\n", Reaches),
    Case("obs-fold", Rule::ObsFold, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: a\r\n b: c\r\n\r\n", Unaudited(&[Rule::HeaderName])),
    Case("obs-fold of transfer-encoding", Rule::ObsFold, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n", Unaudited(&[Rule::HeaderName, Rule::TransferEncoding])),
    Case("space before the colon", Rule::HeaderName, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length : 5\r\n\r\nhello", Unaudited(&[])),
    Case("header without a name", Rule::HeaderName, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\n: x\r\n\r\n", Unaudited(&[])),
    Case("header without a colon", Rule::HeaderName, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nx\r\n\r\n", Unaudited(&[])),
    Case("nul in a value", Rule::HeaderValue, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: a\0b\r\n\r\n", Unaudited(&[])),
    Case("cr in a value", Rule::HeaderValue, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX: a\rY: b\r\n\r\n", Unaudited(&[])),
    Case("te and cl", Rule::TeAndCl, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", Reaches),
    Case("cl and te", Rule::TeAndCl, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Reaches),
    Case("two lengths, equal", Rule::DuplicateLength, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello", Reaches),
    Case("two lengths, different", Rule::DuplicateLength, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", Unaudited(&[])),
    Case("a list of lengths", Rule::Length, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5, 5\r\n\r\nhello", Unaudited(&[])),
    Case("length with a sign", Rule::Length, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: +5\r\n\r\nhello", Unaudited(&[])),
    Case("te of two codings", Rule::TransferEncoding, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", Reaches),
    Case("te in two headers", Rule::TransferEncoding, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Reaches),
    Case("te that only looks like chunked", Rule::TransferEncoding, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", Unaudited(&[])),
    Case("te in http/1.0", Rule::TransferEncoding, At::Tunnel, "POST /v1/a HTTP/1.0\r\nHost: api.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", Unaudited(&[])),
    Case("lower-case method", Rule::RequestLine, At::Tunnel, "get /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", ReachesIfAlso(&[Rule::NotAllowed])),
    Case("the proxy's own sentinel", Rule::RequestLine, At::Tunnel, "~REFUSED /trace HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("http/0.9", Rule::RequestLine, At::Tunnel, "GET /v1/a\r\n\r\n", Parser),
    Case("http/2 preface", Rule::RequestLine, At::Tunnel, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Unaudited(&[Rule::MissingHost])),
    Case("two spaces in the request line", Rule::RequestLine, At::Tunnel, "GET  /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("bytes that are not ascii in the target", Rule::RequestLine, At::Tunnel, "GET /v1/\u{e4} HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("two hosts", Rule::DuplicateHost, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nHost: other.test\r\n\r\n", Reaches),
    Case("no host", Rule::MissingHost, At::Tunnel, "GET /v1/a HTTP/1.1\r\n\r\n", ReachesIfAlso(&[Rule::HostMismatch])),
    Case("a body on connect", Rule::ConnectBody, At::Socket, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\nContent-Length: 5\r\n\r\nhello", Opens),
    Case("too many headers", Rule::HeadTooLarge, At::Tunnel, "MANY", Unaudited(&[])),

    Case("connect to a host without a route", Rule::NoRoute, At::Socket, "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test\r\n\r\n", Opens),
    Case("connect to another port", Rule::NoRoute, At::Socket, "CONNECT api.test:22 HTTP/1.1\r\nHost: api.test\r\n\r\n", Opens),
    Case("connect to a lookalike", Rule::NoRoute, At::Socket, "CONNECT api.test.evil.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", Opens),
    Case("connect without a port", Rule::Authority, At::Socket, "CONNECT api.test HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("connect with a trailing dot", Rule::Authority, At::Socket, "CONNECT api.test.:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("connect to a number", Rule::Authority, At::Socket, "CONNECT 2130706433:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("connect with a user", Rule::Userinfo, At::Socket, "CONNECT a:b@api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("connect to a url", Rule::Authority, At::Socket, "CONNECT https://api.test/ HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("connect in a tunnel", Rule::NestedConnect, At::Tunnel, "CONNECT api.test:443 HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),

    Case("host of another route", Rule::HostMismatch, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: other.test\r\n\r\n", Reaches),
    Case("host with another port", Rule::HostMismatch, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test:8443\r\n\r\n", Reaches),
    Case("host with a user", Rule::HostMismatch, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: x@api.test\r\n\r\n", Reaches),
    Case("absolute form of another host in a tunnel", Rule::HostMismatch, At::Tunnel, "GET https://other.test/v1/a HTTP/1.1\r\nHost: other.test\r\n\r\n", Parser),
    Case("http in the request line of a tunnel", Rule::RequestLine, At::Tunnel, "GET http://api.test/v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("user in absolute form", Rule::Userinfo, At::Socket, "GET http://u:p@plain.test/ HTTP/1.1\r\nHost: plain.test\r\n\r\n", Parser),
    Case("https in absolute form", Rule::HttpsAbsolute, At::Socket, "GET https://api.test/v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("plain http to a tls route", Rule::WrongScheme, At::Socket, "GET http://api.test:443/v1/a HTTP/1.1\r\nHost: api.test:443\r\n\r\n", Parser),
    Case("plain http to a host without a route", Rule::NoRoute, At::Socket, "GET http://evil.test/ HTTP/1.1\r\nHost: evil.test\r\n\r\n", Parser),
    Case("host of plain http differs", Rule::HostMismatch, At::Socket, "GET http://plain.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n", Reaches),
    Case("the proxy asked for a page", Rule::NotProxyForm, At::Socket, "GET / HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("options for the server", Rule::Path, At::Tunnel, "OPTIONS * HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),

    Case("path outside the route", Rule::NotAllowed, At::Tunnel, "GET /admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("path out by dots", Rule::Path, At::Tunnel, "GET /v1/../admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("path out by escaped dots", Rule::Path, At::Tunnel, "GET /v1/%2e%2E/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("path out by double slash", Rule::NotAllowed, At::Tunnel, "GET //admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("method outside the route", Rule::NotAllowed, At::Tunnel, "DELETE /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("escaped slash", Rule::Path, At::Tunnel, "GET /v1/..%2fadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("slash escaped twice", Rule::Path, At::Tunnel, "GET /v1/..%252fadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("slash escaped three times", Rule::Path, At::Tunnel, "GET /v1/..%25252fadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots escaped twice", Rule::Path, At::Tunnel, "GET /v1/%252e%252e/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("half of the dots escaped twice", Rule::Path, At::Tunnel, "GET /v1/.%252e/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("slash in overlong utf-8", Rule::Path, At::Tunnel, "GET /v1/..%c0%afadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots in overlong utf-8", Rule::Path, At::Tunnel, "GET /v1/%c0%ae%c0%ae/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots in three bytes of overlong utf-8", Rule::Path, At::Tunnel, "GET /v1/%e0%80%ae%e0%80%ae/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("overlong slash escaped twice", Rule::Path, At::Tunnel, "GET /v1/..%25c0%25afadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("full-width slash", Rule::Path, At::Tunnel, "GET /v1/..%ef%bc%8fadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("full-width dots", Rule::Path, At::Tunnel, "GET /v1/%ef%bc%8e%ef%bc%8e/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("full-width backslash", Rule::Path, At::Tunnel, "GET /v1/..%ef%bc%bcadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("division slash", Rule::Path, At::Tunnel, "GET /v1/..%e2%88%95admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("two dot leader", Rule::Path, At::Tunnel, "GET /v1/%e2%80%a5/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("slash in an escape of iis", Rule::Path, At::Tunnel, "GET /v1/..%25u2215admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("backslash escaped twice", Rule::Path, At::Tunnel, "GET /v1/..%255cadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots with an escaped parameter", Rule::Path, At::Tunnel, "GET /v1/..%3b/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots with a parameter and a value", Rule::Path, At::Tunnel, "GET /v1/..;a=b/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots before an escaped question mark", Rule::Path, At::Tunnel, "GET /v1/..%2fadmin%3f.json HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots after an empty segment", Rule::Path, At::Tunnel, "GET /v1//../../admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots that only some servers resolve, into the route", Rule::Path, At::Tunnel, "GET /admin/../v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("an escaped slash before dots", Rule::Path, At::Tunnel, "GET /x%2f..%2fv1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("dots resolved before an escaped slash is decoded", Rule::Path, At::Tunnel, "GET /v1/p%2fq/%2e%2e/%2e%2e/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("an empty segment in front of the route", Rule::Path, At::Tunnel, "GET //v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("current directory in front of the route", Rule::Path, At::Tunnel, "GET /%2e/v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("path with too many readings", Rule::Path, At::Tunnel, "GET /v1/%252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252525252f HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("path outside the route in escapes", Rule::NotAllowed, At::Tunnel, "GET /%61dmin%2fx HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("escaped backslash", Rule::Path, At::Tunnel, "GET /v1/..%5cadmin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("backslash", Rule::Path, At::Tunnel, "GET /v1/..\\admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("escaped nul", Rule::Path, At::Tunnel, "GET /v1/a%00 HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("escaped line break", Rule::Path, At::Tunnel, "GET /v1/a%0d%0ax HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("bad escape", Rule::Path, At::Tunnel, "GET /v1/%zz HTTP/1.1\r\nHost: api.test\r\n\r\n", Parser),
    Case("dots with a parameter", Rule::Path, At::Tunnel, "GET /v1/..;/admin HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("fragment", Rule::Path, At::Tunnel, "GET /v1/a#b HTTP/1.1\r\nHost: api.test\r\n\r\n", Reaches),
    Case("websocket handshake without a key", Rule::Upgrade, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", Parser),
    Case("websocket handshake of another version", Rule::Upgrade, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 1337\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", Parser),
    Case("websocket handshake by post", Rule::Upgrade, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", Parser),
    Case("websocket among other protocols", Rule::Upgrade, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nConnection: upgrade\r\nUpgrade: h2c, WebSocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", Parser),
    Case("websocket handshake with a body", Rule::Upgrade, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length: 4\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\nGET ", Parser),
    Case("another method in a header", Rule::Override, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nX-HTTP-Method-Override: DELETE\r\n\r\n", Reaches),
    Case("another method in a header with low lines", Rule::Override, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nX_Http_Method: DELETE\r\n\r\n", Reaches),
    Case("another path in a header", Rule::Override, At::Tunnel, "GET /v1/a HTTP/1.1\r\nHost: api.test\r\nX-Original-URL: /admin\r\n\r\n", Reaches),
    Case("webdav move out of the route", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: https://api.test/admin\r\n\r\n", Reaches),
    Case("webdav copy out of the route by a path", Rule::Destination, At::Tunnel, "COPY /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /admin\r\n\r\n", Reaches),
    Case("webdav move out by dots", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: https://api.test/v1/../admin\r\n\r\n", Reaches),
    Case("webdav move out by escaped dots", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/%2e%2E/admin\r\n\r\n", Reaches),
    Case("webdav move out by an escaped slash", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/..%2fadmin\r\n\r\n", Reaches),
    Case("webdav move out by an escaped backslash", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/..%5cadmin\r\n\r\n", Reaches),
    Case("webdav move out by a slash escaped twice", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/..%252fadmin\r\n\r\n", Reaches),
    Case("webdav move out by overlong utf-8", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/%c0%ae%c0%ae%c0%afadmin\r\n\r\n", Reaches),
    Case("webdav move out by a full-width slash", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/..%ef%bc%8fadmin\r\n\r\n", Reaches),
    Case("webdav move out by a parameter", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/..;/admin\r\n\r\n", Reaches),
    Case("webdav move to another host", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: https://other.test/v1/b\r\n\r\n", Reaches),
    Case("webdav move to a network path", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: //v1/b\r\n\r\n", Reaches),
    Case("webdav move to another port", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: https://api.test:8443/v1/b\r\n\r\n", Reaches),
    Case("webdav move to another scheme", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: http://api.test:443/v1/b\r\n\r\n", Reaches),
    Case("webdav move with a user", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: https://x@api.test/v1/b\r\n\r\n", Reaches),
    Case("webdav move to two destinations", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /v1/b\r\nDestination: /admin\r\n\r\n", Reaches),
    Case("webdav move to a relative path", Rule::Destination, At::Tunnel, "MOVE /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: ../admin\r\n\r\n", Reaches),
    Case("a destination beside another method", Rule::Destination, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nDestination: /admin\r\n\r\n", Reaches),
    Case("form feed before a length", Rule::HeaderValue, At::Tunnel, "POST /v1/a HTTP/1.1\r\nHost: api.test\r\nContent-Length:\x0c5\r\n\r\nhello", Unaudited(&[Rule::Length])),
    Case("trace", Rule::Trace, At::Tunnel, "TRACE /v1/a HTTP/1.1\r\nHost: api.test\r\n\r\n", ReachesIfAlso(&[Rule::NotAllowed])),
];
