//! `tessera image …`: the images that machines boot from. They are a host's, for `tessera vm`, or this user's own, for `tessera run`.

mod host;
mod own;

use std::path::{Path, PathBuf};

use api::{ImageChange, ImageInfo, ImageName, Size};
use clap::{Args, Subcommand};
use storage::images::{self, Release, Store};

use crate::cli::listing::WatchOption;
use crate::cli::output::{Column, OutputOption, age, size};
use crate::cli::vm::WaitOption;
use crate::client::{HostOption, default_state};
use crate::failure::{self, Failure, Result};
use crate::progress::Bar;

pub use own::{is_named, open_store};

/// Arguments of `tessera image`.
#[derive(Debug, Args)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub struct ImageArgs {
    /// Use this user's own images, which tessera run boots, rather than a host's
    #[arg(long, global = true)]
    local: bool,
    #[command(subcommand)]
    command: ImageCommand,
}

/// What can be done with images.
#[derive(Debug, Subcommand)]
enum ImageCommand {
    /// Show the images there are
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about an image; of a host also who uses it
    Show {
        /// Its name
        name: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make a bootable image from Debian's packages
    Build(BuildArgs),
    /// Take in a disk image with its kernel, or an exported image; what broke off goes on with the same command
    Import(ImportArgs),
    /// Write an image into one file, to carry it elsewhere
    Export {
        /// Its name
        name: String,
        /// The file, which must not be there
        file: PathBuf,
    },
    /// Change what an image is called and what is said of it
    Edit(EditArgs),
    /// Remove images that no guest and no template uses
    #[command(visible_alias = "remove")]
    Delete {
        /// Their names
        #[arg(required = true, value_name = "IMAGE")]
        names: Vec<String>,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// Arguments of `tessera image build`.
#[derive(Debug, Args)]
struct BuildArgs {
    /// The release: debian:12 or debian:13
    release: Release,
    /// Put a Debian package into it (may be repeated, or take several with commas)
    #[arg(long = "package", value_name = "PACKAGE", value_delimiter = ',', value_parser = images::package_name)]
    packages: Vec<String>,
    /// The size of its disk; the file takes only the room that is used
    #[arg(long, value_name = "SIZE", default_value = "4G")]
    size: Size,
    /// The image's name, if it is not to be the release's
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// Where to take packages from, if not from where Debian has them
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
    /// Replace the image of this name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitOption,
}

/// Arguments of `tessera image import`.
#[derive(Debug, Args)]
struct ImportArgs {
    /// The disk: raw or qcow2, perhaps compressed (gzip, xz, zstd), or an exported image; a file or an address
    #[arg(value_name = "FILE|URL")]
    disk: String,
    /// The SHA-256 checksum that it must have; an address needs one
    #[arg(long, value_name = "SUM")]
    sha256: Option<String>,
    /// The kernel to boot it with; an exported image has its own
    #[arg(long, value_name = "FILE|URL")]
    kernel: Option<String>,
    /// The SHA-256 checksum that the kernel must have
    #[arg(long, value_name = "SUM", requires = "kernel")]
    kernel_sha256: Option<String>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE|URL")]
    initrd: Option<String>,
    /// The SHA-256 checksum that the initial RAM disk must have
    #[arg(long, value_name = "SUM", requires = "initrd")]
    initrd_sha256: Option<String>,
    /// The kernel's command line [default: root=/dev/vda1 rw console=ttyS0; an exported image has its own]
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// The image's name, if it is not to be the file's
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A word to find it by (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Replace the image of this name
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    wait: WaitOption,
}

/// Arguments of `tessera image edit`.
#[derive(Debug, Args)]
struct EditArgs {
    /// Its name
    image: String,
    /// Its new name
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A label to set, or with nothing after = to take away
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
}

const COLUMNS: [Column<ImageInfo>; 6] = [
    Column::text("NAME", |image: &ImageInfo| image.name.to_string()),
    Column::number("SIZE", |image: &ImageInfo| size(image.size)),
    Column::number("ON DISK", |image: &ImageInfo| size(image.used)),
    Column::text("AGE", |image: &ImageInfo| image.created.map_or_else(|| "-".into(), age)),
    Column::text("ORIGIN", |image: &ImageInfo| image.origin.clone()),
    Column::text("DESCRIPTION", |image: &ImageInfo| image.description.clone()).wide(),
];

impl ImageArgs {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let own = self.local || !host.is_given() && (is_named() || !answers());
        if own {
            own::execute(self.command).await
        } else {
            host::execute(self.command, &host.client()?).await
        }
    }
}

/// Whether the host of this machine answers that is asked if none is named.
fn answers() -> bool {
    default_state()
        .is_ok_and(|state| std::os::unix::net::UnixStream::connect(state.join("host.sock")).is_ok())
}

impl BuildArgs {
    fn name(&self) -> Result<ImageName> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => self.release.to_string().parse().map_err(Failure::input),
        }
    }
}

impl ImportArgs {
    fn name(&self) -> Result<ImageName> {
        match &self.name {
            Some(name) => Ok(name.clone()),
            None => {
                let path = self.disk.split(['?', '#']).next().unwrap_or_default();
                let file = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
                file.parse().map_err(|error| Failure::input(format!("{error}; give one with --name")))
            }
        }
    }

