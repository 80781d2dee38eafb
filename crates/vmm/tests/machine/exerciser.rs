//! The exerciser guest (guest/exerciser) on both engines: the same tests with the same results.
//!
//! KVM is tried wherever there is /dev/kvm, paravirtual ones included: the guest uses integer instructions only.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use softcpu::CpuState;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryRegion};
use vmm::boot::{Kernel, Source};
use vmm::engine::Engine;
use vmm::engine::kvm::Kvm;
use vmm::engine::soft::Soft;
use vmm::machine::{Event, Machine, MachineConfig, Part};
use vmm::virtio::rng::Rng;

use crate::guest::Screen;

const PROCESSORS: u32 = 2;
const MEMORY: u64 = 64 << 20;
/// Where the guest writes when asked to, and how many pages.
const PLAYGROUND: u64 = 16 << 20;
const PAGES: u64 = 16;
pub const SOON: Duration = Duration::from_secs(20);

/// Builds the guest; cargo does nothing where that was done before.
fn image() -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest/exerciser");
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("exerciser");
    // In its own folder, for its own flags; the flags of this build must not reach it.
    let build = Command::new("cargo")
        .args(["build", "--release", "--quiet", "--target-dir"])
        .arg(&target)
        .current_dir(source)
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    assert!(build.status.success(), "the exerciser: {}", String::from_utf8_lossy(&build.stderr));
    target.join("release/exerciser")
}

/// KVM, if there is one here that can run integer code.
pub fn kvm() -> Option<Kvm> {
    match Kvm::open() {
        Ok(kvm) => Some(kvm),
        Err(error) => {
            eprintln!("skipped on KVM: {error}");
            None
        }
    }
}

pub fn engines() -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(Soft)];
    engines.extend(kvm().map(|kvm| Box::new(kvm) as Box<dyn Engine>));
    engines
}

/// What the guest's machine is made of.
pub fn config(screen: &Screen, tsc_khz: Option<u32>) -> MachineConfig {
    MachineConfig {
        figures: None,
        processors: PROCESSORS,
        most_processors: None,
        memory: MEMORY,
        most_memory: None,
        tsc_khz,
        kernel: Kernel {
            image: Source::new("exerciser", File::open(image()).unwrap()),
            initrd: None,
            command_line: String::new(),
        },
        console: Box::new(screen.clone()),
        devices: vec![Part::new("random", Rng::default())],
    }
}

pub struct Guest {
    pub machine: Machine,
    pub screen: Screen,
}

impl Guest {
    fn new(engine: &dyn Engine) -> Self {
        Self::with_tsc(engine, None)
    }

    /// One whose time-stamp counter has this frequency.
    pub fn with_tsc(engine: &dyn Engine, tsc_khz: Option<u32>) -> Self {
        let screen = Screen::default();
        Self { machine: Machine::new(engine, config(&screen, tsc_khz)).unwrap(), screen }
    }

    /// A guest that has passed its own tests and does what it is told.
    pub fn ready(engine: &dyn Engine) -> Self {
        let guest = Self::new(engine);
        guest.machine.resume();
        guest.screen.wait_for("host ready");
        guest
    }

