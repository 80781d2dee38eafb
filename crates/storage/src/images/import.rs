//! Takes in an image that somebody else made: a disk with the kernel to boot it, or an archive that an image was exported to.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use api::{ImageName, Invalid, Time};
use disk::Format;
use disk::qcow2::Header;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::archive;
use super::source::{Leftover, Opened, Source};
use super::store::{About, Draft, Store};
use super::unpack::{Compression, unpack};
use crate::{Error, Progress, Result, sparse};

/// The command line of a kernel that comes with a disk: the system is on the first partition.
pub const COMMAND_LINE: &str = "root=/dev/vda1 rw console=ttyS0";

/// An image that is to be taken in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// Its name.
    pub name: ImageName,
    /// What it is for; that of an exported image if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 4096)]
    pub description: Option<String>,
    /// Words to find it by; those of an exported image if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<BTreeMap<String, String>>,
    /// The disk: raw or qcow2, perhaps compressed by gzip, xz or zstd; or an exported image, which has all the rest.
    pub disk: Source,
    /// The kernel to boot the disk with. An exported image has its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Source>,
    /// Its initial RAM disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<Source>,
    /// Its command line: that of an exported image, or `root=/dev/vda1 rw console=ttyS0`, if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(max_length = 2047)]
    pub command_line: Option<String>,
    /// Whether an image that has the name gives way to it.
    #[serde(default)]
    pub replace: bool,
}

/// Takes an image in.
///
/// # Errors
/// If one of its files is not usable or cannot be fetched, the name is taken, or the host fails.
pub fn import(store: &Store, import: &Import, progress: &dyn Progress) -> Result<()> {
    import.check()?;
    store.check_free(&import.name, import.replace)?;
    // The small ones first: what is wrong with them is soon known.
    let open = |source: &Option<Source>, pointer: &str| {
        source.as_ref().map(|source| source.open(pointer, store.folder(), progress)).transpose()
    };
    let (kernel, initrd) = (open(&import.kernel, "/kernel")?, open(&import.initrd, "/initrd")?);
    let disk = import.disk.open("/disk", store.folder(), progress)?;
    let draft = store.draft(&import.name, import.replace)?;
    let path = disk.path();
    let about = if archive::is_archive(disk.file()).map_err(|error| Error::unusable(&path, error))? {
        import.unpack(&disk, &draft, progress)?
    } else {
        let kernel = kernel.as_ref().ok_or_else(|| {
            Error::invalid("/kernel", Value::Null, "a disk needs the kernel to boot it with")
        })?;
        import.put_together(&disk, kernel, initrd.as_ref(), draft.folder(), progress)?
    };
    let files = [Some(disk), kernel, initrd];
    let leftovers: Vec<_> = files.into_iter().flatten().map(Opened::close).collect();
    draft.keep(&about)?;
    leftovers.into_iter().for_each(Leftover::remove);
    Ok(())
}

impl Import {
    /// The image of this name, of a disk from `disk`.
    pub fn new(name: ImageName, disk: Source) -> Self {
        let (description, labels, command_line) = (None, None, None);
        Self { name, description, labels, disk, kernel: None, initrd: None, command_line, replace: false }
    }

    /// Whether it can be taken in, as far as that can be told without looking at its files.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<()> {
        let mut wrong = self.disk.check("/disk");
        wrong.extend(self.kernel.iter().flat_map(|kernel| kernel.check("/kernel")));
        wrong.extend(self.initrd.iter().flat_map(|initrd| initrd.check("/initrd")));
        for (pointer, source) in [("/kernel", &self.kernel), ("/initrd", &self.initrd)] {
            // Whoever reads an upload has it alone.
            let same = matches!(source, Some(Source::Upload { .. })) && source.as_ref() == Some(&self.disk);
            if same {
                wrong.push(Invalid::new(pointer, Value::Null, "it is the same file as the disk"));
            }
        }
        wrong.extend(self.labels.iter().flat_map(|labels| api::check_labels("/labels", labels)));
        wrong.extend(self.description.as_deref().and_then(Invalid::of_description));
        if self.command_line.as_ref().is_some_and(|line| line.len() > 2047 || line.contains('\0')) {
            wrong.push(Invalid::new("/command_line", Value::Null, "at most 2047 bytes, none of them zero"));
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
    }

