//! What a guest's processor is, whichever engine executes it.

mod model;

pub use model::{CpuModel, Model};
pub use softcpu::{Activity, CpuState, CpuidEntry};
