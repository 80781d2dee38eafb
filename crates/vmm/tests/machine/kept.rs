//! What was saved once goes on for ever: machines of the first version (`tests/data/first`), and states of devices that no guest has thought of.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use disk::Format;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};
use vmm::engine::soft::Soft;
use vmm::machine::{Machine, MachineConfig, Part, SavedMachine};
use vmm::memory::Image;
use vmm::state::MachineState;
use vmm::virtio::block::{Block, DiskLimits};
use vmm::virtio::console::{Cable, Console, PortConfig};
use vmm::virtio::limit::{Limit, Rate};
use vmm::virtio::net::{Net, Stream};

use crate::exerciser::{self, Guest, SOON};
use crate::guest::Screen;

/// A machine with one of each device, room for more memory and for one more processor; and what holds their other ends.
struct Full {
    config: MachineConfig,
    screen: Screen,
    _ends: (tempfile::TempDir, UnixStream, UnixStream),
}

impl Full {
    /// The one that was saved.
    fn new() -> Self {
        let mut full = Self::with("net", &["disk"], 2, &DiskLimits::default());
        full.config.most_memory = Some(2 * full.config.memory);
        full
    }

    /// One like that of the guest with Linux.
    fn linux() -> Self {
        Self::linux_with(&DiskLimits::default())
    }

    /// The same, whose disks do so little that they wait.
    fn waiting() -> Self {
        let slow = Rate { per_second: 1, burst: Some(u64::from(u32::MAX)) };
        let limit = Limit { bytes: Some(slow), operations: Some(slow) };
        Self::linux_with(&DiskLimits { total: limit, read: limit, write: limit })
    }

    fn linux_with(limits: &DiskLimits) -> Self {
        let mut full = Self::with("net-52:13:de:06:a4:e1", &["disk0", "disk1"], 3, limits);
        (full.config.memory, full.config.most_memory) = (128 << 20, Some(256 << 20));
        full
    }

    fn with(net: &str, disks: &[&str], queues: u16, limits: &DiskLimits) -> Self {
        let (screen, folder) = (Screen::default(), tempfile::tempdir().unwrap());
        let (wire, cable) = UnixStream::pair().unwrap();
        let card = Net::new([2, 0, 0, 0, 0, 1], Box::new(Stream::new(cable, 1500).unwrap()));
        let (agent, cable) = UnixStream::pair().unwrap();
        let port = PortConfig { name: "agent".into(), console: false, cable: Cable::Stream(cable) };
        let mut config = exerciser::config(&screen, None);
        config.most_processors = Some(3);
        config.devices.push(Part::new(net, card));
        config.devices.push(Part::new("ports", Console::new(vec![port]).unwrap()));
        for name in disks {
            let file = folder.path().join(name);
            File::create(&file).unwrap().set_len(1 << 20).unwrap();
            let disk = disk::open(&file, Some(Format::Raw), false).unwrap();
            let block = Block::new(disk, name, queues);
            block.limiter().set(limits);
            config.devices.push(Part::new(*name, block));
        }
        Self { config, screen, _ends: (folder, wire, agent) }
    }

    /// The memory of one that has never run.
    fn memory(self) -> File {
        save_memory(&Machine::new(&Soft, self.config).unwrap())
    }

    fn restore(self, saved: SavedMachine) -> Result<(Guest, impl Sized), String> {
        let machine = Machine::restore(&Soft, self.config, saved).map_err(|error| error.to_string())?;
        Ok((Guest { machine, screen: self.screen }, self._ends))
    }
}

fn first() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/first")
}

/// A packed file of the first version, unpacked, with holes where it is zeroes.
fn unpacked(name: &str) -> File {
    let mut packed = GzDecoder::new(File::open(first().join(name)).unwrap());
    let mut file = tempfile::tempfile().unwrap();
    let mut chunk = Vec::new();
    let mut length = 0;
    while Read::by_ref(&mut packed).take(1 << 16).read_to_end(&mut chunk).unwrap() > 0 {
        length += chunk.len() as u64;
        if chunk.iter().any(|byte| *byte != 0) {
            file.write_all(&chunk).unwrap();
        } else {
            file.seek(SeekFrom::Current(chunk.len() as i64)).unwrap();
        }
        chunk.clear();
    }
    file.set_len(length).unwrap();
    file
}

fn state(name: &str) -> Value {
    serde_json::from_reader(GzDecoder::new(File::open(first().join(name)).unwrap())).unwrap()
}

