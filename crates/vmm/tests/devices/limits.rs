//! Disks and cards with limits: what may not go on yet waits in its queue, and goes on by itself.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use disk::Raw;
use vm_memory::{Bytes, GuestAddress};
use vmm::figures::{Figures, Page, now_ns};
use vmm::flows::{Allowed, Part, key};
use vmm::state::MachineState;
use vmm::virtio::DeviceState;
use vmm::virtio::block::{self, Block, DiskLimits};
use vmm::virtio::limit::{Allowances, Limit, Rate};
use vmm::virtio::net::{Net, NetLimits, Stream};

use crate::driver::Driver;
use crate::rig::Rig;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;

const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x30_0000;
/// So slow that nobody sees it pass.
const NEVER: u64 = 1;

fn rate(per_second: u64, burst: u64) -> Option<Rate> {
    Some(Rate { per_second, burst: Some(burst) })
}

fn bytes(per_second: u64, burst: u64) -> Limit {
    Limit { bytes: rate(per_second, burst), operations: None }
}

fn operations(per_second: u64, burst: u64) -> Limit {
    Limit { bytes: None, operations: rate(per_second, burst) }
}

fn disk(limits: DiskLimits) -> (Block, block::Limiter) {
    let file: File = tempfile::tempfile().unwrap();
    file.set_len(4 << 20).unwrap();
    let block = Block::new(Box::new(Raw::from_file(file, false).unwrap()), "limited", 2);
    let limiter = block.limiter();
    limiter.set(&limits);
    (block, limiter)
}

/// A machine with a limited disk in slot 1.
fn machine(limits: DiskLimits) -> (Rig, block::Limiter) {
    let (block, limiter) = disk(limits);
    (Rig::new(vec![Box::new(block)]), limiter)
}

/// Asks for `len` bytes as request `number` of a queue, and kicks.
fn ask(driver: &mut Driver, queue: usize, number: u64, kind: u32, len: u32) {
    let at = HEADERS + number * 32;
    driver.memory().write_obj(kind, GuestAddress(at)).unwrap();
    driver.memory().write_obj(0u64, GuestAddress(at + 8)).unwrap();
    let from = driver.next(queue);
    let data = (DATA, len, kind == IN);
    let (header, status) = ((at, 16, false), (at + 16, 1, true));
    match len {
        0 => driver.add(queue, &[header, status]),
        _ => driver.add(queue, &[header, data, status]),
    };
    driver.kick_if_wanted(queue, from);
}

/// Nothing more than `burst` and what the rate gives has passed since `start`: a law, whatever the machine's speed.
fn holds(passed: u64, per_second: u64, burst: u64, start: Instant) {
    let most = burst as f64 + per_second as f64 * start.elapsed().as_secs_f64();
    assert!(passed as f64 <= most, "{passed} of {most}");
}

#[test]
fn requests_that_have_to_wait_are_done_in_time_and_no_sooner() {
    for (kind, limits) in [
        (IN, DiskLimits { read: bytes(1 << 20, 8192), ..DiskLimits::default() }),
        (OUT, DiskLimits { write: bytes(1 << 20, 8192), ..DiskLimits::default() }),
        (IN, DiskLimits { total: operations(256, 2), ..DiskLimits::default() }),
    ] {
        let (rig, _) = machine(limits);
        let mut driver = Driver::start(&rig, 1, u64::MAX);
        let start = Instant::now();
        // Some larger than the burst, and all of them on two queues.
        for number in 0..24 {
            ask(&mut driver, (number % 2) as usize, number, kind, if number < 4 { 16384 } else { 4096 });
        }
        for done in 1..=12 {
            for queue in [0, 1] {
                driver.used(queue);
            }
            let sizes = |count: u64| (0..count).map(|n| if n < 4 { 16384 } else { 4096 }).sum::<u64>();
            match limits.total.operations {
                Some(rate) => holds(2 * done, rate.per_second, 2, start),
                None => holds(sizes(2 * done), 1 << 20, 16384, start),
            }
        }
    }
}

