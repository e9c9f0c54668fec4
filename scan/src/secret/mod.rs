//! The bundle's own secrets: the forms that each can take, and following one through the ways a
//! text can be escaped.

mod escape;
mod follower;
mod form;
mod forms;

pub(crate) use follower::{Follower, Step};
pub(crate) use form::Form;
pub(crate) use forms::Forms;
