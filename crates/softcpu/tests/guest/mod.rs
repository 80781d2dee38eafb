//! A guest of one processor that runs a few instructions and stops at HLT, or in the handler of an exception or interrupt.

#![allow(dead_code, unused_imports, unused_macros, reason = "each test uses what it needs")]

#[path = "../ram/mod.rs"]
mod ram;

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use ram::Ram;
use softcpu::{Activity, Bus, Clock, Cpu, CpuState, CpuidEntry, Exit, Segment, System, TableRegister};

/// Register numbers.
pub mod r {
    pub const AX: usize = 0;
    pub const CX: usize = 1;
    pub const DX: usize = 2;
    pub const BX: usize = 3;
    pub const SP: usize = 4;
    pub const BP: usize = 5;
    pub const SI: usize = 6;
    pub const DI: usize = 7;
}

/// Segment register numbers.
pub mod seg {
    pub const ES: usize = 0;
    pub const CS: usize = 1;
    pub const SS: usize = 2;
    pub const DS: usize = 3;
    pub const FS: usize = 4;
    pub const GS: usize = 5;
}

/// Exception vectors.
pub mod vector {
    pub const DE: u8 = 0;
    pub const DB: u8 = 1;
    pub const NMI: u8 = 2;
    pub const BP: u8 = 3;
    pub const OF: u8 = 4;
    pub const BR: u8 = 5;
    pub const UD: u8 = 6;
    pub const NM: u8 = 7;
    pub const DF: u8 = 8;
    pub const TS: u8 = 10;
    pub const NP: u8 = 11;
    pub const SS: u8 = 12;
    pub const GP: u8 = 13;
    pub const PF: u8 = 14;
    pub const MF: u8 = 16;
    pub const AC: u8 = 17;
    pub const XM: u8 = 19;
}

/// What is in the GDT. Data and stack are flat and writable; code is readable.
pub mod sel {
    /// Code of the guest's own mode.
    pub const CODE: u16 = 0x08;
    pub const DATA: u16 = 0x10;
    pub const USER_CODE: u16 = 0x1b;
    pub const USER_DATA: u16 = 0x23;
    /// The busy TSS: 16 bytes, of 64 bits in long mode, else of 32.
    pub const TSS: u16 = 0x28;
    pub const CODE32: u16 = 0x38;
    /// 16-bit code and data from [`super::CODE`] on, 64 KiB.
    pub const CODE16: u16 = 0x40;
    pub const DATA16: u16 = 0x48;
    pub const CODE64: u16 = 0x50;
    pub const USER_CODE32: u16 = 0x5b;
    /// The first of those that are null until a test puts something there.
    pub const FREE: u16 = 0x80;
}

/// Bytes of guest memory, mapped one to one with 4 KiB pages.
const MEMORY: usize = 2 << 20;
/// Page tables, 4 KiB each: PML4 (or page directory), PDPT, PD, PT.
pub const TABLES: u64 = 0x1000;
pub const GDT: u64 = 0x6000;
pub const TSS: u64 = 0x6800;
pub const IDT: u64 = 0x7000;
/// Real mode's interrupt vector table.
const VECTORS: u64 = 0x9_0000;
/// A HLT for each vector, 16 bytes apart.
pub const HANDLERS: u64 = 0x8000;
/// Where [`Guest::on`] puts code, 256 bytes for each vector.
const OWN_HANDLERS: u64 = 0xa_0000;
/// Where the guest's code begins; in real mode the base of every segment.
pub const CODE: u64 = 0x1_0000;
/// The top of the stack.
pub const STACK: u64 = 0x4_0000;
/// The top of another stack.
pub const OTHER_STACK: u64 = 0x7_0000;
/// Memory to play with.
pub const DATA: u64 = 0x8_0000;

/// 32- or 64-bit interrupt gate of privilege 0, as bits 47:32 of its descriptor.
pub const INTERRUPT_GATE: u16 = 0x8e00;

