//! Bounds on what a guest can hold.

use std::time::Duration;

/// Numbers and deadlines.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Connections from the guest at once; more wait.
    pub connections: usize,
    /// Time for a whole request head, and for a connection without a request.
    pub head: Duration,
    /// Time for the TLS handshake after CONNECT.
    pub handshake: Duration,
    /// Time for name lookup, TCP and TLS with an upstream.
    pub connect: Duration,
    /// Time for the upstream's response head after the request's last byte.
    pub response_head: Duration,
    /// Longest silence inside a response.
    pub silence: Duration,
    /// How long an unused connection to an upstream is kept.
    pub pool_idle: Duration,
    /// Time for one request from its first byte to the last byte of its response, and for a tunnel
    /// or WebSocket.
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
            handshake: Duration::from_secs(20),
            connect: Duration::from_secs(10),
            response_head: Duration::from_secs(300),
            silence: Duration::from_secs(600),
            pool_idle: Duration::from_secs(60),
            total: Duration::from_secs(24 * 3600),
            requests: 768,
            streams: 128,
            drain: Duration::from_secs(1),
        }
    }
}
