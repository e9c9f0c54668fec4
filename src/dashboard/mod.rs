//! What the terminal dashboard and the web page show, and how a person decides there.

pub mod decide;
pub mod model;
pub mod tui;
mod usage;
pub mod web;
