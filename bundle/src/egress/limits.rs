//! Bounds on what a guest can hold.

use std::time::Duration;

use bottle_policy::Timeouts;

/// Numbers and deadlines.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// Time for a connection without a request.
    pub head: Duration,
    /// Time for the rest of a request's head after its first byte, in HTTP/1.
    pub begun_head: Duration,
    /// Time for the TLS handshake after CONNECT.
    pub handshake: Duration,
    /// Time for name lookup, TCP and TLS with an upstream.
    pub connect: Duration,
    /// Default of [`RouteTimes::first_byte`].
    pub first_byte: Duration,
    /// Default of [`RouteTimes::idle`].
    pub idle: Duration,
    /// How long an unused connection to an upstream is kept.
    pub pool_idle: Duration,
    /// Default of [`RouteTimes::total`].
    pub total: Duration,
    /// Requests, tunnels and WebSockets in progress at once, on all connections; more wait. This
    /// number times what each of them may buffer bounds the daemon's memory.
    pub requests: usize,
    /// Streams of one HTTP/2 connection at once.
    pub streams: u32,
    /// Time for open requests when the daemon ends. The orchestrator kills the daemon 3 s after it
    /// has asked it to end.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 512,
            head: Duration::from_secs(120),
            begun_head: Duration::from_secs(20),
            handshake: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            // The vendors' SDKs wait 10 minutes for a model's answer that is not streamed.
            first_byte: Duration::from_secs(900),
            idle: Duration::from_secs(600),
            pool_idle: Duration::from_secs(60),
            total: Duration::from_secs(24 * 3600),
            requests: 768,
            streams: 128,
            drain: Duration::from_secs(1),
        }
    }
}

/// The times of one route.
#[derive(Debug, Clone, Copy)]
pub struct RouteTimes {
    /// Time for the upstream's response head after the request's last byte.
    pub first_byte: Duration,
    /// Longest silence inside a response, tunnel or WebSocket.
    pub idle: Duration,
    /// Time for one request from its first byte to the last byte of its response, and for a tunnel
    /// or WebSocket.
    pub total: Duration,
}

impl Limits {
    /// The times of a route with these keys.
    #[must_use]
    pub fn times(&self, keys: &Timeouts) -> RouteTimes {
        let or = |seconds: Option<u32>, default| {
            seconds.map_or(default, |n| Duration::from_secs(n.into()))
        };
        RouteTimes {
            first_byte: or(keys.first_byte, self.first_byte),
            idle: or(keys.idle, self.idle),
            total: or(keys.total, self.total),
        }
    }
}
