//! Tests of mailbox, routing, priorities and timer; what needs a whole processor is in `processor`.

mod processor;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::timer::{LVT_MASKED, Time, TimerMode};
use super::*;
use crate::bus::{Frame, GuestMemory};
use crate::clock::Clock;
use crate::system::System;

struct NoMemory;

// SAFETY: no frame is ever given.
unsafe impl GuestMemory for NoMemory {
    fn frame(&self, _gpa: u64) -> Option<Frame> {
        None
    }
}

/// A system of processors with software-enabled APICs.
fn system(ids: &[u32]) -> (Arc<System>, Vec<Apic>) {
    let system = System::new(Arc::new(NoMemory), Arc::new(Clock::new(1_000_000)), ids);
    let apics = (0..ids.len())
        .map(|i| {
            let mut apic = Apic::new(Arc::clone(system.mailbox(i)), i == 0);
            apic.svr |= SVR_ENABLE;
            apic.publish();
            apic
        })
        .collect();
    (system, apics)
}

fn one() -> Apic {
    system(&[0]).1.remove(0)
}

fn x2apic(apics: &mut [Apic]) {
    for apic in apics {
        apic.base |= BASE_X2APIC;
        apic.publish();
    }
}

/// Which processors received `vector`, as bits.
fn receivers(apics: &mut [Apic], vector: u8) -> u32 {
    let mut got = 0;
    for (i, apic) in apics.iter_mut().enumerate() {
        apic.collect();
        got |= u32::from(contains(&apic.irr, vector)) << i;
        apic.irr = [0; 4];
    }
    got
}

fn at(now: u64) -> Time {
    Time { now, tsc_khz: 1_000_000, tsc_offset: 0 }
}

#[test]
fn a_posted_vector_reaches_irr_with_its_trigger_mode() {
    let mut apic = one();
    for (vector, level) in [(16, false), (63, true), (64, false), (200, true), (255, false)] {
        apic.mailbox.post(vector, level);
        apic.collect();
        assert!(contains(&apic.irr, vector), "{vector}");
        assert_eq!(contains(&apic.tmr, vector), level, "{vector}");
    }
    apic.mailbox.post(200, false);
    apic.collect();
    assert!(!contains(&apic.tmr, 200), "the last trigger mode counts");
}

#[test]
fn vectors_below_16_are_errors_of_sender_and_receiver() {
    let (system, mut apics) = system(&[0, 1]);
    apics[1].mailbox.post(15, false);
    apics[1].collect();
    assert_eq!((apics[1].errors, apics[1].irr), (ESR_RECEIVE_ILLEGAL, [0; 4]));
    assert!(!system.send_ipi(system.mailbox(0), 1 << 56 | 15, false));
    assert_eq!(receivers(&mut apics, 15), 0);
}

#[test]
fn an_error_raises_the_error_interrupt_once_until_esr_is_written() {
    let mut apic = one();
    apic.lvt[lvt::ERROR] = 0x55;
    apic.error(ESR_SEND_ILLEGAL);
    assert!(contains(&apic.irr, 0x55));
    remove(&mut apic.irr, 0x55);
    apic.error(ESR_SEND_ILLEGAL);
    assert!(!contains(&apic.irr, 0x55));
}

#[test]
fn the_processor_priority_is_the_higher_of_task_and_service() {
    let mut apic = one();
    apic.tpr = 0x35;
    assert_eq!(apic.ppr(), 0x35);
    insert(&mut apic.isr, 0x3f);
    assert_eq!(apic.ppr(), 0x35, "same class: the task priority, sub-class included");
    insert(&mut apic.isr, 0x41);
    assert_eq!(apic.ppr(), 0x40);
}

#[test]
fn end_of_interrupt_ends_the_highest_and_tells_of_level_triggered_ones() {
    let mut apic = one();
    for vector in [0x31, 0x81] {
        insert(&mut apic.isr, vector);
    }
    insert(&mut apic.tmr, 0x31);
    assert_eq!(apic.end_of_interrupt(), None, "0x81 is edge-triggered");
    assert_eq!(apic.end_of_interrupt(), Some(0x31));
    assert_eq!(apic.end_of_interrupt(), None, "nothing in service");
}

#[test]
fn physical_destinations_mean_one_processor_or_all() {
    let (system, mut apics) = system(&[0, 1, 5]);
    system.signal_msi(0xfee0_0000 | 5 << 12, 0x40);
    assert_eq!(receivers(&mut apics, 0x40), 0b100);
    system.signal_msi(0xfee0_0000 | 0xff << 12, 0x41);
    assert_eq!(receivers(&mut apics, 0x41), 0b111);
    system.signal_msi(0xfee0_0000 | 7 << 12, 0x42);
    assert_eq!(receivers(&mut apics, 0x42), 0);
}

