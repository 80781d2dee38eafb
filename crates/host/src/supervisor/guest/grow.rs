//! How a guest's disk becomes longer, whether the guest runs or not.

use api::{Disk, DiskSource, Invalid, Problem, Size, VmDefinition, VmState};
use serde_json::{Value, json};

use super::Guest;
use crate::pools::volume_of;
use crate::supervisor::machine::disk_name;
use crate::supervisor::storage_problem;

/// Where disk `number` of a definition is.
fn find(definition: &mut VmDefinition, number: usize) -> Option<&mut Disk> {
    let place = definition.disks.iter().enumerate().position(|(place, disk)| disk.number(place) == number)?;
    definition.disks.get_mut(place)
}

/// Says of a disk how long it is, where that is said.
fn note_size(disk: &mut Disk, size: Size) {
    match &mut disk.source {
        DiskSource::Size(said) => *said = size,
        DiskSource::Image(_) => disk.grow = Some(size),
        DiskSource::Volume(_) | DiskSource::File(_) => {}
    }
}

impl Guest {
    /// Makes a disk longer. The system of one that runs is told; what it does with the room is its own business.
    pub(super) async fn grow(&mut self, number: usize, size: Size, actor: &str) -> Result<(), Problem> {
        let states = [VmState::Running, VmState::Paused, VmState::Stopped, VmState::Crashed];
        self.must_be(&states, "its disks are what it was suspended with: have it go on, or stop it, first")?;
        self.must_not_change()?;
        if !size.0.is_multiple_of(512) {
            return Err(Problem::invalid(vec![Invalid::new("/size", size.0, "whole sectors of 512 bytes")]));
        }
        let before = self.record.clone();
        let disk = find(&mut self.record.vm.definition, number).cloned();
        let disk = disk.ok_or_else(|| Problem::not_found(format!("the guest has no disk {number}")))?;
        let volume = volume_of(before.vm.id, number, &disk)?.map_err(|path| {
            let what = format!("disk {number} is the file {}", path.display());
            Problem::conflict(format!("{what}, which is not the host's to change"))
        })?;
        let (pool, volume) = (self.shared.pools.get(volume.pool.as_str())?, volume.name);
        let (looked, name) = (pool.clone(), volume.clone());
        let has = tokio::task::spawn_blocking(move || looked.get(&name, Vec::new())).await;
        let has = has.map_err(|error| Problem::internal(error.to_string()))?.map_err(storage_problem)?.size;
        if size < has {
            let detail = format!("it has {} bytes: a guest's disk is only made longer", has.0);
            return Err(Problem::invalid(vec![Invalid::new("/size", size.0, detail)]));
        }
        let machine_has = self.record.machine.as_mut().and_then(|machine| find(machine, number)).is_some();
        if self.running.is_some() && machine_has {
            let order = json!({ "name": disk_name(number), "size": size });
            let _: Value = self.tell("disk_grow", order, &[]).await?;
        } else {
            let wanted = storage::Resize { size, shrink: false };
            let resized = tokio::task::spawn_blocking(move || pool.resize(&volume, &wanted)).await;
            resized.map_err(|error| Problem::internal(error.to_string()))?.map_err(storage_problem)?;
        }
        for definition in
            [Some(&mut self.record.vm.definition), self.record.machine.as_mut()].into_iter().flatten()
        {
            if let Some(disk) = find(definition, number) {
                note_size(disk, size);
            }
        }
        let message = format!("disk {number} has {} MiB now", size.0 >> 20);
        let happening =
            self.happening("vm.disk-grown", message).with(json!({ "disk": number, "size": size })).by(actor);
        let saved = self.save(Some(happening)).await;
        if saved.is_err() {
            self.record = before;
        }
        saved
    }
}
