//! Disks for which the host has no room for a while: the guest waits, and knows nothing of it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use disk::{Disk, Raw};
use libc::iovec;
use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::block::{Block, Unanswered};
use vmm::virtio::{DeviceState, feature};

use crate::driver::{Driver, NEEDS_RESET, STATUS};
use crate::rig::Rig;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x30_0000;
/// Longer than until what waits is tried again.
const A_WHILE: Duration = Duration::from_millis(600);

/// A host's file system: what it holds, and whether it is full.
#[derive(Clone)]
struct Host {
    file: Arc<File>,
    full: Arc<AtomicBool>,
    tried: Arc<AtomicUsize>,
    /// What listeners were told.
    told: Arc<Mutex<Vec<bool>>>,
}

struct Filling(Raw, Host);

impl Host {
    fn new() -> Self {
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        Self { file: Arc::new(file), full: Arc::default(), tried: Arc::default(), told: Arc::default() }
    }

    fn disk(&self) -> Block {
        let raw = Raw::from_file(self.file.try_clone().unwrap(), false).unwrap();
        let block = Block::new(Box::new(Filling(raw, self.clone())), "disk", 2);
        let told = Arc::clone(&self.told);
        block.on_room(move |short| told.lock().unwrap().push(short));
        block
    }

    fn rig(&self) -> Rig {
        Rig::new(vec![Box::new(self.disk())])
    }

