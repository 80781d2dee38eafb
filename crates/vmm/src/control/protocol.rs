//! The messages of the control protocol.

use std::collections::BTreeMap;

use disk::Format;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::engine;
use crate::machine::MemorySize;
use crate::virtio::block::DiskLimits;
use crate::virtio::net::{Alias, NetLimits};

/// Error codes: those of JSON-RPC 2.0 (section 5.1), and ours.
pub mod code {
    /// Not JSON.
    pub const PARSE: i32 = -32700;
    /// JSON, but no request.
    pub const REQUEST: i32 = -32600;
    /// There is no such method.
    pub const METHOD: i32 = -32601;
    /// The method's parameters are wrong: the message names the field.
    pub const PARAMS: i32 = -32602;
    /// The machine cannot do this in its present state.
    pub const STATE: i32 = -32000;
    /// The machine cannot be made or driven: the message says why.
    pub const MACHINE: i32 = -32001;
}

/// The number of a file among those that came with a message, from 0.
pub type Descriptor = usize;

/// What `create` makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MachineSpec {
    /// Number of processors.
    #[serde(default = "one")]
    pub processors: u32,
    /// How many there can be while it runs, if more.
    #[serde(default)]
    pub most_processors: Option<u32>,
    /// Memory, bytes.
    pub memory: u64,
    /// How much there can be while it runs, if more, bytes.
    #[serde(default)]
    pub most_memory: Option<u64>,
    /// What executes the guest.
    #[serde(default)]
    pub engine: engine::Kind,
    /// /dev/kvm, open for reading and writing: for a process that cannot open it.
    #[serde(default)]
    pub kvm: Option<Descriptor>,
    /// Frequency of the processors' time-stamp counter, kHz, if it is not to be the engine's choice.
    #[serde(default)]
    pub tsc_khz: Option<u32>,
    /// Where it goes on; it begins with its kernel otherwise.
    #[serde(default)]
    pub saved: Option<SavedSpec>,
    /// A bzImage, or an ELF file with a PVH note.
    pub kernel: Descriptor,
    /// An initial RAM disk.
    #[serde(default)]
    pub initrd: Option<Descriptor>,
    /// The kernel's arguments.
    #[serde(default)]
    pub command_line: String,
    /// The other end of the serial line: what the guest writes goes there, what is read from it is typed. Without it what the
    /// guest writes is lost.
    #[serde(default)]
    pub console: Option<Descriptor>,
    /// A listening Unix socket for those who watch the serial line and type into it; any number, at any time.
    #[serde(default)]
    pub console_socket: Option<Descriptor>,
    /// A console log, as [`console::create`](super::console::create) makes it: it remembers the latest that was said.
    #[serde(default)]
    pub console_log: Option<Descriptor>,
    /// Disks, in the order of their slots.
    #[serde(default)]
    pub disks: Vec<DiskSpec>,
    /// Network cards, in the order of their slots.
    #[serde(default)]
    pub nets: Vec<NetSpec>,
    /// Ports between programs of the host and of the guest.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// What follows when the guest resets itself.
    #[serde(default)]
    pub on_reset: OnReset,
    /// What follows when the guest's kernel panics.
    #[serde(default)]
    pub on_panic: OnPanic,
}

fn one() -> u32 {
    1
}

/// A machine that was saved.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedSpec {
    /// What `save` gave.
    pub state: Value,
    /// The file that it wrote memory into, whole, open for reading.
    pub memory: Descriptor,
    /// Whether it is one more machine, or goes back to where it was before: then the guest is told to forget what must be unique to it.
    #[serde(default)]
    pub again: bool,
}

/// What `save` does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaveSpec {
    /// The file that memory is written into, open for reading and writing.
    pub memory: Descriptor,
    /// Whether the machine stands still afterwards; it goes on otherwise, if it ran.
    #[serde(default)]
    pub stay: bool,
    /// New top layers that disks go on with at that point in time: what is in memory and what is on the disks belong together.
    #[serde(default)]
    pub switch: Vec<NewTop>,
}

/// A new top layer of a disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewTop {
    /// What the disk is called.
    pub name: String,
    /// An empty qcow2 image, open for reading and writing, that names the disk's file so far as what it is based on.
    pub file: Descriptor,
}

/// What `disk_switch` does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SwitchSpec {
    /// The disks that go on with new top layers, all at one point in time.
    pub disks: Vec<NewTop>,
}

/// The answer to `disk_switch`: what was written before is durable in the layers that are below now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Switched {
    /// How long the guest's requests waited for it, nanoseconds.
    pub held_ns: u64,
}

/// What `disk_grow` does.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrowSpec {
    /// What the disk is called.
    pub name: String,
    /// How long it is to be, bytes: at least as long as it is, whole sectors.
    pub size: u64,
}