#[test]
fn an_extended_destination_reaches_ids_above_255() {
    let (system, mut apics) = system(&[0, 300, 0x7fff, 300 & 0xff]);
    x2apic(&mut apics);
    system.signal_msi(0xfee0_0000 | (300 & 0xff) << 12 | (300 >> 8) << 5, 0x40);
    assert_eq!(receivers(&mut apics, 0x40), 0b0010);
    system.signal_msi(0xfee0_0000 | 0xff << 12 | 0x7f << 5, 0x41);
    assert_eq!(receivers(&mut apics, 0x41), 0b0100);
}

#[test]
fn flat_and_cluster_logical_destinations_select_by_ldr() {
    let (system, mut apics) = system(&[0, 1, 2]);
    for (i, apic) in apics.iter_mut().enumerate() {
        apic.ldr = 1 << (24 + i);
        apic.publish();
    }
    let logical = |dest: u64| 0xfee0_0000 | dest << 12 | 4;
    system.signal_msi(logical(0b101), 0x40);
    assert_eq!(receivers(&mut apics, 0x40), 0b101);

    for (apic, ldr) in apics.iter_mut().zip([0x11, 0x12, 0x21]) {
        apic.ldr = ldr << 24;
        apic.dfr = 0x0fff_ffff;
        apic.publish();
    }
    system.signal_msi(logical(0x13), 0x41);
    assert_eq!(receivers(&mut apics, 0x41), 0b011);
    system.signal_msi(logical(0x2f), 0x42);
    assert_eq!(receivers(&mut apics, 0x42), 0b100);
}

#[test]
fn x2apic_logical_destinations_are_cluster_and_mask() {
    let (system, mut apics) = system(&[0, 15, 16, 33]);
    x2apic(&mut apics);
    let icr = |dest: u64, vector: u64| dest << 32 | 1 << 11 | vector;
    assert!(system.send_ipi(system.mailbox(0), icr(0x8001, 0x40), true));
    assert_eq!(receivers(&mut apics, 0x40), 0b0011);
    assert!(system.send_ipi(system.mailbox(0), icr(0x0001_0001, 0x41), true));
    assert_eq!(receivers(&mut apics, 0x41), 0b0100);
    assert!(system.send_ipi(system.mailbox(0), icr(0x0002_ffff, 0x42), true));
    assert_eq!(receivers(&mut apics, 0x42), 0b1000);
    assert!(system.send_ipi(system.mailbox(0), icr(0xffff_ffff, 0x43), true));
    assert_eq!(receivers(&mut apics, 0x43), 0b1111);
}

#[test]
fn shorthands_mean_self_all_and_others() {
    let (system, mut apics) = system(&[0, 1, 2]);
    for (shorthand, want) in [(1, 0b010), (2, 0b111), (3, 0b101)] {
        assert!(system.send_ipi(system.mailbox(1), shorthand << 18 | 0x50, false));
        assert_eq!(receivers(&mut apics, 0x50), want, "shorthand {shorthand}");
    }
}

#[test]
fn lowest_priority_chooses_exactly_one_that_accepts() {
    let (system, mut apics) = system(&[0, 1, 2]);
    apics[1].svr = SVR_RESET;
    apics[1].publish();
    let mut seen = 0;
    for vector in 0x40..0x60 {
        system.signal_msi(0xfee0_0000 | 0xff << 12, 0x100 | u32::from(vector));
        let got = receivers(&mut apics, vector);
        assert_eq!(got.count_ones(), 1, "{vector:#x}");
        seen |= got;
        system.signal_msi(0xfee0_0008 | 0xff << 12, u32::from(vector));
        assert_eq!(receivers(&mut apics, vector), got, "the redirection hint means the same");
    }
    assert_eq!(seen, 0b101);
}

#[test]
fn a_disabled_apic_hears_no_fixed_interrupt_but_nmi_and_init_if_only_software_disabled_it() {
    let (system, mut apics) = system(&[0]);
    apics[0].svr = SVR_RESET;
    apics[0].publish();
    system.signal_msi(0xfee0_0000, 0x40);
    assert_eq!(receivers(&mut apics, 0x40), 0);
    system.signal_msi(0xfee0_0000, 0x400);
    system.signal_msi(0xfee0_0000, 0x500);
    assert!(apics[0].mailbox.take_nmi() && apics[0].mailbox.take_init());
    apics[0].base &= !BASE_ENABLE;
    apics[0].publish();
    system.signal_msi(0xfee0_0000, 0x400);
    assert!(!apics[0].mailbox.take_nmi());
}

