//! What every engine owes the machine, shown with a processor, some memory and a few instructions: no devices, no kernel.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::time::Duration;

use softcpu::{Bus, CpuState, Segment};
use vm_memory::{Bytes, GuestAddress};
use vmm::engine::{Engine, Exit, Kicker, Partition, Processor};
use vmm::interrupt::MsiMessage;
use vmm::memory::Ram;
use vmm::processor::CpuModel;

use crate::exerciser::{engines, kvm};

/// How long a guest may take to stop itself.
const SOON: Duration = Duration::from_secs(10);
const CODE: u64 = 0x1000;
const TABLE: u64 = 0x3000;
const HANDLER: u64 = 0x4000;
const STACK: u64 = 0x8000;
const TEXT: u64 = 0x9000;
/// Where the guest stops itself: a write to this port is a kick.
const STOP: u8 = 0x10;
/// Where it waits then until it may go on: this port reads as 1 once for each run but the first.
const GO: u8 = 0x11;
/// A port that is written down.
const TELL: u8 = 0x20;
/// A port that is read as the next of 1, 2, 3 …, and at which the outside kicks when `kicks_at_reads`.
const ASK: u8 = 0x21;

/// `out STOP, eax; l: in al, GO; test al, al; jz l`: some engines take a moment to stop, in which the guest waits.
const STOP_HERE: [u8; 8] = [0xe7, STOP, 0xe4, GO, 0x84, 0xc0, 0x74, 0xfa];

#[derive(Default)]
struct Outside {
    kicker: OnceLock<Arc<dyn Kicker>>,
    told: Mutex<Vec<Vec<u8>>>,
    asked: Mutex<u8>,
    ended: Mutex<Vec<u8>>,
    go: AtomicBool,
    kicks_at_reads: bool,
}

impl Outside {
    fn kick(&self) {
        self.kicker.get().unwrap().kick();
    }
}

impl Bus for Outside {
    fn port_read(&self, port: u16, data: &mut [u8]) {
        if port as u8 == GO {
            return data.fill(self.go.swap(false, Ordering::SeqCst).into());
        }
        let mut asked = self.asked.lock().unwrap();
        *asked = asked.wrapping_add(1);
        data.fill(*asked);
        if self.kicks_at_reads {
            self.kick();
        }
    }
    fn port_write(&self, port: u16, data: &[u8]) {
        match port as u8 {
            STOP => self.kick(),
            _ => self.told.lock().unwrap().push(data.to_vec()),
        }
    }
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, gpa: u64, data: &[u8]) {
        self.told.lock().unwrap().push([&gpa.to_le_bytes()[..4], data].concat());
    }
    fn end_of_interrupt(&self, vector: u8) {
        self.ended.lock().unwrap().push(vector);
    }
}

/// A processor in flat 32-bit mode at `CODE`, with an interrupt table whose gates all lead to `HANDLER`.
struct Bench {
    name: &'static str,
    ram: Arc<Ram>,
    partition: Arc<dyn Partition>,
    outside: Arc<Outside>,
    processor: Box<dyn Processor>,
    has_run: bool,
}

