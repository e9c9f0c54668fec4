//! Every reason for which a request does not get its answer, each with a stable name and a status.

use http::StatusCode;

macro_rules! rules {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $status:literal;)*) => {
        /// Why a request was refused or failed; the name is stable and stands in audit lines.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Rule { $($(#[$doc])* $name,)* }

        impl Rule {
            /// Name in audit lines and in the `x-bottle-refused` header.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode {
                // Every literal below is a valid status; anything else would show as 500 in the
                // table test.
                StatusCode::from_u16(match self { $(Self::$name => $status,)* }).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
            }

            /// The rule of this name.
            #[must_use]
            pub fn from_code(code: &str) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }
        }
    };
}

rules! {
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

impl Rule {
    /// Whether policy decided, rather than the network.
    #[must_use]
    pub fn is_denial(self) -> bool {
        !matches!(
            self,
            Self::Resolve
                | Self::Connect
                | Self::ConnectTimeout
                | Self::UpstreamTls
                | Self::Upstream
                | Self::UpstreamTimeout
                | Self::Audit
                | Self::Aborted
        )
    }
}

/// A rule that applied to one request.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The rule.
    pub rule: Rule,
    /// One line for people. Names what the guest sent, never a secret.
    pub reason: String,
    /// One line that says what would make it work.
    pub hint: Option<String>,
}

/// A refusal on its way through an error of hyper's.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.reason)]
pub struct Refused(pub Refusal);

impl Refusal {
    /// A refusal without a hint.
    pub fn new(rule: Rule, reason: impl Into<String>) -> Self {
        Self { rule, reason: reason.into(), hint: None }
    }

    /// What cannot be recorded is not let through.
    pub fn unrecorded() -> Self {
        Self::new(
            Rule::Audit,
            "the audit log takes no more lines (disk full, or this launch's budget spent), so nothing is let through",
        )
    }

    /// The same with a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Text of the response's body: the reason, then the hint.
    #[must_use]
    pub fn body(&self) -> String {
        let hint = self.hint.as_ref().map(|h| format!("hint: {h}\n")).unwrap_or_default();
        format!("bot-bottle egress refused this: {} [{}]\n{hint}", self.reason, self.rule.code())
    }
}

/// The rules in force. Outside this crate's tests that is all of them, always.
#[derive(Debug, Clone, Default)]
pub struct Guards {
    /// Rules that a test has switched off, to show that the attack they stop is real.
    #[cfg(test)]
    pub off: Vec<Rule>,
}

impl Guards {
    /// Whether a test has switched `rule` off.
    #[must_use]
    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub fn is_off(&self, rule: Rule) -> bool {
        #[cfg(test)]
        return self.off.contains(&rule);
        #[cfg(not(test))]
        {
            let _ = rule;
            false
        }
    }

    /// `Err` when `broken`: the one place where a check becomes a refusal.
    ///
    /// # Errors
    /// The refusal made by `why`.
    pub fn check(
        &self,
        broken: bool,
        rule: Rule,
        why: impl FnOnce() -> String,
    ) -> Result<(), Refusal> {
        if broken && !self.is_off(rule) { Err(Refusal::new(rule, why())) } else { Ok(()) }
    }
}
