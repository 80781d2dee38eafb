//! The whole machine as data: one tree, with a version for each section, so that each can change by itself.
//!
//! A section that is newer than this program is refused by its name, never guessed at. One that is older is read by what its type says
//! of older versions (`serde(default)`, and [`Section::upgrade`] where that is not enough).

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use softcpu::CpuState;

use crate::chipset::generation::GenerationState;
use crate::chipset::ioapic::IoApicState;
use crate::chipset::plug::PlugState;
use crate::chipset::power::PowerState;
use crate::chipset::rtc::RtcState;
use crate::chipset::serial::SerialState;
use crate::memory::Layout;
use crate::pci::{ConfigState, FunctionState};
use crate::virtio::TransportState;

/// A saved machine cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A section is missing.
    #[error("the saved machine has no section {section}")]
    Missing {
        /// Which one.
        section: &'static str,
    },
    /// A section is from a newer program.
    #[error(
        "section {section} of the saved machine has version {found}, this program knows up to {known}: use the program that saved it, or a newer one"
    )]
    Newer {
        /// Which one.
        section: &'static str,
        /// Its version.
        found: u64,
        /// The newest known here.
        known: u64,
    },
    /// A section is not what it should be.
    #[error("section {section} of the saved machine makes no sense: {error}")]
    Wrong {
        /// Which one.
        section: &'static str,
        /// Why.
        error: serde_json::Error,
    },
}

/// A part of a saved machine.
pub trait Section: Serialize + DeserializeOwned {
    /// Its version: one more with each change that an older program must not read.
    const VERSION: u64 = 1;

    /// Makes the state of this version of one of an older `version`.
    fn upgrade(_version: u64, state: Value) -> Value {
        state
    }
}

/// What the machine is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// How many processors there can be.
    pub most_processors: u32,
    /// Where its memory lies.
    pub layout: Layout,
    /// The processors' model: [`crate::processor::Model::name`].
    pub model: String,
    /// Frequency of their TSC, kHz.
    pub tsc_khz: u32,
}

/// A processor that is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessorState {
    /// Its number.
    pub number: u32,
    /// All of it.
    pub state: CpuState,
}

/// Its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockState {
    /// Guest time, nanoseconds.
    pub guest_ns: u64,
}

/// What PCI is without its functions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciState {
    /// The host bridge.
    pub bridge: ConfigState,
    /// The address port.
    pub address: u32,
}

/// A device in its slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotState {
    /// The slot on bus 0.
    pub slot: usize,
    /// What it is called.
    pub name: String,
    /// Its PCI function.
    pub function: FunctionState,
    /// Its registers and queues.
    pub registers: TransportState,
}

impl Section for Shape {}
impl Section for ClockState {}
impl Section for Vec<ProcessorState> {}
impl Section for IoApicState {}
impl Section for SerialState {}
impl Section for RtcState {}
impl Section for PowerState {}
impl Section for GenerationState {}
impl Section for PciState {}
impl Section for PlugState {}
impl Section for Vec<SlotState> {}

