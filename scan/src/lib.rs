//! Finds credentials in streams: provider formats, and the secrets that a bundle holds, in any
//! encoding.
//!
//! [`Scanner`] is compiled once a daemon; a [`Profile`] is what one route asks of it; a [`Stream`]
//! is one body. `docs/scanning.md` says what is found, what is held back, and what cannot be found.

mod candidate;
mod coding;
mod decoding;
mod encode;
mod escaped;
mod evidence;
mod filter;
mod fold;
mod matcher;
mod matches;
mod profile;
mod rules;
mod scanner;
mod secret;
mod shared;
mod stream;
mod strength;
mod token;
mod unescape;
mod view;

pub use profile::Profile;
pub use scanner::Scanner;
pub use shared::{Direction, Finding, UnknownCoding, UnknownRule, View};
pub use stream::Stream;
pub use strength::{Strength, Weakness, strength};
pub use token::looks_like_token;
