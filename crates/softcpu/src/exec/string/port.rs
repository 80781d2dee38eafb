//! INS and OUTS: strings from and to I/O ports.

use super::{Element, Operation, destination, load_source};
use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Op, slot};

/// INS: one element from port DX to ES:rDI.
pub(super) struct Ins;
/// OUTS: one element from rSI to port DX.
pub(super) struct Outs;

impl Operation for Ins {
    const SOURCE: bool = false;
    const DESTINATION: bool = true;
    const WRITES: bool = true;
    const BULK: bool = false;

    /// The memory is checked before the port is read, which cannot be taken back.
    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let (port, size) = (cpu.get::<u16>(slot::RDX), size_of::<T>());
        cpu.check_port(port, size as u32)?;
        let la = destination(cpu, op, size as u32, true)?;
        cpu.probe(la, size as u64, true)?;
        let mut bytes = [0; 8];
        cpu.call_out(|bus| bus.port_read(port, &mut bytes[..size]));
        cpu.store(la, T::from_u64(u64::from_le_bytes(bytes)))
    }

    unsafe fn many<T: Element>(_: &mut Cpu, _: &Op, _: *const u8, _: *mut u8, _: usize) -> usize {
        0
    }
}

impl Operation for Outs {
    const SOURCE: bool = true;
    const DESTINATION: bool = false;
    const WRITES: bool = false;
    const BULK: bool = false;

    fn one<T: Element>(cpu: &mut Cpu, op: &Op) -> Result<(), Trap> {
        let (port, size) = (cpu.get::<u16>(slot::RDX), size_of::<T>());
        cpu.check_port(port, size as u32)?;
        let value = load_source::<T>(cpu, op)?.to_u64().to_le_bytes();
        cpu.call_out(|bus| bus.port_write(port, &value[..size]));
        Ok(())
    }

    unsafe fn many<T: Element>(_: &mut Cpu, _: &Op, _: *const u8, _: *mut u8, _: usize) -> usize {
        0
    }
}