#[test]
fn who_waits_for_bytes_keeps_neither_flushes_nor_a_pause_nor_a_reset_waiting() {
    let limits = DiskLimits { total: bytes(NEVER, 4096), ..DiskLimits::default() };
    let (rig, limiter) = machine(limits);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    ask(&mut driver, 0, 0, IN, 65536);
    driver.used(0);
    ask(&mut driver, 0, 1, IN, 512);
    ask(&mut driver, 1, 2, FLUSH, 0);
    driver.used(1);
    ask(&mut driver, 1, 3, OUT, 512);
    rig.machine.pause();
    rig.machine.resume();
    assert!(driver.poll(0).is_none() && driver.poll(1).is_none(), "61440 bytes are owed");
    // The driver begins anew; what is owed stays.
    driver.restart();
    ask(&mut driver, 0, 1, OUT, 512);
    ask(&mut driver, 1, 2, IN, 512);
    std::thread::sleep(Duration::from_millis(20));
    assert!(driver.poll(0).is_none() && driver.poll(1).is_none());
    // Faster, and it goes on at once; without limits nothing waits.
    limiter.set(&DiskLimits { total: bytes(1 << 30, 4096), ..DiskLimits::default() });
    driver.used(0);
    driver.used(1);
    limiter.set(&limits);
    ask(&mut driver, 0, 1, IN, 65536);
    ask(&mut driver, 0, 2, IN, 65536);
    ask(&mut driver, 0, 3, IN, 65536);
    limiter.set(&DiskLimits::default());
    for _ in 0..3 {
        driver.used(0);
    }
}

#[test]
fn a_flush_waits_for_operations_only() {
    let writes = Limit { bytes: rate(NEVER, 1), operations: rate(NEVER, 2) };
    let (rig, limiter) = machine(DiskLimits { write: writes, ..DiskLimits::default() });
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    ask(&mut driver, 0, 0, OUT, 4096);
    ask(&mut driver, 0, 1, FLUSH, 0);
    driver.used(0);
    driver.used(0);
    ask(&mut driver, 0, 2, FLUSH, 0);
    ask(&mut driver, 1, 3, IN, 4096);
    driver.used(1);
    assert!(driver.poll(0).is_none(), "two operations have been");
    limiter.set(&DiskLimits::default());
    driver.used(0);
}

#[test]
fn a_saved_machine_goes_on_with_what_it_owes_and_an_older_one_owes_nothing() {
    let limits = DiskLimits { total: bytes(NEVER, 4096), ..DiskLimits::default() };
    let (rig, _) = machine(limits);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    ask(&mut driver, 0, 0, IN, 65536);
    driver.used(0);
    ask(&mut driver, 0, 1, IN, 512);
    rig.machine.pause();
    assert!(driver.poll(0).is_none());
    let saved = rig.saved();
    let disk_of =
        |state: &MachineState| state.devices.iter().position(|device| device.name == "device0").unwrap();
    let place = disk_of(&saved.state);
    let DeviceState::Limits(owed) = &saved.state.devices[place].registers.device else {
        panic!("{:?}", saved.state.devices[place].registers.device)
    };
    assert!((-61_440..-60_000).contains(&owed.lanes[0].bytes.unwrap()), "{owed:?}");

    let (block, limiter) = disk(limits);
    let other = Rig::restored(vec![Box::new(block)], saved);
    other.machine.resume();
    let mut driver = driver.go_on(&other);
    std::thread::sleep(Duration::from_millis(20));
    assert!(driver.poll(0).is_none(), "what was owed is");
    limiter.set(&DiskLimits::default());
    driver.used(0);

    // Saved without limits it is as programs that know of none have it; limits hold from then on.
    other.machine.pause();
    let plain = other.saved();
    assert_eq!(plain.state.devices[place].registers.device, DeviceState::Plain);
    let (block, limiter) = disk(limits);
    let third = Rig::restored(vec![Box::new(block)], plain);
    third.machine.resume();
    let mut driver = driver.go_on(&third);
    ask(&mut driver, 0, 0, IN, 4096);
    driver.used(0);
    ask(&mut driver, 0, 0, IN, 4096);
    std::thread::sleep(Duration::from_millis(20));
    assert!(driver.poll(0).is_none());
    limiter.set(&DiskLimits::default());
    driver.used(0);
}

