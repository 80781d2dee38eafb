use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use disk::{Disk, Raw};
use libc::iovec;
use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::block::Block;
use vmm::virtio::feature;

use crate::driver::{Driver, NEEDS_RESET, Piece, STATUS};
use crate::rig::Rig;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

const FLUSH_FEATURE: u64 = 1 << 9;
const ALL: u64 = !feature::INDIRECT;
/// Where requests lie in guest memory: header, status, data.
const HEADERS: u64 = 0x10_0000;
const DATA: u64 = 0x30_0000;

fn file(len: u64) -> File {
    let file = tempfile::tempfile().unwrap();
    file.set_len(len).unwrap();
    file
}

fn raw(file: &File, read_only: bool) -> Box<dyn Disk> {
    Box::new(Raw::from_file(file.try_clone().unwrap(), read_only).unwrap())
}

fn rig(disk: Box<dyn Disk>, queues: u16) -> Rig {
    Rig::new(vec![Box::new(Block::new(disk, "serial-0123456789-too-long", queues))])
}

impl Driver<'_> {
    fn header(&self, number: u64, kind: u32, sector: u64) -> u64 {
        let at = HEADERS + number * 32;
        self.memory().write_obj(kind, GuestAddress(at)).unwrap();
        self.memory().write_obj(sector, GuestAddress(at + 8)).unwrap();
        self.memory().write_obj(0xeeu8, GuestAddress(at + 16)).unwrap();
        at
    }

    fn status(&self, number: u64) -> u8 {
        self.memory().read_obj(GuestAddress(HEADERS + number * 32 + 16)).unwrap()
    }

    /// Adds request `number` in the usual form.
    fn request(&mut self, queue: usize, number: u64, kind: u32, sector: u64, data: &[Piece]) -> u16 {
        let header = self.header(number, kind, sector);
        let pieces = [&[(header, 16, false)], data, &[(header + 16, 1, true)]].concat();
        self.add(queue, &pieces)
    }

    /// Does one request; gives its status and the bytes written to memory.
    fn ask(&mut self, kind: u32, sector: u64, data: &[Piece]) -> (u8, u32) {
        let from = self.next(0);
        let head = self.request(0, 0, kind, sector, data);
        self.kick_if_wanted(0, from);
        let (used, written) = self.used(0);
        assert_eq!(used, head);
        (self.status(0), written)
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.memory().write_slice(bytes, GuestAddress(at)).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.memory().read_slice(&mut bytes, GuestAddress(at)).unwrap();
        bytes
    }

    fn range(&self, sector: u64, count: u32, flags: u32) -> Piece {
        self.put(DATA, &sector.to_le_bytes());
        self.put(DATA + 8, &count.to_le_bytes());
        self.put(DATA + 12, &flags.to_le_bytes());
        (DATA, 16, false)
    }
}