    /// An exported image.
    fn unpack(&self, disk: &Opened, draft: &Draft, progress: &dyn Progress) -> Result<About> {
        for (pointer, source) in [("/kernel", &self.kernel), ("/initrd", &self.initrd)] {
            if source.is_some() {
                return Err(Error::invalid(pointer, Value::Null, "an exported image has its own"));
            }
        }
        progress.step("unpacking the image");
        let mut about = archive::unpack(disk.file(), &disk.path(), draft.folder(), progress)?;
        let path = draft.folder().join(&about.disk);
        check_disk(&File::open(&path).map_err(Error::host(&path))?, &disk.path())?;
        about.created = Some(Time::now());
        if let Some(description) = &self.description {
            about.description.clone_from(description);
        }
        if let Some(labels) = &self.labels {
            about.labels.clone_from(labels);
        }
        if let Some(line) = &self.command_line {
            about.cmdline.clone_from(line);
        }
        Ok(about)
    }

    /// A disk, its kernel and what goes with it.
    fn put_together(
        &self,
        disk: &Opened,
        kernel: &Opened,
        initrd: Option<&Opened>,
        folder: &Path,
        progress: &dyn Progress,
    ) -> Result<About> {
        let about = About {
            description: self.description.clone().unwrap_or_default(),
            labels: self.labels.clone().unwrap_or_default(),
            created: Some(Time::now()),
            origin: self.disk.origin(),
            disk: put_disk(disk, folder, progress)?,
            kernel: "vmlinuz".into(),
            initrd: initrd.map(|_| "initrd".into()),
            cmdline: self.command_line.clone().unwrap_or_else(|| COMMAND_LINE.into()),
        };
        put_small(kernel, &folder.join(&about.kernel))?;
        if let (Some(from), Some(to)) = (initrd, &about.initrd) {
            put_small(from, &folder.join(to))?;
        }
        Ok(about)
    }
}

/// Puts a disk into a folder; gives the name of its file.
fn put_disk(disk: &Opened, folder: &Path, progress: &dyn Progress) -> Result<String> {
    let path = &disk.path();
    let to = folder.join("disk");
    let compression = Compression::of(disk.file()).map_err(|error| Error::unusable(path, error))?;
    let new = || File::options().read(true).write(true).create_new(true).open(&to).map_err(Error::host(&to));
    match (disk, compression) {
        // It came piece by piece: where its holes are must be found out.
        (Opened::Fetched(_), _) | (_, Some(_)) => {
            progress.step("unpacking the disk");
            unpack(disk.file(), path, compression, &new()?, progress)?;
        }
        _ => {
            check_disk(disk.file(), path)?;
            // One that is ours anyway needs no copy.
            let ours = matches!(disk, Opened::Uploaded { .. });
            if !(ours && fs::hard_link(path, &to).is_ok()) {
                progress.step("copying the disk");
                sparse::copy(disk.file(), path, &new()?, progress)?;
            }
        }
    }
    let file = File::open(&to).map_err(Error::host(&to))?;
    let name = if check_disk(&file, path)? { "disk.qcow2" } else { "disk.raw" };
    fs::rename(&to, folder.join(name)).map_err(Error::host(&to))?;
    Ok(name.into())
}

/// Whether a disk is a qcow2 image, which must be whole: its backing file would not come with it. `path` is what people call it.
fn check_disk(disk: &File, path: &Path) -> Result<bool> {
    let format = Format::of(disk).map_err(|error| Error::unusable(path, error))?;
    if format == Format::Qcow2 && Header::read(disk).map_err(Error::disk(path))?.backing.is_some() {
        let why = "it has a backing file: make one image of both with qemu-img convert";
        return Err(Error::unusable(path, why));
    }
    let clone = disk.try_clone().map_err(|error| Error::unusable(path, error))?;
    disk::from_file(clone, format, true).map_err(Error::disk(path))?;
    Ok(format == Format::Qcow2)
}

/// Puts a kernel or its RAM disk in its place.
fn put_small(from: &Opened, to: &Path) -> Result<()> {
    let copied = File::create_new(to).and_then(|mut to| std::io::copy(&mut from.file(), &mut to));
    copied.map(drop).map_err(|error| Error::unusable(&from.path(), error))
}