/// These files are never made anew: who changes what is saved writes an upgrade (`Section::upgrade`) instead.
#[test]
fn a_machine_that_the_first_version_saved_goes_on_for_ever() {
    let state = MachineState::from_json(state("state.json.gz")).unwrap();
    let memory = Image::open(unpacked("memory.gz")).unwrap();
    memory.verify(|_| true).unwrap();
    let saved = SavedMachine { state, memory, again: false };
    let (guest, _ends) = Full::new().restore(saved).unwrap();
    guest.machine.resume();
    // It was kept from going on when its processors held what they are to hold after it.
    guest.tell(b'x');
    guest.screen.wait_for("host kept");
    assert!(guest.end().contains("15 passed, 0 failed"));
}

/// A guest with Linux that used all its devices; nothing of it is lost on the way through this program.
#[test]
fn what_the_first_version_knew_of_devices_in_use_is_all_known_now() {
    let saved = state("linux.json.gz");
    let now = MachineState::from_json(saved.clone()).unwrap().to_json().unwrap();
    holds("", &now, &saved);
}

/// Whether `now` says all that `before` said; there may be more.
fn holds(place: &str, now: &Value, before: &Value) {
    match (now, before) {
        (Value::Object(now), Value::Object(before)) => {
            for (key, before) in before.iter().filter(|(key, _)| *key != "version") {
                let now = now.get(key).unwrap_or_else(|| panic!("{place}/{key} is lost"));
                holds(&format!("{place}/{key}"), now, before);
            }
        }
        (Value::Array(now), Value::Array(before)) => {
            assert_eq!(now.len(), before.len(), "{place}");
            for (n, (now, before)) in now.iter().zip(before).enumerate() {
                holds(&format!("{place}/{n}"), now, before);
            }
        }
        _ => assert_eq!(now, before, "{place}"),
    }
}

fn save_memory(machine: &Machine) -> File {
    let file = tempfile::tempfile().unwrap();
    let (told, hear) = mpsc::channel();
    let done = Box::new(move |result| told.send(result).unwrap());
    let _saving = machine.save_memory(file.try_clone().unwrap(), done).unwrap();
    hear.recv_timeout(SOON).unwrap().unwrap();
    file
}

/// Makes the files, once: `cargo test -p vmm --test machine -- --ignored first_version`, from the first version.
#[test]
#[ignore = "it makes what other tests read"]
fn first_version() {
    let full = Full::new();
    let guest = Guest { machine: Machine::new(&Soft, full.config).unwrap(), screen: full.screen };
    guest.machine.resume();
    guest.screen.wait_for("host ready");
    guest.tell(b'k');
    guest.screen.wait_for("host keeps");
    guest.machine.pause();
    let pack = |name: &str, from: &mut dyn Read| {
        let mut packed = GzEncoder::new(File::create_new(first().join(name)).unwrap(), Compression::best());
        io::copy(from, &mut packed).unwrap();
        packed.finish().unwrap();
    };
    fs::create_dir_all(first()).unwrap();
    pack(
        "state.json.gz",
        &mut serde_json::to_vec(&guest.machine.save().unwrap().to_json().unwrap()).unwrap().as_slice(),
    );
    let mut file = save_memory(&guest.machine);
    file.rewind().unwrap();
    pack("memory.gz", &mut file);
}

/// A change somewhere in a state: which of its numbers, flags and lists, and to what.
#[derive(Debug, Clone)]
struct Change {
    which: usize,
    to: u64,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    // Most fields are narrow: what does not fit in them is refused before a device sees it.
    let to = prop_oneof![
        4 => 0..16u64,
        4 => any::<u8>().prop_map(u64::from),
        1 => any::<u16>().prop_map(u64::from),
        1 => any::<u32>().prop_map(u64::from),
        1 => any::<u64>(),
        1 => prop::sample::select(vec![u64::from(u8::MAX), u64::from(u16::MAX), u64::from(u32::MAX), u64::MAX]),
    ];
    prop::collection::vec((any::<usize>(), to).prop_map(|(which, to)| Change { which, to }), 1..8)
}

/// All that can be changed in a state: not what it is made of, nor the processors, which have tests of their own.
fn leaves<'a>(value: &'a mut Value, found: &mut Vec<&'a mut Value>) {
    match value {
        Value::Object(fields) => fields.values_mut().for_each(|value| leaves(value, found)),
        Value::Array(items) => items.iter_mut().for_each(|value| leaves(value, found)),
        Value::Number(_) | Value::Bool(_) => found.push(value),
        _ => {}
    }
}

