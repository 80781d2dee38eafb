//! What `tessera run` boots: `--image NAME|FILE`, `--kernel`, `--initrd` and `--append`, each in place of what the image says.

use std::io;
use std::path::{Path, PathBuf};

use api::ImageName;
use clap::Args;
use storage::images::{About, COMMAND_LINE, Image, Store};
use vmm::boot::{Kernel, Source};

use crate::cli::image::{is_named, open_store};
use crate::client::default_state;
use crate::failure::{Failure, Result};

/// The command line of a kernel that is given alone.
const KERNEL_COMMAND_LINE: &str = "console=ttyS0";

/// Options that say what to boot.
#[derive(Debug, Args)]
pub struct BootOptions {
    /// Boot a stored image, or a disk's file with its kernel beside it or given by --kernel; what the guest writes is gone
    /// with it
    #[arg(long, value_name = "NAME|FILE")]
    image: Option<String>,
    /// Keep what the guest writes to its image
    #[arg(long, requires = "image")]
    pub persist: bool,
    /// Boot this kernel: a bzImage, or an ELF file that PVH can start
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line, in place of the image's
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
}

/// What to boot.
#[derive(Debug)]
pub struct Boot {
    /// The kernel, opened.
    pub kernel: Kernel,
    /// The image's disk.
    pub disk: Option<PathBuf>,
}

impl BootOptions {
    /// Finds everything.
    pub fn find(&self) -> Result<Boot> {
        let parts = match &self.image {
            Some(image) => Parts::of(image, self.persist)?,
            None => Parts::default(),
        };
        let Some(kernel) = self.kernel.clone().or(parts.kernel) else {
            return Err(Failure::input(match &self.image {
                Some(file) => format!(
                    "{file} has no kernel beside it: give one with --kernel (and --initrd, --append), or make an image of both \
                     with tessera image import"
                ),
                None => "there is nothing to boot: give --image or --kernel".into(),
            }));
        };
        // An image's initial RAM disk fits its own kernel only.
        let own = parts.initrd.filter(|_| self.kernel.is_none());
        let initrd = self.initrd.clone().or(own).map(|path| source("initrd", &path)).transpose()?;
        let usual = if parts.disk.is_some() { COMMAND_LINE } else { KERNEL_COMMAND_LINE };
        let command_line = self.append.clone().or(parts.cmdline).unwrap_or_else(|| usual.into());
        let kernel = Kernel { image: source("kernel", &kernel)?, initrd, command_line };
        Ok(Boot { kernel, disk: parts.disk })
    }
}

fn source(what: &str, path: &Path) -> Result<Source> {
    Source::open(path).map_err(|error| Failure::input(format!("{what} {}: {error}", path.display())))
}

/// The image of this name: one of this user's own, or else of the host whose folder this user can read.
fn stored(name: &ImageName, persist: bool) -> Result<Option<Image>> {
    if let Some(own) = open_store()?.find(name)? {
        return Ok(Some(own));
    }
    let state = default_state().ok().filter(|_| !is_named());
    let Some(found) = state.and_then(|state| Store::new(state.join("images")).find(name).ok()?) else {
        return Ok(None);
    };
    if persist {
        // Guests' disks are layers over it.
        return Err(Failure::input(format!(
            "{name} is an image of the host, which stays as it is: tessera image export makes a copy to import with --local"
        )));
    }
    Ok(Some(found))
}

/// What an image is made of, as far as it says.
#[derive(Debug, Default)]
struct Parts {
    disk: Option<PathBuf>,
    kernel: Option<PathBuf>,
    initrd: Option<PathBuf>,
    cmdline: Option<String>,
}

