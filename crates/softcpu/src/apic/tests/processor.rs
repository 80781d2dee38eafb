//! The local APIC and kvmclock as the processor they belong to uses them.

use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};

use crate::apic::{BASE_BSP, BASE_DEFAULT, BASE_ENABLE, BASE_X2APIC, Request};
use crate::bus::{Bus, Frame, GuestMemory, PAGE_SIZE, PageFlags};
use crate::clock::Clock;
use crate::cpu::{Cpu, Exit};
use crate::fault::{Pending, vector};
use crate::state::{Activity, CpuState};
use crate::system::System;

const PAGES: usize = 16;

/// Sixteen pages of RAM.
struct Ram {
    bytes: Box<[[u8; PAGE_SIZE as usize]; PAGES]>,
    flags: [AtomicU8; PAGES],
}

// SAFETY: the bytes live as long as `self` and are reached through the pointers only.
unsafe impl GuestMemory for Ram {
    fn frame(&self, gpa: u64) -> Option<Frame> {
        let page = usize::try_from(gpa / PAGE_SIZE).ok()?;
        let host = NonNull::from(self.bytes.get(page)?).cast();
        Some(Frame { host, flags: NonNull::from(&self.flags[page]), writable: true })
    }
}

/// Remembers ends of interrupts.
#[derive(Default)]
struct Ends(Mutex<Vec<u8>>);

impl Bus for Ends {
    fn port_read(&self, _: u16, _: &mut [u8]) {}
    fn port_write(&self, _: u16, _: &[u8]) {}
    fn mmio_read(&self, _: u64, data: &mut [u8]) {
        data.fill(0xff);
    }
    fn mmio_write(&self, _: u64, _: &[u8]) {}
    fn end_of_interrupt(&self, vector: u8) {
        self.0.lock().unwrap().push(vector);
    }
}

struct Machine {
    ram: Arc<Ram>,
    bus: Arc<Ends>,
    system: Arc<System>,
    cpus: Vec<Cpu>,
}

fn machine(count: u32) -> Machine {
    let ram = Arc::new(Ram { bytes: Box::new([[0; 4096]; PAGES]), flags: Default::default() });
    let bus = Arc::new(Ends::default());
    let ids: Vec<u32> = (0..count).collect();
    let system = System::new(ram.clone(), Arc::new(Clock::new(1_000_000)), &ids);
    let cpus = (0..count as usize).map(|i| Cpu::new(system.clone(), i, Arc::from([]), bus.clone())).collect();
    Machine { ram, bus, system, cpus }
}

impl Machine {
    fn word(&self, gpa: u64) -> u32 {
        let frame = self.ram.frame(gpa).unwrap();
        // SAFETY: inside the page, for the tests use aligned addresses.
        unsafe { frame.host.as_ptr().add((gpa % PAGE_SIZE) as usize).cast::<u32>().read_volatile() }
    }
}

fn read(cpu: &mut Cpu, offset: u64) -> u32 {
    let mut data = [0; 4];
    cpu.apic_mmio_read(offset, &mut data);
    u32::from_le_bytes(data)
}

fn write(cpu: &mut Cpu, offset: u64, value: u32) {
    cpu.apic_mmio_write(offset, &value.to_le_bytes());
}

/// Whether the last MSR access raised #GP(0).
fn faulted<T>(cpu: &mut Cpu, result: Result<T, crate::fault::Trap>) -> bool {
    let pending = std::mem::replace(&mut cpu.pending, Pending::None);
    match (result, pending) {
        (Err(_), Pending::Fault(f)) => f.vector == vector::GP && f.error == Some(0),
        _ => false,
    }
}