/// The bytes of assembled instructions, one literal a line; `bits` is 16, 32 or 64.
macro_rules! code {
    ($bits:literal, $($line:literal),* $(,)?) => {{
        let (start, end): (*const u8, *const u8);
        // SAFETY: the assembled bytes are jumped over.
        unsafe {
            std::arch::asm!(
                "lea {start}, [rip + 881f]",
                "lea {end}, [rip + 882f]",
                "jmp 882f",
                "881:",
                concat!(".code", $bits),
                $($line,)*
                "hlt",
                ".code64",
                "882:",
                start = out(reg) start,
                end = out(reg) end,
            );
            std::slice::from_raw_parts(start, end.offset_from(start) as usize)
        }
    }};
}
pub(crate) use code;

/// A bus whose port 0x10 counts up with each byte read, and which remembers what is written to any port.
#[derive(Default)]
struct Ports {
    written: Mutex<Vec<u8>>,
    next: AtomicU8,
}

impl Bus for Ports {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        for byte in data {
            *byte = self.next.fetch_add(1, Ordering::Relaxed);
        }
    }
    fn port_write(&self, _: u16, data: &[u8]) {
        self.written.lock().unwrap().extend_from_slice(data);
    }
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, _: u8) {}
}

/// An exception or interrupt that the guest took, as its handler finds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub vector: u8,
    /// Offset of the saved RIP from [`CODE`].
    pub at: u64,
    pub error: u64,
    pub cs: u16,
    pub rflags: u64,
    pub rsp: u64,
    /// Saved where the stack was switched, and always in long mode.
    pub ss: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Real,
    Protected,
    Compatibility,
    Long,
}

pub struct Guest {
    ram: Arc<Ram>,
    ports: Arc<Ports>,
    pub system: Arc<System>,
    pub cpu: Cpu,
    /// The state it starts with, and after a run the one it stopped in.
    pub state: CpuState,
    mode: Mode,
}

pub fn segment(selector: u16, base: u64, limit: u32, rights: u16) -> Segment {
    Segment { selector, base, limit, rights, unusable: false }
}

/// A line of the CPUID table without sub-leaves.
pub fn leaf(leaf: u32, [eax, ebx, ecx, edx]: [u32; 4]) -> CpuidEntry {
    CpuidEntry { leaf, subleaf: 0, indexed: false, eax, ebx, ecx, edx }
}

