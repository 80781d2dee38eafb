//! A machine of one processor that runs whatever bytes it is given, in any mode. Shared with the fuzz target.

use std::sync::{Arc, OnceLock};

use softcpu::{Activity, Bus, Clock, Cpu, CpuState, CpuidEntry, Exit, Segment, System, TableRegister};

use crate::ram::Ram;

const MEMORY: usize = 1 << 20;
/// Guest-physical addresses; everything else is filled with the input.
const LONG_TABLES: usize = 0x1000;
const PAE_TABLES: usize = 0x4000;
const LEGACY_TABLES: usize = 0x6000;
const GDT: usize = 0x7000;
const TSS: usize = 0x7800;
const IDT: usize = 0x8000;
const CODE: usize = 0x1_0000;
const STACK: u64 = 0x9_0000;

/// The modes a case may start in.
const MODES: u8 = 12;

struct Noise;

impl Bus for Noise {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        data.fill(port as u8);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, gpa: u64, data: &mut [u8]) {
        assert!(!data.is_empty() && data.len() <= 8, "an access of {} bytes", data.len());
        data.fill(gpa as u8);
    }
    fn mmio_write(&self, _: u64, data: &[u8]) {
        assert!(!data.is_empty() && data.len() <= 8, "an access of {} bytes", data.len());
    }
    fn end_of_interrupt(&self, _: u8) {}
}

/// Runs `input` for about `instructions` instructions: the first byte chooses the mode, the next 16 the registers, the
/// rest is what lies in memory.
pub fn run(input: &[u8], instructions: u64) -> Option<Exit> {
    let (&mode, rest) = input.split_first()?;
    let (registers, fill) = rest.split_at_checked(16)?;
    let memory = Arc::new(Ram::with_rom(MEMORY));
    if !fill.is_empty() {
        for at in (CODE..MEMORY).step_by(fill.len()) {
            memory.write(at, &fill[..fill.len().min(MEMORY - at)]);
        }
    }
    write_tables(&memory);
    let system = System::new(memory, Arc::new(Clock::new(1_000_000)), &[0]);
    static CPUID: OnceLock<Arc<[CpuidEntry]>> = OnceLock::new();
    let cpuid = Arc::clone(CPUID.get_or_init(|| Arc::from([])));
    let mut cpu = Cpu::new(system, 0, cpuid, Arc::new(Noise));
    let state = start(cpu.state(), mode, registers);
    cpu.set_state(&state);
    // What a debugger or a move to another machine would see must be there at any point.
    let exit = cpu.run_for(instructions);
    let state = cpu.state();
    cpu.set_state(&state);
    exit
}

fn write_tables(memory: &Ram) {
    let entry = |at: usize, value: u64| memory.write(at, &value.to_le_bytes());
    const ALL: u64 = 7;
    const LARGE: u64 = 0x80;
    entry(LONG_TABLES, 0x2000 | ALL);
    entry(LONG_TABLES + 511 * 8, 0x2000 | ALL);
    entry(0x2000, 0x3000 | ALL);
    entry(0x3000, ALL | LARGE);
    entry(0x3000 + 8, ALL | LARGE | 1 << 63);
    entry(PAE_TABLES, 0x5000 | 1);
    entry(0x5000, ALL | LARGE);
    memory.write(LEGACY_TABLES, &(0x83u32 | 4).to_le_bytes());
    for (n, descriptor) in [
        0u64,
        0x00af_9b00_0000_ffff,                      // 0x08: 64-bit code
        0x00cf_9300_0000_ffff,                      // 0x10: data
        0x00cf_9b00_0000_ffff,                      // 0x18: 32-bit code
        0x000f_9b00_0000_ffff,                      // 0x20: 16-bit code
        0x000f_9300_0000_ffff,                      // 0x28: 16-bit data
        0x00af_fb00_0000_ffff,                      // 0x30: 64-bit code, user
        0x00cf_f300_0000_ffff,                      // 0x38: data, user
        0x00cf_fb00_0000_ffff,                      // 0x40: 32-bit code, user
        0x0000_8b00_0000_0067 | (TSS as u64) << 16, // 0x48: TSS
        0,
        0x0000_ec00_0008_0000 | 0x1_0000, // 0x58: a call gate
        0,
        0x0000_8200_0000_ffff, // 0x68: an LDT
        0,
    ]
    .into_iter()
    .enumerate()
    {
        entry(GDT + n * 8, descriptor);
    }
    for vector in 0..64usize {
        let handler = CODE as u64 + vector as u64 * 16;
        entry(IDT + vector * 16, handler & 0xffff | 8 << 16 | 0xee00 << 32 | (handler >> 16) << 48);
    }
    entry(TSS + 4, STACK);
}

