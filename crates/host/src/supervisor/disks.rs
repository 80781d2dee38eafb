//! Disks that a guest has of its own.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use api::{Disk, DiskFormat, DiskSource, Id, Invalid, Problem, VmDefinition};
use disk::Format;
use storage::images::Store as Images;
use storage::{Progress, sparse};

use super::storage_problem;
use crate::paths::{self, Paths};

/// Disks that have been made and that nobody knows of yet, and those that nobody will know of.
#[must_use]
pub struct Made {
    new: Vec<PathBuf>,
    old: Vec<PathBuf>,
    folder: Option<PathBuf>,
}

impl Made {
    /// They belong to the guest now; those that it had before and has no more go.
    pub fn keep(self) {
        remove(&self.old);
    }

    /// It does not get them.
    pub fn undo(self) {
        remove(&self.new);
        if let Some(folder) = self.folder {
            // Where a console's log lies already it stays, and is swept with the guest.
            let _ = fs::remove_dir(folder);
        }
    }
}

fn remove(files: &[PathBuf]) {
    for file in files {
        if let Err(error) = fs::remove_file(file)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!("{} stays behind: {error}", file.display());
        }
    }
}

/// What is wrong with disk `number` of a guest, as far as that can be told from what there is.
pub fn check(images: &Images, number: usize, disk: &Disk) -> Option<Invalid> {
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
        DiskSource::Size(_) => None,
    }
}

/// Finds out what was left to be found out, once and for good: how the files are laid out, and what hardware addresses cards have.
///
/// # Errors
/// If a file cannot be read.
pub fn settle(definition: &mut VmDefinition) -> Result<(), Problem> {
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
    paths: &Paths,
    images: &Images,
    id: Id,
    before: &[Disk],
    after: &[Disk],
    progress: &dyn Progress,
) -> Result<Made, Problem> {
    let folder = paths.vm(id);
    let fresh = !folder.exists();
    paths::make(&folder).map_err(|error| Problem::internal(format!("{}: {error}", folder.display())))?;
    let own = |disk: &Disk| !matches!(disk.source, DiskSource::File(_));
    let same = |number: usize| {
        before.get(number).zip(after.get(number)).is_some_and(|(before, after)| before.source == after.source)
    };
    let mut made = Made { new: Vec::new(), old: Vec::new(), folder: fresh.then_some(folder) };
    for (number, _) in before.iter().enumerate().filter(|(number, disk)| own(disk) && !same(*number)) {
        // It keeps its name: a new one of this number has to wait until it is gone.
        if after.get(number).is_some_and(own) {
            made.undo();
            let detail = format!("disk {number} is the guest's own: take it away first, then add another");
            return Err(Problem::conflict(detail));
        }
        made.old.push(paths.disk(id, number));
    }
    for (number, disk) in after.iter().enumerate().filter(|(number, disk)| own(disk) && !same(*number)) {
        let path = paths.disk(id, number);
        made.new.push(path.clone());
        if let Err(problem) = make_one(images, disk, &path, progress) {
            made.undo();
            return Err(problem);
        }
    }
    Ok(made)
}

fn make_one(images: &Images, disk: &Disk, path: &PathBuf, progress: &dyn Progress) -> Result<(), Problem> {
    let told = |error: io::Error| Problem::internal(format!("{}: {error}", path.display()));
    // Nobody knows of one that is there already: a daemon was killed while it made it.
    let file = File::options().read(true).write(true).create(true).truncate(true).open(path).map_err(told)?;
    match &disk.source {
        DiskSource::Image(name) => {
            progress.step(&format!("copies the disk of {name}"));
            let image = images.get(name).map_err(storage_problem)?;
            let from = File::open(image.disk()).map_err(told)?;
            sparse::copy(&from, &image.disk(), &file, progress).map_err(storage_problem)?;
        }
        DiskSource::Size(size) => file.set_len(size.0).map_err(told)?,
        DiskSource::File(_) => {}
    }
    file.sync_all().map_err(told)
}