#[test]
fn after_power_on_the_registers_are_as_the_manual_has_them() {
    let mut m = machine(2);
    for (i, cpu) in m.cpus.iter_mut().enumerate() {
        assert_eq!(read(cpu, 0x20), (i as u32) << 24);
        assert_eq!(read(cpu, 0x30), 0x50014);
        assert_eq!(read(cpu, 0xe0), u32::MAX);
        assert_eq!(read(cpu, 0xf0), 0xff);
        for lvt in (0x320..=0x370).step_by(16) {
            assert_eq!(read(cpu, lvt), 0x1_0000);
        }
        for zero in [0x80, 0xa0, 0xd0, 0x100, 0x180, 0x200, 0x280, 0x300, 0x310, 0x380, 0x390, 0x3e0] {
            assert_eq!(read(cpu, zero), 0, "{zero:#x}");
        }
        let bsp = if i == 0 { BASE_BSP } else { 0 };
        assert_eq!(cpu.apic_read_msr(0x1b), Ok(BASE_DEFAULT | BASE_ENABLE | bsp));
    }
}

#[test]
fn only_aligned_32_bit_writes_reach_a_register() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    write(cpu, 0x80, 0x35);
    cpu.apic_mmio_write(0x80, &[0; 8]);
    cpu.apic_mmio_write(0x82, &[0; 4]);
    cpu.apic_mmio_write(0x80, &[0]);
    assert_eq!(read(cpu, 0x80), 0x35);
    let mut bytes = [1; 2];
    cpu.apic_mmio_read(0x80, &mut bytes);
    assert_eq!(bytes, [0x35, 0]);
    let mut beyond = [1; 8];
    cpu.apic_mmio_read(0x8c, &mut beyond);
    assert_eq!(beyond, [0; 8]);
}

#[test]
fn a_software_disabled_apic_keeps_its_lvt_masked() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    write(cpu, 0x320, 0x30);
    assert_eq!(read(cpu, 0x320), 0x1_0030);
    write(cpu, 0xf0, 0x1ff);
    write(cpu, 0x320, 0x30);
    assert_eq!(read(cpu, 0x320), 0x30);
    write(cpu, 0xf0, 0xff);
    assert_eq!(read(cpu, 0x320), 0x1_0030);
}

#[test]
fn an_interrupt_goes_from_requested_to_in_service_to_ended() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    write(cpu, 0xf0, 0x1ff);
    m.system.signal_msi(0xfee0_0000, 0x8041);
    cpu.apic_poll();
    assert_eq!(read(cpu, 0x220), 1 << 1);
    assert_eq!(cpu.apic_pending_vector(), Some(0x41));
    cpu.apic_set_cr8(4);
    assert_eq!(cpu.apic_pending_vector(), None, "its class is not above the task priority");
    cpu.apic_set_cr8(3);
    assert_eq!(cpu.apic_cr8(), 3);
    cpu.apic_accept(0x41);
    assert_eq!((read(cpu, 0x220), read(cpu, 0x120), read(cpu, 0x1a0)), (0, 2, 2));
    assert_eq!(read(cpu, 0xa0), 0x40);
    m.system.signal_msi(0xfee0_0000, 0x45);
    cpu.apic_poll();
    assert_eq!(cpu.apic_pending_vector(), None, "its class is in service");
    write(cpu, 0xb0, 0);
    assert_eq!(cpu.apic_pending_vector(), Some(0x45));
    assert_eq!(*m.bus.0.lock().unwrap(), [0x41], "level-triggered: the I/O APIC is told");
}

#[test]
fn a_self_ipi_is_pending_at_the_next_look() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    write(cpu, 0xf0, 0x1ff);
    write(cpu, 0x300, 0x4_00f1);
    cpu.apic_poll();
    assert_eq!(cpu.apic_pending_vector(), Some(0xf1));
    write(cpu, 0x300, 0x4_0005);
    assert_eq!(read(cpu, 0x280), 0, "ESR shows errors only after a write");
    write(cpu, 0x280, 0);
    assert_eq!(read(cpu, 0x280), 0x20);
    write(cpu, 0x280, 0);
    assert_eq!(read(cpu, 0x280), 0);
}