/// Nothing until somebody says more.
fn nothing() -> Allowed {
    let bytes = Part { per_second: NEVER, burst: 4096, alone: NEVER };
    Allowed { bytes, operations: Part::default(), until: u64::MAX }
}

#[test]
fn disks_wait_for_what_they_are_allowed_together_and_go_on_when_it_is_more() {
    let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
    figures.publish(Page::open(file).unwrap());
    let allowance = Allowances::new(figures).of("pool/a").unwrap();
    let flow = page.flow(key("pool/a")).unwrap();
    page.allow(flow, &nothing());
    let ((one, first), (other, second)) = (disk(DiskLimits::default()), disk(DiskLimits::default()));
    first.share(Some(Arc::clone(&allowance)));
    let rig = Rig::new(vec![Box::new(one), Box::new(other)]);
    let mut drivers = [Driver::start(&rig, 1, u64::MAX), Driver::start(&rig, 2, u64::MAX)];
    // While it is served, too.
    second.share(Some(allowance));
    ask(&mut drivers[0], 0, 0, IN, 65536);
    drivers[0].used(0);
    for (number, driver) in (1..).zip(&mut drivers) {
        ask(driver, 0, number, IN, 4096);
    }
    // The devices' thread comes to them in its own time.
    while page.passed(flow, now_ns()).waited_ns == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::thread::sleep(Duration::from_millis(30));
    rig.machine.pause();
    rig.machine.resume();
    assert!(drivers.iter_mut().all(|driver| driver.poll(0).is_none()), "61440 bytes are owed");
    let passed = page.passed(flow, now_ns());
    assert!(passed.bytes == 65536 && passed.waited_ns >= 30_000_000, "{passed:?}");
    // A device that begins anew asks anew; its own limits hold besides.
    drivers[0].restart();
    first.set(&DiskLimits { total: bytes(NEVER, 4096), ..DiskLimits::default() });
    ask(&mut drivers[0], 0, 1, IN, 4096);
    ask(&mut drivers[0], 0, 3, IN, 4096);
    // Nobody tells it: it looks.
    page.allow(flow, &Allowed { bytes: Part { per_second: 1 << 30, burst: 1 << 20, alone: 1 }, ..nothing() });
    for driver in &mut drivers {
        driver.used(0);
    }
    std::thread::sleep(Duration::from_millis(30));
    assert!(drivers[0].poll(0).is_none(), "its own limit");
    first.set(&DiskLimits::default());
    drivers[0].used(0);
    // Without an allowance it never waits, whatever the others do.
    page.allow(flow, &nothing());
    std::thread::sleep(Duration::from_millis(20));
    first.share(None);
    for number in 0..3 {
        ask(&mut drivers[0], 0, number, IN, 1 << 20);
        drivers[0].used(0);
    }
}

#[test]
fn a_card_has_what_it_is_allowed_each_way_by_itself() {
    let (figures, (page, file)) = (Figures::new().unwrap(), Page::create().unwrap());
    figures.publish(Page::open(file).unwrap());
    let mut all = Allowances::new(figures);
    let (card, limiter, mut cable) = card(NetLimits::default());
    limiter.share(all.of("network/a/receive"), all.of("network/a/send"));
    let [receive, send] = ["network/a/receive", "network/a/send"].map(|name| page.flow(key(name)).unwrap());
    page.allow(send, &nothing());
    let rig = Rig::new(vec![Box::new(card)]);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    both_ways(&mut driver, &mut cable, 12);
    for _ in 0..12 {
        driver.used(0);
    }
    for _ in 0..4 {
        driver.used(1);
    }
    std::thread::sleep(Duration::from_millis(20));
    assert!(driver.poll(1).is_none());
    let passed = [receive, send].map(|flow| page.passed(flow, now_ns()));
    assert_eq!(passed.map(|way| (way.bytes, way.operations)), [(12_000, 12), (4000, 4)]);
    assert_eq!(passed.map(|way| way.waited_ns > 0), [false, true]);
    page.allow(send, &Allowed { until: u64::MAX, ..Allowed::default() });
    for _ in 4..12 {
        driver.used(1);
    }
}

