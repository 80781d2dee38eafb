//! IN and OUT.

use iced_x86::{Instruction, Mnemonic, OpKind};

use crate::cpu::Cpu;
use crate::fault::Trap;
use crate::op::{Lowered, Op, leave, slot};

pub(super) fn lower(insn: &Instruction, op: &mut Op) -> Option<Lowered> {
    let (data, port) = match insn.mnemonic() {
        Mnemonic::In => (0, 1),
        Mnemonic::Out => (1, 0),
        _ => return None,
    };
    op.aux = insn.op_register(data).size() as u16;
    // The port's slot, or `ZERO` where it is in `imm`.
    op.src = if insn.op_kind(port) == OpKind::Register { slot::RDX } else { slot::ZERO };
    // The device may have raised an interrupt, so the block ends.
    Lowered::end(if data == 0 { leave(port_in) } else { leave(port_out) })
}

fn port_of(cpu: &mut Cpu, op: &Op) -> Result<u16, Trap> {
    let port = if op.src == slot::RDX { cpu.get::<u16>(slot::RDX) } else { op.imm as u16 & 0xff };
    cpu.check_port(port, u32::from(op.aux))?;
    Ok(port)
}

fn port_in(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let port = port_of(cpu, op)?;
    let mut data = [0; 4];
    let width = usize::from(op.aux).min(4);
    cpu.call_out(|bus| bus.port_read(port, &mut data[..width]));
    let value = u32::from_le_bytes(data);
    match width {
        1 => cpu.set::<u8>(slot::RAX, value as u8),
        2 => cpu.set::<u16>(slot::RAX, value as u16),
        _ => cpu.set::<u32>(slot::RAX, value),
    }
    Ok(cpu.next_rip(op))
}

fn port_out(cpu: &mut Cpu, op: &Op) -> Result<u64, Trap> {
    let port = port_of(cpu, op)?;
    let data = cpu.get::<u32>(slot::RAX).to_le_bytes();
    cpu.call_out(|bus| bus.port_write(port, &data[..usize::from(op.aux).min(4)]));
    Ok(cpu.next_rip(op))
}