#[test]
fn the_mode_goes_off_xapic_x2apic_and_no_other_way() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    let at = |bits: u64| BASE_DEFAULT | BASE_BSP | bits;
    let mut attempt = |bits: u64, legal: bool| {
        let result = cpu.apic_write_msr(0x1b, at(bits));
        assert_eq!(!faulted(cpu, result), legal, "{bits:#x}");
        assert_eq!(cpu.apic_enabled(), cpu.apic_read_msr(0x1b).unwrap() & BASE_ENABLE != 0);
        assert_eq!(cpu.apic_covers(BASE_DEFAULT), cpu.apic_read_msr(0x1b).unwrap() & 0xc00 == BASE_ENABLE);
    };
    attempt(BASE_X2APIC, false);
    attempt(BASE_ENABLE | BASE_X2APIC, true);
    attempt(BASE_ENABLE, false);
    attempt(BASE_X2APIC, false);
    attempt(0, true);
    attempt(BASE_ENABLE | BASE_X2APIC, false);
    attempt(BASE_ENABLE, true);
    attempt(BASE_ENABLE | 1 << 9, false);
    attempt(BASE_ENABLE | 1 << 52, false);
    attempt(0, true);
}

#[test]
fn the_register_page_moves_with_the_base() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    assert!(cpu.frame_of(0x3000).is_some());
    cpu.apic_write_msr(0x1b, 0x3000 | BASE_ENABLE).unwrap();
    assert!(cpu.apic_covers(0x3fff) && !cpu.apic_covers(BASE_DEFAULT));
    assert!(cpu.frame_of(0x3000).is_none());
}

#[test]
fn x2apic_msrs_fault_where_the_manual_says() {
    let mut m = machine(2);
    let cpu = &mut m.cpus[1];
    let result = cpu.apic_read_msr(0x802);
    assert!(faulted(cpu, result), "not in x2APIC mode");
    cpu.apic_write_msr(0x1b, BASE_DEFAULT | BASE_ENABLE | BASE_X2APIC).unwrap();
    assert_eq!(cpu.apic_read_msr(0x802), Ok(1));
    assert_eq!(cpu.apic_read_msr(0x80d), Ok(2));
    for msr in [0x80b, 0x80e, 0x831, 0x83f, 0x809, 0x800, 0x8ff] {
        let result = cpu.apic_read_msr(msr);
        assert!(faulted(cpu, result), "reading {msr:#x}");
    }
    let refused = [
        (0x802, 0),
        (0x803, 0),
        (0x80d, 0),
        (0x80a, 0),
        (0x839, 0),
        (0x80b, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x80f, 0x200),
        (0x830, 1 << 20),
        (0x830, 1 << 13),
        (0x832, 1 << 20),
        (0x838, 1 << 32),
        (0x83e, 4),
        (0x83f, 0x100),
    ];
    for (msr, value) in refused {
        let result = cpu.apic_write_msr(msr, value);
        assert!(faulted(cpu, result), "writing {value:#x} to {msr:#x}");
    }
    cpu.apic_write_msr(0x80f, 0x1ff).unwrap();
    cpu.apic_write_msr(0x83f, 0x77).unwrap();
    cpu.apic_poll();
    assert_eq!(cpu.apic_pending_vector(), Some(0x77));
    cpu.apic_write_msr(0x830, 0xffff_ffff_0000_00a0).unwrap();
    assert_eq!(cpu.apic_read_msr(0x830), Ok(0xffff_ffff_0000_00a0));
    cpu.apic_poll();
    assert_eq!(cpu.apic_pending_vector(), Some(0xa0));
}

#[test]
fn the_tsc_deadline_can_be_armed_only_in_its_mode() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    write(cpu, 0xf0, 0x1ff);
    cpu.apic_write_msr(0x6e0, 1).unwrap();
    assert_eq!(cpu.apic_read_msr(0x6e0), Ok(0));
    write(cpu, 0x320, 2 << 17 | 0x50);
    write(cpu, 0x380, 1000);
    assert_eq!((read(cpu, 0x380), read(cpu, 0x390)), (0, 0));
    cpu.apic_write_msr(0x6e0, 1 << 62).unwrap();
    assert_eq!(cpu.apic_next_event(), Some(1 << 62));
    assert_eq!(cpu.apic_read_msr(0x6e0), Ok(1 << 62));
    cpu.apic_write_msr(0x6e0, 1).unwrap();
    cpu.apic_poll();
    assert_eq!(cpu.apic_pending_vector(), Some(0x50));
    assert_eq!((cpu.apic_next_event(), cpu.apic_read_msr(0x6e0)), (None, Ok(0)));
    cpu.apic_write_msr(0x6e0, 1 << 62).unwrap();
    write(cpu, 0x320, 0x50);
    assert_eq!(cpu.apic_next_event(), None, "leaving the mode disarms");
}

