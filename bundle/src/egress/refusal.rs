//! Every reason for which a request does not get its answer, each with a stable code and a status.

use crate::daemon::{checks, refusal};

/// The rule that applied to a request, and why.
pub type Refusal = refusal::Refusal<Rule>;

/// The rules that are enabled.
pub type Checks = checks::Checks<Rule>;

refusal::rules! {
    /// Why a request was refused or failed. The code also stands in the `x-bottle-refused` header.
    pub enum Rule, refused by "bot-bottle egress";

    denials {
        /// A line ends in LF without CR.
        BareLf = "bare-lf", 400;
        /// A header line starts with white space.
        ObsFold = "obs-fold", 400;
        /// Not `METHOD TARGET HTTP/1.x`.
        RequestLine = "request-line", 400;
        /// A header name that is no token, or white space before its colon.
        HeaderName = "header-name", 400;
        /// A control character in a header's value.
        HeaderValue = "header-value", 400;
        /// Transfer-Encoding together with Content-Length.
        TeAndCl = "te-and-cl", 400;
        /// Transfer-Encoding that is not exactly one `chunked`, or in HTTP/1.0.
        TransferEncoding = "transfer-encoding", 400;
        /// More than one Content-Length.
        DuplicateLength = "duplicate-length", 400;
        /// Content-Length that is no plain number.
        Length = "length", 400;
        /// More than one Host.
        DuplicateHost = "duplicate-host", 400;
        /// No Host.
        MissingHost = "missing-host", 400;
        /// A body on CONNECT.
        ConnectBody = "connect-body", 400;
        /// A chunked body that is not strictly formed.
        Chunk = "chunk", 400;
        /// A head that does not come in time after its first byte.
        SlowHead = "slow-head", 408;
        /// A head over its limits of size or number.
        HeadTooLarge = "head-too-large", 431;

        /// The authority is no `host:port`.
        Authority = "authority", 400;
        /// `user@` in the authority.
        Userinfo = "userinfo", 400;
        /// No route names this host and port.
        NoRoute = "no-route", 403;
        /// After CONNECT came something that is not TLS.
        NotTls = "not-tls", 403;
        /// After CONNECT to a plain-http route came something that is not HTTP/1.1.
        NotHttp = "not-http", 403;
        /// TLS without a server name.
        NoSni = "no-sni", 403;
        /// TLS for another server than the CONNECT was for.
        SniMismatch = "sni-mismatch", 403;

        /// Host differs from where the connection goes.
        HostMismatch = "host-mismatch", 421;
        /// A request to the proxy itself.
        NotProxyForm = "not-proxy-form", 400;
        /// Absolute-form `https://`.
        HttpsAbsolute = "https-absolute", 400;
        /// CONNECT inside a tunnel.
        NestedConnect = "nested-connect", 403;
        /// Plain http to a route that wants TLS, or the reverse.
        WrongScheme = "wrong-scheme", 403;
        /// A path that different servers read differently.
        Path = "path", 400;
        /// No route of this host allows this method and path.
        NotAllowed = "not-allowed", 403;
        /// TRACE would echo the injected credential.
        Trace = "trace", 403;
        /// A WebSocket handshake that is not one, or where there can be none.
        Upgrade = "upgrade", 400;
        /// The route's `websocket` is false.
        NoWebSocket = "no-websocket", 403;
        /// A WebSocket frame that breaks the protocol.
        WebSocket = "websocket", 400;
        /// HTTP/2 that breaks the protocol.
        Http2 = "http2", 400;
        /// A trailer that must not come after the body.
        Trailer = "trailer", 400;
        /// TLS whose real server name is encrypted, on a route without interception.
        Ech = "ech", 403;

        /// A header that some servers take for another method or path.
        Override = "override", 403;
        /// WebDAV's Destination header names a path that the route does not allow.
        Destination = "destination", 403;
        /// What looks like a credential is on its way out.
        Secret = "secret", 403;
        /// A body that cannot be looked into.
        Coding = "coding", 415;
        /// A host name that looks like data.
        DnsLabel = "dns-label", 403;
        /// A body over the route's `max_body`.
        MaxBody = "max-body", 413;
        /// The route's `budget` is spent.
        Budget = "budget", 403;
        /// The route's `rate` is used up.
        Rate = "rate", 429;

        /// The name leads to an address that no route allows.
        Address = "address", 403;
    }

    failures {
        /// The name has no address.
        Resolve = "resolve", 502;
        /// The upstream does not accept connections.
        Connect = "connect", 502;
        /// The upstream did not accept in time.
        ConnectTimeout = "connect-timeout", 504;
        /// The upstream's certificate or TLS is not acceptable.
        UpstreamTls = "upstream-tls", 502;
        /// The upstream broke off.
        Upstream = "upstream", 502;
        /// The upstream did not answer in time.
        UpstreamTimeout = "upstream-timeout", 504;
        /// The audit log cannot be written.
        Audit = "audit", 503;
        /// The bottle went away before the end.
        Aborted = "aborted", 499;
    }
}
