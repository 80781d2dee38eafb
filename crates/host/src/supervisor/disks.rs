//! Disks that a guest has of its own.

use std::fs::File;
use std::io;
use std::sync::Arc;

use api::{Disk, DiskFormat, DiskSource, Id, Invalid, Name, Problem, VmDefinition};
use disk::Format;
use storage::backups::Opened;
use storage::images::Store as Images;
use storage::{Allocation, VolumeDefinition, VolumeFormat, VolumeSource};
use storage::{Pool, Progress};

use super::storage_problem;
use crate::pools::{Pools, own_volume};
use crate::snapshots::KeptDisk;

/// Disks that have been made and that nobody knows of yet, and those that nobody will know of.
#[must_use]
pub struct Made {
    pool: Option<Arc<Pool>>,
    new: Vec<Name>,
    old: Vec<Name>,
}

impl Made {
    /// They belong to the guest now; those that it had before and has no more go, if its machine does not `hold` them.
    pub fn keep(self, holds: impl Fn(&Name) -> bool) {
        let old: Vec<_> = self.old.iter().filter(|name| !holds(name)).cloned().collect();
        self.remove(&old);
    }

    /// It does not get them.
    pub fn undo(self) {
        self.remove(&self.new);
    }

    fn remove(&self, volumes: &[Name]) {
        let Some(pool) = &self.pool else { return };
        for volume in volumes {
            remove(pool, volume);
        }
    }
}

fn remove(pool: &Pool, volume: &Name) {
    match pool.delete(volume, &[]) {
        Ok(()) | Err(storage::Error::NoVolume(_)) => {}
        Err(error) => tracing::warn!("the disk {volume} stays behind: {error}"),
    }
}

/// Removes the disks of its own that a guest had and has no more: what it ran with may have held them until now.
pub fn remove_gone(pools: &Pools, id: Id, had: &[Disk], has: &[Disk]) {
    let number = |(place, disk): (usize, &Disk)| is_own(disk).then(|| disk.number(place));
    let kept: Vec<_> = has.iter().enumerate().filter_map(number).collect();
    let Ok(pool) = pools.usual() else { return };
    for gone in had.iter().enumerate().filter_map(number).filter(|number| !kept.contains(number)) {
        if let Ok(volume) = own_volume(id, gone) {
            remove(&pool, &volume);
        }
    }
}

/// Removes the disks that a guest has of its own.
pub fn remove_all(pools: &Pools, id: Id, disks: &[Disk]) {
    let Ok(pool) = pools.usual() else { return };
    for (place, disk) in disks.iter().enumerate().filter(|(_, disk)| is_own(disk)) {
        if let Ok(volume) = own_volume(id, disk.number(place)) {
            remove(&pool, &volume);
        }
    }
}

/// Whether a disk comes and goes with its guest.
pub fn is_own(disk: &Disk) -> bool {
    matches!(disk.source, DiskSource::Image(_) | DiskSource::Size(_))
}

/// What is wrong with disk `number` of a guest, as far as that can be told from what there is.
pub fn check(images: &Images, pools: &Pools, number: usize, disk: &Disk) -> Option<Invalid> {
    match &disk.source {
        DiskSource::Image(name) => match images.find(name) {
            Ok(Some(_)) => None,
            Ok(None) => {
                let detail = format!("there is no image {name}");
                Some(Invalid::new(format!("/disks/{number}/image"), name.as_str(), detail))
            }
            Err(error) => {
                Some(Invalid::new(format!("/disks/{number}/image"), name.as_str(), error.to_string()))
            }
        },
        DiskSource::File(path) => {
            let opened = File::options().read(true).write(!disk.read_only).open(path);
            let why = opened.err()?;
            Some(Invalid::new(
                format!("/disks/{number}/file"),
                path.to_string_lossy().as_ref(),
                why.to_string(),
            ))
        }
        DiskSource::Volume(volume) => {
            let there = pools
                .get(volume.pool.as_str())
                .and_then(|pool| pool.get(&volume.name, Vec::new()).map_err(storage_problem).map(drop));
            let why = there.err()?;
            Some(Invalid::new(format!("/disks/{number}/volume"), volume.to_string(), why.detail))
        }
        DiskSource::Size(_) => None,
    }
}