/// Header of virtio, and a frame behind it.
const HEADER: u32 = 12;
const FRAME: u32 = 1000;

fn card(limits: NetLimits) -> (Net, vmm::virtio::net::Limiter, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    far.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let card = Net::new([2, 0, 0, 0, 0, 1], Box::new(Stream::new(near, 1500).unwrap()));
    let limiter = card.limiter();
    limiter.set(&limits);
    (card, limiter, far)
}

/// A frame as it is on the cable.
fn framed() -> Vec<u8> {
    [&FRAME.to_be_bytes()[..], &[7; FRAME as usize]].concat()
}

/// So many frames come to a card and as many are sent by it, all at once.
fn both_ways(driver: &mut Driver<'_>, cable: &mut UnixStream, count: u64) {
    cable.write_all(&framed().repeat(count as usize)).unwrap();
    for number in 0..count {
        driver.add(0, &[(DATA + number * 2048, 2048, true)]);
        driver.add(1, &[(DATA, HEADER + FRAME, false)]);
    }
    driver.kick(0);
    driver.kick(1);
}

#[test]
fn a_card_receives_and_sends_in_time_and_no_sooner() {
    for (limit, per_second, burst) in [
        (bytes(100_000, 2000), 100_000, 2000),
        (operations(100, 2), 100 * u64::from(FRAME), 2 * u64::from(FRAME)),
    ] {
        let (card, _, mut cable) = card(NetLimits { receive: limit, send: limit });
        let rig = Rig::new(vec![Box::new(card)]);
        let mut driver = Driver::start(&rig, 1, u64::MAX);
        let start = Instant::now();
        cable.write_all(&framed().repeat(12)).unwrap();
        for number in 0..12 {
            driver.add(0, &[(DATA + number * 2048, 2048, true)]);
            driver.add(1, &[(DATA, HEADER + FRAME, false)]);
        }
        driver.kick(0);
        driver.kick(1);
        let mut frame = [0; 4 + FRAME as usize];
        for done in 1..=12 {
            assert_eq!(driver.used(0).1, HEADER + FRAME);
            holds(done * u64::from(FRAME), per_second, burst, start);
            cable.read_exact(&mut frame).unwrap();
            holds(done * u64::from(FRAME), per_second, burst, start);
            driver.used(1);
        }
    }
}

#[test]
fn a_card_whose_limits_change_goes_on_at_once() {
    let one = Limit { bytes: None, operations: rate(1, 1) };
    let never = NetLimits {
        receive: Limit { bytes: rate(NEVER, 1), ..one },
        send: Limit { bytes: rate(NEVER, 1), ..one },
    };
    let (card, limiter, mut cable) = card(never);
    let rig = Rig::new(vec![Box::new(card)]);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    both_ways(&mut driver, &mut cable, 3);
    driver.used(0);
    driver.used(1);
    rig.machine.pause();
    rig.machine.resume();
    assert!(driver.poll(0).is_none() && driver.poll(1).is_none());
    limiter.set(&NetLimits::default());
    for queue in [0, 0, 1, 1] {
        driver.used(queue);
    }
    let mut frames = vec![0; 3 * (4 + FRAME as usize)];
    cable.read_exact(&mut frames).unwrap();
    assert_eq!(frames[..4], FRAME.to_be_bytes());
}
