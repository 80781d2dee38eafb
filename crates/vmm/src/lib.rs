//! A virtual machine: engine, memory, boot, chipset, PCI and virtio, put together by `machine` and driven by `control`.

pub mod boot;
pub mod bus;
pub mod chipset;
pub mod control;
pub mod engine;
pub mod figures;
pub mod flows;
mod heap;
pub mod interrupt;
pub mod machine;
pub mod memory;
pub mod pci;
mod precedence;
pub mod processor;
pub mod reactor;
pub mod state;
mod vcpu;
pub mod virtio;
