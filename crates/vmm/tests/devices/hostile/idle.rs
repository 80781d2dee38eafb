//! Whatever has happened to a device, who has nothing to do does nothing: the device thread sleeps.

use std::io::{self, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm::reactor::Source;
use vmm::virtio::console::{Cable, Console, PortConfig};
use vmm::virtio::limit::{Limit, Rate};
use vmm::virtio::net::{Net, NetLimits, Stream};
use vmm::virtio::{Activation, Device};

use crate::driver::{Driver, NEEDS_RESET, STATUS};
use crate::rig::Rig;

/// A device that says which thread serves it.
struct Probe(Arc<AtomicI32>, Option<Source>);

impl Device for Probe {
    fn id(&self) -> u16 {
        42
    }
    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }
    fn features(&self) -> u64 {
        0
    }
    fn read_config(&self, _: u64, _: &mut [u8]) {}
    fn activate(&mut self, mut activation: Activation) -> io::Result<()> {
        let (queue, thread) = (activation.queues.remove(0).unwrap(), Arc::clone(&self.0));
        // SAFETY: no memory is involved.
        let found = move || thread.store(unsafe { libc::gettid() }, Ordering::SeqCst);
        self.1 = Some(activation.reactor.on_event(queue.kick, found)?);
        Ok(())
    }
    fn deactivate(&mut self) {
        self.1 = None;
    }
}

/// A machine with `device` in slot 1, and its device thread.
fn rig(device: impl Device + 'static) -> (Rig, i32) {
    let thread = Arc::new(AtomicI32::new(0));
    let rig = Rig::new(vec![Box::new(device), Box::new(Probe(Arc::clone(&thread), None))]);
    Driver::start(&rig, 2, 0).kick(0);
    rig.eventually("the probe", || thread.load(Ordering::SeqCst) != 0);
    let thread = thread.load(Ordering::SeqCst);
    (rig, thread)
}

/// Processor time of a thread of this process.
fn used(thread: i32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap();
    Duration::from_nanos(text.split_whitespace().next().unwrap().parse().unwrap())
}

/// Fails if the device thread is busy. It may be for a moment, until it has found that there is nothing to do.
fn sleeps(thread: i32, what: &str) {
    let busy = |time| {
        let before = used(thread);
        std::thread::sleep(time);
        used(thread) - before
    };
    let most = Duration::from_millis(5);
    let calm = (0..20).any(|_| busy(Duration::from_millis(50)) < most);
    assert!(calm, "the device thread does not rest: {what}");
}

/// Breaks a queue of the device in slot 1.
fn breaks(driver: &Driver, queue: usize) {
    let at = driver.available(queue).0;
    driver.memory().write_obj(0x4000u16, GuestAddress(at + 2)).unwrap();
    driver.kick(queue);
    driver.rig.eventually("the device gives up", || driver.read(STATUS, 1) & NEEDS_RESET != 0);
}

fn card() -> (Net, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Net::new([2, 0, 0, 0, 0, 1], Box::new(Stream::new(near, 1500).unwrap())), far)
}

fn frames(count: usize) -> Vec<u8> {
    [&60u32.to_be_bytes()[..], &[7; 60]].concat().repeat(count)
}

#[test]
fn a_card_whose_driver_has_broken_it_leaves_what_comes() {
    let (card, mut cable) = card();
    let (rig, thread) = rig(card);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    breaks(&driver, 1);
    cable.write_all(&frames(50)).unwrap();
    sleeps(thread, "frames wait");
    drop(cable);
    sleeps(thread, "the cable is cut");
    driver.restart();
    sleeps(thread, "and the driver has started again");
}

#[test]
fn a_card_whose_cable_was_cut_waits_for_nothing() {
    let (card, cable) = card();
    let (rig, thread) = rig(card);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    assert_eq!(driver.config(6, 2), 1, "the link is up");
    drop(cable);
    rig.eventually("the link goes down", || driver.config(6, 2) == 0);
    sleeps(thread, "the cable is cut");
    driver.restart();
    sleeps(thread, "and the driver has started again");
    driver.add(1, &[(0x10_0000, 72, false)]);
    driver.kick(1);
    sleeps(thread, "it sends in vain");
}

#[test]
fn a_card_that_may_not_go_on_yet_does_nothing_meanwhile() {
    let (card, mut cable) = card();
    let rate = Some(Rate { per_second: 1, burst: Some(1) });
    let slow = Limit { bytes: rate, operations: rate };
    card.limiter().set(&NetLimits { receive: slow, send: slow });
    let (rig, thread) = rig(card);
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    cable.write_all(&frames(50)).unwrap();
    for _ in 0..50 {
        driver.add(0, &[(0x20_0000, 2048, true)]);
        driver.add(1, &[(0x10_0000, 72, false)]);
    }
    driver.kick(0);
    driver.kick(1);
    driver.used(0);
    driver.used(1);
    sleeps(thread, "frames wait on both sides");
    drop(cable);
    sleeps(thread, "and the cable is cut");
}

#[test]
fn a_port_waits_for_nobody_while_its_device_is_broken_or_its_guest_away() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    let listener = UnixListener::bind(&path).unwrap();
    let port = PortConfig { name: "agent".into(), console: false, cable: Cable::Listener(listener) };
    let (rig, thread) = rig(Console::new(vec![port]).unwrap());
    let mut driver = Driver::start(&rig, 1, u64::MAX);
    let mut first = UnixStream::connect(&path).unwrap();
    first.write_all(&[7; 100]).unwrap();
    sleeps(thread, "the guest has not opened the port");
    breaks(&driver, 3);
    let second = UnixStream::connect(&path).unwrap();
    sleeps(thread, "the device is broken");
    drop(first);
    sleeps(thread, "the client has hung up");
    driver.restart();
    sleeps(thread, "the second one is there");
    drop(second);
    sleeps(thread, "it has hung up, too");
}
