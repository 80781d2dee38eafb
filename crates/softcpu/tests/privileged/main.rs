//! What operating systems rely on: modes, segments, gates, paging, faults and their error codes, debug registers,
//! interrupts. Each test names the section that says so, of the Intel SDM unless it says otherwise.

mod calls;
mod debug;
mod exceptions;
mod gates;
#[path = "../guest/mod.rs"]
mod guest;
mod interrupts;
mod kept;
mod legacy;
mod modes;
mod msrs;
mod paging;
mod registers;
mod segments;

use guest::{r, seg, sel, vector};
