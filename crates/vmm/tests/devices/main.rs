//! Devices, driven as a guest's drivers drive them: through the machine's buses and the guest's memory.

mod block;
mod console;
mod driver;
#[path = "../machine/guest.rs"]
#[allow(dead_code)]
mod guest;
mod hostile;
mod rig;
mod rng;
