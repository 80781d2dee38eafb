//! The state that handler and host execute on, and the host's way to do it.

use std::arch::asm;
use std::ptr::NonNull;

use iced_x86::{Code, Instruction};

use super::{OPERAND, OPERAND_LEN};
use crate::cpu::Cpu;
use crate::state::X87;

/// What both execute on.
#[repr(C, align(64))]
#[derive(Clone)]
pub(super) struct State {
    pub(super) fx: [u8; 512],
    pub(super) rax: u64,
    pub(super) rcx: u64,
    pub(super) rdx: u64,
    pub(super) rflags: u64,
    pub(super) memory: [u8; OPERAND_LEN],
}

impl State {
    pub(super) fn word(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.fx[at], self.fx[at + 1]])
    }

    pub(super) fn put(&self, cpu: &mut Cpu, operand: &mut [u8; OPERAND_LEN]) {
        let (control, status) = (self.word(0), self.word(2));
        let first = usize::from(status >> 11 & 7);
        cpu.x87 = X87 { control, status, tags: self.fx[4], ..X87::default() };
        for i in 0..8 {
            cpu.x87.regs[(first + i) & 7].copy_from_slice(&self.fx[32 + 16 * i..][..10]);
        }
        for i in 0..16 {
            cpu.xmm[i] = u128::from_le_bytes(self.fx[160 + 16 * i..][..16].try_into().unwrap());
        }
        cpu.mxcsr = u32::from_le_bytes(self.fx[24..28].try_into().unwrap());
        cpu.slots = [0; 18];
        (cpu.slots[0], cpu.slots[1], cpu.slots[2]) = (self.rax, self.rcx, self.rdx);
        (cpu.slots[6], cpu.slots[7]) = (OPERAND, OPERAND);
        cpu.set_rflags(self.rflags);
        cpu.fp_mode_changed();
        *operand = self.memory;
    }

    pub(super) fn of_cpu(cpu: &Cpu, operand: &[u8; OPERAND_LEN], like: &Self) -> Self {
        let mut state = like.clone();
        state.fx[0..2].copy_from_slice(&cpu.x87.control.to_le_bytes());
        state.fx[2..4].copy_from_slice(&cpu.x87.status.to_le_bytes());
        state.fx[4] = cpu.x87.tags;
        state.fx[24..28].copy_from_slice(&cpu.mxcsr.to_le_bytes());
        let first = usize::from(cpu.x87.status >> 11 & 7);
        for i in 0..8 {
            state.fx[32 + 16 * i..][..10].copy_from_slice(&cpu.x87.regs[(first + i) & 7]);
        }
        for i in 0..16 {
            state.fx[160 + 16 * i..][..16].copy_from_slice(&cpu.xmm[i].to_le_bytes());
        }
        (state.rax, state.rcx, state.rdx) = (cpu.slots[0], cpu.slots[1], cpu.slots[2]);
        state.rflags = cpu.rflags();
        state.memory = *operand;
        state
    }

    /// What differs, for a person; addresses of instruction and operand are nobody's business here.
    pub(super) fn differences(&self, other: &Self, insn: &Instruction) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |what: &str, a: &[u8], b: &[u8]| {
            if a != b {
                found.push(format!("{what}: handler {a:02x?}, host {b:02x?}"));
            }
        };
        compare("fcw", &self.fx[0..2], &other.fx[0..2]);
        compare("fsw", &self.fx[2..4], &other.fx[2..4]);
        compare("tags", &self.fx[4..5], &other.fx[4..5]);
        compare("mxcsr", &self.fx[24..28], &other.fx[24..28]);
        for i in 0..8 {
            compare(&format!("st{i}"), &self.fx[32 + 16 * i..][..10], &other.fx[32 + 16 * i..][..10]);
        }
        for i in 0..16 {
            compare(&format!("xmm{i}"), &self.fx[160 + 16 * i..][..16], &other.fx[160 + 16 * i..][..16]);
        }
        compare("rax", &self.rax.to_le_bytes(), &other.rax.to_le_bytes());
        compare("rcx", &self.rcx.to_le_bytes(), &other.rcx.to_le_bytes());
        compare("rdx", &self.rdx.to_le_bytes(), &other.rdx.to_le_bytes());
        compare("rflags", &(self.rflags & 0x8d5).to_le_bytes(), &(other.rflags & 0x8d5).to_le_bytes());
        let pointers = match insn.code() {
            Code::Fnstenv_m14byte | Code::Fnsave_m94byte => 6..14,
            Code::Fnstenv_m28byte | Code::Fnsave_m108byte => 12..28,
            // And MXCSR_MASK, where the host may have more than the guest.
            Code::Fxsave_m512byte | Code::Fxsave64_m512byte => 6..32,
            _ => 0..0,
        };
        let without = |m: &[u8; OPERAND_LEN]| {
            let mut m = *m;
            m[pointers.clone()].fill(0);
            m
        };
        let (ours, theirs) = (without(&self.memory), without(&other.memory));
        for at in (0..OPERAND_LEN).step_by(8) {
            compare(&format!("memory at {at}"), &ours[at..at + 8], &theirs[at..at + 8]);
        }
        found
    }
}

/// A page the host executes.
pub(super) struct HostCode(NonNull<u8>);

impl HostCode {
    pub(super) fn new() -> Self {
        // SAFETY: a fresh private mapping.
        let page = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                4096,
                libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(page, libc::MAP_FAILED);
        Self(NonNull::new(page.cast()).unwrap())
    }

    /// Executes `bytes`, one instruction that accesses at most the operand at RSI or RDI, on `state`.
    pub(super) fn run(&self, bytes: &[u8], state: &mut State) {
        let usual = 0x1f80u32;
        // SAFETY: the page is ours; the instruction touches no memory but the operand and no register but RAX, RCX, RDX
        // and the floating-point state, which are saved; its exceptions are masked or, for x87, not waited for.
        unsafe {
            self.0.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
            self.0.as_ptr().add(bytes.len()).write(0xc3);
            asm!(
                "fxrstor64 [r12]",
                "push qword ptr [r12 + 536]",
                "popfq",
                "mov rax, [r12 + 512]",
                "mov rcx, [r12 + 520]",
                "mov rdx, [r12 + 528]",
                "call r13",
                "mov [r12 + 512], rax",
                "mov [r12 + 520], rcx",
                "mov [r12 + 528], rdx",
                "pushfq",
                "pop qword ptr [r12 + 536]",
                "fxsave64 [r12]",
                "fninit",
                "ldmxcsr [r14]",
                in("r12") &raw mut *state,
                in("r13") self.0.as_ptr(),
                in("r14") &raw const usual,
                in("rsi") &raw mut state.memory,
                in("rdi") &raw mut state.memory,
                out("rax") _, out("rcx") _, out("rdx") _,
                clobber_abi("C"),
            );
        }
    }
}