#[test]
fn init_and_startup_reach_others_and_deassert_does_nothing() {
    let (system, _apics) = system(&[0, 1]);
    let ap = system.mailbox(1);
    assert!(system.send_ipi(system.mailbox(0), 1 << 56 | 0xc500, false), "INIT, level, assert");
    assert!(ap.take_init());
    assert!(system.send_ipi(system.mailbox(0), 1 << 56 | 0x8500, false), "INIT, level, deassert");
    assert!(!ap.take_init());
    assert!(system.send_ipi(system.mailbox(0), 1 << 56 | 0x69a, false));
    assert_eq!(ap.take_sipi(), Some(0x9a));
    assert_eq!(ap.take_sipi(), None);
    assert!(system.send_ipi(system.mailbox(0), 3 << 18 | 0xc500, false));
    assert!(ap.take_init() && !system.mailbox(0).take_init());
    ap.post_sipi(1);
    ap.post_init();
    assert_eq!(ap.take_sipi(), None, "a startup IPI from before INIT is lost");
}

#[test]
fn the_divide_configuration_divides_as_the_table_says() {
    let mut apic = one();
    for (code, divisor) in [(0, 2), (1, 4), (2, 8), (3, 16), (8, 32), (9, 64), (10, 128), (11, 1)] {
        apic.timer.set_divide(code, 0);
        apic.timer.load(100, 1000);
        assert_eq!(apic.timer.deadline, 1000 + 100 * divisor, "{code}");
        assert_eq!(apic.timer.current(1000), 100);
        assert_eq!(apic.timer.current(1000 + 40 * divisor), 60);
        assert_eq!(apic.timer.current(1000 + 100 * divisor), 0);
    }
}

#[test]
fn a_one_shot_timer_fires_once() {
    let mut apic = one();
    apic.lvt[lvt::TIMER] = 0x30;
    apic.timer.divide = 0xb;
    apic.timer.load(500, 1000);
    assert_eq!(apic.timer_event(&at(1000)), Some(1500));
    apic.timer_poll(&at(1499));
    assert_eq!(highest(&apic.irr), 0);
    apic.timer_poll(&at(1500));
    assert_eq!(highest(&apic.irr), 0x30);
    assert_eq!(apic.timer_event(&at(1500)), None);
}

#[test]
fn a_periodic_timer_keeps_its_phase_and_fires_once_however_late() {
    let mut apic = one();
    apic.lvt[lvt::TIMER] = 1 << 17 | 0x30;
    apic.timer.divide = 0xb;
    apic.timer.load(1000, 0);
    apic.timer_poll(&at(3500));
    assert_eq!(highest(&apic.irr), 0x30);
    assert_eq!(apic.timer_event(&at(3500)), Some(4000));
    assert_eq!(apic.timer.current(3600), 400);
}

#[test]
fn a_tsc_deadline_fires_when_the_processors_own_tsc_gets_there() {
    let mut apic = one();
    apic.lvt[lvt::TIMER] = 2 << 17 | 0x30;
    assert_eq!(apic.timer_mode(), TimerMode::TscDeadline);
    apic.timer.tsc_deadline = 5000;
    let behind = |now| Time { now, tsc_khz: 1_000_000, tsc_offset: 0u64.wrapping_sub(1000) };
    assert_eq!(apic.timer_event(&behind(0)), Some(6000));
    apic.timer_poll(&behind(5999));
    assert_eq!(highest(&apic.irr), 0);
    apic.timer_poll(&behind(6000));
    assert_eq!((highest(&apic.irr), apic.timer.tsc_deadline), (0x30, 0));
}

#[test]
fn a_deadline_at_another_frequency_is_rounded_up_and_never_overflows() {
    let time = Time { now: 0, tsc_khz: 2_000_000, tsc_offset: 10 };
    assert_eq!(time.when(11), 1);
    assert_eq!(time.when(10), 0);
    assert_eq!(time.when(3), 0, "long ago");
    let slow = Time { now: 0, tsc_khz: 1, tsc_offset: 0 };
    assert_eq!(slow.when(u64::MAX), u64::MAX);
}

#[test]
fn a_masked_timer_neither_interrupts_nor_asks_for_attention() {
    let mut apic = one();
    apic.lvt[lvt::TIMER] = LVT_MASKED | 0x30;
    apic.timer.load(10, 0);
    assert_eq!(apic.timer_event(&at(0)), None);
    apic.timer_poll(&at(100));
    assert_eq!(highest(&apic.irr), 0);
    assert_eq!(apic.timer.deadline, 0, "it expired all the same");
}

#[test]
fn the_fastest_timer_a_guest_can_set_fires_once_a_look() {
    let mut apic = one();
    apic.lvt[lvt::TIMER] = 1 << 17 | 0x30;
    apic.timer.divide = 0xb;
    apic.timer.load(1, 0);
    apic.timer_poll(&at(u64::MAX));
    assert_eq!(highest(&apic.irr), 0x30);
}

