//! The software processor, set up to run the cases in 64-bit user mode at the addresses they have on the host.
//!
//! Every exception's handler is a HLT, so a case ends when `run` reports a halted processor: the handler's address says
//! which exception it was, and the frame on the stack the rest. The exit is an INT3.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use softcpu::{Activity, Bus, Clock, Cpu, CpuState, Exit, PageFlags, Segment, System, TableRegister};

use crate::layout::*;
use crate::ram::Ram;

const MEMORY: usize = 1 << 20;
/// Guest-physical addresses of the pieces.
const TABLES: usize = 0x1000;
const KERNEL: usize = 0x4_0000;
const GDT: usize = KERNEL;
const TSS: usize = KERNEL + 0x400;
const STACK: usize = KERNEL + PAGE;
const IDT: usize = KERNEL + 2 * PAGE;
const HANDLERS: usize = KERNEL + 3 * PAGE;
const KERNEL_BYTES: usize = 4 * PAGE;
const ARENA_AT: usize = 0x6_0000;
const CODE_AT: usize = 0x7_0000;
const EXIT_AT: usize = 0x8_0000;

/// Where the supervisor's pages lie for the guest.
const KERNEL_LINEAR: u64 = 0xffff_ff80_0000_0000;
const PRESENT: u64 = 1;
const WRITE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

struct NoDevices;

impl Bus for NoDevices {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, _: u8) {}
}

/// Makes four-level page tables in `memory`.
struct Tables {
    memory: Arc<Ram>,
    next: usize,
}

impl Tables {
    fn map(&mut self, la: u64, gpa: usize, len: usize, rights: u64) {
        for offset in (0..len).step_by(PAGE) {
            let la = la + offset as u64;
            let mut table = TABLES;
            for level in [39, 30, 21] {
                let at = table + (la >> level & 0x1ff) as usize * 8;
                if self.memory.word(at) == 0 {
                    self.memory.write(at, &(self.next as u64 | PRESENT | WRITE | USER).to_le_bytes());
                    self.next += PAGE;
                }
                table = (self.memory.word(at) & 0xf_f000) as usize;
            }
            let at = table + (la >> 12 & 0x1ff) as usize * 8;
            self.memory.write(at, &((gpa + offset) as u64 | rights | PRESENT).to_le_bytes());
        }
        assert!(self.next <= KERNEL);
    }
}

pub struct Soft {
    memory: Arc<Ram>,
    system: Arc<System>,
    cpu: Cpu,
    base: CpuState,
}

impl Soft {
    pub fn new() -> Self {
        let memory = Arc::new(Ram::new(MEMORY));
        let mut tables = Tables { memory: Arc::clone(&memory), next: TABLES + PAGE };
        tables.map(KERNEL_LINEAR, KERNEL, KERNEL_BYTES, WRITE);
        for base in [ARENA, LOW_ARENA] {
            tables.map(base, ARENA_AT, WRITABLE, USER | WRITE | NO_EXECUTE);
            tables.map(base + WRITABLE as u64, ARENA_AT + WRITABLE, READABLE - WRITABLE, USER | NO_EXECUTE);
        }
        tables.map(CODE, CODE_AT, CODE_BYTES, USER);
        tables.map(EXIT, EXIT_AT, PAGE, USER);
        memory.write(EXIT_AT, &[0xcc]);
        write_descriptors(&memory);
        let system = System::new(memory.clone(), Arc::new(Clock::new(1_000_000)), &[0]);
        let mut cpu = Cpu::new(Arc::clone(&system), 0, Arc::from([]), Arc::new(NoDevices));
        let base = user_state(cpu.state());
        cpu.set_state(&base);
        Self { memory, system, cpu, base }
    }

    /// Puts a batch's code and data in place.
    pub fn load(&mut self, batch: &Batch) {
        self.memory.write(CODE_AT, &batch.code);
        for page in (CODE_AT..CODE_AT + CODE_BYTES).step_by(PAGE) {
            if self.memory.flags(page).load(Ordering::SeqCst) & PageFlags::CODE.bits() != 0 {
                self.system.code_written(page as u64, PAGE as u64);
            }
        }
        self.memory.write(ARENA_AT, &batch.arena);
    }

    /// Runs one case and gives what it ended with. `restore` is the arena's first content.
    pub fn run(&mut self, case: &Case) -> State {
        let state = &mut self.base;
        state.gpr = case.input.gpr;
        state.rip = CODE + case.offset as u64;
        state.rflags = case.input.rflags;
        state.cr2 = 0;
        load_fx(state, &case.input.fx);
        self.cpu.set_state(state);
        let exit = self.cpu.run();
        let after = self.cpu.state();
        assert_eq!(exit, Exit::Halted { deadline: None }, "{:x?} at {:#x}", case.code, after.rip);
        let vector = (after.rip - 1 - KERNEL_LINEAR - (HANDLERS - KERNEL) as u64) / 8;
        let coded = matches!(vector, 8 | 10..=14 | 17);
        let frame = STACK + PAGE - 40;
        let mut gpr = after.gpr;
        gpr[4] = self.memory.word(frame + 24);
        let mut out = State {
            gpr,
            rip: self.memory.word(frame),
            rflags: self.memory.word(frame + 16),
            vector,
            error: if coded { self.memory.word(frame - 8) } else { 0 },
            cr2: after.cr2,
            fx: save_fx(&after),
            ..State::EMPTY
        };
        if vector == 3 && out.rip == EXIT + 1 {
            (out.vector, out.rip) = (NO_VECTOR, EXIT);
        }
        out
    }

