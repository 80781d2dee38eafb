//! Whole machines, run by kernels of a few instructions.

mod control;
mod guest;
mod lifecycle;
