//! An x86-64 processor in software.
//!
//! [`Cpu`] runs guest code from [`GuestMemory`] and reaches devices through [`Bus`]. The processors of one guest share a
//! [`System`]; each is run by whatever thread calls [`Cpu::run`]. The crate starts no thread, opens no file and knows no
//! device but the local APIC.
//!
//! Guest code is decoded once into blocks of [`op::Op`]s (`decode`, `cache`), executed by handlers (`exec`), with guest
//! memory behind a software TLB (`mmu`). Exceptions and interrupts are in `interrupt`, what a processor hears from others
//! in `apic`.

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
compile_error!("softcpu executes arithmetic, SSE and x87 on the host's own x86-64 units");

pub mod apic;
mod bus;
mod cache;
mod clock;
mod code_map;
mod cpu;
mod decode;
mod dispatch;
mod exec;
mod fault;
mod features;
mod flags;
mod interrupt;
mod liveness;
mod mem;
mod mmu;
mod op;
mod paging;
mod pvclock;
mod reset;
mod save;
mod segment;
mod stack;
mod state;
mod steal_time;
mod system;
mod task;
mod wait;

pub use bus::{Bus, Frame, GuestMemory, PAGE_SIZE, PageFlags};
pub use clock::Clock;
pub use cpu::{Cpu, Exit};
pub use flags::rflags;
pub use state::{Activity, ApicState, CpuState, Msrs, Segment, TableRegister, X87};
pub use system::{CpuidEntry, System};