/// A struct whose fields are sections, out to JSON and in.
macro_rules! sections {
    ($(#[$about:meta])* $seen:vis struct $name:ident { $($(#[$doc:meta])* $shown:vis $section:ident: $kind:ty,)* }) => {
        $(#[$about])*
        $seen struct $name { $($(#[$doc])* $shown $section: $kind,)* }

        impl $name {
            /// As JSON: `{"SECTION": {"version": 1, "state": …}, …}`.
            ///
            /// # Errors
            /// If a section cannot be JSON.
            pub fn to_json(&self) -> serde_json::Result<Value> {
                Ok(json!({ $(stringify!($section): write(&self.$section)?,)* }))
            }

            /// From JSON. Sections that nobody here knows are left alone.
            ///
            /// # Errors
            /// If a section is missing, newer than this program, or wrong.
            pub fn from_json(mut tree: Value) -> Result<Self, StateError> {
                Ok(Self { $($section: read(stringify!($section), &mut tree)?,)* })
            }
        }
    };
}

sections! {
    /// A machine that stands still, without its memory.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub struct MachineState {
        /// What it is.
        pub shape: Shape,
        /// Its time.
        pub clock: ClockState,
        /// Its processors, by number.
        pub processors: Vec<ProcessorState>,
        /// The I/O APIC.
        pub ioapic: IoApicState,
        /// The serial line.
        pub serial: SerialState,
        /// The real-time clock.
        pub rtc: RtcState,
        /// Sleep and event registers.
        pub power: PowerState,
        /// The generation id.
        pub generation: GenerationState,
        /// PCI.
        pub pci: PciState,
        /// What has been plugged in and is to be pulled out.
        pub plug: PlugState,
        /// What is in its slots.
        pub devices: Vec<SlotState>,
    }
}

fn write<S: Section>(state: &S) -> serde_json::Result<Value> {
    Ok(json!({ "version": S::VERSION, "state": serde_json::to_value(state)? }))
}

fn read<S: Section>(section: &'static str, tree: &mut Value) -> Result<S, StateError> {
    let mut found = tree.get_mut(section).map(Value::take).ok_or(StateError::Missing { section })?;
    let version = found["version"].as_u64().ok_or(StateError::Missing { section })?;
    if version > S::VERSION {
        return Err(StateError::Newer { section, found: version, known: S::VERSION });
    }
    let state = found.get_mut("state").map(Value::take).unwrap_or_default();
    let state = if version < S::VERSION { S::upgrade(version, state) } else { state };
    serde_json::from_value(state).map_err(|error| StateError::Wrong { section, error })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Part {
        sum: u32,
    }

    impl Section for Part {
        const VERSION: u64 = 2;

        fn upgrade(version: u64, state: Value) -> Value {
            assert_eq!(version, 1);
            json!({ "sum": state["a"].as_u64().unwrap_or(0) + state["b"].as_u64().unwrap_or(0) })
        }
    }

    sections! {
        #[derive(Debug, PartialEq)]
        struct Whole {
            part: Part,
        }
    }

    #[test]
    fn what_goes_out_comes_in_and_what_is_unknown_is_left_alone() {
        let whole = Whole { part: Part { sum: 5 } };
        let mut tree = whole.to_json().unwrap();
        tree["more"] = json!({ "version": 1, "state": 7 });
        assert_eq!(Whole::from_json(tree).unwrap(), whole);
    }

    #[test]
    fn any_registers_of_a_processor_go_out_and_in() {
        let wide = CpuState { xmm: [u128::MAX - 5; 16], gpr: [u64::MAX; 16], ..CpuState::default() };
        let wide = ProcessorState { number: 3, state: wide };
        let tree = write(&vec![wide.clone()]).unwrap();
        let text = tree.to_string();
        let mut tree = json!({ "processors": serde_json::from_str::<Value>(&text).unwrap() });
        assert_eq!(read::<Vec<ProcessorState>>("processors", &mut tree).unwrap(), [wide]);
    }

    #[test]
    fn an_older_section_is_upgraded() {
        let tree = json!({ "part": { "version": 1, "state": { "a": 2, "b": 3 } } });
        assert_eq!(Whole::from_json(tree).unwrap().part.sum, 5);
    }

    #[test]
    fn a_newer_a_missing_and_a_wrong_section_are_refused_by_name() {
        let why = |tree: Value| Whole::from_json(tree).unwrap_err().to_string();
        let newer = why(json!({ "part": { "version": 3, "state": { "sum": 1 } } }));
        assert!(
            newer.starts_with("section part of the saved machine has version 3, this program knows up to 2")
        );
        assert_eq!(why(json!({})), "the saved machine has no section part");
        let wrong = why(json!({ "part": { "version": 2, "state": { "sum": -1 } } }));
        assert!(wrong.starts_with("section part of the saved machine makes no sense: "), "{wrong}");
    }
}
