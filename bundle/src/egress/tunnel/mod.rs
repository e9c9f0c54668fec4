//! What follows CONNECT: TLS that the proxy intercepts, or raw TLS on a passthrough route.

pub mod client_hello;
pub mod guest_stream;
pub mod intercept;
pub mod raw;