#[test]
fn saved_and_restored_the_apic_is_the_same_with_what_was_posted() {
    let (_, mut apics) = system(&[0]);
    let apic = &mut apics[0];
    apic.tpr = 0x20;
    apic.ldr = 0x0100_0000;
    apic.icr = 7 << 56 | 0x40;
    apic.lvt = [2 << 17 | 0x30, 0x40, 0x41, 0x700, 0x400, 0x50];
    insert(&mut apic.isr, 0x90);
    insert(&mut apic.irr, 0x31);
    insert(&mut apic.tmr, 0x90);
    apic.timer = Timer { initial: 9, divide: 3, start: 40, deadline: 184, tsc_deadline: 12345 };
    apic.mailbox.post(0xee, true);
    let saved = apic.save();
    assert_eq!(saved.registers.len(), 64);
    assert_eq!(saved.registers[0x02], 0);
    assert_eq!(saved.registers[0x27], 1 << (0xee - 0xe0), "posted interrupts are saved as requested");

    let (_, mut others) = system(&[0]);
    let other = &mut others[0];
    other.mailbox.post(0x77, false);
    other.restore(&saved);
    assert_eq!(other.save(), saved);
    assert_eq!(other.icr, apic.icr);
    assert!(contains(&other.tmr, 0xee) && contains(&other.irr, 0xee) && !contains(&other.irr, 0x77));
    assert!(other.mailbox.accepts());
}

#[test]
fn wait_returns_at_once_for_what_came_before_it() {
    let clock = Clock::new(1_000_000);
    let mailbox = Mailbox::new(0);
    mailbox.post(0x40, false);
    mailbox.wait(&clock, None);
    assert!(mailbox.take_attention());
    mailbox.kick();
    mailbox.wait(&clock, None);
    assert!(mailbox.take_kick() && !mailbox.take_kick());
}

#[test]
fn wait_ends_at_the_deadline() {
    let clock = Clock::new(1_000_000);
    let start = Instant::now();
    Mailbox::new(0).wait(&clock, Some(clock.now_ns() + 5_000_000));
    assert!(start.elapsed() >= Duration::from_millis(5));
}

#[test]
fn no_wakeup_is_lost() {
    let clock = Clock::new(1_000_000);
    let (ping, pong) = (Mailbox::new(0), Mailbox::new(1));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..20_000 {
                while !ping.take_attention() {
                    ping.wait(&clock, None);
                }
                pong.wake();
            }
        });
        for _ in 0..20_000 {
            ping.wake();
            while !pong.take_attention() {
                pong.wait(&clock, None);
            }
        }
    });
}

#[test]
fn a_request_counts_as_done_when_carried_out_or_when_the_processor_does_not_run() {
    let mailbox = Arc::new(Mailbox::new(0));
    let ticket = mailbox.request(Request::DropWritable(0x1000));
    assert!(mailbox.is_done(ticket), "it does not run");
    mailbox.enter();
    assert!(!mailbox.is_done(ticket), "it runs and has not read its inbox");
    let requests = mailbox.take_requests().unwrap();
    assert!(!mailbox.is_done(ticket), "read is not carried out");
    assert_eq!(requests.collect::<Vec<_>>(), [Request::DropWritable(0x1000)]);
    assert!(mailbox.is_done(ticket));
    assert!(mailbox.take_requests().is_none());
    assert!(!mailbox.take_attention(), "one that did not run was not disturbed");
    mailbox.request(Request::FlushTlb);
    assert!(mailbox.take_attention());
    mailbox.leave();
}

#[test]
fn an_inbox_nobody_reads_is_summed_up() {
    let mailbox = Arc::new(Mailbox::new(0));
    for page in 0..100_000 {
        mailbox.request(Request::InvalidateCode { gpa: page << 12, len: 4096 });
    }
    let requests: Vec<_> = mailbox.take_requests().unwrap().collect();
    assert!(requests.len() < 300 && requests.contains(&Request::FlushCode));
}

#[test]
fn a_thread_that_posts_while_another_takes_loses_nothing() {
    let mailbox = Mailbox::new(0);
    let done = AtomicBool::new(false);
    let mut seen = 0u32;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for vector in (32..=255).cycle().take(20_000) {
                mailbox.post(vector, false);
            }
            done.store(true, Ordering::SeqCst);
        });
        let mut last: Vectors = [0; 4];
        loop {
            let finished = done.load(Ordering::SeqCst);
            for (word, last) in last.iter_mut().enumerate() {
                let (bits, _) = mailbox.take_vectors(word);
                *last |= bits;
                seen += bits.count_ones();
            }
            if finished {
                assert_eq!(last, [!0 << 32, !0, !0, !0]);
                break;
            }
        }
    });
    assert!(seen >= 224);
}