impl Parts {
    /// Those of a stored image, or else of a file. A name goes before a file of the same name here: `./NAME` is the file.
    fn of(image: &str, persist: bool) -> Result<Self> {
        let name = image.parse::<ImageName>();
        if let Ok(name) = &name
            && let Some(found) = stored(name, persist)?
        {
            return Ok(Self {
                disk: Some(found.disk()),
                kernel: Some(found.kernel()),
                initrd: found.initrd(),
                cmdline: Some(found.about.cmdline),
            });
        }
        let path = Path::new(image);
        match path.metadata() {
            Ok(meta) if meta.is_dir() => {
                Err(Failure::input(format!("{image} is a folder: give the disk's file in it")))
            }
            Ok(_) => Self::beside(path),
            Err(error) if name.is_err() && error.kind() == io::ErrorKind::NotFound => {
                Err(Failure::input(format!("there is no file {image}, and it cannot be an image's name")))
            }
            Err(error) if name.is_err() => Err(Failure::input(format!("{image}: {error}"))),
            Err(_) => Err(Failure::input(format!(
                "there is no image {image}: tessera image ls shows those there are"
            ))),
        }
    }

    /// Those of a disk's file: what lies beside it as an image's folder has it (`image.json`), or as people have it
    /// (`vmlinuz` and `initrd`).
    fn beside(disk: &Path) -> Result<Self> {
        let folder = disk.parent().unwrap_or(Path::new(""));
        let there = |name: &str| Some(folder.join(name)).filter(|path| path.is_file());
        let mut parts = Self { disk: Some(disk.into()), ..Self::default() };
        if let Some(about) = there("image.json").map(|path| About::read(&path)).transpose()?
            && disk.file_name() == Some(about.disk.as_ref())
        {
            parts.kernel = there(&about.kernel);
            parts.initrd = about.initrd.as_deref().and_then(there);
            parts.cmdline = Some(about.cmdline);
        } else {
            parts.kernel = there("vmlinuz");
            parts.initrd = there("initrd");
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(image: &Path) -> BootOptions {
        let image = Some(image.display().to_string());
        BootOptions { image, persist: false, kernel: None, initrd: None, append: None }
    }

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for name in files {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        folder
    }

    #[test]
    fn a_disk_boots_with_the_kernel_beside_it() {
        let folder = folder(&["disk.raw", "vmlinuz", "initrd"]);
        let boot = options(&folder.path().join("disk.raw")).find().unwrap();
        assert_eq!(boot.disk, Some(folder.path().join("disk.raw")));
        assert!(boot.kernel.initrd.is_some());
        assert_eq!(boot.kernel.command_line, COMMAND_LINE);
    }

    #[test]
    fn a_disk_boots_with_the_kernel_that_is_given_and_not_with_the_others_initrd() {
        let (folder, other) = (folder(&["disk.raw", "vmlinuz", "initrd"]), folder(&["kernel"]));
        let mut options = options(&folder.path().join("disk.raw"));
        options.kernel = Some(other.path().join("kernel"));
        options.append = Some("root=/dev/vda".into());
        let boot = options.find().unwrap();
        assert!(boot.kernel.initrd.is_none());
        assert_eq!(boot.kernel.command_line, "root=/dev/vda");
    }

    #[test]
    fn what_an_images_folder_says_of_its_disk_holds_for_the_file_too() {
        let folder = folder(&["disk.raw", "other.raw", "linux"]);
        let about =
            r#"{"origin":"x","disk":"disk.raw","kernel":"linux","initrd":null,"cmdline":"root=LABEL=x"}"#;
        std::fs::write(folder.path().join("image.json"), about).unwrap();
        let boot = options(&folder.path().join("disk.raw")).find().unwrap();
        assert_eq!(boot.kernel.command_line, "root=LABEL=x");
        assert!(options(&folder.path().join("other.raw")).find().is_err());
    }

    #[test]
    fn a_file_that_cannot_be_booted_is_told_with_what_to_do() {
        let folder = folder(&["disk.raw"]);
        let told = |path: &Path| options(path).find().unwrap_err().to_string();
        let no_kernel = told(&folder.path().join("disk.raw"));
        assert!(no_kernel.contains("no kernel beside it: give one with --kernel"), "{no_kernel}");
        assert!(!no_kernel.contains('\n') && !no_kernel.contains("  "), "{no_kernel}");
        assert!(told(folder.path()).contains("is a folder"));
        assert!(told(&folder.path().join("Gone")).contains("there is no file"));
    }
}