    /// Its files as they were given: what each is, where it comes from, and its checksum.
    fn files(&self) -> impl Iterator<Item = (&'static str, &String, Option<&String>)> {
        let kernel = self.kernel.iter().map(|from| ("kernel", from, self.kernel_sha256.as_ref()));
        let initrd = self.initrd.iter().map(|from| ("initrd", from, self.initrd_sha256.as_ref()));
        kernel.chain(initrd).chain([("disk", &self.disk, self.sha256.as_ref())])
    }
}

/// The address that was given for a file, with the checksum that it needs; nothing if it is a path, whose file has the checksum that was
/// given.
fn address(from: &str, sha256: Option<&String>) -> Result<Option<images::Source>> {
    let remote = from.starts_with("http://") || from.starts_with("https://");
    match (remote, sha256) {
        (true, Some(sha256)) => Ok(Some(images::Source::Url { url: from.into(), sha256: sha256.clone() })),
        (true, None) => {
            Err(Failure::input(format!("{from} needs its checksum, as its owner publishes it: --sha256 SUM")))
        }
        (false, None) => Ok(None),
        (false, Some(wanted)) => {
            let told = |error: std::io::Error| Failure::input(format!("{from}: {error}"));
            let file = std::fs::File::open(from).map_err(told)?;
            let length = file.metadata().map_err(told)?.len();
            let bar = Bar::bytes("checksum");
            let got = bar.watch(|told| storage::sha256(&file, length, told)).map_err(told)?;
            match got.filter(|got| !got.eq_ignore_ascii_case(wanted)) {
                None => Ok(None),
                Some(got) => Err(Failure::input(format!(
                    "{from} has the SHA-256 checksum {got}, and should have {wanted}"
                ))),
            }
        }
    }
}

impl EditArgs {
    fn change(&self) -> Result<ImageChange> {
        let label = |text: &String| {
            let (key, value) = split(text)?;
            Ok((key.to_owned(), Some(value.to_owned()).filter(|value| !value.is_empty())))
        };
        Ok(ImageChange {
            name: self.name.clone(),
            description: self.description.clone(),
            labels: self.labels.iter().map(label).collect::<Result<_>>()?,
            command_line: self.append.clone(),
        })
    }
}

/// The key and the value of a label.
fn split(label: &str) -> Result<(&str, &str)> {
    label.split_once('=').ok_or_else(|| Failure::input(format!("--label {label}: write it as KEY=VALUE")))
}

/// Writes into a new file, which is gone again if that fails.
async fn into_new(path: &Path, write: impl AsyncFnOnce(std::fs::File) -> Result<()>) -> Result<()> {
    let told = |error| Failure::input(format!("{}: {error}", path.display()));
    let file = std::fs::File::create_new(path).map_err(told)?;
    let written = write(file).await;
    if written.is_err() {
        // What is left looks like the whole.
        let _ = std::fs::remove_file(path);
    }
    written
}

/// Labels as an import has them; none that were not given.
fn labels(given: &[String]) -> Result<Option<std::collections::BTreeMap<String, String>>> {
    if given.is_empty() {
        return Ok(None);
    }
    let label = |text: &String| split(text).map(|(key, value)| (key.to_owned(), value.to_owned()));
    given.iter().map(label).collect::<Result<_>>().map(Some)
}

/// The image of this name, of files that have been found.
fn import_of(
    args: &ImportArgs,
    mut find: impl FnMut(&'static str) -> Option<images::Source>,
) -> Result<images::Import> {
    let disk = find("disk").ok_or_else(|| Failure::internal("the disk was not found"))?;
    Ok(images::Import {
        description: args.description.clone(),
        labels: labels(&args.labels)?,
        kernel: find("kernel"),
        initrd: find("initrd"),
        command_line: args.append.clone(),
        replace: args.force,
        ..images::Import::new(args.name()?, disk)
    })
}
