//! How a guest becomes what it should be from now on: durably at once, and its machine, while that runs, step by step as its system takes
//! part in it.
//!
//! A step that the guest refuses, or does not answer, undoes those before: then the guest is what it was. Only when all are done does the
//! store say what it is now.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use api::{Id, Nic, Problem, Vm, VmDefinition, VmState};
use network::user::Passt;
use serde_json::{Value, json};
use tokio::time::Instant;
use vmm::control::{Changed, Hardware, MemorySpec, What};

use super::plan::{self, Device, Step, needs_restart, plan};
use super::start::reap;
use super::{Guest, Reply};
use crate::snapshots;
use crate::store::Revision;
use crate::supervisor::agent::AgentError;
use crate::supervisor::disks::Made;
use crate::supervisor::limits;
use crate::supervisor::machine::Files;
use crate::supervisor::{Shared, cards, machine, rpc_problem, store_problem};

/// How long a guest may take to take a device or a processor, or to let go of one.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may not get on with memory.
const MEMORY_PATIENCE: Duration = Duration::from_secs(30);
/// How soon it is asked once more for memory: Linux tries again by itself only after 50 s if some of it was in use.
const AGAIN: Duration = Duration::from_millis(250);
/// How long its agent may take to say something.
const AGENT_PATIENCE: Duration = Duration::from_secs(5);

/// When a change is brought about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Apply {
    /// What can be at once, the rest at the next start.
    #[default]
    Auto,
    /// All of it at once, or nothing.
    Live,
    /// At the next start.
    NextBoot,
}

/// A change of a guest's definition.
#[derive(Debug)]
pub struct Edit {
    /// What it is to be.
    pub definition: VmDefinition,
    /// Only if it is still what it was at this revision.
    pub expect: Option<Revision>,
    /// When.
    pub apply: Apply,
    /// Whether devices are pulled out that the guest does not let go of.
    pub force: bool,
    /// Who wants it.
    pub actor: String,
}

/// A change that waits for the guest.
pub struct Changing {
    edit: Edit,
    /// What the machine is made of when all is done.
    machine: VmDefinition,
    pub(super) made: Made,
    steps: VecDeque<Step>,
    pub(super) done: Vec<Step>,
    /// What the guest is doing, and how often it has to say so.
    now: Option<(Step, u32)>,
    /// When it has taken too long.
    pub(super) deadline: Instant,
    /// When it is asked once more for what it has not done yet.
    again: Option<Instant>,
    /// How much memory it was to let go of still when it was asked last, bytes.
    left: u64,
    pub(super) reply: Reply,
}

impl Changing {
    /// When somebody has to look what becomes of it.
    pub(super) fn looks(&self) -> Instant {
        self.again.map_or(self.deadline, |again| again.min(self.deadline))
    }
}

/// What a guest says to a stale expectation.
pub(super) fn stale() -> Problem {
    Problem::new(412, "It has changed", "the guest has changed since it was read: read it again")
}

fn silent(step: &Step) -> String {
    match step {
        Step::Add(_) | Step::Processors { .. } => {
            "its system has not answered: it may not know of hardware that comes and goes, or not run yet"
                .into()
        }
        Step::Remove(_) => "its system has not let go of it".into(),
        Step::Memory { .. } => "its system has not given or taken it all".into(),
        Step::Limit { .. } => "its process has not answered".into(),
    }
}