fn segment(selector: u16, base: u64, limit: u32, rights: u16) -> Segment {
    Segment { selector, base, limit, rights, unusable: false }
}

/// The state that a case begins with.
fn start(mut state: CpuState, mode: u8, registers: &[u8]) -> CpuState {
    let mode = mode % MODES;
    for (i, value) in state.gpr.iter_mut().enumerate() {
        let byte = u64::from(registers[i]);
        // Small numbers, addresses in memory, and all kinds of large ones.
        *value = match byte & 3 {
            0 => byte >> 2,
            1 => CODE as u64 + (byte << 8),
            2 => (byte as i8 as i64 as u64) << (byte >> 3),
            _ => byte.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
    }
    state.gpr[4] = STACK - 64;
    state.rip = CODE as u64;
    state.rflags = 2 | u64::from(registers[0]) << 2 & 0x4d5 | u64::from(registers[1] & 3) << 8;
    state.gdtr = TableRegister { base: GDT as u64, limit: 0x7f };
    state.idtr = TableRegister { base: IDT as u64, limit: 0x3ff };
    state.tr = segment(0x48, TSS as u64, 0x67, 0x8b);
    state.activity = Activity::Running;
    let user = matches!(mode, 8 | 9 | 11);
    let (protected, paging, physical_extension, long, bits) = match mode {
        0 => (false, false, false, false, 16),
        1 => (true, false, false, false, 16),
        2 => (true, false, false, false, 32),
        3 => (true, true, false, false, 32),
        4 | 11 => (true, true, true, false, 32),
        5 | 6 => (true, true, true, true, 64),
        7 | 9 => (true, true, true, true, 32),
        8 => (true, true, true, true, 64),
        _ => (true, true, true, false, 16),
    };
    let dpl = if user { 3 } else { 0 };
    let level = dpl << 5;
    state.cr0 = 0x10 | if protected { 0x21 } else { 0 } | if paging { 0x8001_0000 } else { 0 };
    state.cr4 = 0x600 | if physical_extension { 0x20 } else { 0x10 };
    state.efer = if long { 0xd01 } else { 0 };
    state.cr3 = match (long, physical_extension) {
        (true, _) => LONG_TABLES,
        (_, true) => PAE_TABLES,
        _ => LEGACY_TABLES,
    } as u64;
    let limit = if bits == 16 { 0xffff } else { 0xffff_ffff };
    let code_rights = match bits {
        16 => 0x9b,
        32 => 0xc09b,
        _ => 0xa09b,
    } | level;
    let data_rights = if bits == 16 { 0x93 } else { 0xc093 } | level;
    let base = if bits == 16 { CODE as u64 } else { 0 };
    let selector = |s: u16| if protected { s | dpl } else { (base >> 4) as u16 };
    state.segments = [segment(selector(0x10), base, limit, data_rights); 6];
    state.segments[1] = segment(selector(0x18), base, limit, code_rights);
    if bits == 16 {
        state.rip = 0;
        state.gpr[4] = 0xf000;
        if !protected {
            state.idtr = TableRegister { base: CODE as u64, limit: 0x3ff };
        }
    }
    if mode == 10 {
        // Virtual 8086 mode.
        state.rflags |= 1 << 17;
        let real = |s: u16| segment(s, u64::from(s) << 4, 0xffff, 0xf3);
        state.segments = [real(0x1000); 6];
    }
    state
}