    fn set(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    fn told(&self) -> Vec<bool> {
        self.told.lock().unwrap().clone()
    }

    fn at(&self, sector: u64) -> u8 {
        let mut byte = [0];
        self.file.read_exact_at(&mut byte, sector * 512).unwrap();
        byte[0]
    }

    fn room(&self) -> io::Result<()> {
        self.tried.fetch_add(1, Ordering::SeqCst);
        if self.full.load(Ordering::SeqCst) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl Disk for Filling {
    fn len(&self) -> u64 {
        self.0.len()
    }
    fn read_only(&self) -> bool {
        false
    }
    unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        // SAFETY: the caller's.
        unsafe { self.0.read(buffers, offset) }
    }
    unsafe fn write(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        self.1.room()?;
        // SAFETY: the caller's.
        unsafe { self.0.write(buffers, offset) }
    }
    fn flush(&self) -> io::Result<()> {
        self.1.room()?;
        self.0.flush()
    }
    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.discard(offset, len)
    }
    fn write_zeroes(&self, offset: u64, len: u64, unmap: bool) -> io::Result<()> {
        self.1.room()?;
        self.0.write_zeroes(offset, len, unmap)
    }
}

/// Adds request `number` of a sector, whose data is a byte again and again.
fn ask(driver: &mut Driver<'_>, queue: usize, number: u64, kind: u32, sector: u64, byte: u8) -> u16 {
    let (header, data) = (HEADERS + number * 32, DATA + number * 512);
    let memory = driver.memory();
    memory.write_obj(kind, GuestAddress(header)).unwrap();
    memory.write_obj(sector, GuestAddress(header + 8)).unwrap();
    memory.write_obj(0xeeu8, GuestAddress(header + 16)).unwrap();
    memory.write_slice(&[byte; 512], GuestAddress(data)).unwrap();
    let data: &[_] = if kind == FLUSH { &[] } else { &[(data, 512, kind == IN)] };
    let pieces = [&[(header, 16, false)], data, &[(header + 16, 1, true)]].concat();
    let head = driver.add(queue, &pieces);
    driver.kick(queue);
    head
}

fn status(driver: &Driver<'_>, number: u64) -> u8 {
    driver.memory().read_obj(GuestAddress(HEADERS + number * 32 + 16)).unwrap()
}

#[test]
fn what_is_written_waits_for_room_and_what_is_read_does_not() {
    let host = Host::new();
    let rig = host.rig();
    let mut driver = Driver::start(&rig, 1, !feature::INDIRECT);
    host.set(true);
    let heads = [
        ask(&mut driver, 0, 0, OUT, 8, 1),
        ask(&mut driver, 0, 1, OUT, 8, 2),
        ask(&mut driver, 0, 2, FLUSH, 0, 0),
    ];
    let other = ask(&mut driver, 1, 3, OUT, 9, 3);
    let read = ask(&mut driver, 0, 4, IN, 8, 7);
    assert_eq!((driver.used(0).0, status(&driver, 4)), (read, 0), "a read goes on");
    std::thread::sleep(A_WHILE);
    assert!(driver.poll(0).is_none() && driver.poll(1).is_none(), "the others wait");
    let tried = host.tried.load(Ordering::SeqCst);
    assert!((2..=6).contains(&tried), "only the first one is tried, and not all the time: {tried}");
    assert_eq!(host.told(), [true]);
    // Paused nothing happens to it; then it goes on.
    rig.machine.pause();
    host.set(false);
    std::thread::sleep(A_WHILE);
    assert_eq!(host.at(8), 0);
    rig.machine.resume();
    assert_eq!([0; 3].map(|queue| driver.used(queue).0), heads, "in the order in which they came");
    assert_eq!(driver.used(1).0, other);
    assert_eq!([0, 1, 2, 3].map(|number| status(&driver, number)), [0; 4]);
    assert_eq!((host.at(8), host.at(9)), (2, 3));
    rig.eventually("it is told", || host.told() == [true, false]);
}

#[test]
fn what_waits_for_room_is_saved_with_the_machine() {
    let host = Host::new();
    let rig = host.rig();
    let mut driver = Driver::start(&rig, 1, !feature::INDIRECT);
    host.set(true);
    let first = ask(&mut driver, 1, 0, OUT, 8, 1);
    rig.eventually("it waits", || host.told() == [true]);
    let second = ask(&mut driver, 0, 1, OUT, 9, 2);
    std::thread::sleep(A_WHILE);
    rig.machine.pause();
    let saved = rig.saved();
    let disk = saved.state.devices.iter().find(|device| device.name == "device0").unwrap();
    let DeviceState::Disk(state) = &disk.registers.device else { panic!("{:?}", disk.registers.device) };
    assert_eq!(
        state.unanswered,
        [Unanswered { queue: 1, head: first }, Unanswered { queue: 0, head: second }]
    );

    host.told.lock().unwrap().clear();
    let other = Rig::restored(vec![Box::new(host.disk())], saved);
    assert_eq!(host.told(), [true], "whoever looks after it knows at once");
    other.machine.resume();
    let mut driver = driver.go_on(&other);
    std::thread::sleep(A_WHILE);
    assert!(driver.poll(0).is_none() && driver.poll(1).is_none());
    host.set(false);
    assert_eq!((driver.used(1).0, driver.used(0).0), (first, second));
    assert_eq!((host.at(8), host.at(9)), (1, 2));
}

#[test]
fn a_driver_that_resets_the_disk_has_asked_for_nothing() {
    let host = Host::new();
    let rig = host.rig();
    let mut driver = Driver::start(&rig, 1, !feature::INDIRECT);
    host.set(true);
    ask(&mut driver, 0, 0, OUT, 8, 1);
    rig.eventually("it waits", || host.told() == [true]);
    driver.restart();
    assert_eq!(host.told(), [true, false]);
    host.set(false);
    std::thread::sleep(A_WHILE);
    assert_eq!(host.at(8), 0);
    ask(&mut driver, 0, 1, OUT, 9, 2);
    driver.used(0);
    assert_eq!((host.at(9), status(&driver, 1)), (2, 0));
}

#[test]
fn a_driver_that_asks_for_the_same_again_and_again_takes_no_more_than_its_queue() {
    let host = Host::new();
    let rig = host.rig();
    let mut driver = Driver::start(&rig, 1, !feature::INDIRECT);
    host.set(true);
    let head = ask(&mut driver, 0, 0, OUT, 8, 1);
    rig.eventually("it waits", || host.told() == [true]);
    // No more than the ring has entries beyond what is taken of it: that is broken in another way.
    for _ in 0..4 {
        for _ in 0..100 {
            driver.make_available(0, head);
        }
        driver.kick(0);
        std::thread::sleep(A_WHILE);
    }
    rig.machine.pause();
    let state = rig.saved().state;
    let disk = state.devices.iter().find(|device| device.name == "device0").unwrap();
    let DeviceState::Disk(state) = &disk.registers.device else { panic!("{:?}", disk.registers.device) };
    assert_eq!(state.unanswered.len(), 256);
    assert_eq!(disk.registers.status & NEEDS_RESET as u8, 0);
    rig.machine.resume();
    host.set(false);
    rig.eventually("all of it is done", || host.told() == [true, false]);
    assert_eq!(driver.read(STATUS, 1) & NEEDS_RESET, 0);
}