impl Guest {
    /// Makes it what somebody wants; the answer comes when it is.
    pub(super) async fn edit(&mut self, edit: Edit, reply: Reply) {
        match self.begin_to_change(edit).await {
            Ok((edit, made, steps, machine)) => {
                let (now, deadline, again, left) = (None, Instant::now() + PATIENCE, None, 0);
                let (steps, done) = (steps.into(), Vec::new());
                self.changing =
                    Some(Changing { edit, machine, made, steps, done, now, deadline, again, left, reply });
                self.next_step().await;
            }
            // Nobody may wait for it.
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    async fn begin_to_change(
        &mut self,
        mut edit: Edit,
    ) -> Result<(Edit, Made, Vec<Step>, VmDefinition), Problem> {
        if edit.expect.is_some_and(|expect| expect != self.revision) {
            return Err(stale());
        }
        self.must_not_change()?;
        let before = self.record.vm.clone();
        let machine = self.record.made_of().clone();
        let runs = self.running.is_some();
        let changes = plan(&before.definition, &edit.definition);
        let touches = match self.state() {
            VmState::Suspending => changes.is_more_than_nothing(),
            VmState::Suspended => changes.is_more_than_limits(),
            _ => false,
        };
        if touches {
            let detail = "it is suspended with the hardware that it has: have it go on, or stop it, first";
            return Err(Problem::conflict(format!("{}: {detail}", self.name())));
        }
        self.check_in_no_snapshot(&before, &edit.definition).await?;
        let now = self.state() == VmState::Running && runs && edit.apply != Apply::NextBoot;
        let plan = plan(&machine, &edit.definition);
        if edit.apply == Apply::Live {
            self.must_be(&[VmState::Running], "only one that runs can be changed live")?;
            if !plan.waits.is_empty() {
                return Err(Problem { status: 409, ..Problem::invalid(plan.waits) });
            }
        }
        if self.is_promised() {
            self.shared.shares.promise_besides(before.id, &edit.definition)?;
        }
        let made = match self.shared.change_disks(&before, &edit.definition).await {
            Ok(made) => made,
            Err(problem) => {
                self.settle_promise();
                return Err(problem);
            }
        };
        let runs_as = runs.then_some(&machine);
        if let Err(problem) = self.shared.wires.plug(before.id, &mut edit.definition, runs_as).await {
            made.undo();
            self.settle_promise();
            return Err(problem);
        }
        // Addresses have been chosen since.
        let planned = plan::plan(&machine, &edit.definition);
        if now {
            return Ok((edit, made, planned.steps, planned.machine));
        }
        if edit.apply == Apply::NextBoot {
            return Ok((edit, made, Vec::new(), machine));
        }
        // One that does not run now can have other limits nevertheless.
        let (steps, limited) = plan::limited(&machine, &edit.definition);
        Ok((edit, made, if runs { steps } else { Vec::new() }, limited))
    }

    /// Whether it is promised what its definition says: it runs, or is about to.
    fn is_promised(&self) -> bool {
        self.running.is_some() || self.restart.is_some()
    }

    /// It is promised what its definition says, and nothing more.
    pub(super) fn settle_promise(&self) {
        if self.is_promised() {
            let pid = self.running.as_ref().map(|running| running.process.pid());
            self.shared.shares.settle(self.record.vm.id, &self.record.vm.definition, pid);
            if self.running.is_some() {
                self.shared.shares.uses(self.record.vm.id, self.record.made_of());
            }
        }
    }

    /// A problem if a disk would go that a snapshot has.
    async fn check_in_no_snapshot(&self, before: &Vm, after: &VmDefinition) -> Result<(), Problem> {
        let units = |disks: &[api::Disk]| {
            let unit = |(place, disk): (usize, &api::Disk)| disk.number(place) as u32;
            disks.iter().enumerate().map(unit).collect::<Vec<_>>()
        };
        let stays = units(&after.disks);
        let goes: Vec<_> =
            units(&before.definition.disks).into_iter().filter(|unit| !stays.contains(unit)).collect();
        if goes.is_empty() {
            return Ok(());
        }
        let all = snapshots::list(&*self.shared.store, before.id).await.map_err(store_problem)?;
        let has = |kept: &&snapshots::Kept| kept.layers.iter().any(|disk| goes.contains(&disk.unit));
        match all.iter().find(has) {
            None => Ok(()),
            Some(kept) => {
                let name = &kept.snapshot.name;
                Err(Problem::conflict(format!("the snapshot {name} has that disk, too: delete it first")))
            }
        }
    }

    /// Begins the next step, or ends the change if all are done.
    async fn next_step(&mut self) {
        while let Some(changing) = &mut self.changing {
            let Some(step) = changing.steps.pop_front() else { return self.finish_change().await };
            let patience = match step {
                Step::Memory { .. } => MEMORY_PATIENCE,
                _ => PATIENCE,
            };
            changing.deadline = Instant::now() + patience;
            changing.again = None;
            if let Step::Memory { from, to } = &step {
                changing.again = Some(Instant::now() + AGAIN);
                changing.left = from.saturating_sub(*to);
            }
            match self.begin_step(&step).await {
                Ok(0) => self.step_is_done(step),
                Ok(left) => {
                    if let Some(changing) = &mut self.changing {
                        changing.now = Some((step, left));
                    }
                    return;
                }
                Err(problem) => return self.undo_change(problem).await,
            }
        }
    }

    fn step_is_done(&mut self, step: Step) {
        let (shared, id) = (&self.shared, self.record.vm.id);
        match step {
            Step::Processors { from, to } if to > from => put_to_use(shared, id, PROCESSORS),
            Step::Memory { from, to } if to > from => put_to_use(shared, id, MEMORY),
            _ => {}
        }
        if let Some(changing) = &mut self.changing {
            changing.done.push(step);
        }
    }

    /// Asks for a step; gives how often the guest has to say that it does it.
    async fn begin_step(&self, step: &Step) -> Result<u32, Problem> {
        match step {
            Step::Add(device) => {
                self.add(device).await?;
                if let Some(changing) = &self.changing {
                    self.tell_places(&changing.edit.definition).await;
                }
                Ok(1)
            }
            Step::Remove(device) => {
                self.tell("unplug", json!({ "name": device.name() }), &[]).await.map(|_: Value| 1)
            }
            Step::Limit { to, .. } => self.tell("limit", to.limit(), &[]).await.map(|_: Value| 0),
            Step::Processors { from, to } => {
                let _: Hardware = self.tell("processors", json!({ "count": to }), &[]).await?;
                Ok(from.abs_diff(*to))
            }
            Step::Memory { to, .. } => {
                let hardware = self.ask_for_memory(*to, false).await?;
                Ok(u32::from(!is_there(&hardware.memory)))
            }
        }
    }

    /// Asks its system to have so many bytes of memory; and to hand over free pages for what it does not let go of, if somebody insists.
    pub(super) async fn ask_for_memory(&self, bytes: u64, insist: bool) -> Result<Hardware, Problem> {
        self.tell("memory", json!(MemorySpec { bytes, insist }), &[]).await
    }

    /// Tells its process which of the devices of a definition are on pools and networks, whose bandwidth is divided. What a process of an
    /// older version does there is not.
    pub(super) async fn tell_places(&self, definition: &VmDefinition) {
        let places = json!(limits::places(definition));
        if let Err(problem) = self.tell::<Value>("places", places, &[]).await {
            let name = self.name();
            tracing::warn!("what {name} does on pools and networks is not divided: {problem}");
        }
    }

    pub(super) async fn tell<T: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        params: Value,
        files: &[OwnedFd],
    ) -> Result<T, Problem> {
        let gone = || Problem::conflict(format!("{} has no process", self.name()));
        let running = self.running.as_ref().ok_or_else(gone)?;
        running.client.call(method, params, files).await.map_err(rpc_problem)
    }

    /// Plugs in a device.
    pub(super) async fn add(&self, device: &Device) -> Result<(), Problem> {
        let id = self.record.vm.id;
        let (params, files, program) = match device {
            Device::Disk(disk) => {
                let (pools, disk) = (Arc::clone(&self.shared.pools), disk.clone());
                let open = move || {
                    let mut files = Files::default();
                    let disk = machine::open_disk(&pools, id, disk.number(0), &disk, &mut files)
                        .map_err(|error| Problem::conflict(error.to_string()))?;
                    Ok::<_, Problem>((json!({ "disk": disk }), files.into_inner(), None))
                };
                let opened = tokio::task::spawn_blocking(open).await;
                opened.map_err(|error| Problem::internal(error.to_string()))??
            }
            Device::Card(nic) => self.open_card(id, nic).await?,
        };
        let _: Value = self.tell("plug", params, &files).await?;
        program.into_iter().filter_map(Passt::release).for_each(reap);
        Ok(())
    }

    async fn open_card(&self, id: Id, nic: &Nic) -> Result<(Value, Vec<OwnedFd>, Option<Passt>), Problem> {
        let plug = self.shared.wires.connect_one(id, nic).await?;
        let nic = nic.clone();
        let open = move || {
            let mut files = Files::default();
            let (net, program) = cards::plug_in_one(0, &nic, plug, &mut files)
                .map_err(|error| Problem::conflict(error.to_string()))?;
            Ok((json!({ "net": net }), files.into_inner(), program))
        };
        let opened = tokio::task::spawn_blocking(open).await;
        opened.map_err(|error| Problem::internal(error.to_string()))?
    }

    /// The guest has said what it made of a change.
    pub(super) async fn on_hardware(&mut self, changed: Changed) {
        tracing::debug!("{}: {changed:?}", self.name());
        let now = self.changing.as_mut().and_then(|changing| changing.now.take());
        let Some((step, left)) = now else { return self.changed_by_itself(&changed).await };
        match heard(&step, &changed) {
            Heard::Nothing => {
                self.wait_on(step, left, None);
                self.changed_by_itself(&changed).await;
            }
            Heard::GetsOn => self.wait_on(step, left, Some(MEMORY_PATIENCE)),
            Heard::Done if left > 1 => self.wait_on(step, left - 1, Some(PATIENCE)),
            Heard::Done => {
                self.step_is_done(step);
                self.next_step().await;
            }
            Heard::Refused(status) => {
                let why = format!("its system refuses, with status {status:#x} (ACPI 6.5, 6.3.5)");
                self.refused(step, why).await;
            }
        }
    }

    fn wait_on(&mut self, step: Step, left: u32, patience: Option<Duration>) {
        if let Some(changing) = &mut self.changing {
            changing.now = Some((step, left));
            changing.deadline = patience.map_or(changing.deadline, |patience| Instant::now() + patience);
        }
    }

    /// The guest has taken too long, or is asked once more.
    pub(super) async fn on_patience(&mut self) {
        let Some(changing) = &mut self.changing else { return };
        if Instant::now() < changing.deadline {
            changing.again = Some(Instant::now() + AGAIN);
            if let Some((Step::Memory { to, .. }, _)) = &changing.now {
                let to = *to;
                self.ask_again_for_memory(to).await;
            }
            return;
        }
        let Some((step, _)) = changing.now.take() else { return };
        let why = silent(&step);
        self.refused(step, why).await;
    }

    /// Asks it once more to have so many bytes. One that has not let go of half of what it was to is slow because that is in use: it hands
    /// over what is free instead.
    async fn ask_again_for_memory(&mut self, bytes: u64) {
        // If it cannot be asked, it will be over soon.
        let Ok(hardware) = self.tell::<Hardware>("hardware", Value::Null, &[]).await else { return };
        let left = hardware.memory.memory.saturating_sub(bytes);
        let Some(changing) = &mut self.changing else { return };
        let insist = left > changing.left / 2;
        changing.left = left;
        let asked = self.ask_for_memory(bytes, insist).await;
        if asked.is_ok_and(|hardware| is_there(&hardware.memory))
            && let Some((step, _)) = self.changing.as_mut().and_then(|changing| changing.now.take())
        {
            self.step_is_done(step);
            self.next_step().await;
        }
    }

    async fn refused(&mut self, step: Step, why: String) {
        let force = self.changing.as_ref().is_some_and(|changing| changing.edit.force);
        if let (Step::Remove(device), true) = (&step, force)
            && self.pull_out(device).await.is_ok()
        {
            self.step_is_done(step);
            return self.next_step().await;
        }
        let what = match &step {
            Step::Add(device) => format!("{} is not added", device.words()),
            Step::Remove(device) => format!("{} stays", device.words()),
            Step::Processors { from, .. } => format!("it keeps {from} processors"),
            Step::Memory { from, .. } => format!("it keeps {} MiB of memory", from >> 20),
            Step::Limit { from, .. } => format!("{} is limited as it was", from.words()),
        };
        // It may have been done in part.
        self.undo_step(&step).await;
        let problem = Problem::conflict(format!("{}: {what}: {why}", self.name()));
        self.undo_change(problem).await;
    }

    pub(super) async fn pull_out(&self, device: &Device) -> Result<(), Problem> {
        let _: Value = self.tell("unplug", json!({ "name": device.name(), "force": true }), &[]).await?;
        Ok(())
    }

    /// All is done: from now on the guest is so.
    async fn finish_change(&mut self) {
        let Some(mut changing) = self.changing.take() else { return };
        let before = self.record.clone();
        let name = before.vm.definition.name.clone();
        self.record.vm.definition = changing.edit.definition.clone();
        if before.machine.is_some() || self.running.is_some() {
            self.record.vm.status.pending_restart =
                needs_restart(&changing.machine, &changing.edit.definition);
            self.record.machine = Some(changing.machine.clone());
        }
        let what: Vec<_> = changing.done.iter().map(Step::done).collect();
        let message = match what.is_empty() {
            true => "was edited".to_owned(),
            false => format!("was edited: {}", what.join(", ")),
        };
        let happening = self.happening("vm.edited", message).by(&changing.edit.actor);
        if let Err(problem) = self.save_renamed(&name, Some(happening)).await {
            self.record = before;
            self.changing = Some(changing);
            return self.undo_change(problem).await;
        }
        self.settle_promise();
        let id = self.record.vm.id;
        let held = machine::own_volumes(id, &self.record.made_of().disks);
        let runs = self.running.is_some();
        changing.made.keep(|volume| runs && held.contains(volume));
        if !changing.done.is_empty() {
            // Cards that have gone have no place on a network any more.
            let machine = Some(&changing.machine);
            if let Err(problem) = self.shared.wires.plug(id, &mut changing.edit.definition, machine).await {
                tracing::warn!("{}: {problem}", self.name());
            }
        }
        // Nobody may wait for it.
        let _ = changing.reply.send(Ok(()));
    }

    /// The guest has let go of something that nobody wanted it to.
    async fn changed_by_itself(&mut self, changed: &Changed) {
        let (What::Gone, Some(name)) = (changed.what, &changed.device) else { return };
        let mut made_of = self.record.made_of().clone();
        made_of.nics.retain(|nic| Device::Card(nic.clone()).name() != *name);
        let mut place = 0;
        made_of.disks.retain(|disk| {
            place += 1;
            machine::disk_name(disk.number(place - 1)) != *name
        });
        self.record.vm.status.pending_restart = needs_restart(&made_of, &self.record.vm.definition);
        self.record.machine = Some(made_of);
        let message = format!("its system has let go of {name}, which comes back when it is started again");
        let happening = self.happening("vm.hardware", message);
        self.note(Some(happening)).await;
    }
}

/// What a guest's word is to a step.
enum Heard {
    Done,
    GetsOn,
    Refused(u32),
    Nothing,
}

fn heard(step: &Step, changed: &Changed) -> Heard {
    let named = |device: &Device| changed.device.as_ref() == Some(&device.name());
    match (step, changed.what) {
        (Step::Add(device), What::Taken) if named(device) => match changed.status {
            0 => Heard::Done,
            status => Heard::Refused(status),
        },
        (Step::Remove(device), What::Gone) if named(device) => Heard::Done,
        (Step::Remove(device), What::Stays) if named(device) => Heard::Refused(changed.status),
        (Step::Processors { from, to }, What::Taken) if to > from && changed.processor.is_some() => {
            match changed.status {
                0 => Heard::Done,
                status => Heard::Refused(status),
            }
        }
        (Step::Processors { from, to }, What::Gone) if to < from && changed.processor.is_some() => {
            Heard::Done
        }
        (Step::Processors { .. }, What::Stays) if changed.processor.is_some() => {
            Heard::Refused(changed.status)
        }
        (Step::Memory { .. }, _) => match &changed.memory {
            Some(memory) if is_there(memory) => Heard::Done,
            Some(_) => Heard::GetsOn,
            None => Heard::Nothing,
        },
        _ => Heard::Nothing,
    }
}

/// Whether a guest has as much memory as it was asked to have. What a pool takes of it comes and goes besides.
fn is_there(memory: &vmm::machine::MemorySize) -> bool {
    let has = memory.memory.saturating_sub(memory.standing_in);
    has == memory.base + memory.requested && (memory.for_good()..=memory.target).contains(&memory.balloon)
}

/// The agent's commands that tell and set which parts are in use, how these are numbered, and what is to be set.
type Commands = (&'static str, &'static str, &'static str, &'static str);
const PROCESSORS: Commands = ("guest-get-vcpus", "guest-set-vcpus", "logical-id", "vcpus");
const MEMORY: Commands = ("guest-get-memory-blocks", "guest-set-memory-blocks", "phys-index", "mem-blks");

/// After how long it is looked for what is not in use, ms: a guest has more to do when it has said that it has taken something.
const LOOKS: [u64; 5] = [0, 250, 500, 1000, 2000];

/// Has the agent in a guest use what has been added: many systems leave that to somebody.
fn put_to_use(shared: &Arc<Shared>, id: Id, commands: Commands) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        for wait in LOOKS {
            tokio::time::sleep(Duration::from_millis(wait)).await;
            if let Err(error) = put_idle_to_use(&shared, id, commands).await {
                tracing::info!("guest {id} does not use all that it has been given: {error}");
                return;
            }
        }
    });
}

async fn put_idle_to_use(
    shared: &Shared,
    id: Id,
    (get, set, number, parts): Commands,
) -> Result<(), AgentError> {
    let socket = shared.paths.agent_socket(id);
    let told = shared.agents.call(id, &socket, get, Value::Null, AGENT_PATIENCE).await?;
    let idle = told.as_array().into_iter().flatten().filter(|part| part["online"] == false);
    let wanted: Vec<_> = idle.map(|part| json!({ number: part[number], "online": true })).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    shared.agents.call(id, &socket, set, json!({ parts: wanted }), AGENT_PATIENCE).await.map(drop)
}
