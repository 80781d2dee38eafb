//! A guest of one processor that runs a few instructions and stops at HLT, or in the handler of an exception.

use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex};

use softcpu::{
    Activity, Bus, Clock, Cpu, CpuState, Exit, Frame, GuestMemory, PAGE_SIZE, Segment, System, TableRegister,
};

/// Bytes of guest memory, mapped one to one with 4 KiB pages.
const MEMORY: usize = 2 << 20;
/// Page tables, 4 KiB each: PML4 (or page directory), PDPT, PD, PT.
const TABLES: usize = 0x1000;
const GDT: usize = 0x6000;
const TSS: usize = 0x6800;
const IDT: usize = 0x7000;
/// A HLT for each vector, 16 bytes apart.
const HANDLERS: u64 = 0x8000;
/// Where the guest's code begins; in real mode the base of every segment.
pub const CODE: u64 = 0x1_0000;
/// The top of the stack.
pub const STACK: u64 = 0x4_0000;
/// Memory to play with.
pub const DATA: u64 = 0x8_0000;

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

struct Memory {
    bytes: NonNull<u8>,
    flags: Vec<AtomicU8>,
}

// SAFETY: plain memory, reached by pointer only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

// SAFETY: the bytes and flags live as long as `self`.
unsafe impl GuestMemory for Memory {
    fn frame(&self, gpa: u64) -> Option<Frame> {
        let page = usize::try_from(gpa / PAGE_SIZE).ok()?;
        let flags = self.flags.get(page)?;
        // SAFETY: the page lies in the allocation.
        let host = unsafe { self.bytes.add(page * PAGE_SIZE as usize) };
        Some(Frame { host, flags: NonNull::from(flags), writable: true })
    }
}

const LAYOUT: std::alloc::Layout = match std::alloc::Layout::from_size_align(MEMORY, PAGE_SIZE as usize) {
    Ok(layout) => layout,
    Err(_) => panic!("a page is a power of two"),
};

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { std::alloc::dealloc(self.bytes.as_ptr(), LAYOUT) }
    }
}

/// A bus whose port 0x10 counts up with each byte read, and which remembers what is written to any port.
#[derive(Default)]
struct Ports {
    written: Mutex<Vec<u8>>,
    next: AtomicU8,
}

impl Bus for Ports {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        for byte in data {
            *byte = self.next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
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

/// An exception that the guest took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    pub vector: u8,
    /// Offset of the saved RIP from [`CODE`].
    pub at: u64,
    pub error: u64,
    pub rflags: u64,
    pub rsp: u64,
}

pub struct Guest {
    memory: Arc<Memory>,
    ports: Arc<Ports>,
    /// The state it starts with, and after a run the one it stopped in.
    pub state: CpuState,
    real: bool,
}

fn segment(selector: u16, base: u64, limit: u32, rights: u16) -> Segment {
    Segment { selector, base, limit, rights, unusable: false }
}

impl Guest {
    /// In 64-bit mode at privilege level 0.
    pub fn long(code: &[u8]) -> Self {
        Self::new(code, 64)
    }

    /// In 32-bit protected mode with paging, at privilege level 0.
    pub fn protected(code: &[u8]) -> Self {
        Self::new(code, 32)
    }

    /// In real mode; CS:0 and SS:0xf000 are the code and the top of the stack.
    pub fn real(code: &[u8]) -> Self {
        Self::new(code, 16)
    }

    fn new(code: &[u8], bits: u32) -> Self {
        // SAFETY: the size is not 0.
        let bytes = NonNull::new(unsafe { std::alloc::alloc_zeroed(LAYOUT) }).expect("memory");
        let memory =
            Arc::new(Memory { bytes, flags: (0..MEMORY / 4096).map(|_| AtomicU8::new(0)).collect() });
        let mut guest = Self { memory, ports: Arc::default(), state: CpuState::default(), real: bits == 16 };
        guest.write(CODE, code);
        guest.write_tables(bits);
        guest.start(bits);
        guest
    }

    fn write_tables(&mut self, bits: u32) {
        let table = TABLES as u64;
        if bits == 32 {
            self.write(table, &(table as u32 + 0x3000 + 7).to_le_bytes());
            for page in 0..MEMORY / 4096 {
                self.write(table + 0x3000 + page as u64 * 4, &((page as u32) << 12 | 7).to_le_bytes());
            }
        } else {
            for level in 0..3 {
                self.write(table + level * 0x1000, &(table + (level + 1) * 0x1000 + 7).to_le_bytes());
            }
            for page in 0..512u64 {
                self.write(table + 0x3000 + page * 8, &(page << 12 | 7).to_le_bytes());
            }
        }
        let code: u64 = if bits == 64 { 0x00af_9b00_0000_ffff } else { 0x00cf_9b00_0000_ffff };
        let descriptors = [0, code, 0x00cf_9300_0000_ffff, code | 3 << 45, 0x00cf_f300_0000_ffff];
        for (n, descriptor) in descriptors.into_iter().enumerate() {
            self.write((GDT + n * 8) as u64, &u64::to_le_bytes(descriptor));
        }
        for vector in 0..32u64 {
            let handler = HANDLERS + vector * 16;
            self.write(handler, &[0xf4]);
            let gate = handler & 0xffff | 8 << 16 | 0x8e00 << 32;
            match bits {
                16 => self.write(0x9_0000 + vector * 4, &(handler as u32).to_le_bytes()),
                32 => self.write(IDT as u64 + vector * 8, &gate.to_le_bytes()),
                _ => self.write(IDT as u64 + vector * 16, &gate.to_le_bytes()),
            }
        }
        self.write(TSS as u64 + 4, &STACK.to_le_bytes());
    }

