//! The only byte stream between the host and a bottle: mutual authentication, and then multiplexed
//! streams.
//!
//! On the host side, every byte that arrives is hostile: the guest's root controls it. So before
//! the guest has proved the launch's key, the host parses only hellos of a fixed size; after that,
//! it can parse only [`GuestOpen`] headers. It holds at most [`mux::MAX_BUFFERED`] bytes for the
//! guest, and never waits for the guest in order to serve another stream.
//!
//! The order of calls is [`host_handshake`] → [`Session::host`] → spawn the [`Driver`] →
//! [`Session::open`].

pub mod copy;
pub mod exec;
pub mod frame;
pub mod handshake;
mod header;
mod key;
pub mod mux;
mod open;
mod run;
pub mod trust;
pub mod untar;

pub use handshake::{HandshakeError, guest_handshake, host_handshake};
pub use header::{HeaderError, read_header, write_header};
pub use key::Key;
pub use mux::{ChannelError, ChannelStream, Driver, Incoming, Session};
pub use open::{
    CopyInRequest, CopyOutRequest, Endpoint, EndpointName, ExecRequest, GuestConfig, GuestOpen,
    HostOpen, MakeDir, Reply, SELF, TtySize,
};
pub use run::{CallError, Capture, ExecFailure, call, exec_capture, run_exec};

#[cfg(test)]
mod tests;