/// What `disk_pull` takes up.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PullSpec {
    /// What the disk is called.
    pub name: String,
    /// How many of the layers right below its top are merged into the top.
    pub layers: usize,
}

/// Which disk `disk_pull_cancel` is about.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskName {
    /// What the disk is called.
    pub name: String,
}

/// How far a `disk_pull` is, as the notification `disk_pulling` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullProgress {
    /// What the disk is called.
    pub name: String,
    /// Bytes of the disk that have been looked at.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// How a `disk_pull` ended, as the notification `disk_pulled` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PullEnd {
    /// What the disk is called.
    pub name: String,
    /// Why the layers are still there, if they are: the disk reads the same, and what was merged need not be merged again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What `disk_replace_below` replaces.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BelowSpec {
    /// What the disk is called.
    pub name: String,
    /// The files that its top is based on, open for reading, the nearest one first: what one reads in them is what one reads in
    /// those so far, which are closed.
    pub files: Vec<Descriptor>,
}

/// The answer to `disk_pull` and `disk_replace_below`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Layers {
    /// How many layers are below the top.
    pub layers: usize,
}

/// What `plug` plugs in: one of these.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlugSpec {
    /// A disk, with a name.
    #[serde(default)]
    pub disk: Option<DiskSpec>,
    /// A network card.
    #[serde(default)]
    pub net: Option<NetSpec>,
}

/// What `unplug` takes away.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnplugSpec {
    /// What the device is called.
    pub name: String,
    /// Whether it is pulled out at once, whatever the guest does with it; the guest is asked otherwise.
    #[serde(default)]
    pub force: bool,
}

/// The memory that `figures` hands over.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FiguresSpec {
    /// Made by [`Page::create`](crate::figures::Page::create).
    pub file: Descriptor,
}

/// What `places` says of a machine's devices: on which storage pools and networks they are that other machines use, too.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacesSpec {
    /// The names of disks, with what names a pool. All disks of one are allowed what is said of the [flow](crate::flows) `NAME`.
    #[serde(default)]
    pub disks: BTreeMap<String, String>,
    /// The names of cards, with what names a network. All cards of one are allowed what is said of the flows `NAME/receive` and `NAME/send`.
    #[serde(default)]
    pub nets: BTreeMap<String, String>,
}

/// What `limit` limits: a disk or a card, from now on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitSpec {
    /// What the device is called.
    pub name: String,
    /// How much it may do, if it is a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<DiskLimits>,
    /// How much it may carry, if it is a card.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<NetLimits>,
}

/// How many processors `processors` wants.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessorsSpec {
    /// So many. Those that are too many go one after the other, when the guest lets go of them.
    pub count: u32,
}

/// The answer to `hardware`, `processors`, `memory` and `balloon`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hardware {
    /// The numbers of the processors that are there.
    pub processors: Vec<u32>,
    /// How many there can be.
    pub most_processors: u32,
    /// The names of the devices, in the order of their slots.
    pub devices: Vec<String>,
    /// What memory there is.
    pub memory: MemorySize,
}

/// What a guest has made of a change, as the notification `hardware` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The device that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// The processor that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processor: Option<u32>,
    /// What memory there is, if it is about that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemorySize>,
    /// What has become of it.
    pub what: What,
    /// Why not, as the guest says it (ACPI 6.5, 6.3.5); 0 is success.
    #[serde(default)]
    pub status: u32,
}

/// What has become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The guest has taken what is new, or failed to.
    Taken,
    /// It is not there any more.
    Gone,
    /// The guest does not let go of it.
    Stays,
}

/// The answer to `save`: the machine goes on, its memory is being written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The machine without its memory.
    pub state: Value,
    /// How long it stood still for it, nanoseconds.
    pub pause_ns: u64,
}

/// The answer to `save_progress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveProgress {
    /// Bytes of memory that have been looked at.
    pub done: u64,
    /// Of how many.
    pub total: u64,
}

/// How a save ended, as the notification `saved` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SaveEnd {
    /// Bytes that memory takes in the file.
    #[serde(default)]
    pub bytes: u64,
    /// Why the file is of no use, if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A disk.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// What it is called by who drives the machine: `disk` and its number among the disks if nothing is said.
    #[serde(default)]
    pub name: Option<String>,
    /// Its file, open for reading, and for writing if the guest may write.
    pub file: Descriptor,
    /// How the file's bytes are laid out. Never guessed: a guest that writes a format's first bytes into a raw disk must not
    /// change what is read.
    pub format: Format,
    /// The files that a qcow2 image is based on, open for reading: the one that its header names, then the one that that one's
    /// header names, to the last.
    #[serde(default)]
    pub backing: Vec<Descriptor>,
    /// Whether the guest may only read.
    #[serde(default)]
    pub read_only: bool,
    /// The serial number the guest sees, at most 20 bytes.
    #[serde(default)]
    pub serial: String,
    /// How much it may do; `limit` changes it.
    #[serde(default, skip_serializing_if = "DiskLimits::is_none")]
    pub limits: DiskLimits,
}

