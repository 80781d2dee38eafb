//! A virtual machine: engine, memory, boot, chipset, PCI and virtio, put together by `machine` and driven by `control`.

pub mod bus;
pub mod engine;
pub mod interrupt;
pub mod memory;
pub mod processor;
