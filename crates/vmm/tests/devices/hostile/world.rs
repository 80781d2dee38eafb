//! A machine with every device, for guests that mean no good. Shared with the fuzz target.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Mutex;
use std::time::Duration;

use disk::Raw;
use vm_memory::{Bytes, GuestAddress};
use vmm::machine::SavedMachine;
use vmm::memory::map;
use vmm::virtio::Device;
use vmm::virtio::block::{Block, DiskLimits};
use vmm::virtio::console::{Cable, Console, PortConfig};
use vmm::virtio::limit::{Limit, Rate};
use vmm::virtio::net::{Net, NetLimits, Stream};
use vmm::virtio::rng::Rng;

use crate::driver::Driver;
use crate::rig::Rig;

/// Slots of the devices.
pub const DISK: u64 = 1;
pub const NET: u64 = 2;
pub const RNG: u64 = 3;
pub const READ_ONLY_DISK: u64 = 4;
pub const CONSOLE: u64 = 5;
/// Those of every machine: the balloon, and memory that can be plugged in.
pub const BALLOON: u64 = 6;
pub const MEMORY: u64 = 7;
pub const LAST_SLOT: u64 = MEMORY;
/// Bytes of each disk.
pub const DISK_SIZE: u64 = 1 << 20;

/// The machine, and what is on the other side of its devices.
pub struct World {
    pub rig: Rig,
    /// The other end of the network card's cable.
    pub cable: UnixStream,
    /// The other end of the terminal.
    pub terminal: UnixStream,
    /// Where programs reach the guest's agent, and the one that has.
    folder: tempfile::TempDir,
    client: Mutex<Option<UnixStream>>,
}

/// How many queues a device has.
pub fn queues(slot: u64) -> u64 {
    match slot {
        CONSOLE => 6,
        RNG | MEMORY => 1,
        BALLOON => 5,
        _ => 2,
    }
}

/// Fast enough that no test waits, slow enough that many requests do.
const LIMIT: Limit = Limit {
    bytes: Some(Rate { per_second: 64 << 20, burst: Some(4096) }),
    operations: Some(Rate { per_second: 20_000, burst: Some(2) }),
};

impl World {
    pub fn new() -> Self {
        Self::with(Rig::new)
    }

    /// One whose machine goes on where another one's was saved; it is paused. Nobody is at the other ends yet.
    pub fn restored(saved: SavedMachine) -> Self {
        Self::with(|devices| Rig::restored(devices, saved))
    }

    fn with(make: impl FnOnce(Vec<Box<dyn Device>>) -> Rig) -> Self {
        let (near, cable) = UnixStream::pair().unwrap();
        cable.set_nonblocking(true).unwrap();
        let disk = |read_only| -> Box<dyn Device> {
            let file = tempfile::tempfile().unwrap();
            file.set_len(DISK_SIZE).unwrap();
            let disk = Block::new(Box::new(Raw::from_file(file, read_only).unwrap()), "hostile", 2);
            if !read_only {
                disk.limiter().set(&DiskLimits { total: LIMIT, read: LIMIT, write: LIMIT });
            }
            Box::new(disk)
        };
        let net = Net::new([2, 0, 0, 0, 0, 1], Box::new(Stream::new(near, 1500).unwrap()));
        net.limiter().set(&NetLimits { receive: LIMIT, send: LIMIT });
        let (far, terminal) = UnixStream::pair().unwrap();
        terminal.set_nonblocking(true).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let agent = UnixListener::bind(folder.path().join("agent")).unwrap();
        let port = |name: &str, console, cable| PortConfig { name: name.into(), console, cable };
        let ports = vec![port("", true, Cable::Stream(far)), port("agent", false, Cable::Listener(agent))];
        let console = Console::new(ports).unwrap();
        let devices: Vec<Box<dyn Device>> =
            vec![disk(false), Box::new(net), Box::new(Rng::default()), disk(true), Box::new(console)];
        Self { rig: make(devices), cable, terminal, folder, client: Mutex::default() }
    }