impl DiskSpec {
    /// What disk `number` of a machine is called.
    pub fn name(&self, number: usize) -> String {
        self.name.clone().unwrap_or_else(|| format!("disk{number}"))
    }
}

impl NetSpec {
    /// What the card is called: `net-` and its address.
    pub fn name(&self) -> String {
        let bytes: Vec<_> = self.mac.iter().map(|byte| format!("{byte:02x}")).collect();
        format!("net-{}", bytes.join(":"))
    }
}

/// A network card.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetSpec {
    /// Its hardware address.
    pub mac: [u8; 6],
    /// What it is plugged into.
    #[serde(flatten)]
    pub cable: Cable,
    /// How much it may carry; `limit` changes it.
    #[serde(default, skip_serializing_if = "NetLimits::is_none")]
    pub limits: NetLimits,
    /// Whose addresses its guest knows, where it goes on in another one's memory: until it has been told its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<Alias>,
}

/// What a network card is plugged into.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cable {
    /// A tap device with virtio headers, attached and not blocking.
    Tap(Descriptor),
    /// A connected Unix stream socket that carries frames, each after its length in 4 bytes, as passt and QEMU's stream network
    /// speak.
    Stream {
        /// The socket.
        socket: Descriptor,
        /// Largest packet it carries, bytes.
        mtu: u16,
    },
}

/// A port between programs of the host and of the guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// What the guest finds it by: `/dev/virtio-ports/NAME`, at most 64 bytes.
    pub name: String,
    /// A listening Unix socket: programs connect to it, one at a time.
    pub socket: Descriptor,
    /// Whether the guest may use it as a console.
    #[serde(default)]
    pub console: bool,
}

/// What `type` types on the serial line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Typing {
    /// In this order.
    pub keys: Vec<Key>,
}

/// What is typed at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Key {
    /// These bytes.
    Text(String),
    /// A break: the line is held down for longer than a byte takes.
    Break,
}

/// What follows when the guest resets itself, or faults three times over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnReset {
    /// The guest starts again from its kernel.
    #[default]
    Restart,
    /// The machine ends.
    End,
}

/// What follows when the guest's kernel panics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPanic {
    /// The machine ends.
    #[default]
    End,
    /// The guest goes on: it may write a dump, or reset itself.
    GoOn,
}

/// Where a machine is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There is none yet: `create` comes first.
    Empty,
    /// It stands still, and can go on.
    Paused,
    /// It runs.
    Running,
    /// It has ended: `reset` starts it again.
    Ended,
}

/// What happened in a guest, as the notification `event` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum GuestEvent {
    /// It powered itself off.
    PowerOff,
    /// It reset itself.
    Reset,
    /// Its kernel panicked.
    Panic,
    /// A processor faulted three times over.
    TripleFault,
    /// The engine cannot go on.
    EngineFailure {
        /// Why.
        why: String,
    },
}

/// The answer to `state` and to every method that changes it; with an event, it is the notification's parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateReport {
    /// Where it is now.
    pub state: State,
    /// The last event.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub last: Option<GuestEvent>,
    /// The names of its disks for which the host has no room: what the guest writes there waits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub no_room: Vec<String>,
}

/// For which disks the host has no room from now on, as the notification `no_room` tells it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoRoom {
    /// Their names; what the guest writes there waits until there is some.
    pub disks: Vec<String>,
}

/// A request as it comes in.
#[derive(Debug, Deserialize)]
pub(super) struct Request {
    pub jsonrpc: String,
    /// Without one it is a notification, which is not answered.
    #[serde(default)]
    pub id: Option<Value>,
    pub method: String,
    #[serde(default)]
    pub params: Value,
}

/// Why a request was not carried out.
#[derive(Debug)]
pub(super) struct Refusal {
    pub code: i32,
    pub message: String,
}

impl Refusal {
    pub fn new(code: i32, message: impl std::fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }
}

/// The line that answers request `id`.
pub(super) fn answer(id: &Value, result: Result<Value, Refusal>) -> String {
    let message = match result {
        Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
        Err(Refusal { code, message }) => {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
        }
    };
    format!("{message}\n")
}

/// The line that tells an event.
pub(super) fn notification(method: &str, params: &impl Serialize) -> String {
    format!("{}\n", json!({"jsonrpc": "2.0", "method": method, "params": params}))
}
