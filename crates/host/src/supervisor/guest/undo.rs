//! How a guest stays what it was: where a change is refused, or a daemon ended in the middle of one.

use api::Problem;
use serde_json::{Value, json};
use vmm::control::Hardware;

use super::Guest;
use super::change::Changing;
use super::plan::{self, Device, Step};

impl Guest {
    /// Undoes a step without waiting for the guest, as well as that can be.
    pub(super) async fn undo_step(&mut self, step: &Step) {
        let undone = match step {
            Step::Add(device) => self.pull_out(device).await,
            // It may have let go in the last moment.
            Step::Remove(device) => match self.has(device).await {
                true => Ok(()),
                false => self.add(device).await,
            },
            Step::Limit { from, .. } => self.tell("limit", from.limit(), &[]).await.map(|_: Value| ()),
            Step::Processors { from, .. } => {
                self.tell("processors", json!({ "count": from }), &[]).await.map(|_: Value| ())
            }
            Step::Memory { from, .. } => self.ask_for_memory(*from, false).await.map(drop),
        };
        if let Err(problem) = undone {
            tracing::warn!("{}: a change is not undone: {problem}", self.name());
        }
    }

    async fn has(&self, device: &Device) -> bool {
        let hardware = self.tell::<Hardware>("hardware", Value::Null, &[]).await;
        hardware.is_ok_and(|hardware| hardware.devices.contains(&device.name()))
    }

    /// The guest stays what it was.
    pub(super) async fn undo_change(&mut self, problem: Problem) {
        let Some(changing) = self.changing.take() else { return };
        for step in changing.done.iter().rev() {
            self.undo_step(step).await;
        }
        // What has come back is where it was.
        self.tell_places(self.record.made_of()).await;
        self.unchanged(changing, problem).await;
    }

    async fn unchanged(&mut self, changing: Changing, problem: Problem) {
        changing.made.undo();
        self.settle_promise();
        let mut definition = self.record.vm.definition.clone();
        let machine = self.record.machine.clone().filter(|_| self.running.is_some());
        // It was plugged in so before.
        let _ = self.shared.wires.plug(self.record.vm.id, &mut definition, machine.as_ref()).await;
        // Nobody may wait for it.
        let _ = changing.reply.send(Err(problem));
    }

    /// Its process has ended before the guest has done what was asked.
    pub(super) async fn not_changed(&mut self, why: &str) {
        let Some(changing) = self.changing.take() else { return };
        let problem = Problem::conflict(format!("{} is not changed: {why}", self.name()));
        self.unchanged(changing, problem).await;
    }

    /// Makes a machine that an earlier daemon was changing what it is known to be.
    pub(super) async fn reconcile(&mut self) {
        let Ok(hardware) = self.tell::<Hardware>("hardware", Value::Null, &[]).await else { return };
        let made_of = self.record.made_of().clone();
        let devices = plan::all(&made_of);
        let comes_and_goes = |name: &&String| name.starts_with("disk") || name.starts_with("net-");
        for name in hardware.devices.iter().filter(comes_and_goes) {
            if devices.iter().all(|device| device.name() != *name) {
                let pulled = self.tell::<Value>("unplug", json!({ "name": name, "force": true }), &[]).await;
                tracing::info!("{}: {name} was being added and is pulled out: {pulled:?}", self.name());
            }
        }
        for device in &devices {
            if hardware.devices.contains(&device.name()) {
                // They may have been being changed. A process that knows of no limits has none.
                let limited = self.tell::<Value>("limit", device.limit(), &[]).await;
                tracing::debug!("{}: {} has its limits again: {limited:?}", self.name(), device.words());
            } else {
                let added = self.add(device).await;
                let name = self.name();
                tracing::info!("{name}: {} was being removed and comes back: {added:?}", device.words());
            }
        }
        self.tell_places(&made_of).await;
        if self.record.machine.is_none() {
            return;
        }
        if hardware.processors.len() as u32 != made_of.cpus {
            self.undo_step(&Step::Processors { from: made_of.cpus, to: 0 }).await;
        }
        if hardware.memory.asked() != made_of.memory.0 {
            self.undo_step(&Step::Memory { from: made_of.memory.0, to: 0 }).await;
        }
    }
}
