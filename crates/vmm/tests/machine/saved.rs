//! A machine that is saved and goes on elsewhere, on the same engine and on the other one.

use std::fs::File;
use std::sync::mpsc;

use vmm::engine::Engine;
use vmm::engine::soft::Soft;
use vmm::machine::{Machine, MachineError, SavedError, SavedMachine};
use vmm::memory::Image;
use vmm::state::MachineState;

use crate::exerciser::{Guest, SOON, config, engines, kvm};
use crate::guest::Screen;

/// The machine as it is, which is paused: out as JSON and a file, and in again.
fn save(machine: &Machine) -> SavedMachine {
    let (state, file) = (machine.save().unwrap().to_json().unwrap(), tempfile::tempfile().unwrap());
    SavedMachine {
        state: MachineState::from_json(state).unwrap(),
        memory: Image::open(save_memory(machine, file)).unwrap(),
        again: false,
    }
}

fn save_memory(machine: &Machine, file: File) -> File {
    let (told, hear) = mpsc::channel();
    let done = Box::new(move |result| told.send(result).unwrap());
    let _saving = machine.save_memory(file.try_clone().unwrap(), done).unwrap();
    hear.recv_timeout(SOON).unwrap().unwrap();
    file
}

fn restore(engine: &dyn Engine, saved: SavedMachine) -> Guest {
    let screen = Screen::default();
    let machine = Machine::restore(engine, config(&screen, None), saved).unwrap();
    Guest { machine, screen }
}

/// A state without what no two moments have in common: the time-stamp counter, which on some KVMs counts while a guest is paused.
fn timeless(mut state: MachineState) -> MachineState {
    state.processors.iter_mut().for_each(|processor| processor.state.tsc_offset = 0);
    state
}

#[test]
fn a_saved_machine_goes_on_where_it_was_on_either_engine() {
    let kvm = kvm();
    // A frequency that both can give.
    let khz = kvm.as_ref().map(|kvm| kvm.tsc_khz());
    for from in engines() {
        for to in engines() {
            let way = format!("from {} to {}", from.name(), to.name());
            let source = Guest::with_tsc(&*from, khz);
            source.machine.resume();
            source.screen.wait_for("host ready");
            source.tell(b'k');
            source.screen.wait_for("host keeps");
            source.machine.pause();
            let saved = save(&source.machine);
            let before = timeless(saved.state.clone());
            let target = restore(&*to, saved);
            if from.name() == to.name() {
                assert_eq!(timeless(target.machine.save().unwrap()), before, "{way}");
            }
            target.machine.resume();
            target.tell(b'x');
            target.screen.wait_for("host kept");
            assert!(target.end().contains("15 passed, 0 failed"), "{way}");
            // Both go on, and neither sees what the other does.
            source.machine.resume();
            source.tell(b'x');
            source.screen.wait_for("host kept");
            source.end();
        }
    }
}

#[test]
fn memory_is_that_of_the_moment_though_the_guest_goes_on_writing() {
    for engine in engines() {
        let guest = Guest::ready(&*engine);
        guest.machine.pause();
        let state = guest.machine.save().unwrap();
        let file = tempfile::tempfile().unwrap();
        let (told, hear) = mpsc::channel();
        let done = Box::new(move |result| told.send(result).unwrap());
        let saving = guest.machine.save_memory(file.try_clone().unwrap(), done).unwrap();
        guest.machine.resume();
        for round in 1..=3 {
            guest.tell(b'd');
            guest.screen.wait_for(&"host dirtied\n".repeat(round));
        }
        hear.recv_timeout(SOON).unwrap().unwrap();
        drop(saving);
        guest.end();
        let memory = Image::open(file).unwrap();
        memory.verify(|_| true).unwrap();
        let target = restore(&*engine, SavedMachine { state, memory, again: false });
        target.machine.resume();
        target.tell(b'd');
        target.screen.wait_for("host dirtied\n");
        assert!(target.end().contains("15 passed, 0 failed"), "{}", engine.name());
    }
}

#[test]
fn a_machine_that_goes_on_can_be_reset_and_saved_again() {
    for engine in engines() {
        let guest = Guest::ready(&*engine);
        guest.machine.pause();
        let second = restore(&*engine, save(&guest.machine));
        second.machine.resume();
        second.tell(b'd');
        second.screen.wait_for("host dirtied\n");
        second.machine.pause();
        let third = restore(&*engine, save(&second.machine));
        third.machine.resume();
        third.tell(b'd');
        third.screen.wait_for("host dirtied\n");
        third.machine.reset().unwrap();
        third.screen.wait_for("host ready");
        assert!(third.end().contains("15 passed, 0 failed"), "{}", engine.name());
    }
}

#[test]
fn a_machine_that_goes_on_once_more_has_another_generation_id() {
    let guest = Guest::ready(&Soft);
    guest.machine.pause();
    let before = guest.machine.save().unwrap();
    let same = restore(&Soft, save(&guest.machine));
    assert_eq!(same.machine.save().unwrap().generation, before.generation);
    let other = restore(&Soft, SavedMachine { again: true, ..save(&guest.machine) });
    let after = other.machine.save().unwrap();
    assert_ne!(after.generation, before.generation);
    assert_ne!(after.power, before.power, "it is told");
}

#[test]
fn what_cannot_go_on_is_refused_by_name() {
    let guest = Guest::ready(&Soft);
    guest.machine.pause();
    let screen = Screen::default();
    let refused = |saved, change: &dyn Fn(&mut vmm::machine::MachineConfig)| {
        let mut config = config(&screen, None);
        change(&mut config);
        let refused = Machine::restore(&Soft, config, saved);
        refused.err().expect("it goes on").to_string()
    };
    let saved = || save(&guest.machine);
    assert_eq!(
        refused(saved(), &|config| config.processors = 3),
        "the saved machine can have 2 processors, the one to go on 3"
    );
    let memory = refused(saved(), &|config| config.memory = 128 << 20);
    assert_eq!(
        memory,
        "the saved machine has places for 67108864 bytes of memory, the one to go on for 134217728"
    );
    let devices = refused(saved(), &|config| config.devices.clear());
    assert_eq!(
        devices,
        "the saved machine has the devices [\"balloon\", \"random\"], the one to go on [\"balloon\"]"
    );
    let mut older = saved();
    older.state.shape.model = "tessera-1".into();
    let screen = Screen::default();
    let older = Machine::restore(&Soft, config(&screen, None), older).unwrap();
    assert_eq!(older.save().unwrap().shape.model, "tessera-1", "it has the processor that it was made for");
    let mut other = saved();
    other.state.shape.model = "tessera-9".into();
    assert!(refused(other, &|_| {}).contains("processors of the model tessera-9"));
    let mut other = saved();
    other.state.devices[0].registers.id = 2;
    let screen = Screen::default();
    let refused = Machine::restore(&Soft, config(&screen, None), other);
    assert!(matches!(refused, Err(MachineError::Saved(SavedError::Device { .. }))));
}