fn changed(mut state: Value, changes: &[Change]) -> Value {
    for Change { which, to } in changes {
        let sections = state.as_object_mut().unwrap().iter_mut();
        let mut found = Vec::new();
        for (name, section) in sections {
            if !["shape", "processors"].contains(&name.as_str()) {
                leaves(&mut section["state"], &mut found);
            }
        }
        let count = found.len();
        let leaf = &mut found[which % count];
        **leaf = if leaf.is_boolean() { Value::Bool(to % 2 == 1) } else { Value::from(*to) };
    }
    state
}

/// Restores a state and saves it again; or says why that cannot be.
fn through(state: Value, of: fn() -> Full, memory: &File) -> Result<Value, String> {
    let state = MachineState::from_json(state).map_err(|error| error.to_string())?;
    let memory = Image::open(memory.try_clone().unwrap()).unwrap();
    let (guest, _ends) = of().restore(SavedMachine { state, memory, again: false })?;
    Ok(guest.machine.save().unwrap().to_json().unwrap())
}

/// Takes back that limits allow more with each second: somebody may have been slow between two looks.
fn without_time(mut now: Value, before: &Value) -> Value {
    fn walk(name: &str, now: &mut Value, before: &Value) {
        match (now, before) {
            (Value::Object(now), Value::Object(before)) => {
                let both = now.iter_mut().filter_map(|(key, now)| Some((key, now, before.get(key)?)));
                both.for_each(|(key, now, before)| walk(key, now, before));
            }
            (Value::Array(now), Value::Array(before)) => {
                now.iter_mut().zip(before).for_each(|(now, before)| walk(name, now, before));
            }
            (now, before) if ["bytes", "operations"].contains(&name) => {
                let passed = now.as_i64().zip(before.as_i64()).map(|(now, before)| now - before);
                if passed.is_some_and(|passed| (0..60).contains(&passed)) {
                    *now = before.clone();
                }
            }
            _ => {}
        }
    }
    walk("", &mut now, before);
    now
}

/// What is refused is refused; what is taken is saved, restored and saved as the same, whatever it is.
fn any_state_goes_out_and_in(first: &Value, of: fn() -> Full) {
    let memory = of().memory();
    let as_it_was = through(first.clone(), of, &memory).expect("it is taken as it was");
    holds("", &without_time(as_it_was, first), first);
    let taken = Cell::new(0);
    let cases = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(cases).run(&changes(), |changes| {
        if let Ok(saved) = through(changed(first.clone(), &changes), of, &memory) {
            taken.set(taken.get() + 1);
            let again = through(saved.clone(), of, &memory);
            prop_assert_eq!(again.map(|again| without_time(again, &saved)), Ok(saved));
        }
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    assert!(taken.get() > 20, "{} of 200 were taken", taken.get());
}

#[test]
fn any_state_of_devices_that_have_not_begun_goes_out_and_in_unchanged() {
    any_state_goes_out_and_in(&state("state.json.gz"), Full::new);
}

/// The guest with Linux that used all its devices; but its card was on a tap, whose offers to the driver a cable between two sockets cannot keep: this
/// one has not begun.
fn in_use() -> Value {
    let mut begun = state("state.json.gz");
    let fresh = registers(&mut begun, "net").clone();
    let mut linux = state("linux.json.gz");
    *registers(&mut linux, "net") = fresh;
    linux
}

/// Those of the first device whose name begins so.
fn registers<'a>(state: &'a mut Value, name: &str) -> &'a mut Value {
    let mut devices = state["devices"]["state"].as_array_mut().unwrap().iter_mut();
    let device = devices.find(|device| device["name"].as_str().unwrap().starts_with(name));
    &mut device.unwrap()["registers"]
}

#[test]
fn any_state_of_devices_in_use_goes_out_and_in_unchanged() {
    any_state_goes_out_and_in(&in_use(), Full::linux);
}

#[test]
fn any_state_of_disks_that_wait_for_their_limits_or_the_hosts_room_goes_out_and_in_unchanged() {
    let mut state = in_use();
    let lane = json!({ "bytes": -4096, "operations": 7 });
    let lanes = json!([lane, lane, lane]);
    let unanswered =
        json!([{ "queue": 0, "head": 0 }, { "queue": 2, "head": 9 }, { "queue": 1, "head": 255 }]);
    registers(&mut state, "disk0")["device"] =
        json!({ "disk": { "lanes": lanes, "unanswered": unanswered } });
    registers(&mut state, "disk1")["device"] = json!({ "limits": { "lanes": lanes } });
    any_state_goes_out_and_in(&state, Full::waiting);
}
