//! What is plugged in and pulled out while the machine runs: tells the guest's ACPI code which slots and processors have changed, and
//! hears what it has let go of.
//!
//! The registers are this machine's own; the methods in the ACPI tables (`boot::acpi::plug`) are all that knows them. Each has 32 bits:
//!
//! | offset | |
//! |---|---|
//! | 0x00 | slots that hold something new, a bit each; reading clears |
//! | 0x04 | slots that are to be let go; reading clears |
//! | 0x08 | a written bit: the guest has let go of that slot |
//! | 0x0c | the processor that the next register is about |
//! | 0x10 | its flags, as [`flag`] says; written ones clear `NEW` and `LEAVE` if they have been read, and `GONE` says that the guest has let go of it |
//! | 0x14 | whom an answer is about: a slot, or 0x100 + a processor |
//! | 0x18 | which event is answered (ACPI 6.5, 6.3.5: `_OST`): 1 plugged in, 3 to be let go |
//! | 0x1c | the answer, and the end of it: 0 is success |

use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use crate::bus::Device;
use crate::chipset::ports::plug as register;

/// A processor's flags.
pub mod flag {
    /// It is there.
    pub const THERE: u8 = 1;
    /// It is new.
    pub const NEW: u8 = 1 << 1;
    /// It is to be let go.
    pub const LEAVE: u8 = 1 << 2;
    /// Written: the guest has let go of it.
    pub const GONE: u8 = 1 << 3;
}

/// What is behind a number in the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A slot of the PCI bus.
    Slot(usize),
    /// A processor.
    Processor(u32),
}

/// What the guest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word {
    /// It does not use this any more.
    LetGo(Target),
    /// It has tried to use something new, and this came of it: 0 is success.
    Taken(Target, u32),
    /// It has tried to let go of something, and this came of it: 0 is success.
    Left(Target, u32),
}

/// Hears what the guest says, on a vCPU's thread: it must not block.
pub type Listener = Box<dyn Fn(Word) + Send + Sync>;

/// What is saved.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlugState {
    new: u32,
    leave: u32,
    selected: u32,
    /// Which of its flags have been read: the guest clears no others. It does not know of what has become so since.
    #[serde(default)]
    read: u8,
    /// A processor's flags, by number.
    processors: Vec<u8>,
    target: u32,
    event: u32,
}

/// The registers.
pub struct Plug {
    state: Mutex<PlugState>,
    listener: Listener,
}

impl Plug {
    /// For a machine of at most `processors` processors, of which these are `there`.
    pub fn new(processors: u32, there: &[u32], listener: Listener) -> Self {
        let flags = (0..processors).map(|number| if there.contains(&number) { flag::THERE } else { 0 });
        let state = PlugState { processors: flags.collect(), ..PlugState::default() };
        Self { state: Mutex::new(state), listener }
    }

    fn lock(&self) -> MutexGuard<'_, PlugState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot holds something new: the guest is to be told by an event.
    pub fn slot_is_new(&self, slot: usize) {
        self.lock().new |= 1 << slot;
    }

    /// A slot is to be let go: the guest is to be told by an event.
    pub fn slot_is_wanted(&self, slot: usize) {
        self.lock().leave |= 1 << slot;
    }

    /// A processor is there from now on, and is new.
    pub fn processor_is_new(&self, number: u32) {
        self.set(number, |flags| *flags = flag::THERE | flag::NEW);
    }

    /// A processor is to be let go.
    pub fn processor_is_wanted(&self, number: u32) {
        self.set(number, |flags| *flags |= flag::LEAVE);
    }

    /// A processor is not there any more.
    pub fn processor_is_gone(&self, number: u32) {
        self.set(number, |flags| *flags = 0);
    }

    fn set(&self, number: u32, change: impl FnOnce(&mut u8)) {
        if let Some(flags) = self.lock().processors.get_mut(number as usize) {
            change(flags);
        }
    }

    /// As after power-on: what is there is there, and nothing is new.
    pub fn reset(&self) {
        let mut state = self.lock();
        let processors = state.processors.iter().map(|flags| flags & flag::THERE).collect();
        *state = PlugState { processors, ..PlugState::default() };
    }

    /// What is saved.
    pub fn save(&self) -> PlugState {
        self.lock().clone()
    }

    /// Puts back what was saved; how many processors there can be stays.
    pub fn restore(&self, saved: &PlugState) {
        let mut state = self.lock();
        let most = state.processors.len();
        *state = saved.clone();
        state.processors.resize(most, 0);
    }
}

fn target(number: u32) -> Target {
    if number < 0x100 { Target::Slot(number as usize) } else { Target::Processor(number - 0x100) }
}