impl Bench {
    fn new(engine: &dyn Engine, code: &[u8], outside: Outside) -> Self {
        let ram = Arc::new(Ram::new(8 << 20).unwrap());
        let partition = engine.create(Arc::clone(&ram), 1, engine.tsc_khz()).unwrap();
        let outside = Arc::new(outside);
        let table = CpuModel::new(engine.tsc_khz()).cpuid(0, 1);
        let mut processor = partition.create_processor(0, &table, outside.clone()).unwrap();
        assert!(outside.kicker.set(processor.kicker()).is_ok());
        ram.memory().write_slice(code, GuestAddress(CODE)).unwrap();
        for vector in 0..256 {
            let gate = HANDLER | 8 << 16 | 0x8e00 << 32;
            ram.memory().write_obj(gate, GuestAddress(TABLE + 8 * vector)).unwrap();
        }
        // GDT behind the IDT: null, code, data.
        let descriptors = [0u64, 0x00cf_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
        ram.memory().write_obj(descriptors, GuestAddress(TABLE + 0x800)).unwrap();
        processor.set_state(&start_state()).unwrap();
        partition.start_clock();
        Self { name: engine.name(), ram, partition, outside, processor, has_run: false }
    }

    fn handler(&self, code: &[u8]) {
        self.ram.memory().write_slice(code, GuestAddress(HANDLER)).unwrap();
    }

    /// Lets the guest run until it stops itself, or is stopped.
    fn run(&mut self) -> CpuState {
        self.outside.go.store(std::mem::replace(&mut self.has_run, true), Ordering::SeqCst);
        let kicker = self.processor.kicker();
        let (finished, watch) = mpsc::channel::<()>();
        let watch = std::thread::spawn(move || {
            let late = watch.recv_timeout(SOON) == Err(mpsc::RecvTimeoutError::Timeout);
            if late {
                kicker.kick();
            }
            late
        });
        let exit = self.processor.run();
        drop(finished);
        let state = self.state();
        assert_eq!(exit, Exit::Kicked, "{}", self.name);
        assert!(!watch.join().unwrap(), "{} does not stop itself: {state:?}", self.name);
        state
    }

    fn state(&mut self) -> CpuState {
        self.processor.state().unwrap()
    }
}

fn start_state() -> CpuState {
    let data = Segment { selector: 0x10, base: 0, limit: u32::MAX, rights: 0xc093, unusable: false };
    let mut state = CpuState { rip: CODE, cr0: 0x11, segments: [data; 6], ..CpuState::default() };
    state.segments[1] = Segment { selector: 8, rights: 0xc09b, ..data };
    state.gpr[4] = STACK;
    state.gpr[6] = TEXT;
    state.gpr[7] = TEXT;
    (state.gdtr.base, state.gdtr.limit) = (TABLE + 0x800, 23);
    (state.idtr.base, state.idtr.limit) = (TABLE, 0x7ff);
    state
}

/// Runs `test` on a bench of each engine there is.
fn on_each(code: &[u8], test: impl Fn(&mut Bench)) {
    for engine in engines() {
        test(&mut Bench::new(&*engine, code, Outside::default()));
    }
}

#[test]
fn a_kick_that_comes_before_the_run_stops_it_before_the_first_instruction() {
    // l: inc eax; jmp l
    on_each(&[0x40, 0xeb, 0xfd], |bench| {
        bench.outside.kick();
        assert_eq!(bench.run().gpr[0], 0, "{}", bench.name);
        bench.outside.kick();
        bench.outside.kick();
        assert_eq!(bench.run().gpr[0], 0, "{}", bench.name);
        assert_eq!(*bench.outside.asked.lock().unwrap(), 0);
    });
}

#[test]
fn an_access_that_was_answered_is_finished_when_the_processor_stops() {
    // l: in al, ASK; jmp l
    for engine in engines() {
        let outside = Outside { kicks_at_reads: true, ..Outside::default() };
        let mut bench = Bench::new(&*engine, &[0xe4, ASK, 0xeb, 0xfc], outside);
        for _ in 0..20 {
            let read = bench.run().gpr[0] as u8;
            assert_eq!(
                read,
                *bench.outside.asked.lock().unwrap(),
                "{}: what was read last is there",
                bench.name
            );
        }
    }
}

#[test]
fn string_instructions_make_one_access_an_item() {
    // mov ecx, 5; mov edx, TELL; rep outsb; mov cl, 3; rep outsd; mov cl, 4; mov dl, ASK; rep insb; stop
    let code = [
        &[0xb9, 5, 0, 0, 0, 0xba, TELL, 0, 0, 0, 0xf3, 0x6e, 0xb1, 3, 0xf3, 0x6f][..],
        &[0xb1, 4, 0xb2, ASK, 0xf3, 0x6c],
        &STOP_HERE,
    ];
    on_each(&code.concat(), |bench| {
        bench.ram.memory().write_slice(b"abcdefghijklmnopq", GuestAddress(TEXT)).unwrap();
        let state = bench.run();
        let told: Vec<_> =
            bench.outside.told.lock().unwrap().iter().map(|t| t.escape_ascii().to_string()).collect();
        assert_eq!(told, ["a", "b", "c", "d", "e", "fghi", "jklm", "nopq"], "{}", bench.name);
        let mut read = [0; 5];
        bench.ram.memory().read_slice(&mut read, GuestAddress(TEXT)).unwrap();
        assert_eq!(&read, b"\x01\x02\x03\x04e", "{}", bench.name);
        assert_eq!((state.gpr[1], state.gpr[6], state.gpr[7]), (0, TEXT + 17, TEXT + 4), "{}", bench.name);
    });
}

#[test]
fn memory_that_is_not_there_is_the_buses() {
    // mov [0xd0000004], eax; mov ebx, [0xd0000000]; stop
    let code = [&[0xa3, 4, 0, 0, 0xd0, 0x8b, 0x1d, 0, 0, 0, 0xd0][..], &STOP_HERE].concat();
    on_each(&code, |bench| {
        assert_eq!(bench.run().gpr[3], 0xffff_ffff, "{}", bench.name);
        assert_eq!(*bench.outside.told.lock().unwrap(), [[4, 0, 0, 0xd0, 0, 0, 0, 0]], "{}", bench.name);
    });
}

#[test]
fn the_dirty_log_is_exact() {
    // mov [0x100000], eax; mov [0x103ffe], eax; mov [0x7fffff], al; stop
    let code = [
        &[0xa3, 0, 0, 0x10, 0, 0xa3, 0xfe, 0x3f, 0x10, 0, 0xa2, 0xff, 0xff, 0x7f, 0][..],
        &STOP_HERE,
        &[0xc6, 0x05, 0, 0, 0x20, 0, 7],
        &STOP_HERE,
    ];
    on_each(&code.concat(), |bench| {
        bench.partition.take_dirty().unwrap();
        assert!(bench.partition.take_dirty().unwrap().is_empty(), "{}", bench.name);
        bench.run();
        bench.ram.memory().write_obj(1u8, GuestAddress(0x5_0000)).unwrap();
        let mut dirty = bench.partition.take_dirty().unwrap();
        // KVM counts a page that it maps for the first time as written, if only code is read from it.
        dirty.retain(|page| *page != CODE);
        assert_eq!(dirty, [0x5_0000, 0x10_0000, 0x10_3000, 0x10_4000, 0x7f_f000], "{}", bench.name);
        bench.run();
        assert_eq!(bench.partition.take_dirty().unwrap(), [0x20_0000], "{}", bench.name);
        assert!(bench.partition.take_dirty().unwrap().is_empty(), "{}", bench.name);
    });
}

/// `l: rdtsc; mov ebx, eax; stop; jmp l`.
fn clock_reader() -> Vec<u8> {
    [&[0x0f, 0x31, 0x89, 0xc3][..], &STOP_HERE, &[0xeb, 0xf2]].concat()
}

/// What it read.
fn tsc(state: &CpuState) -> u64 {
    state.gpr[2] << 32 | state.gpr[3]
}

/// Whether the engine can give a TSC any value; says so where it cannot.
fn has_exact_tsc(name: &str) -> bool {
    let exact = name != "kvm" || kvm().is_some_and(|kvm| kvm.has_exact_tsc());
    if !exact {
        eprintln!("skipped on KVM: this one cannot set TSC offsets");
    }
    exact
}

#[test]
fn time_stands_still_while_the_clock_does() {
    on_each(&clock_reader(), |bench| {
        let first = bench.run();
        bench.partition.stop_clock();
        let (stopped, state) = (bench.partition.clock_ns(), bench.state());
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(bench.partition.clock_ns(), stopped, "{}", bench.name);
        let exact = has_exact_tsc(bench.name);
        assert!(!exact || bench.state() == state, "{}", bench.name);
        bench.partition.start_clock();
        let second = bench.run();
        assert!(tsc(&second) > tsc(&first), "{}: {first:?} {second:?}", bench.name);
        assert!(bench.partition.clock_ns() > stopped, "{}", bench.name);
        if !exact {
            return;
        }
        // At 0.5 GHz or more the pause alone would be this long.
        assert!(tsc(&second) - tsc(&first) < 150_000_000, "{}: {first:?} {second:?}", bench.name);
    });
}

#[test]
fn time_goes_where_the_state_goes() {
    let code = clock_reader();
    for engine in engines().into_iter().filter(|engine| has_exact_tsc(engine.name())) {
        let mut from = Bench::new(&*engine, &code, Outside::default());
        from.partition.stop_clock();
        from.partition.set_clock_ns(3_000_000_000_000);
        from.partition.start_clock();
        from.run();
        from.partition.stop_clock();
        let (ns, state) = (from.partition.clock_ns(), from.state());
        for clock_first in [false, true] {
            let mut to = Bench::new(&*engine, &code, Outside::default());
            to.partition.stop_clock();
            if clock_first {
                to.partition.set_clock_ns(ns);
            }
            to.processor.set_state(&state).unwrap();
            to.partition.set_clock_ns(ns);
            assert_eq!(to.state().tsc_offset, state.tsc_offset, "{}", engine.name());
            to.partition.start_clock();
            to.has_run = true;
            let later = tsc(&to.run());
            let passed = later.checked_sub(tsc(&state)).expect("time runs forward");
            assert!(passed < u64::from(engine.tsc_khz()) * 1000, "{}: {passed} ticks", engine.name());
            assert!(to.partition.clock_ns() >= ns, "{}", engine.name());
        }
    }
}

#[test]
fn a_tsc_that_the_guest_has_set_stays_so_over_a_pause() {
    // xor eax, eax; xor edx, edx; mov ecx, 0x10; wrmsr; l: rdtsc; mov ebx, eax; stop; jmp l
    let code = [&[0x31, 0xc0, 0x31, 0xd2, 0xb9, 0x10, 0, 0, 0, 0x0f, 0x30][..], &clock_reader()].concat();
    on_each(&code, |bench| {
        if !has_exact_tsc(bench.name) {
            return;
        }
        bench.partition.stop_clock();
        bench.partition.set_clock_ns(5_000_000_000_000);
        bench.partition.start_clock();
        let mut before = 0;
        for _ in 0..3 {
            let now = tsc(&bench.run());
            assert!(now > before && now < 10_000_000_000, "{}: {now} after {before}", bench.name);
            before = now;
            bench.partition.stop_clock();
            let state = bench.state();
            bench.processor.set_state(&state).unwrap();
            bench.partition.start_clock();
        }
    });
}

#[test]
fn what_software_adds_to_the_tsc_is_told_and_goes_where_the_state_goes() {
    // mov ecx, 0x3b; xor edx, edx; mov eax, 0x10000; wrmsr; mov ecx, 0x10; rdmsr; add eax, 0x1000; adc edx, 0; wrmsr;
    // mov ecx, 0x3b; l: rdmsr; mov ebx, eax; stop; jmp l
    let code = [
        &[0xb9, 0x3b, 0, 0, 0, 0x31, 0xd2, 0xb8, 0, 0, 1, 0, 0x0f, 0x30][..],
        &[0xb9, 0x10, 0, 0, 0, 0x0f, 0x32, 0x05, 0, 0x10, 0, 0, 0x83, 0xd2, 0, 0x0f, 0x30],
        &[0xb9, 0x3b, 0, 0, 0, 0x0f, 0x32, 0x89, 0xc3],
        &STOP_HERE,
        &[0xeb, 0xf2],
    ]
    .concat();
    on_each(&code, |bench| {
        if !has_exact_tsc(bench.name) {
            return;
        }
        let state = bench.run();
        // What passed between reading the TSC and writing it was taken away again.
        let told = tsc(&state) as i64;
        assert!(told <= 0x11000 && told > 0x11000 - (1 << 30), "{}: {told:#x}", bench.name);
        assert_eq!(bench.state().msrs.tsc_adjust as i64, told, "{}", bench.name);
        bench.processor.set_state(&state).unwrap();
        assert_eq!(bench.state().msrs.tsc_adjust as i64, told, "{}", bench.name);
    });
}

/// Registers of the local APIC by number, and the vector that tests use.
const LVT_TIMER: usize = 0x32;
const INITIAL_COUNT: usize = 0x38;
const IRR: usize = 0x20;
const VECTOR: u8 = 0x51;

fn requested(state: &CpuState, vector: u8) -> bool {
    state.apic.registers[IRR + usize::from(vector / 32)] >> (vector % 32) & 1 != 0
}

/// `mov dword [0xfee00000 + register * 16], value`.
fn apic_write(register: u8, value: u32) -> Vec<u8> {
    let address = 0xfee0_0000 | u32::from(register) << 4;
    [&[0xc7, 0x05][..], &address.to_le_bytes(), &value.to_le_bytes()].concat()
}

/// Switches the local APIC on.
fn apic_on() -> Vec<u8> {
    apic_write(0xf, 0x1ff)
}

#[test]
fn an_apic_timer_that_has_fired_does_not_fire_again_when_state_is_set() {
    // Divided by 1, one shot, interrupts off; then wait until the request is there.
    let code = [
        apic_on(),
        apic_write(0x3e, 0xb),
        apic_write(LVT_TIMER as u8, VECTOR.into()),
        apic_write(INITIAL_COUNT as u8, 300_000),
        STOP_HERE.to_vec(),
        vec![0xeb, 0xf6],
    ];
    on_each(&code.concat(), |bench| {
        let mut state = bench.run();
        for _ in 0..1000 {
            if requested(&state, VECTOR) {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            state = bench.run();
        }
        assert!(requested(&state, VECTOR), "{}: the timer fires", bench.name);
        state.apic.registers[IRR + usize::from(VECTOR / 32)] = 0;
        bench.processor.set_state(&state).unwrap();
        std::thread::sleep(Duration::from_millis(2));
        assert!(!requested(&bench.run(), VECTOR), "{}: once", bench.name);
    });
}

#[test]
fn an_interrupt_that_waits_goes_where_the_state_goes() {
    // apic on; stop; sti; l: jmp l
    let code = [apic_on(), STOP_HERE.to_vec(), vec![0xfb, 0xeb, 0xfe]].concat();
    for engine in engines() {
        let mut from = Bench::new(&*engine, &code, Outside::default());
        from.run();
        from.partition.signal(MsiMessage { address: 0xfee0_0000, data: VECTOR.into() });
        let state = from.state();
        assert!(requested(&state, VECTOR), "{}", engine.name());
        let mut to = Bench::new(&*engine, &code, Outside::default());
        // mov ebx, 77; stop
        to.handler(&[&[0xbb, 77, 0, 0, 0][..], &STOP_HERE].concat());
        to.processor.set_state(&state).unwrap();
        to.has_run = true;
        assert_eq!(to.run().gpr[3], 77, "{}", engine.name());
    }
}

#[test]
fn the_end_of_a_level_triggered_interrupt_is_told_and_that_of_an_edge_is_not() {
    // apic on; stop; sti; l: jmp l
    let code = [apic_on(), STOP_HERE.to_vec(), vec![0xfb, 0xeb, 0xfe]].concat();
    on_each(&code, |bench| {
        // end of interrupt; stop; mov esp, STACK; sti; l: jmp l. There are KVMs that cannot execute IRET here.
        let back = [&[0xbc][..], &(STACK as u32).to_le_bytes(), &[0xfb, 0xeb, 0xfe]].concat();
        bench.handler(&[apic_write(0xb, 0), STOP_HERE.to_vec(), back].concat());
        bench.run();
        let level = MsiMessage { address: 0xfee0_0000, data: 0xc000 | u32::from(VECTOR) };
        let edge = MsiMessage { address: 0xfee0_0000, data: 0x61 };
        let mut routes = [None; 24];
        (routes[5], routes[6]) = (Some(level), Some(edge));
        bench.partition.set_pin_routes(&routes);
        for message in [edge, level, edge, level] {
            bench.partition.signal(message);
            bench.run();
        }
        assert_eq!(*bench.outside.ended.lock().unwrap(), [VECTOR, VECTOR], "{}", bench.name);
    });
}

#[test]
fn a_register_that_nobody_knows_is_a_fault_of_the_guest() {
    // mov ecx, 0x12345; rdmsr; stop
    let code = [&[0xb9, 0x45, 0x23, 1, 0, 0x0f, 0x32][..], &STOP_HERE].concat();
    on_each(&code, |bench| {
        // mov ebx, 13; stop
        bench.handler(&[&[0xbb, 13, 0, 0, 0][..], &STOP_HERE].concat());
        let state = bench.run();
        assert_eq!((state.gpr[3], state.gpr[1]), (13, 0x1_2345), "{}", bench.name);
    });
}

#[test]
fn a_fault_with_no_way_to_handle_it_is_a_shutdown_and_the_processor_can_start_afresh() {
    // ud2
    on_each(&[0x0f, 0x0b], |bench| {
        for _ in 0..3 {
            let mut state = start_state();
            state.idtr.limit = 0;
            bench.processor.set_state(&state).unwrap();
            assert_eq!(bench.processor.run(), Exit::Shutdown, "{}", bench.name);
        }
        bench.ram.memory().write_slice(&STOP_HERE, GuestAddress(CODE)).unwrap();
        bench.processor.set_state(&start_state()).unwrap();
        bench.run();
    });
}

#[test]
fn a_guest_that_runs_where_there_is_no_memory_can_be_stopped_or_is_given_up_by_its_address() {
    // mov eax, 0xd0000000; jmp eax
    on_each(&[0xb8, 0, 0, 0, 0xd0, 0xff, 0xe0], |bench| {
        let kicker = bench.processor.kicker();
        let later = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(50));
            kicker.kick();
        });
        match bench.processor.run() {
            Exit::Kicked => {}
            Exit::Failed(why) if why.contains("8:d0000000") && !why.contains('\n') => {}
            exit => panic!("{}: {exit:?}", bench.name),
        }
        later.join().unwrap();
    });
}