    pub fn tell(&self, command: u8) {
        let start = Instant::now();
        while self.machine.input(&[command]) == 0 {
            assert!(start.elapsed() < SOON, "the guest reads nothing");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets the guest end, and gives all it said.
    pub fn end(self) -> String {
        self.tell(b'q');
        let event = self.machine.wait(SOON);
        assert_eq!(event, Some(Event::PowerOff), "the console: {}", self.screen.text());
        self.screen.text()
    }

    fn states(&self) -> Vec<CpuState> {
        (0..PROCESSORS).map(|i| self.machine.processor_state(i).unwrap()).collect()
    }

    /// The same but for the time-stamp counter, which on some KVMs counts while a guest is paused.
    fn timeless_states(&self) -> Vec<CpuState> {
        let timeless = |state| CpuState { tsc_offset: 0, ..state };
        self.states().into_iter().map(timeless).collect()
    }

    fn set_states(&self, states: &[CpuState]) {
        for (i, state) in (0..).zip(states) {
            self.machine.set_processor_state(i, state).unwrap();
        }
    }
}

#[test]
fn both_engines_pass_the_same_tests() {
    let results: Vec<_> = engines().iter().map(|e| (e.name(), Guest::ready(&**e).end())).collect();
    for (name, result) in &results {
        assert!(result.contains("exerciser: 15 passed, 0 failed"), "{name}: {result}");
        assert_eq!(result, &results[0].1, "{name}");
    }
}

#[test]
fn the_dirty_log_has_the_pages_that_were_written_and_few_others() {
    for engine in engines() {
        let guest = Guest::ready(&*engine);
        guest.machine.take_dirty().unwrap();
        guest.machine.take_dirty().unwrap();
        for round in 1..=3 {
            guest.tell(b'd');
            guest.screen.wait_for(&"host dirtied\n".repeat(round));
            let dirty = guest.machine.take_dirty().unwrap();
            let there = |page: u64| dirty.binary_search(&(PLAYGROUND + page * 4096)).is_ok();
            assert!((0..PAGES).all(there), "{} in round {round}: {dirty:x?}", engine.name());
            // The guest's stacks, tables and counters.
            assert!(dirty.len() < PAGES as usize + 24, "{} in round {round}: {dirty:x?}", engine.name());
        }
        let mut byte = [0u8];
        guest.machine.guest_memory().read_slice(&mut byte, GuestAddress(PLAYGROUND)).unwrap();
        guest.machine.guest_memory().write_slice(&byte, GuestAddress(PLAYGROUND + 0x10_0000)).unwrap();
        let dirty = guest.machine.take_dirty().unwrap();
        assert!(dirty.contains(&(PLAYGROUND + 0x10_0000)), "{}: what a device writes counts", engine.name());
        guest.end();
    }
}

#[test]
fn a_guest_in_a_busy_loop_is_paused_and_goes_on_where_it_was() {
    for engine in engines() {
        let guest = Guest::ready(&*engine);
        guest.tell(b's');
        guest.screen.wait_for("host spins ");
        for _ in 0..50 {
            guest.machine.pause();
            let [before, again] = [guest.timeless_states(), guest.timeless_states()];
            assert_eq!(before, again, "{}", engine.name());
            guest.machine.resume();
        }
        // The loop counts behind the address it told, until the word there is set.
        let text = guest.screen.text();
        let told = text.split("host spins ").nth(1).unwrap().split_whitespace().next().unwrap();
        let argument: u64 = told.parse().unwrap();
        let counter = || guest.machine.guest_memory().read_obj::<u64>(GuestAddress(argument + 8)).unwrap();
        let before = counter();
        let start = Instant::now();
        while counter() == before {
            assert!(start.elapsed() < SOON, "{}: it does not go on", engine.name());
        }
        guest.machine.guest_memory().write_obj(1u64, GuestAddress(argument)).unwrap();
        guest.screen.wait_for("host spun");
        guest.end();
    }
}

#[test]
fn state_goes_out_and_in() {
    for engine in engines() {
        let guest = Guest::ready(&*engine);
        guest.tell(b'k');
        guest.screen.wait_for("host keeps");
        guest.machine.pause();
        let (states, timeless) = (guest.states(), guest.timeless_states());
        guest.set_states(&vec![CpuState::default(); PROCESSORS as usize]);
        guest.set_states(&states);
        assert_eq!(guest.timeless_states(), timeless, "{}", engine.name());
        guest.machine.resume();
        guest.tell(b'x');
        guest.screen.wait_for("host kept");
        guest.end();
    }
}

/// The state of a guest, moved into a machine of another engine: memory, processors, and nothing that devices hold.
#[test]
fn a_guest_moves_between_engines() {
    let Some(kvm) = kvm() else { return };
    for (from, to) in [(&Soft as &dyn Engine, &kvm as &dyn Engine), (&kvm, &Soft)] {
        let source = Guest::ready(from);
        source.tell(b'k');
        source.screen.wait_for("host keeps");
        source.machine.pause();
        let target = Guest::new(to);
        for region in source.machine.guest_memory().iter() {
            let mut bytes = vec![0; region.len() as usize];
            source.machine.guest_memory().read_slice(&mut bytes, region.start_addr()).unwrap();
            target.machine.guest_memory().write_slice(&bytes, region.start_addr()).unwrap();
        }
        target.set_states(&source.states());
        target.machine.resume();
        target.tell(b'x');
        target.screen.wait_for("host kept");
        assert!(target.end().contains("15 passed, 0 failed"), "from {} to {}", from.name(), to.name());
    }
}
