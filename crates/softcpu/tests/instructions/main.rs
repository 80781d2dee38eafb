//! What integer, stack, string and branch instructions must do where one instruction against the host's cannot tell:
//! in runs of several, in other modes than 64-bit, and when they fault half-way.

mod arithmetic;
mod control;
#[path = "../guest/mod.rs"]
mod guest;
mod stack;
mod strings;

use guest::{r, vector};