/// Finds out what was left to be found out, once and for good: how the files are laid out, what numbers disks have that are not `before`'s,
/// and what hardware addresses cards have.
///
/// # Errors
/// If a file cannot be read.
pub fn settle(definition: &mut VmDefinition, before: Option<&VmDefinition>) -> Result<(), Problem> {
    definition.number_disks(before.map_or(&[], |before| &before.disks));
    if let Some(before) = before {
        definition.know_cards(&before.nics);
    }
    for disk in &mut definition.disks {
        if let DiskSource::File(path) = &disk.source
            && disk.format.is_none()
        {
            let told = |error: io::Error| Problem::conflict(format!("{}: {error}", path.display()));
            let file = File::open(path).map_err(told)?;
            disk.format = Some(match Format::of(&file).map_err(told)? {
                Format::Raw => DiskFormat::Raw,
                Format::Qcow2 => DiskFormat::Qcow2,
            });
        }
    }
    for nic in &mut definition.nics {
        if nic.mac.is_none() {
            nic.mac = Some(new_mac()?);
        }
    }
    Ok(())
}

/// A hardware address that nobody else has: of those that everybody may give out (IEEE 802, section 8.4: locally administered).
fn new_mac() -> Result<String, Problem> {
    let mut bytes = [0; 5];
    getrandom::fill(&mut bytes).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(bytes.iter().fold(String::from("52"), |mac, byte| format!("{mac}:{byte:02x}")))
}

/// Makes the disks that `after` has and `before` has not.
///
/// # Errors
/// If one of them cannot be made; none of them is there then.
pub fn make(
    pools: &Pools,
    images: &Images,
    id: Id,
    before: &[Disk],
    after: &[Disk],
    progress: &dyn Progress,
) -> Result<Made, Problem> {
    let mut made = Made { pool: None, new: Vec::new(), old: Vec::new() };
    let own = |disks: &'_ [Disk]| -> Vec<(usize, usize, Disk)> {
        let numbered =
            disks.iter().enumerate().map(|(place, disk)| (disk.number(place), place, disk.clone()));
        numbered.filter(|(_, _, disk)| is_own(disk)).collect()
    };
    let (before, after) = (own(before), own(after));
    let is_in = |list: &[(usize, usize, Disk)], (number, _, disk): &(usize, usize, Disk)| {
        list.iter().any(|(other, _, found)| other == number && found.source == disk.source)
    };
    let new: Vec<_> = after.iter().filter(|disk| !is_in(&before, disk)).collect();
    let old: Vec<_> = before.iter().filter(|disk| !is_in(&after, disk)).collect();
    if new.is_empty() && old.is_empty() {
        return Ok(made);
    }
    let pool = pools.usual()?;
    made.pool = Some(Arc::clone(&pool));
    for (number, ..) in old {
        // It keeps its name: a new one of this number has to wait until it is gone.
        if after.iter().any(|(other, ..)| other == number) {
            let detail = format!("disk {number} is the guest's own: take it away first, then add another");
            return Err(Problem::conflict(detail));
        }
        made.old.push(own_volume(id, *number)?);
    }
    for (number, place_in_list, disk) in new {
        let name = own_volume(id, *number)?;
        // Nobody knows of one that is there already: a daemon was killed before anybody did.
        remove(&pool, &name);
        let result = pool.create(&volume(name.clone(), disk), images, progress);
        if let Err(error) = result {
            made.undo();
            return Err(place(storage_problem(error), *place_in_list));
        }
        made.new.push(name);
    }
    Ok(made)
}

