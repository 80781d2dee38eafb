//! Devices, driven as a guest's drivers drive them: through the machine's buses and the guest's memory.

mod balloon;
mod block;
mod console;
mod driver;
#[path = "../machine/guest.rs"]
#[allow(dead_code)]
mod guest;
mod hostile;
mod limits;
mod memory;
mod rig;
mod rng;
mod room;