    /// The writable part of the arena.
    pub fn arena(&self) -> &[u8] {
        self.memory.read(ARENA_AT, WRITABLE)
    }

    /// Puts the arena back as `batch` has it.
    pub fn restore(&mut self, batch: &Batch) {
        self.memory.write(ARENA_AT, &batch.arena[..WRITABLE]);
    }
}

/// GDT, TSS, IDT and handlers: with Linux's selectors, since programs can read them.
fn write_descriptors(memory: &Ram) {
    let linear = |gpa: usize| KERNEL_LINEAR + (gpa - KERNEL) as u64;
    for (selector, descriptor) in [
        (0x10, 0x00af_9b00_0000_ffffu64),
        (0x18, 0x00cf_9300_0000_ffff),
        (0x28, 0x00cf_f300_0000_ffff),
        (0x30, 0x00af_fb00_0000_ffff),
    ] {
        memory.write(GDT + selector, &descriptor.to_le_bytes());
    }
    memory.write(TSS + 4, &linear(STACK + PAGE).to_le_bytes());
    // No I/O permission bitmap.
    memory.write(TSS + 0x66, &0x68u16.to_le_bytes());
    for vector in 0..256usize {
        let handler = linear(HANDLERS) + vector as u64 * 8;
        let dpl = if vector == 3 || vector == 4 { 3 } else { 0 };
        let gate =
            handler & 0xffff | 0x10 << 16 | (0x8e00 | dpl << 13) << 32 | (handler >> 16 & 0xffff) << 48;
        memory.write(IDT + vector * 16, &gate.to_le_bytes());
        memory.write(IDT + vector * 16 + 8, &(handler >> 32).to_le_bytes());
        memory.write(HANDLERS + vector * 8, &[0xf4]);
    }
}

fn user_state(mut state: CpuState) -> CpuState {
    let linear = |gpa: usize| KERNEL_LINEAR + (gpa - KERNEL) as u64;
    let flat = Segment { limit: 0xffff_ffff, ..Segment::default() };
    let null = Segment { unusable: true, ..Segment::default() };
    state.segments = [
        null,
        Segment { selector: 0x33, rights: 0xa0fb, ..flat },
        Segment { selector: 0x2b, rights: 0xc0f3, ..flat },
        null,
        null,
        Segment { base: GS_BASE, ..null },
    ];
    state.tr = Segment { selector: 0x40, base: linear(TSS), limit: 0x67, rights: 0x8b, unusable: false };
    state.gdtr = TableRegister { base: linear(GDT), limit: 0xff };
    state.idtr = TableRegister { base: linear(IDT), limit: 0xfff };
    state.cr0 = 0x8005_0033;
    state.cr3 = TABLES as u64;
    state.cr4 = 0x6a0;
    state.efer = 0xd01;
    state.activity = Activity::Running;
    state
}

/// FXSAVE images hold the x87 registers relative to the top of stack.
fn load_fx(state: &mut CpuState, fx: &[u8; 512]) {
    let word = |at: usize| u16::from_le_bytes([fx[at], fx[at + 1]]);
    state.x87.control = word(0);
    state.x87.status = word(2);
    state.x87.tags = fx[4];
    let top = usize::from(state.x87.status >> 11 & 7);
    for i in 0..8 {
        state.x87.regs[(top + i) & 7].copy_from_slice(&fx[32 + i * 16..42 + i * 16]);
    }
    state.mxcsr = u32::from_le_bytes(fx[24..28].try_into().unwrap());
    for (i, xmm) in state.xmm.iter_mut().enumerate() {
        *xmm = u128::from_le_bytes(fx[160 + i * 16..176 + i * 16].try_into().unwrap());
    }
}

fn save_fx(state: &CpuState) -> [u8; 512] {
    let mut fx = [0; 512];
    fx[..2].copy_from_slice(&state.x87.control.to_le_bytes());
    fx[2..4].copy_from_slice(&state.x87.status.to_le_bytes());
    fx[4] = state.x87.tags;
    let top = usize::from(state.x87.status >> 11 & 7);
    for i in 0..8 {
        fx[32 + i * 16..42 + i * 16].copy_from_slice(&state.x87.regs[(top + i) & 7]);
    }
    fx[24..28].copy_from_slice(&state.mxcsr.to_le_bytes());
    for (i, xmm) in state.xmm.iter().enumerate() {
        fx[160 + i * 16..176 + i * 16].copy_from_slice(&xmm.to_le_bytes());
    }
    fx
}
