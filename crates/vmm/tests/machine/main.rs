//! Whole machines, run by kernels of a few instructions.

mod control;
mod exerciser;
mod guest;
mod hostile;
mod kept;
mod layers;
mod lifecycle;
mod processors;
mod saved;
