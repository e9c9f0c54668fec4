//! Real clients in a real bottle, through egress, to local TLS upstreams.

fn main() {}
