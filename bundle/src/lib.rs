//! The sidecar daemons.
