//! The same attacks over HTTP/2, and heads that a naive translation to HTTP/1.1 would turn into
//! another request. The routes are those of requests.rs.

use super::Rule;
use super::Without::{self, Parser, Reaches, ReachesIfAlso};

/// Name, rule, method, URI, more headers, and what happens without the rule.
#[derive(Debug)]
pub struct Case(
    pub &'static str,
    pub Rule,
    pub &'static str,
    pub &'static str,
    pub &'static [(&'static str, &'static str)],
    pub Without,
);

#[rustfmt::skip]
pub const CASES: &[Case] = &[
    Case("authority of another route", Rule::HostMismatch, "GET", "https://other.test/v1/a", &[], Parser),
    Case("authority with another port", Rule::HostMismatch, "GET", "https://api.test:8443/v1/a", &[], Parser),
    Case("authority with a user", Rule::Userinfo, "GET", "https://x@api.test/v1/a", &[], Parser),
    Case("host beside authority", Rule::HostMismatch, "GET", "https://api.test/v1/a", &[("host", "other.test")], Reaches),
    Case("two hosts beside authority", Rule::DuplicateHost, "GET", "https://api.test/v1/a", &[("host", "api.test"), ("host", "other.test")], Reaches),
    Case("plain scheme", Rule::RequestLine, "GET", "http://api.test/v1/a", &[], Parser),
    Case("path outside the route", Rule::NotAllowed, "GET", "https://api.test/admin", &[], Reaches),
    Case("path out by dots", Rule::Path, "GET", "https://api.test/v1/../admin", &[], Reaches),
    Case("path out by escaped dots", Rule::Path, "GET", "https://api.test/v1/%2e%2E/admin", &[], Reaches),
    Case("path out by double slash", Rule::NotAllowed, "GET", "https://api.test//admin", &[], Reaches),
    Case("escaped slash", Rule::Path, "GET", "https://api.test/v1/..%2fadmin", &[], Reaches),
    Case("escaped backslash", Rule::Path, "GET", "https://api.test/v1/..%5cadmin", &[], Reaches),
    Case("slash escaped twice", Rule::Path, "GET", "https://api.test/v1/..%252fadmin", &[], Reaches),
    Case("slash in overlong utf-8", Rule::Path, "GET", "https://api.test/v1/..%c0%afadmin", &[], Reaches),
    Case("full-width slash", Rule::Path, "GET", "https://api.test/v1/..%ef%bc%8fadmin", &[], Reaches),
    Case("full-width dots", Rule::Path, "GET", "https://api.test/v1/%ef%bc%8e%ef%bc%8e/admin", &[], Reaches),
    Case("dots with an escaped parameter", Rule::Path, "GET", "https://api.test/v1/..%3b/admin", &[], Reaches),
    Case("dots after an empty segment", Rule::Path, "GET", "https://api.test/v1//../../admin", &[], Reaches),
    Case("escaped line break", Rule::Path, "GET", "https://api.test/v1/a%0d%0aHost:%20other.test", &[], Parser),
    Case("method outside the route", Rule::NotAllowed, "DELETE", "https://api.test/v1/a", &[], Reaches),
    Case("lower-case method", Rule::RequestLine, "get", "https://api.test/v1/a", &[], ReachesIfAlso(&[Rule::NotAllowed])),
    Case("method with a character of its own", Rule::RequestLine, "GET!", "https://api.test/v1/a", &[], ReachesIfAlso(&[Rule::NotAllowed])),
    Case("another method in a header", Rule::Override, "POST", "https://api.test/v1/a", &[("x-http-method-override", "DELETE")], Reaches),
    Case("another path in a header", Rule::Override, "GET", "https://api.test/v1/a", &[("x-rewrite-url", "/admin")], Reaches),
    Case("webdav move out of the route", Rule::Destination, "MOVE", "https://api.test/v1/a", &[("destination", "https://api.test/admin")], Reaches),
    Case("the proxy's own sentinel", Rule::RequestLine, "~REFUSED", "https://api.test/v1/a", &[], ReachesIfAlso(&[Rule::NotAllowed])),
    Case("trace", Rule::Trace, "TRACE", "https://api.test/v1/a", &[], ReachesIfAlso(&[Rule::NotAllowed])),
];

/// Name, and the fields of a request's head in a HEADERS frame.
#[derive(Debug)]
pub struct Raw(pub &'static str, pub &'static [(&'static str, &'static str)]);

const GET: (&str, &str) = (":method", "GET");
const HTTPS: (&str, &str) = (":scheme", "https");
const API: (&str, &str) = (":authority", "api.test");
const PATH: (&str, &str) = (":path", "/v1/a");

/// A proxy that writes these fields as HTTP/1.1 lines would send something else than it has checked.
#[rustfmt::skip]
pub const RAW: &[Raw] = &[
    Raw("line break in a value", &[GET, HTTPS, API, PATH, ("x", "y\r\ntransfer-encoding: chunked")]),
    Raw("request in a value", &[GET, HTTPS, API, PATH, ("x", "y\r\n\r\nGET /admin HTTP/1.1\r\nhost: api.test")]),
    Raw("line break in a name", &[GET, HTTPS, API, PATH, ("x: y\r\ntransfer-encoding", "chunked")]),
    Raw("request in the path", &[GET, HTTPS, API, (":path", "/v1/a HTTP/1.1\r\nhost: api.test\r\n\r\nGET /admin")]),
    Raw("request in the method", &[(":method", "GET /admin HTTP/1.1\r\nhost: api.test\r\n\r\nGET"), HTTPS, API, PATH]),
    Raw("space in the path", &[GET, HTTPS, API, (":path", "/v1/a /admin")]),
    Raw("transfer-encoding", &[(":method", "POST"), HTTPS, API, PATH, ("transfer-encoding", "chunked")]),
    Raw("connection", &[GET, HTTPS, API, PATH, ("connection", "authorization")]),
    Raw("upper-case name", &[GET, HTTPS, API, PATH, ("Transfer-Encoding", "chunked")]),
    Raw("two paths", &[GET, HTTPS, API, PATH, (":path", "/admin")]),
    Raw("a pseudo field after the others", &[GET, HTTPS, API, ("x", "y"), (":path", "/admin")]),
    Raw("an unknown pseudo field", &[GET, HTTPS, API, PATH, (":x", "y")]),
    Raw("no path", &[GET, HTTPS, API]),
    Raw("connect with a protocol", &[(":method", "CONNECT"), (":protocol", "websocket"), HTTPS, API, PATH]),
];
