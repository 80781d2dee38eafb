//! The person's side of the guest's console.

pub mod escape;
pub mod terminal;