#[test]
fn init_resets_and_a_startup_ipi_begins_in_real_mode() {
    let mut m = machine(2);
    let [bsp, ap] = &mut m.cpus[..] else { unreachable!() };
    assert_eq!(ap.run(), Exit::Halted { deadline: None });
    write(bsp, 0x310, 1 << 24);
    write(bsp, 0x300, 0x601);
    ap.apic_poll();
    assert_eq!(ap.activity, Activity::Uninitialized, "a startup IPI without INIT is nothing");
    ap.cr3 = 0x1000;
    write(ap, 0x80, 0x20);
    write(bsp, 0x300, 0xc500);
    write(bsp, 0x300, 0x609);
    ap.apic_poll();
    assert_eq!((ap.activity, ap.cr3, read(ap, 0x80)), (Activity::Running, 0, 0));
    let state = ap.state();
    assert_eq!((state.rip, state.segments[1].selector, state.segments[1].base), (0, 0x900, 0x9000));
    assert_eq!(read(ap, 0x20), 1 << 24, "the id survives");
    write(bsp, 0x300, 0x605);
    ap.apic_poll();
    assert_eq!(ap.state().segments[1].selector, 0x900, "it no longer waits for one");
    write(bsp, 0x310, 0);
    write(bsp, 0x300, 0xc500);
    bsp.apic_poll();
    assert_eq!(
        (bsp.activity, bsp.state().rip),
        (Activity::Running, 0xfff0),
        "a bootstrap processor starts at the reset vector"
    );
}

#[test]
fn an_nmi_is_handed_to_the_processor() {
    let mut m = machine(1);
    m.system.signal_msi(0xfee0_0000, 0x400);
    m.cpus[0].apic_poll();
    assert!(m.cpus[0].nmi_pending);
}

#[test]
fn a_halted_processor_tells_when_its_timer_fires() {
    let mut m = machine(1);
    let cpu = &mut m.cpus[0];
    cpu.set_state(&CpuState { activity: Activity::Halted, ..CpuState::default() });
    assert_eq!(cpu.run(), Exit::Halted { deadline: None });
    write(cpu, 0xf0, 0x1ff);
    write(cpu, 0x320, 0x50);
    write(cpu, 0x3e0, 0xb);
    write(cpu, 0x380, u32::MAX);
    let now = m.system.clock().now_ns();
    let Exit::Halted { deadline: Some(deadline) } = cpu.run() else { panic!("no deadline") };
    assert!(deadline.abs_diff(now + u64::from(u32::MAX)) < 1_000_000_000);
    m.system.mailbox(0).kick();
    assert_eq!(cpu.run(), Exit::Kicked);
    assert!(matches!(cpu.run(), Exit::Halted { .. }));
}

#[test]
fn dropping_the_right_to_write_waits_for_those_that_run_only() {
    let mut m = machine(3);
    let other = Arc::clone(m.system.mailbox(1));
    other.enter();
    let answered = std::thread::spawn(move || {
        loop {
            if let Some(requests) = other.take_requests() {
                return requests.collect::<Vec<_>>();
            }
        }
    });
    m.cpus[0].drop_writable_elsewhere(0x2000);
    assert_eq!(answered.join().unwrap(), [Request::DropWritable(0x2000)]);
    let asleep: Vec<_> = m.system.mailbox(2).take_requests().unwrap().collect();
    assert_eq!(asleep, [Request::DropWritable(0x2000)], "it will read this before it runs");
}

#[test]
fn two_processors_that_wait_for_each_other_both_go_on() {
    let m = machine(2);
    let (system, bus) = (&m.system, &m.bus);
    for i in 0..2 {
        system.mailbox(i).enter();
    }
    std::thread::scope(|scope| {
        for i in 0..2 {
            scope.spawn(move || {
                let mut cpu = Cpu::new(system.clone(), i, Arc::from([]), bus.clone());
                for page in 0..500 {
                    cpu.drop_writable_elsewhere(page << 12);
                }
                cpu.mailbox.leave();
            });
        }
    });
}

