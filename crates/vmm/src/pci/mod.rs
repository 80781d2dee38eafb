//! PCI: the host bridge and the functions behind it (PCI Express Base Specification 5.0, chapter 7).
//!
//! All functions are on bus 0, one a slot, so that each can be plugged in and out by itself. Configuration space is reached
//! by memory (ECAM) and by the ports 0xcf8 and 0xcfc.

mod config;
mod function;
mod msix;
mod root;

pub use config::{ConfigSpace, ConfigState, Identity};
pub use function::{Bar, Function, FunctionState, Registers};
pub use msix::{Msix, MsixState, Vector};
pub use root::{ConfigPorts, Ecam, Root, SLOTS};
