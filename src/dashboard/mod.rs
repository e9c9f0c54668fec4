//! What the terminal dashboard and the web page show, and how a person decides there.

pub mod model;
pub mod tui;
pub mod web;