/// Makes each own disk of guest `to`: `make` is given the pool, the volume's name, the disk's number and the disk.
fn make_own(
    pools: &Pools,
    to: Id,
    disks: &[Disk],
    make: impl Fn(&Pool, Name, usize, &Disk) -> Result<(), Problem>,
) -> Result<Made, Problem> {
    let pool = pools.usual()?;
    let mut made = Made { pool: Some(Arc::clone(&pool)), new: Vec::new(), old: Vec::new() };
    for (place, disk) in disks.iter().enumerate().filter(|(_, disk)| is_own(disk)) {
        let number = disk.number(place);
        let name = own_volume(to, number)?;
        if let Err(problem) = make(&pool, name.clone(), number, disk) {
            made.undo();
            return Err(problem);
        }
        made.new.push(name);
    }
    Ok(made)
}

/// Makes copies of the own disks that guest `from` has for guest `to`.
///
/// # Errors
/// If one of them cannot be made; none of them is there then.
pub fn copy(
    pools: &Pools,
    images: &Images,
    from: Id,
    to: Id,
    disks: &[Disk],
    progress: &dyn Progress,
) -> Result<Made, Problem> {
    make_own(pools, to, disks, |pool, name, number, disk| {
        let wanted = VolumeDefinition {
            source: Some(VolumeSource::Volume(own_volume(from, number)?)),
            size: None,
            linked: false,
            ..volume(name, disk)
        };
        pool.create(&wanted, images, progress).map(drop).map_err(storage_problem)
    })
}

/// Makes the own disks of guest `to` over what those of another guest were.
///
/// # Errors
/// If one of them cannot be made; none of them is there then.
pub fn link(pools: &Pools, layers: &[KeptDisk], to: Id, disks: &[Disk]) -> Result<Made, Problem> {
    make_own(pools, to, disks, |pool, name, number, _| {
        let layer = layers.iter().find(|layer| layer.unit as usize == number);
        let layer = layer.ok_or_else(|| Problem::conflict(format!("the snapshot has no disk {number}")))?;
        pool.clone_layer(layer.layer, &name, "", None).map(drop).map_err(storage_problem)
    })
}

/// Makes the own disks of guest `to` of what is in a backup.
///
/// # Errors
/// If one of them cannot be made; none of them is there then.
pub fn restore(
    pools: &Pools,
    from: &Opened,
    to: Id,
    disks: &[Disk],
    progress: &dyn Progress,
) -> Result<Made, Problem> {
    // What it only reads is what the host has.
    make_own(pools, to, disks, |pool, name, number, _| {
        progress.step(&format!("restoring disk {number}"));
        pool.restore_disk(&name, from, number as u32, progress).map(drop).map_err(storage_problem)
    })
}

/// A problem if a guest has disks that another one cannot have as well.
pub fn check_shared(definition: &VmDefinition) -> Result<(), Problem> {
    for (place, disk) in
        definition.disks.iter().enumerate().filter(|(_, disk)| !is_own(disk) && !disk.read_only)
    {
        let number = disk.number(place);
        let what = match &disk.source {
            DiskSource::Volume(volume) => format!("the volume {volume}"),
            DiskSource::File(path) => format!("the file {}", path.display()),
            _ => continue,
        };
        let detail = format!("disk {number} is {what}, which only one guest can write to: take it off first");
        return Err(Problem::conflict(detail));
    }
    Ok(())
}

/// The volume that is a guest's own disk.
fn volume(name: Name, disk: &Disk) -> VolumeDefinition {
    let (source, size) = match &disk.source {
        DiskSource::Image(image) => (Some(VolumeSource::Image(image.clone())), disk.grow),
        DiskSource::Size(size) => (None, Some(*size)),
        _ => (None, None),
    };
    let linked = source.is_some() && !disk.full;
    VolumeDefinition {
        name,
        description: String::new(),
        // What has nothing under it is quickest as it is.
        format: if linked { VolumeFormat::Qcow2 } else { VolumeFormat::Raw },
        size,
        allocation: Allocation::Thin,
        source,
        linked,
    }
}

/// What is wrong with a volume is wrong with the disk that it is for.
fn place(mut problem: Problem, number: usize) -> Problem {
    for wrong in &mut problem.errors {
        wrong.pointer = match wrong.pointer.as_str() {
            "/size" => format!("/disks/{number}/grow"),
            _ => format!("/disks/{number}"),
        };
    }
    problem
}
