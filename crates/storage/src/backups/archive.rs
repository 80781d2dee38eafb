//! A guest as one file, to carry it elsewhere: what is in the folder of a full backup, as a tar archive. The manifest comes first, then the
//! checksums, then the disks in the manifest's order, each a qcow2 file that nothing is behind, so that zeroes do not travel.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use disk::qcow2::Header;
use disk::{Disk, Format, Stack};

use super::manifest::Manifest;
use super::read::{Opened, check_files};
use super::{BackupSource, BackupWanted, MANIFEST, SUMS};
use crate::tarball::{self, Told, add};
use crate::{Error, Pool, Progress, Result, draft};

/// What a manifest, and what the checksums can have at most, bytes.
const LONGEST: u64 = 4 << 20;

/// A guest that is ready to be written as an archive.
pub struct PackedBackup {
    /// What each file is called, and from where it is read.
    files: Vec<(String, File)>,
    place: PathBuf,
    _draft: draft::Folder,
}

impl Pool {
    /// Packs what disks were, beside the backups in this pool, where it goes again with what this gives.
    ///
    /// # Errors
    /// If a layer cannot be read, the host has no room, or it is called off.
    pub fn pack_backup(
        &self,
        wanted: &BackupWanted,
        disks: &[BackupSource<'_>],
        progress: &dyn Progress,
    ) -> Result<PackedBackup> {
        let (draft, manifest) = self.draft_backup(wanted, disks, None, progress)?;
        let place = draft.path().to_owned();
        let names = [MANIFEST, SUMS].into_iter().chain(manifest.disks.iter().map(|disk| disk.file.as_str()));
        let open = |name: &str| Ok((name.to_owned(), File::open(place.join(name))?));
        let files = names.map(open).collect::<io::Result<Vec<_>>>().map_err(Error::host(&place))?;
        Ok(PackedBackup { files, place, _draft: draft })
    }

    /// Unpacks an archive beside the backups in this pool, and looks at all of it, before anybody makes anything of it.
    ///
    /// # Errors
    /// [`Error::ExportDamaged`] with what is wrong; or if the host has no room, or it is called off.
    pub fn unpack_backup(&self, file: &File, progress: &dyn Progress) -> Result<Opened> {
        progress.step("unpacking the file");
        let draft = draft::Folder::new(&self.backups_folder())?;
        let manifest = unpack(file, draft.path(), progress)?;
        progress.step("checking the file");
        let mut problems = Vec::new();
        let bytes = check_files(draft.path(), &manifest, &mut problems, progress)?;
        if !problems.is_empty() {
            return Err(Error::ExportDamaged(problems));
        }
        let mut disks = Vec::new();
        for disk in &manifest.disks {
            disks.push((disk.unit, open_alone(&draft.path().join(&disk.file), disk.size.0)?));
        }
        Ok(Opened::of_draft(manifest, bytes, disks, draft))
    }
}

fn damaged(why: impl ToString) -> Error {
    Error::ExportDamaged(vec![why.to_string()])
}

/// Opens a disk that somebody else has made. A file of the host that it says is behind it is nothing of its.
fn open_alone(path: &Path, size: u64) -> Result<Stack> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let told = |error: disk::OpenError| damaged(format!("{name}: {error}"));
    let file = File::open(path).map_err(Error::host(path))?;
    if Header::read(&file).map_err(told)?.backing.is_some() {
        return Err(damaged(format!("{name} is based on another file")));
    }
    let disk = Stack::from_files(file, Vec::new(), Format::Qcow2, true).map_err(told)?;
    match disk.len() == size {
        true => Ok(disk),
        false => Err(damaged(format!("{name} has {} bytes and should have {size}", disk.len()))),
    }
}

/// Unpacks an archive into a folder; gives what it says of itself.
fn unpack(mut file: &File, folder: &Path, progress: &dyn Progress) -> Result<Manifest> {
    file.seek(SeekFrom::Start(0)).map_err(damaged)?;
    let mut archive = tar::Archive::new(file);
    let mut entries = archive.entries().map_err(damaged)?;
    let mut next = |name: &str, fits: &dyn Fn(u64) -> bool| {
        let entry = entries.next().ok_or_else(|| damaged(format!("it ends before {name}")))?;
        let mut entry = entry.map_err(|error| damaged(format!("it is no archive, or cut off: {error}")))?;
        let is = entry.path().map(|path| path == Path::new(name)).unwrap_or_default();
        if !is || !entry.header().entry_type().is_file() {
            return Err(damaged(format!(
                "it is no guest that was exported: {name} is not where it has to be"
            )));
        }
        let length = entry.size();
        if !fits(length) {
            return Err(damaged(format!("{name} has {length} bytes, which it cannot have")));
        }
        let place = folder.join(name);
        let mut to = File::create_new(&place).map_err(Error::host(&place))?;
        let copied = io::copy(&mut Told::new(&mut entry, length, progress), &mut to);
        match copied {
            Ok(copied) if copied == length => Ok(()),
            Ok(_) => Err(damaged(format!("it is cut off in {name}"))),
            Err(_) if progress.cancelled() => Err(Error::Cancelled),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => Err(Error::host(&place)(error)),
            Err(error) => Err(damaged(format!("{name}: {error}"))),
        }
    };
    next(MANIFEST, &|length| length <= LONGEST)?;
    next(SUMS, &|length| length <= LONGEST)?;
    let (manifest, _) = Manifest::read(folder, "").map_err(|error| match error {
        Error::BackupDamaged { problems, .. } => Error::ExportDamaged(problems),
        error => error,
    })?;
    if manifest.parent.is_some() || manifest.disks.iter().any(|disk| disk.incremental) {
        return Err(damaged("it has only what differs from another one"));
    }
    for (place, disk) in manifest.disks.iter().enumerate() {
        if manifest.disks[..place].iter().any(|other| other.unit == disk.unit) {
            return Err(damaged(format!("it has two disks {}", disk.unit)));
        }
        next(&disk.file, &|length| length == disk.length.0)?;
    }
    match entries.next() {
        None => Ok(manifest),
        Some(_) => Err(damaged("there is more in it than its manifest says")),
    }
}

impl PackedBackup {
    /// How many bytes [`write`](Self::write) will write.
    ///
    /// # Errors
    /// If the host cannot tell.
    pub fn length(&self) -> Result<u64> {
        let lengths = self.files.iter().map(|(_, file)| Ok(file.metadata()?.len()));
        let lengths = lengths.collect::<io::Result<Vec<_>>>().map_err(Error::host(&self.place))?;
        Ok(tarball::length(&lengths))
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// If `to` fails, or the host cannot read.
    pub fn write(self, to: &mut dyn Write, progress: &dyn Progress) -> io::Result<()> {
        let mut archive = tar::Builder::new(to);
        for (name, file) in &self.files {
            add(&mut archive, name, file.metadata()?.len(), file, progress)?;
        }
        archive.finish()
    }
}
