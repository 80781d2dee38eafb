//! A machine.