/// What the guest's processor says it is: one of Intel's with all that the software processor can do.
fn cpuid() -> Vec<CpuidEntry> {
    vec![
        leaf(0, [7, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        leaf(1, [0x6f1, 0, 0x01a0_2001, 0x078b_fbff]),
        leaf(7, [0, 1 << 13, 0, 0]),
        leaf(0x8000_0001, [0x6f1, 0, 1, 0x2810_0800]),
        leaf(0x8000_0008, [0x3024, 0, 0, 0]),
    ]
}

impl Guest {
    /// In 64-bit mode at privilege level 0.
    pub fn long(code: &[u8]) -> Self {
        Self::new(code, Mode::Long, cpuid())
    }

    /// In 32-bit code of long mode, at privilege level 0.
    pub fn compatibility(code: &[u8]) -> Self {
        Self::new(code, Mode::Compatibility, cpuid())
    }

    /// In 32-bit protected mode with 32-bit paging, at privilege level 0.
    pub fn protected(code: &[u8]) -> Self {
        Self::new(code, Mode::Protected, cpuid())
    }

    /// In real mode; CS:0 and SS:0xf000 are the code and the top of the stack.
    pub fn real(code: &[u8]) -> Self {
        Self::new(code, Mode::Real, cpuid())
    }

    /// In 64-bit mode at privilege level 0 on a processor that is changed by `change`.
    pub fn long_on(code: &[u8], change: impl FnOnce(&mut Vec<CpuidEntry>)) -> Self {
        let mut table = cpuid();
        change(&mut table);
        Self::new(code, Mode::Long, table)
    }

    fn new(code: &[u8], mode: Mode, cpuid: Vec<CpuidEntry>) -> Self {
        let ram = Arc::new(Ram::new(MEMORY));
        let ports = Arc::<Ports>::default();
        let system = System::new(Arc::clone(&ram) as _, Arc::new(Clock::new(1_000_000)), &[0, 1]);
        let cpu = Cpu::new(Arc::clone(&system), 0, cpuid.into(), Arc::clone(&ports) as _);
        let state = CpuState::default();
        let mut guest = Self { ram, ports, system, cpu, state, mode };
        guest.write(CODE, code);
        guest.write_page_tables();
        guest.write_descriptors();
        guest.write_handlers();
        guest.start();
        guest
    }

    /// The second processor, which waits for an INIT.
    pub fn second(&self) -> Cpu {
        Cpu::new(Arc::clone(&self.system), 1, cpuid().into(), Arc::clone(&self.ports) as _)
    }

    fn write_page_tables(&mut self) {
        if self.mode == Mode::Protected {
            self.write32(TABLES, TABLES as u32 + 0x3000 + 7);
        } else {
            for level in 0..3 {
                self.write64(TABLES + level * 0x1000, TABLES + (level + 1) * 0x1000 + 7);
            }
        }
        for page in (0..MEMORY as u64).step_by(4096) {
            self.map(page, page | 7);
        }
    }

    fn write_descriptors(&mut self) {
        let code: u64 = if self.long_mode() { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
        for (selector, descriptor) in [
            (sel::CODE, code),
            (sel::DATA, 0x00cf_9300_0000_ffff),
            (sel::USER_CODE, code | 3 << 45),
            (sel::USER_DATA, 0x00cf_f300_0000_ffff),
            (sel::TSS, 0x0000_8b00_0000_0067 | TSS << 16),
            (sel::CODE32, 0x00cf_9b00_0000_ffff),
            (sel::CODE16, 0x0000_9b00_0000_ffff | CODE << 16),
            (sel::DATA16, 0x0000_9300_0000_ffff | CODE << 16),
            (sel::CODE64, 0x00af_9b00_0000_ffff),
            (sel::USER_CODE32, 0x00cf_fb00_0000_ffff),
        ] {
            self.descriptor(selector, descriptor);
        }
        if self.long_mode() {
            self.write64(TSS + 4, STACK);
        } else {
            self.write64(TSS + 4, STACK | u64::from(sel::DATA) << 32);
            self.write32(TSS + 0x1c, TABLES as u32);
        }
        // There is no map of ports.
        self.write(TSS + 0x66, &[0xff; 2]);
    }

    fn write_handlers(&mut self) {
        for vector in 0..=255u8 {
            let handler = HANDLERS + u64::from(vector) * 16;
            self.write(handler, &[0xf4]);
            self.go_to(vector, handler);
        }
    }

    /// Makes `vector`'s handler begin at `at`.
    fn go_to(&mut self, vector: u8, at: u64) {
        if self.mode == Mode::Real {
            self.write32(VECTORS + u64::from(vector) * 4, at as u32 & 0xf | (at as u32 & !0xf) << 12);
        } else {
            self.gate(vector, sel::CODE, at, INTERRUPT_GATE);
        }
    }

    /// Puts a gate into the IDT; `kind` is bits 47:32 of its descriptor: P, DPL, type, IST or parameters.
    pub fn gate(&mut self, vector: u8, selector: u16, offset: u64, kind: u16) {
        let low = gate(selector, offset, kind);
        if self.long_mode() {
            self.write64(IDT + u64::from(vector) * 16, low);
            self.write64(IDT + u64::from(vector) * 16 + 8, offset >> 32);
        } else {
            self.write64(IDT + u64::from(vector) * 8, low);
        }
    }

    /// Makes `code` the handler of `vector`.
    pub fn on(&mut self, vector: u8, code: &[u8]) {
        let at = OWN_HANDLERS + u64::from(vector) * 256;
        self.write(at, code);
        self.go_to(vector, at);
    }

    /// Puts a descriptor into the GDT.
    pub fn descriptor(&mut self, selector: u16, descriptor: u64) {
        self.write64(GDT + u64::from(selector & !7), descriptor);
    }

    /// Whether LMA is set.
    fn long_mode(&self) -> bool {
        matches!(self.mode, Mode::Compatibility | Mode::Long)
    }

    fn start(&mut self) {
        let (mode, long) = (self.mode, self.long_mode());
        let s = &mut self.state;
        s.rflags = 2;
        s.gdtr = TableRegister { base: GDT, limit: 0x7ff };
        s.tr = segment(sel::TSS, TSS, 0x67, 0x8b);
        s.activity = Activity::Running;
        s.cr3 = TABLES;
        (s.rip, s.gpr[4]) = (CODE, STACK);
        if mode == Mode::Real {
            s.segments = [segment((CODE >> 4) as u16, CODE, 0xffff, 0x93); 6];
            s.segments[1].rights = 0x9b;
            (s.rip, s.gpr[4], s.cr0) = (0, 0xf000, 0x10);
            s.idtr = TableRegister { base: VECTORS, limit: 0x3ff };
            return;
        }
        s.segments = [segment(sel::DATA, 0, u32::MAX, 0xc093); 6];
        s.segments[1] = match mode {
            Mode::Long => segment(sel::CODE, 0, u32::MAX, 0xa09b),
            Mode::Compatibility => segment(sel::CODE32, 0, u32::MAX, 0xc09b),
            _ => segment(sel::CODE, 0, u32::MAX, 0xc09b),
        };
        s.idtr = TableRegister { base: IDT, limit: 0xfff };
        s.cr0 = 0x8001_0031;
        (s.cr4, s.efer) = if long { (0x620, 0xd01) } else { (0x600, 0) };
    }

    /// Goes on at privilege level 3.
    pub fn user(mut self) -> Self {
        self.state.segments = [segment(sel::USER_DATA, 0, u32::MAX, 0xc0f3); 6];
        self.state.segments[1] = match self.mode {
            Mode::Long => segment(sel::USER_CODE, 0, u32::MAX, 0xa0fb),
            Mode::Compatibility => segment(sel::USER_CODE32, 0, u32::MAX, 0xc0fb),
            _ => segment(sel::USER_CODE, 0, u32::MAX, 0xc0fb),
        };
        self
    }

    /// Sets a register by number.
    pub fn with(mut self, register: usize, value: u64) -> Self {
        self.state.gpr[register] = value;
        self
    }

    /// Sets bits of RFLAGS.
    pub fn flags(mut self, bits: u64) -> Self {
        self.state.rflags |= bits;
        self
    }

    /// Writes guest memory.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        self.ram.write(at as usize, bytes);
    }

    /// Writes a 32-bit number.
    pub fn write32(&mut self, at: u64, value: u32) {
        self.write(at, &value.to_le_bytes());
    }

    /// Writes a 64-bit number.
    pub fn write64(&mut self, at: u64, value: u64) {
        self.write(at, &value.to_le_bytes());
    }

    /// Writes 64-bit numbers one behind the other.
    pub fn write_words<const N: usize>(&mut self, at: u64, words: [u64; N]) {
        self.write(at, words.map(u64::to_le_bytes).as_flattened());
    }

    /// Reads guest memory.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        self.ram.read(at as usize, len).to_vec()
    }

    /// A 16-bit number in guest memory.
    pub fn read16(&self, at: u64) -> u16 {
        self.read64(at) as u16
    }

    /// A 32-bit number in guest memory.
    pub fn read32(&self, at: u64) -> u32 {
        self.read64(at) as u32
    }

    /// A 64-bit number in guest memory.
    pub fn read64(&self, at: u64) -> u64 {
        self.ram.word(at as usize)
    }

    /// Where the last level's entry for `at` lies in the page tables the guest begins with.
    pub fn entry(&self, at: u64) -> u64 {
        TABLES + 0x3000 + at / 4096 * if self.mode == Mode::Protected { 4 } else { 8 }
    }

    /// Sets the last level's entry for a page.
    pub fn map(&mut self, at: u64, entry: u64) {
        let place = self.entry(at);
        if self.mode == Mode::Protected {
            self.write32(place, entry as u32)
        } else {
            self.write64(place, entry)
        }
    }

    /// Takes away a page.
    pub fn unmap(&mut self, at: u64) {
        self.map(at, 0);
    }

    /// What was written to ports.
    pub fn ports(&self) -> Vec<u8> {
        self.ports.written.lock().unwrap().clone()
    }

    /// A register by number.
    pub fn reg(&self, number: usize) -> u64 {
        self.state.gpr[number]
    }

    /// Runs until HLT, which must not be an exception's.
    pub fn run(&mut self) {
        let taken = self.run_to_end();
        assert_eq!(taken, None, "an exception, cr2 {:#x}", self.state.cr2);
    }

    /// Runs until an exception or interrupt is taken.
    pub fn fault(&mut self) -> Taken {
        self.run_to_end().expect("an exception")
    }

    /// Runs until the processor shuts down.
    pub fn shut_down(&mut self) {
        self.begin();
        assert_eq!(self.go(), Some(Exit::Shutdown), "at {:#x}", self.state.rip);
    }

    fn run_to_end(&mut self) -> Option<Taken> {
        self.begin();
        self.go_to_halt()
    }

    /// Puts `state` into the processor.
    pub fn begin(&mut self) {
        let apic = self.cpu.state().apic;
        self.cpu.set_state(&CpuState { apic, ..self.state.clone() });
    }

    /// Goes on from where the processor is until it halts; says what it took if it did so in a handler.
    pub fn go_to_halt(&mut self) -> Option<Taken> {
        let exit = self.go();
        assert!(matches!(exit, Some(Exit::Halted { .. })), "{exit:?} at {:#x}", self.state.rip);
        self.taken()
    }

    /// Goes on from where the processor is.
    pub fn go(&mut self) -> Option<Exit> {
        let exit = self.cpu.run_for(1_000_000);
        self.state = self.cpu.state();
        exit
    }

    fn taken(&self) -> Option<Taken> {
        let linear = self.state.segments[seg::CS].base + self.state.rip;
        let offset = linear.checked_sub(HANDLERS + 1)?;
        let vector = u8::try_from(offset / 16).ok().filter(|_| offset % 16 == 0)?;
        Some(self.frame(vector))
    }

    /// What the handler of `vector` finds on its stack.
    pub fn frame(&self, vector: u8) -> Taken {
        let real = self.state.cr0 & 1 == 0;
        let coded = !real && matches!(vector, 8 | 10..=14 | 17);
        let width = match (real, self.state.efer & 1 << 10) {
            (true, _) => 2,
            (_, 0) => 4,
            _ => 8,
        };
        let sp = self.state.segments[seg::SS].base + self.state.gpr[r::SP];
        let word = |n: u64| {
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&self.read(sp + n * width as u64, width));
            u64::from_le_bytes(bytes)
        };
        let first = u64::from(coded);
        let (rip, cs) = (word(first), word(first + 1) as u16);
        let switched = width == 8 || width == 4 && cs & 3 != self.state.segments[seg::CS].selector & 3;
        let (rsp, ss) = if switched {
            (word(first + 3), word(first + 4) as u16)
        } else {
            (self.state.gpr[r::SP] + (first + 3) * width as u64, 0)
        };
        Taken {
            vector,
            at: if real { rip } else { rip.wrapping_sub(CODE) },
            error: if coded { word(0) } else { 0 },
            cs,
            rflags: word(first + 2),
            rsp,
            ss,
        }
    }
}

/// The low eight bytes of a gate; `kind` is bits 47:32.
pub fn gate(selector: u16, offset: u64, kind: u16) -> u64 {
    offset & 0xffff | u64::from(selector) << 16 | u64::from(kind) << 32 | (offset >> 16 & 0xffff) << 48
}