#[test]
fn all_of_a_state_comes_back_as_it_was_set() {
    on_each(&STOP_HERE, |bench| {
        bench.partition.stop_clock();
        let mut state = bench.state();
        for (i, register) in state.gpr.iter_mut().enumerate() {
            *register = 0x1111_1111 * (i as u64 + 1);
        }
        for (i, register) in state.xmm.iter_mut().enumerate() {
            *register = u128::MAX / (i as u128 + 3);
        }
        for (i, register) in state.x87.regs.iter_mut().enumerate() {
            *register = [i as u8 + 1, 2, 3, 4, 5, 6, 7, 0x80, 0xff, 0x3f];
        }
        (state.x87.status, state.x87.tags, state.x87.control) = (3 << 11, 0b1011_0001, 0x27f);
        state.mxcsr = 0x1fa0;
        state.dr = [0x1000, 0x2000, 0x3000, 0x4000, 0, 0, 0xffff_0ff1, 0x401];
        (state.cr2, state.cr3) = (0xdead_b000, 0x5000);
        (state.msrs.lstar, state.msrs.kernel_gs_base) = (0xffff_8000_1234_0000, 0xffff_8000_0000_1000);
        (state.msrs.star, state.msrs.pat) = (0x0023_0010_0000_0000, 0x0007_0106_0007_0106);
        state.apic.registers[0x20] = 1 << 20;
        bench.processor.set_state(&state).unwrap();
        let back = bench.state();
        if !has_exact_tsc(bench.name) {
            state.tsc_offset = back.tsc_offset;
        }
        assert_eq!(back, state, "{}", bench.name);
    });
}
