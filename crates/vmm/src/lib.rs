//! A virtual machine: engine, memory, boot, chipset, PCI and virtio, put together by `machine` and driven by `control`.

pub mod bus;
pub mod interrupt;