    fn start(&mut self, bits: u32) {
        let s = &mut self.state;
        s.rflags = 2;
        s.gdtr = TableRegister { base: GDT as u64, limit: 0x2f };
        s.tr = segment(0x28, TSS as u64, 0x67, 0x8b);
        s.activity = Activity::Running;
        s.cr3 = TABLES as u64;
        (s.rip, s.gpr[4]) = (CODE, STACK);
        match bits {
            16 => {
                let real = |rights| segment((CODE >> 4) as u16, CODE, 0xffff, rights);
                s.segments = [real(0x93); 6];
                s.segments[1] = real(0x9b);
                (s.rip, s.gpr[4], s.cr0) = (0, 0xf000, 0x10);
                s.idtr = TableRegister { base: 0x9_0000, limit: 0x3ff };
            }
            _ => {
                s.segments = [segment(0x10, 0, u32::MAX, 0xc093); 6];
                s.segments[1] = segment(8, 0, u32::MAX, if bits == 64 { 0xa09b } else { 0xc09b });
                s.idtr = TableRegister { base: IDT as u64, limit: 0x1ff };
                s.cr0 = 0x8001_0031;
                (s.cr4, s.efer) = if bits == 64 { (0x620, 0xd01) } else { (0x600, 0) };
            }
        }
    }

    /// Goes on at privilege level 3.
    pub fn user(mut self) -> Self {
        let code = if self.state.efer == 0 { 0xc0fb } else { 0xa0fb };
        self.state.segments = [segment(0x23, 0, u32::MAX, 0xc0f3); 6];
        self.state.segments[1] = segment(0x1b, 0, u32::MAX, code);
        self
    }

    /// Sets a register by number.
    pub fn with(mut self, register: usize, value: u64) -> Self {
        self.state.gpr[register] = value;
        self
    }

    /// Writes guest memory.
    pub fn write(&mut self, at: u64, bytes: &[u8]) {
        assert!(at as usize + bytes.len() <= MEMORY);
        // SAFETY: just checked; the processor does not run.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.memory.bytes.as_ptr().add(at as usize),
                bytes.len(),
            );
        }
    }

    /// Reads guest memory.
    pub fn read(&self, at: u64, len: usize) -> Vec<u8> {
        assert!(at as usize + len <= MEMORY);
        // SAFETY: just checked; the processor does not run.
        unsafe { std::slice::from_raw_parts(self.memory.bytes.as_ptr().add(at as usize), len).to_vec() }
    }

    /// A 64-bit number in guest memory.
    pub fn read64(&self, at: u64) -> u64 {
        u64::from_le_bytes(self.read(at, 8).try_into().unwrap())
    }

    /// Takes away a page.
    pub fn unmap(&mut self, at: u64) {
        let size = if self.state.efer == 0 { 4 } else { 8 };
        self.write(TABLES as u64 + 0x3000 + at / 4096 * size, &vec![0; size as usize]);
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

    /// Runs until an exception is taken.
    pub fn fault(&mut self) -> Taken {
        self.run_to_end().expect("an exception")
    }

    fn run_to_end(&mut self) -> Option<Taken> {
        let memory: Arc<dyn GuestMemory> = Arc::clone(&self.memory) as _;
        let system = System::new(memory, Arc::new(Clock::new(1_000_000)), &[0]);
        let mut cpu = Cpu::new(system, 0, Arc::from([]), Arc::clone(&self.ports) as _);
        let apic = cpu.state().apic;
        cpu.set_state(&CpuState { apic, ..self.state.clone() });
        let exit = cpu.run_for(1_000_000);
        self.state = cpu.state();
        assert!(matches!(exit, Some(Exit::Halted { .. })), "{exit:?} at {:#x}", self.state.rip);
        self.taken()
    }

    fn taken(&self) -> Option<Taken> {
        let offset = self.state.rip.checked_sub(HANDLERS + 1)?;
        let vector = u8::try_from(offset / 16).ok()?;
        let in_handlers = offset % 16 == 0 && vector < 32 && (!self.real || self.state.segments[1].base == 0);
        if !in_handlers {
            return None;
        }
        let coded = !self.real && matches!(vector, 8 | 10..=14 | 17);
        let width = match (self.real, self.state.efer) {
            (true, _) => 2,
            (_, 0) => 4,
            _ => 8,
        };
        let sp = self.state.segments[2].base + self.state.gpr[4];
        let word = |n: u64| {
            let mut bytes = [0; 8];
            bytes[..width].copy_from_slice(&self.read(sp + n * width as u64, width));
            u64::from_le_bytes(bytes)
        };
        let first = u64::from(coded);
        let rip = word(first);
        let rsp = if width == 8 { word(first + 3) } else { self.state.gpr[4] + (first + 3) * width as u64 };
        Some(Taken {
            vector,
            at: if self.real { rip } else { rip.wrapping_sub(CODE) },
            error: if coded { word(0) } else { 0 },
            rflags: word(first + 2),
            rsp,
        })
    }
}
