//! Whether /dev/kvm can run stock guests: found out by running one of a few instructions.
//!
//! A paravirtual KVM, as some clouds have it, offers /dev/kvm without the processor's help: it emulates privileged code,
//! slowly, and not all of it. Its name and its capabilities do not tell; instructions that every kernel uses do.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use softcpu::{Bus, CpuState, CpuidEntry, Segment};
use vm_memory::{Bytes, GuestAddress};

use super::Kvm;
use crate::engine::{Engine, EngineError};
use crate::memory::Ram;
use crate::processor::CpuModel;

/// What is tried, and the instructions.
const STEPS: [(&str, &[u8]); 5] = [
    // lock cmpxchg16b [rsi]
    ("cmpxchg16b", &[0xf0, 0x48, 0x0f, 0xc7, 0x0e]),
    // movups xmm0, [rsi]; movups [rsi], xmm0
    ("SSE", &[0x0f, 0x10, 0x06, 0x0f, 0x11, 0x06]),
    // fxsave64 [rsi]; fxrstor64 [rsi]
    ("fxsave", &[0x48, 0x0f, 0xae, 0x06, 0x48, 0x0f, 0xae, 0x0e]),
    // mov ecx, 16; rep movsb
    ("rep movsb", &[0xb9, 16, 0, 0, 0, 0xf3, 0xa4]),
    // mov ecx, 4 << 20; l: dec ecx; jnz l
    ("a loop that takes a processor two milliseconds", &[0xb9, 0, 0, 0x40, 0, 0xff, 0xc9, 0x75, 0xfc]),
];
/// Where the guest says what it tries next.
const PORT: u16 = 0xf4;
const DONE: u8 = 0xff;
const MEMORY: u64 = 8 << 20;
const PAGE_TABLES: u64 = 0x1000;
const CODE: u64 = 0x8000;
const DATA: u64 = 0xa000;
/// A processor with VT-x or AMD-V needs a hundredth of it, one that is emulated ten times as long.
const PATIENCE: Duration = Duration::from_millis(500);

/// Hears what the guest says.
struct Ear(AtomicU8);

impl Bus for Ear {
    fn port_read(&self, _: u16, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        if let (PORT, [step]) = (port, data) {
            self.0.store(*step, Ordering::SeqCst);
        }
    }
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, _: u8) {}
}

/// Runs the guest on `kvm`.
///
/// # Errors
/// In one line, what this KVM cannot do.
pub fn can_run_stock_guests(kvm: &Kvm) -> Result<(), EngineError> {
    let ram = Arc::new(Ram::new(MEMORY).map_err(|e| super::unusable(e.to_string()))?);
    let partition = kvm.create(Arc::clone(&ram), 1, kvm.host.tsc_khz)?;
    let ear = Arc::new(Ear(AtomicU8::new(0)));
    let table: Vec<CpuidEntry> = CpuModel::new(kvm.tsc_khz()).cpuid(0, 1);
    let mut processor = partition.create_processor(0, &table, ear.clone())?;
    write_guest(&ram).map_err(|e| super::unusable(e.to_string()))?;
    processor.set_state(&start_state())?;
    partition.start_clock();

    let late = AtomicBool::new(false);
    let kicker = processor.kicker();
    let exit = std::thread::scope(|scope| {
        let (finished, over) = mpsc::channel::<()>();
        let late = &late;
        scope.spawn(move || {
            if over.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
                late.store(true, Ordering::SeqCst);
                kicker.kick();
            }
        });
        let exit = processor.run();
        drop(finished);
        exit
    });
    match (ear.0.load(Ordering::SeqCst), exit, late.load(Ordering::SeqCst)) {
        (DONE, _, _) => Ok(()),
        (step, _, true) => Err(refusal(format!("is too slow: it was at {} after {PATIENCE:?}", name(step)))),
        (step, exit, _) => {
            tracing::debug!(?exit, "the probe guest ended");
            Err(refusal(format!("cannot execute {}, which every kernel uses", name(step))))
        }
    }
}

fn refusal(what: String) -> EngineError {
    let kind = if std::path::Path::new("/sys/module/kvm_pvm").exists() {
        " (a paravirtual one, kvm_pvm)"
    } else {
        ""
    };
    super::unusable(format!("/dev/kvm{kind} {what}"))
}

fn name(step: u8) -> &'static str {
    STEPS.get(usize::from(step).wrapping_sub(1)).map_or("the first instruction", |(name, _)| name)
}

/// Four levels of page tables that map the first 2 MiB, and the code.
fn write_guest(ram: &Ram) -> Result<(), vm_memory::GuestMemoryError> {
    let memory = ram.memory();
    memory.write_obj((PAGE_TABLES + 0x1000) | 3, GuestAddress(PAGE_TABLES))?;
    memory.write_obj((PAGE_TABLES + 0x2000) | 3, GuestAddress(PAGE_TABLES + 0x1000))?;
    memory.write_obj(0x83u64, GuestAddress(PAGE_TABLES + 0x2000))?;
    let mut code = Vec::new();
    let say = |code: &mut Vec<u8>, step: u8| code.extend([0xb0, step, 0xe6, PORT as u8]);
    for (number, (_, bytes)) in (1..).zip(STEPS) {
        say(&mut code, number);
        code.extend(bytes);
    }
    say(&mut code, DONE);
    // Without an interrupt table this is a triple fault: the end.
    code.extend([0x0f, 0x0b]);
    memory.write_slice(&code, GuestAddress(CODE))?;
    memory.write_slice(&[0; 64], GuestAddress(DATA))?;
    Ok(())
}

/// 64-bit mode, privileged, interrupts off.
fn start_state() -> CpuState {
    let data = Segment { selector: 0x18, base: 0, limit: u32::MAX, rights: 0xc093, unusable: false };
    let mut segments = [data; 6];
    segments[1] = Segment { selector: 0x10, rights: 0xa09b, ..data };
    let mut gpr = [0; 16];
    gpr[4] = DATA;
    gpr[6] = DATA;
    gpr[7] = DATA + 32;
    CpuState {
        gpr,
        rip: CODE,
        rflags: 2,
        segments,
        tr: Segment { selector: 0x20, base: 0, limit: 0x67, rights: 0x8b, unusable: false },
        cr0: 0x8000_0033,
        cr3: PAGE_TABLES,
        // PAE, OSFXSR.
        cr4: 0x220,
        efer: 0x500,
        ..CpuState::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_says_yes_or_why_not_in_one_line() {
        match Kvm::open().and_then(|kvm| can_run_stock_guests(&kvm)) {
            Ok(()) => {}
            Err(error) => {
                let line = error.to_string();
                assert!(line.contains("/dev/kvm") && !line.contains('\n'), "{line}");
                eprintln!("skipped: {line}");
            }
        }
    }
}