#[test]
fn every_kind_of_request_does_what_it_says() {
    let file = file(1 << 20);
    let rig = rig(raw(&file, false), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    assert_eq!(driver.config(0, 8), 2048, "sectors");
    driver.put(DATA, &[7; 8192]);
    assert_eq!(driver.ask(OUT, 8, &[(DATA, 512, false), (DATA + 512, 7680, false)]), (OK, 1));
    assert_eq!(driver.ask(FLUSH, 0, &[]), (OK, 1));
    let mut bytes = [0; 8192];
    file.read_exact_at(&mut bytes, 4096).unwrap();
    assert_eq!(bytes, [7; 8192]);
    let range = driver.range(8, 1, 0);
    assert_eq!(driver.ask(WRITE_ZEROES, 0, &[range]), (OK, 1));
    let range = driver.range(9, 2, 1);
    assert_eq!(driver.ask(WRITE_ZEROES, 0, &[range]), (OK, 1));
    let range = driver.range(16, 8, 0);
    assert_eq!(driver.ask(DISCARD, 0, &[range]), (OK, 1));
    driver.put(DATA, &[9; 8192]);
    assert_eq!(driver.ask(IN, 8, &[(DATA, 1024, true), (DATA + 1024, 7168, true)]), (OK, 8193));
    assert_eq!(driver.get(DATA, 8192), [vec![0; 3 * 512], vec![7; 5 * 512], vec![0; 8 * 512]].concat());
    assert_eq!(driver.ask(GET_ID, 0, &[(DATA, 20, true)]), (OK, 21));
    assert_eq!(driver.get(DATA, 20), b"serial-0123456789-to");
}

#[test]
fn what_is_wrong_with_a_request_is_its_own_affair() {
    let file = file(1 << 20);
    let rig = rig(raw(&file, false), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    let failed = (IO_ERROR, 1);
    assert_eq!(driver.ask(IN, 2048, &[(DATA, 512, true)]), failed, "beyond the end");
    assert_eq!(driver.ask(IN, 2047, &[(DATA, 1024, true)]), failed, "over the end");
    assert_eq!(driver.ask(IN, u64::MAX, &[(DATA, 512, true)]), failed);
    assert_eq!(driver.ask(IN, 0, &[(DATA, 100, true)]), failed, "not whole sectors");
    assert_eq!(driver.ask(IN, 0, &[(DATA, 512, false)]), failed, "the wrong direction");
    assert_eq!(driver.ask(OUT, 0, &[(DATA, 512, true)]), failed, "the wrong direction");
    assert_eq!(driver.ask(OUT, 2047, &[(DATA, 1024, false)]), failed);
    assert_eq!(driver.ask(77, 0, &[]), (UNSUPPORTED, 1));
    for (sector, count) in [(2048, 1), (0, 2049), (u64::MAX, 1), (0, u32::MAX)] {
        let range = driver.range(sector, count, 0);
        assert_eq!(driver.ask(DISCARD, 0, &[range]), failed, "{sector}+{count}");
        assert_eq!(driver.ask(WRITE_ZEROES, 0, &[range]), failed, "{sector}+{count}");
    }
    let range = driver.range(0, 1, 1);
    assert_eq!(driver.ask(DISCARD, 0, &[range]), (UNSUPPORTED, 1), "flags of no meaning");
    assert_eq!(driver.ask(DISCARD, 0, &[(DATA, 15, false)]), failed);
    // Not all of it is memory; there is no status; there is no header.
    for pieces in [
        &[(HEADERS, 16, false), (1 << 40, 512, true), (HEADERS + 16, 1, true)][..],
        &[(HEADERS, 16, false), (DATA, 512, false)],
        &[(HEADERS, 15, false), (HEADERS + 16, 1, true)],
        &[(HEADERS + 16, 1, true)],
    ] {
        driver.header(0, IN, 0);
        driver.add(0, pieces);
        driver.kick(0);
        assert_eq!(driver.used(0).1, 0);
        assert_eq!(driver.status(0), 0xee);
    }
    assert_eq!(driver.ask(IN, 0, &[(DATA, 512, true)]), (OK, 513), "and the next one is done");
}

#[test]
fn a_request_may_be_spread_as_the_driver_likes() {
    let file = file(1 << 20);
    file.write_all_at(&[5; 512], 1024).unwrap();
    let rig = rig(raw(&file, false), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    let header = driver.header(0, IN, 2);
    driver.put(DATA, &[0xee; 513]);
    // The header in three pieces; data and status in one.
    driver.add(0, &[(header, 1, false), (header + 1, 0, false), (header + 1, 15, false), (DATA, 513, true)]);
    driver.kick(0);
    assert_eq!(driver.used(0).1, 513);
    assert_eq!(driver.get(DATA, 513), [&[5; 512][..], &[OK]].concat());
    // Header and data in one.
    driver.put(DATA, &[OUT.to_le_bytes(), [0; 4]].concat());
    driver.put(DATA + 8, &4u64.to_le_bytes());
    driver.put(DATA + 16, &[6; 512]);
    driver.add(0, &[(DATA, 528, false), (header + 16, 1, true)]);
    driver.kick(0);
    driver.used(0);
    let mut bytes = [0; 512];
    file.read_exact_at(&mut bytes, 2048).unwrap();
    assert_eq!(bytes, [6; 512]);
}

#[test]
fn a_read_only_disk_stays_as_it_is() {
    let file = file(1 << 20);
    let rig = rig(raw(&file, true), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    assert_eq!(driver.offered() & (1 << 5 | 1 << 13 | 1 << 14), 1 << 5);
    driver.put(DATA, &[1; 512]);
    assert_eq!(driver.ask(OUT, 0, &[(DATA, 512, false)]).0, IO_ERROR);
    let range = driver.range(0, 1, 0);
    assert_eq!(driver.ask(DISCARD, 0, &[range]).0, IO_ERROR);
    assert_eq!(driver.ask(WRITE_ZEROES, 0, &[range]).0, IO_ERROR);
    assert_eq!(driver.ask(FLUSH, 0, &[]).0, OK);
    assert_eq!(driver.ask(IN, 0, &[(DATA, 512, true)]).0, OK);
}

#[test]
fn all_queues_are_served_and_every_request_is_told_of_once() {
    let file = file(1 << 20);
    for sector in 0..2048u64 {
        file.write_all_at(&[sector as u8; 512], sector * 512).unwrap();
    }
    for features in [ALL, ALL & !feature::EVENT_IDX] {
        let rig = rig(raw(&file, false), 4);
        let mut driver = Driver::start(&rig, 1, features);
        assert_eq!((driver.queues.len(), driver.config(34, 2)), (4, 4));
        for round in 0..300u64 {
            let queue = (round % 4) as usize;
            let count = 1 + round % 32;
            let from = driver.next(queue);
            for n in 0..count {
                driver.request(queue, n, IN, round + n, &[(DATA + n * 512, 512, true)]);
            }
            driver.kick_if_wanted(queue, from);
            for _ in 0..count {
                assert_eq!(driver.used(queue).1, 513);
            }
            for n in 0..count {
                assert_eq!(driver.status(n), OK);
                assert_eq!(driver.get(DATA + n * 512, 512), [(round + n) as u8; 512], "round {round}");
            }
            assert!(driver.poll(queue).is_none());
        }
    }
}

/// A disk whose reads wait until they are let through.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
    waiting: AtomicUsize,
    flushes: AtomicUsize,
}

struct Gated(Arc<Gate>);

impl Disk for Gated {
    fn len(&self) -> u64 {
        1 << 20
    }
    fn read_only(&self) -> bool {
        false
    }
    unsafe fn read(&self, _: &[iovec], offset: u64) -> io::Result<()> {
        if offset == 0 {
            return Ok(());
        }
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let open = self.0.open.lock().unwrap();
        drop(self.0.opened.wait_while(open, |open| !*open).unwrap());
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    }
    unsafe fn write(&self, _: &[iovec], _: u64) -> io::Result<()> {
        Ok(())
    }
    fn flush(&self) -> io::Result<()> {
        self.0.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn discard(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u64, _: bool) -> io::Result<()> {
        Ok(())
    }
}

impl Gate {
    fn set(&self, open: bool) {
        *self.open.lock().unwrap() = open;
        self.opened.notify_all();
    }
}

#[test]
fn a_request_that_waits_for_the_host_holds_up_neither_others_nor_other_devices() {
    let gate = Arc::new(Gate::default());
    let other = file(1 << 20);
    let rig = Rig::new(vec![
        Box::new(Block::new(Box::new(Gated(Arc::clone(&gate))), "slow", 1)),
        Box::new(Block::new(raw(&other, false), "quick", 1)),
    ]);
    let mut slow = Driver::start(&rig, 1, ALL);
    let long = [(DATA, 256 << 10, true)];
    for n in 0..4 {
        slow.request(0, n, IN, 8, &long);
    }
    let last = slow.request(0, 4, IN, 0, &[(DATA, 512, true)]);
    slow.kick(0);
    rig.eventually("four reads wait at once", || gate.waiting.load(Ordering::SeqCst) == 4);
    assert_eq!(slow.used(0).0, last, "the last one overtakes those that wait");
    gate.set(true);
    for _ in 0..4 {
        slow.used(0);
    }
    gate.set(false);
    slow.request(0, 0, IN, 8, &[(DATA, 512, true)]);
    slow.kick(0);
    rig.eventually("a read waits", || gate.waiting.load(Ordering::SeqCst) == 1);
    let mut quick = Driver::start(&rig, 2, ALL);
    assert_eq!(quick.ask(IN, 0, &[(DATA, 512, true)]).0, OK);
    gate.set(true);
}

#[test]
fn a_paused_machine_does_no_requests() {
    let gate = Arc::new(Gate::default());
    let rig = rig(Box::new(Gated(Arc::clone(&gate))), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    driver.request(0, 0, IN, 8, &[(DATA, 512, true)]);
    driver.kick(0);
    rig.eventually("a read waits", || gate.waiting.load(Ordering::SeqCst) == 1);
    std::thread::scope(|scope| {
        let pause = scope.spawn(|| rig.machine.pause());
        std::thread::sleep(Duration::from_millis(20));
        assert!(!pause.is_finished(), "it waits for what has begun");
        gate.set(true);
        pause.join().unwrap();
    });
    driver.used(0);
    driver.request(0, 0, FLUSH, 0, &[]);
    driver.kick(0);
    std::thread::sleep(Duration::from_millis(20));
    assert!(driver.poll(0).is_none());
    assert_eq!(gate.flushes.load(Ordering::SeqCst), 0);
    rig.machine.resume();
    driver.used(0);
    assert_eq!(gate.flushes.load(Ordering::SeqCst), 1);
}

#[test]
fn a_machine_that_is_no_more_lets_go_of_its_disks() {
    for paused in [false, true] {
        let gate = Arc::new(Gate::default());
        let rig = rig(Box::new(Gated(Arc::clone(&gate))), 2);
        let mut driver = Driver::start(&rig, 1, ALL);
        assert_eq!(driver.ask(FLUSH, 0, &[]).0, OK);
        if paused {
            rig.machine.pause();
        }
        drop(rig);
        let start = Instant::now();
        // The last thread has it a moment longer.
        while Arc::strong_count(&gate) > 1 {
            assert!(start.elapsed() < Duration::from_secs(10), "somebody keeps the disk");
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_driver_that_cannot_flush_need_not() {
    let gate = Arc::new(Gate::default());
    let rig = rig(Box::new(Gated(Arc::clone(&gate))), 1);
    let mut driver = Driver::start(&rig, 1, ALL & !FLUSH_FEATURE);
    assert_eq!(driver.ask(OUT, 0, &[(DATA, 512, false)]).0, OK);
    assert_eq!(gate.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(driver.ask(IN, 0, &[(DATA, 512, true)]).0, OK);
    assert_eq!(gate.flushes.load(Ordering::SeqCst), 1);
}

#[test]
fn a_driver_that_breaks_its_ring_must_reset_the_device_and_may() {
    let file = file(1 << 20);
    let rig = rig(raw(&file, false), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    for index in [300u16, 0x8000, 0xffff] {
        let at = GuestAddress(driver.available(0).0 + 2);
        driver.memory().write_obj(index, at).unwrap();
        driver.kick(0);
        rig.eventually("the device asks for a reset", || driver.read(STATUS, 1) & NEEDS_RESET != 0);
        driver.restart();
        assert_eq!(driver.read(STATUS, 1), 15);
        assert_eq!(driver.ask(IN, 0, &[(DATA, 512, true)]).0, OK);
    }
    // A first descriptor that the table does not have.
    let available = driver.available(0).0;
    let next = driver.next(0);
    driver.memory().write_obj(999u16, GuestAddress(available + 4 + 2 * u64::from(next))).unwrap();
    driver.memory().write_obj(next + 1, GuestAddress(available + 2)).unwrap();
    driver.kick(0);
    rig.eventually("the device asks for a reset", || driver.read(STATUS, 1) & NEEDS_RESET != 0);
}

#[test]
fn what_a_read_writes_is_in_the_log_of_dirty_pages_even_if_it_fails() {
    let file = file(1 << 20);
    let rig = rig(raw(&file, false), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    // The image is cut short behind our back: the read fails in the middle.
    file.set_len(4096).unwrap();
    let dirty = |address: u64| {
        use vm_memory::bitmap::Bitmap;
        use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
        let (region, at) = rig.machine.guest_memory().to_region_addr(GuestAddress(address)).unwrap();
        region.bitmap().dirty_at(at.0 as usize)
    };
    assert!(!dirty(DATA) && !dirty(DATA + 4096));
    assert_eq!(driver.ask(IN, 0, &[(DATA, 8192, true)]).0, IO_ERROR);
    assert!(dirty(DATA) && dirty(DATA + 4096));
    assert!(!dirty(DATA + 8192));
}

/// How many requests a second, with no guest in the way: `cargo test --release -p vmm --test devices -- --ignored --nocapture speed`.
#[test]
#[ignore = "measures"]
fn speed() {
    let folder = std::env::var("BENCH_FOLDER").unwrap_or_else(|_| "/var/tmp".into());
    let path = std::path::Path::new(&folder).join("tessera-speed.raw");
    let file = File::options().read(true).write(true).create(true).truncate(false).open(&path).unwrap();
    let chunk = vec![7; 1 << 20];
    for n in 0..1024 {
        file.write_all_at(&chunk, n << 20).unwrap();
    }
    file.sync_all().unwrap();
    let rig = rig(raw(&file, false), 1);
    let mut driver = Driver::start(&rig, 1, ALL);
    for (what, kind, len, depth, cold, count) in [
        ("read 4k, cached, 1 at once", IN, 4096, 1, false, 30_000u64),
        ("read 4k, cached, 32 at once", IN, 4096, 32, false, 200_000),
        ("read 4k, cold, 1 at once", IN, 4096, 1, true, 2000),
        ("read 4k, cold, 32 at once", IN, 4096, 32, true, 10_000),
        ("write 4k, 32 at once", OUT, 4096, 32, false, 100_000),
        ("read 256k, cached, 4 at once", IN, 256 << 10, 4, false, 20_000),
        ("write 256k, 4 at once", OUT, 256 << 10, 4, false, 10_000),
    ] {
        if cold {
            use std::os::fd::AsRawFd;
            file.sync_all().unwrap();
            // SAFETY: no memory is involved.
            unsafe {
                libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM);
                libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED);
            }
        } else {
            io::copy(&mut &file, &mut io::sink()).unwrap();
        }
        let (mut random, start, mut asked, mut flying) = (1u64, Instant::now(), 0, 0);
        let mut done = 0;
        while done < count {
            let from = driver.next(0);
            while flying < depth && asked < count {
                random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                let sector = (random >> 20) % ((1 << 30) / len) * (len / 512);
                let data = [(DATA + asked % depth * len, len as u32, kind == IN)];
                driver.request(0, asked % 32, kind, sector, &data);
                asked += 1;
                flying += 1;
            }
            driver.kick_if_wanted(0, from);
            driver.used(0);
            let more = std::iter::from_fn(|| driver.poll(0)).count() as u64;
            done += 1 + more;
            flying -= 1 + more;
        }
        let seconds = start.elapsed().as_secs_f64();
        let rate = count as f64 / seconds;
        println!("{what:30} {rate:9.0}/s {:7.0} MiB/s", rate * len as f64 / f64::from(1 << 20));
    }
    std::fs::remove_file(path).unwrap();
}
