//! Processors that share memory: what one writes, the others read and execute.

mod ram;

use std::sync::Arc;
use std::time::{Duration, Instant};

use iced_x86::code_asm::*;
use softcpu::{Activity, Bus, Clock, Cpu, CpuState, Exit, Segment, System};

use ram::Ram;

/// Where each processor's program begins, and where its stack ends.
const PROGRAM: usize = 0x1_0000;
const STRIDE: usize = 0x1_0000;
/// A page whose code processors change.
const SHARED_CODE: u32 = 0x8000;
/// Words that processors share.
const FLAG: u32 = 0x9000;
const ACKNOWLEDGED: u32 = 0x9100;
const COUNTER: u32 = 0x9200;
const LOCK: u32 = 0x9300;

struct NoDevices;

impl Bus for NoDevices {
    fn port_read(&self, _: u16, _: &mut [u8]) {}
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: u64, _: &mut [u8]) {}
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, _: u8) {}
}

type Program = fn(&mut CodeAssembler) -> Result<(), IcedError>;

/// Runs each program on a processor of its own, in flat 32-bit mode with EDI = its number, until all have halted. Gives
/// the memory and every processor's EAX.
fn run(programs: &[Program], prepare: impl Fn(&Ram)) -> (Arc<Ram>, Vec<u32>) {
    let ram = Arc::new(Ram::new(1 << 20));
    prepare(&ram);
    for (i, program) in programs.iter().enumerate() {
        let mut assembler = CodeAssembler::new(32).unwrap();
        program(&mut assembler).unwrap();
        let at = PROGRAM + i * STRIDE;
        ram.write(at, &assembler.assemble(at as u64).unwrap());
    }
    let ids: Vec<u32> = (0..programs.len() as u32).collect();
    let system = System::new(ram.clone(), Arc::new(Clock::new(1_000_000)), &ids);
    let results = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..programs.len())
            .map(|i| {
                let system = Arc::clone(&system);
                scope.spawn(move || {
                    let mut cpu = Cpu::new(system, i, Arc::from([]), Arc::new(NoDevices));
                    let state = flat(cpu.state(), i);
                    cpu.set_state(&state);
                    let start = Instant::now();
                    loop {
                        match cpu.run_for(1_000_000) {
                            Some(Exit::Halted { .. }) => return cpu.state().gpr[0] as u32,
                            None => assert!(
                                start.elapsed() < Duration::from_secs(60),
                                "processor {i} never halts"
                            ),
                            exit => panic!("processor {i}: {exit:?} at {:#x}", cpu.state().rip),
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    (ram, results)
}

fn flat(mut state: CpuState, number: usize) -> CpuState {
    let data = Segment { selector: 0x10, base: 0, limit: 0xffff_ffff, rights: 0xc093, unusable: false };
    state.segments = [data; 6];
    state.segments[1] = Segment { selector: 8, rights: 0xc09b, ..data };
    state.cr0 = 0x11;
    state.rip = (PROGRAM + number * STRIDE) as u64;
    state.gpr[4] = state.rip + STRIDE as u64;
    state.gpr[7] = number as u64;
    state.activity = Activity::Running;
    state
}

/// `mov eax, 0; ret`, whose immediate is at `SHARED_CODE + 1`.
fn shared_function(ram: &Ram) {
    ram.write(SHARED_CODE as usize, &[0xb8, 0, 0, 0, 0, 0xc3]);
}

const ROUNDS: i32 = 3000;

#[test]
fn code_changed_by_another_processor_is_executed_after_a_serialising_instruction() {
    let writer: Program = |a| {
        let (mut next, mut wait) = (a.create_label(), a.create_label());
        a.mov(esi, 1)?;
        a.set_label(&mut next)?;
        a.mov(dword_ptr(SHARED_CODE + 1), esi)?;
        a.mov(dword_ptr(FLAG), esi)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(dword_ptr(ACKNOWLEDGED), esi)?;
        a.jne(wait)?;
        a.inc(esi)?;
        a.cmp(esi, ROUNDS)?;
        a.jne(next)?;
        a.hlt()
    };
    let reader: Program = |a| {
        let (mut next, mut wait, mut wrong) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(esi, 1)?;
        a.set_label(&mut next)?;
        a.mov(ebp, SHARED_CODE)?;
        a.call(ebp)?;
        a.set_label(&mut wait)?;
        a.pause()?;
        a.cmp(dword_ptr(FLAG), esi)?;
        a.jne(wait)?;
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.call(ebp)?;
        a.cmp(eax, esi)?;
        a.jne(wrong)?;
        a.mov(dword_ptr(ACKNOWLEDGED), esi)?;
        a.inc(esi)?;
        a.cmp(esi, ROUNDS)?;
        a.jne(next)?;
        a.set_label(&mut wrong)?;
        a.hlt()
    };
    let (_, results) = run(&[writer, reader], shared_function);
    assert_eq!(results[1], ROUNDS as u32 - 1);
}

#[test]
fn code_under_change_is_always_some_version_of_itself_and_never_goes_back() {
    const CHANGES: i32 = 200_000;
    let writer: Program = |a| {
        let mut next = a.create_label();
        a.mov(esi, 1)?;
        a.set_label(&mut next)?;
        // Eight bytes at a time and aligned, with the RET, as patching code under use must.
        a.mov(dword_ptr(SHARED_CODE + 4), esi)?;
        // Data beside the code, in the same page.
        a.mov(dword_ptr(SHARED_CODE + 0x800), esi)?;
        a.inc(esi)?;
        a.cmp(esi, CHANGES)?;
        a.jne(next)?;
        a.mov(dword_ptr(FLAG), 1)?;
        a.hlt()
    };
    let reader: Program = |a| {
        let (mut next, mut wrong) = (a.create_label(), a.create_label());
        a.xor(esi, esi)?;
        a.set_label(&mut next)?;
        a.mov(edx, dword_ptr(FLAG))?;
        a.push(edx)?;
        a.xor(eax, eax)?;
        a.cpuid()?;
        a.pop(edx)?;
        a.mov(ebp, SHARED_CODE + 3)?;
        a.call(ebp)?;
        a.cmp(eax, esi)?;
        a.jb(wrong)?;
        a.mov(esi, eax)?;
        a.test(edx, edx)?;
        a.jz(next)?;
        a.hlt()?;
        a.set_label(&mut wrong)?;
        a.mov(eax, -1)?;
        a.hlt()
    };
    let (ram, results) = run(&[writer, reader, reader], |ram| {
        ram.write(SHARED_CODE as usize + 3, &[0xb8, 0, 0, 0, 0, 0xc3]);
    });
    assert_eq!(results[1..], [CHANGES as u32 - 1; 2]);
    assert_eq!(ram.word(SHARED_CODE as usize + 0x800) as u32, CHANGES as u32 - 1);
}

#[test]
fn a_processor_that_executes_and_others_that_write_one_page_all_go_on() {
    // Each processor changes its own function in the page that all share, and calls it.
    const CHANGES: i32 = 4000;
    let program: Program = |a| {
        let (mut next, mut wrong) = (a.create_label(), a.create_label());
        a.shl(edi, 7)?;
        a.lea(ebp, dword_ptr(edi + SHARED_CODE))?;
        a.mov(byte_ptr(ebp), 0xb8u32)?;
        a.mov(byte_ptr(ebp + 5), 0xc3u32)?;
        a.mov(esi, 1)?;
        a.set_label(&mut next)?;
        a.mov(dword_ptr(ebp + 1), esi)?;
        a.call(ebp)?;
        a.cmp(eax, esi)?;
        a.jne(wrong)?;
        a.inc(esi)?;
        a.cmp(esi, CHANGES)?;
        a.jne(next)?;
        a.set_label(&mut wrong)?;
        a.hlt()
    };
    let (_, results) = run(&[program; 4], |_| {});
    assert_eq!(results, [CHANGES as u32 - 1; 4]);
}

#[test]
fn locked_instructions_are_atomic_between_processors() {
    const TIMES: i32 = 100_000;
    let program: Program = |a| {
        let (mut next, mut taken, mut wait) = (a.create_label(), a.create_label(), a.create_label());
        a.mov(ecx, TIMES)?;
        a.set_label(&mut next)?;
        a.lock().inc(dword_ptr(COUNTER))?;
        a.mov(eax, 1)?;
        a.lock().xadd(dword_ptr(COUNTER + 4), eax)?;
        // A spin lock around an increment that is not atomic.
        a.set_label(&mut wait)?;
        a.mov(eax, 1)?;
        a.xchg(dword_ptr(LOCK), eax)?;
        a.test(eax, eax)?;
        a.jz(taken)?;
        a.pause()?;
        a.jmp(wait)?;
        a.set_label(&mut taken)?;
        a.inc(dword_ptr(COUNTER + 8))?;
        a.mov(dword_ptr(LOCK), 0)?;
        a.dec(ecx)?;
        a.jnz(next)?;
        a.hlt()
    };
    let (ram, _) = run(&[program; 3], |_| {});
    for at in [0, 4, 8] {
        assert_eq!(ram.word(COUNTER as usize + at) as u32, 3 * TIMES as u32, "counter {at}");
    }
}

#[test]
fn stores_are_seen_in_the_order_they_were_made() {
    const ROUNDS: i32 = 200_000;
    let writer: Program = |a| {
        let mut next = a.create_label();
        a.mov(ecx, 1)?;
        a.set_label(&mut next)?;
        a.mov(dword_ptr(COUNTER), ecx)?;
        a.mov(dword_ptr(FLAG), ecx)?;
        a.inc(ecx)?;
        a.cmp(ecx, ROUNDS)?;
        a.jne(next)?;
        a.hlt()
    };
    let reader: Program = |a| {
        let (mut next, mut wrong) = (a.create_label(), a.create_label());
        a.set_label(&mut next)?;
        a.mov(eax, dword_ptr(FLAG))?;
        a.mov(edx, dword_ptr(COUNTER))?;
        a.cmp(edx, eax)?;
        a.jb(wrong)?;
        a.cmp(eax, ROUNDS - 1)?;
        a.jne(next)?;
        a.set_label(&mut wrong)?;
        a.hlt()
    };
    let (_, results) = run(&[writer, reader], |_| {});
    assert_eq!(results[1], ROUNDS as u32 - 1);
}