impl Device for Plug {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        let mut state = self.lock();
        let value = match (offset, data.len()) {
            (register::NEW, 4) => std::mem::take(&mut state.new),
            (register::LEAVE, 4) => std::mem::take(&mut state.leave),
            (register::SELECT, 4) => state.selected,
            (register::FLAGS, 4) => {
                state.read = state.processors.get(state.selected as usize).copied().unwrap_or(0);
                state.read.into()
            }
            _ => return,
        };
        data.copy_from_slice(&value.to_le_bytes());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        let mut state = self.lock();
        let word = match offset {
            register::EJECT => {
                (0..32).find(|slot| value >> slot & 1 != 0).map(|slot| Word::LetGo(Target::Slot(slot)))
            }
            register::SELECT => {
                (state.selected, state.read) = (value, 0);
                None
            }
            register::FLAGS => {
                let selected = state.selected;
                let clear = value as u8 & (flag::NEW | flag::LEAVE) & state.read;
                let there = state.processors.get_mut(selected as usize).map(|flags| {
                    *flags &= !clear;
                    *flags & flag::THERE != 0
                });
                let gone = value as u8 & flag::GONE != 0 && there == Some(true);
                gone.then_some(Word::LetGo(Target::Processor(selected)))
            }
            register::ANSWER_TARGET => {
                state.target = value;
                None
            }
            register::ANSWER_EVENT => {
                state.event = value;
                None
            }
            register::ANSWER => match state.event {
                1 => Some(Word::Taken(target(state.target), value)),
                3 => Some(Word::Left(target(state.target), value)),
                _ => None,
            },
            _ => None,
        };
        // Who hears of it may look here.
        drop(state);
        if let Some(word) = word {
            (self.listener)(word);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn plug() -> (Arc<Mutex<Vec<Word>>>, Plug) {
        let heard: Arc<Mutex<Vec<Word>>> = Arc::default();
        let mine = Arc::clone(&heard);
        (heard, Plug::new(4, &[0, 1], Box::new(move |word| mine.lock().unwrap().push(word))))
    }

    fn read(plug: &Plug, offset: u64) -> u32 {
        let mut bytes = [0; 4];
        plug.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn write(plug: &Plug, offset: u64, value: u32) {
        plug.write(offset, &value.to_le_bytes());
    }

    #[test]
    fn what_is_new_is_told_once() {
        let (_, plug) = plug();
        plug.slot_is_new(3);
        plug.slot_is_new(5);
        plug.slot_is_wanted(1);
        assert_eq!((read(&plug, register::NEW), read(&plug, register::NEW)), (1 << 3 | 1 << 5, 0));
        assert_eq!((read(&plug, register::LEAVE), read(&plug, register::LEAVE)), (1 << 1, 0));
    }

    #[test]
    fn a_processor_is_told_taken_and_let_go_of() {
        let (heard, plug) = plug();
        let flags = |number| {
            write(&plug, register::SELECT, number);
            read(&plug, register::FLAGS) as u8
        };
        assert_eq!([flags(1), flags(2), flags(9)], [flag::THERE, 0, 0]);
        plug.processor_is_new(2);
        assert_eq!(flags(2), flag::THERE | flag::NEW);
        write(&plug, register::FLAGS, flag::NEW.into());
        assert_eq!(flags(2), flag::THERE);
        plug.processor_is_wanted(2);
        write(&plug, register::FLAGS, (flag::LEAVE | flag::GONE).into());
        write(&plug, register::SELECT, 3);
        write(&plug, register::FLAGS, flag::GONE.into());
        assert_eq!(*heard.lock().unwrap(), [Word::LetGo(Target::Processor(2))], "3 is not there");
    }

    #[test]
    fn what_has_become_new_since_it_was_looked_at_is_told_the_next_time() {
        let (_, plug) = plug();
        let look = || {
            write(&plug, register::SELECT, 2);
            read(&plug, register::FLAGS) as u8
        };
        // The tables' method clears both flags of each, whatever it has seen.
        let clear = || write(&plug, register::FLAGS, (flag::NEW | flag::LEAVE).into());
        assert_eq!(look(), 0);
        plug.processor_is_new(2);
        clear();
        assert_eq!(look(), flag::THERE | flag::NEW);
        plug.processor_is_wanted(2);
        clear();
        assert_eq!(look(), flag::THERE | flag::LEAVE);
        clear();
        assert_eq!(look(), flag::THERE);
    }

    #[test]
    fn answers_name_whom_they_are_about() {
        let (heard, plug) = plug();
        for (target, event, status) in [(7, 1, 0), (0x102, 3, 0x82), (7, 9, 0)] {
            write(&plug, register::ANSWER_TARGET, target);
            write(&plug, register::ANSWER_EVENT, event);
            write(&plug, register::ANSWER, status);
        }
        write(&plug, register::EJECT, 1 << 7);
        let wanted = [
            Word::Taken(Target::Slot(7), 0),
            Word::Left(Target::Processor(2), 0x82),
            Word::LetGo(Target::Slot(7)),
        ];
        assert_eq!(*heard.lock().unwrap(), wanted);
    }

    #[test]
    fn state_goes_out_and_in_and_a_reset_forgets_what_is_new() {
        let (_, one) = plug();
        one.slot_is_new(3);
        one.processor_is_new(3);
        let (_, other) = plug();
        other.restore(&one.save());
        assert_eq!(other.save(), one.save());
        other.reset();
        assert_eq!(read(&other, register::NEW), 0);
        write(&other, register::SELECT, 3);
        assert_eq!(read(&other, register::FLAGS) as u8, flag::THERE);
    }
}