    /// A program connects to the agent's port, in place of the one that was there.
    pub fn connect(&self) {
        let client = UnixStream::connect(self.folder.path().join("agent")).ok();
        if let Some(client) = &client {
            client.set_nonblocking(true).unwrap();
        }
        *self.client.lock().unwrap() = client;
    }

    /// The program does something.
    pub fn client(&self, work: impl FnOnce(&mut UnixStream)) {
        if let Some(client) = &mut *self.client.lock().unwrap() {
            work(client);
        }
    }

    /// It hangs up.
    pub fn hang_up(&self) {
        *self.client.lock().unwrap() = None;
    }

    /// Takes what has come out of the cable.
    pub fn drain(&self) {
        while !self.drained().is_empty() {}
    }

    /// Some of what has come out of the cable.
    pub fn drained(&self) -> Vec<u8> {
        let mut buffer = vec![0; 65536];
        let len = (&self.cable).read(&mut buffer).unwrap_or(0);
        buffer.truncate(len);
        buffer
    }

    /// Sends into the cable, as much as there is room for.
    pub fn send(&self, bytes: &[u8]) {
        if let Err(e) = (&self.cable).write_all(bytes) {
            assert!(matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::BrokenPipe), "{e}");
        }
    }

    /// The machine pauses and goes on, and after a reset its devices are as new: each is found where it was at first, and
    /// works.
    pub fn is_sound(&self) {
        self.rig.machine.pause();
        self.rig.machine.resume();
        while self.rig.machine.wait(Duration::ZERO).is_some() {}
        self.rig.machine.reset().unwrap();
        self.rig.forget_messages();
        let there = self.rig.machine.devices();
        for slot in [RNG, DISK, READ_ONLY_DISK, CONSOLE, BALLOON, MEMORY] {
            // A guest may let go of what it has.
            let own = [(BALLOON, "balloon"), (MEMORY, "memory")].into_iter().find(|(own, _)| *own == slot);
            let name = own.map_or_else(|| format!("device{}", slot - 1), |(_, name)| name.into());
            if there.contains(&name) {
                self.serves(slot);
            }
        }
        panicked();
    }

    /// The device in `slot` does a usual request.
    pub fn serves(&self, slot: u64) {
        let mut driver = Driver::start(&self.rig, slot, u64::MAX);
        driver.memory().write_slice(&[0; 16], GuestAddress(0x10_0000)).unwrap();
        // A frame; random bytes; a control message; one page; a state; the first sector.
        let (queue, pieces, wanted) = match slot {
            NET => (1, vec![(0x10_0000, 12, false), (0x10_1000, 60, false)], 0),
            RNG => (0, vec![(0x10_0000, 64, true)], 64),
            CONSOLE => (3, vec![(0x10_0000, 8, false)], 0),
            BALLOON => (0, vec![(0x10_0000, 4, false)], 0),
            MEMORY => (0, vec![(0x10_0000, 24, false), (0x10_1000, 10, true)], 10),
            _ => (0, vec![(0x10_0000, 16, false), (0x10_1000, 512, true), (0x10_2000, 1, true)], 513),
        };
        driver.add(queue, &pieces);
        driver.kick(queue);
        let written = driver.used(queue).1;
        assert_eq!(written, wanted, "the device in slot {slot} does not work");
    }

    /// Where the BAR of the device in `slot` is mapped, as its configuration space says.
    pub fn bar(&self, slot: u64) -> u64 {
        let config = map::ECAM + (slot << 15);
        (self.rig.read(config + 0x10, 4) & !0xf) | self.rig.read(config + 0x14, 4) << 32
    }
}

/// What a thread of a machine said when it panicked.
static PANIC: Mutex<Option<String>> = Mutex::new(None);

/// Has panics of devices' threads noted, which otherwise nobody would see.
pub fn watch_for_panics() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if matches!(thread.name(), Some("devices" | "disk")) {
                *PANIC.lock().unwrap() = Some(info.to_string());
            }
            usual(info);
        }));
    });
}

/// Fails if a device's thread has panicked.
pub fn panicked() {
    if let Some(what) = &*PANIC.lock().unwrap() {
        panic!("a device's thread has panicked: {what}");
    }
}