#[test]
fn kvmclock_gives_the_time_from_the_tsc() {
    let mut m = machine(1);
    m.system.clock().stop();
    m.system.clock().set_ns(5_000_000_123);
    let cpu = &mut m.cpus[0];
    cpu.tsc_offset = 1000;
    cpu.kvmclock_write(0x4b56_4d01, 0x2000 | 1).unwrap();
    assert_eq!(cpu.kvmclock_read(0x4b56_4d01), Ok(0x2001));
    let version = m.word(0x2000);
    assert_eq!(version & 1, 0);
    let at = |m: &Machine, gpa: u64| u64::from(m.word(gpa)) | u64::from(m.word(gpa + 4)) << 32;
    assert_eq!((at(&m, 0x2008), at(&m, 0x2010)), (5_000_001_123, 5_000_000_123));
    assert_eq!((m.word(0x2018), m.word(0x201c)), (0x8000_0000, 0x0101));
    assert_eq!(m.ram.flags[2].load(Ordering::SeqCst) & PageFlags::DIRTY.bits(), PageFlags::DIRTY.bits());
    m.cpus[0].kvmclock_update();
    assert_eq!(m.word(0x2000), version.wrapping_add(2), "each update has a version of its own");
    m.cpus[0].kvmclock_write(0x12, 0).unwrap();
    m.cpus[0].kvmclock_update();
    assert_eq!(m.word(0x2000), version.wrapping_add(2), "switched off");
}

#[test]
fn the_wall_clock_is_that_of_the_start() {
    let mut m = machine(1);
    m.cpus[0].kvmclock_write(0x4b56_4d00, 0x3000).unwrap();
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() as u32;
    assert!(now.wrapping_sub(m.word(0x3004)) <= 2);
    assert!(m.word(0x3008) < 1_000_000_000);
    assert!(m.word(0x3000) & 1 == 0 && m.word(0x3000) != 0);
}

#[test]
fn a_guest_that_wants_to_know_is_told_for_how_long_it_did_not_run() {
    let mut m = machine(1);
    let at = |m: &Machine, gpa: u64| u64::from(m.word(gpa)) | u64::from(m.word(gpa + 4)) << 32;
    m.cpus[0].add_steal_time(5);
    assert!(!m.cpus[0].tells_steal_time() && at(&m, 0x2040) == 0);
    assert!(m.cpus[0].steal_time_write(0x2040 | 3).is_err(), "reserved bits");
    m.cpus[0].steal_time_write(0x2040 | 1).unwrap();
    m.cpus[0].add_steal_time(u64::from(u32::MAX));
    let version = m.word(0x2048);
    assert!(version != 0 && version & 1 == 0);
    m.cpus[0].add_steal_time(2);
    assert_eq!((at(&m, 0x2040), m.word(0x2048)), ((1 << 32) + 1, version + 2));
    assert_eq!(m.ram.flags[2].load(Ordering::SeqCst) & PageFlags::DIRTY.bits(), PageFlags::DIRTY.bits());
    // It goes along with the processor's state, and what has been told is in the guest's memory.
    let state = m.cpus[0].state();
    m.cpus[0].steal_time_write(0).unwrap();
    m.cpus[0].add_steal_time(7);
    m.cpus[0].write_physical(0x2050, &[1]);
    m.cpus[0].set_state(&state);
    assert_eq!(m.word(0x2050), 0, "it runs here");
    m.cpus[0].add_steal_time(3);
    assert_eq!(at(&m, 0x2040), (1 << 32) + 4);
    for address in [0x2fff_ffc1, !0x3e] {
        m.cpus[0].steal_time_write(address).unwrap();
        m.cpus[0].add_steal_time(9);
    }
}

#[test]
fn kvmclock_outside_ram_or_over_a_page_boundary_is_no_danger() {
    let mut m = machine(1);
    for address in [0x2fff_0001, 0x1ffd, u64::MAX, 0xfffd | 1] {
        m.cpus[0].kvmclock_write(0x4b56_4d01, address).unwrap();
        m.cpus[0].kvmclock_write(0x4b56_4d00, address).unwrap();
    }
}
