//! `tessera image …`: the images that machines boot from.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use api::{ImageName, Size};
use clap::{Args, Subcommand};

use storage::images::{self, Import, Recipe, Release, Source, Store};

use crate::failure::{Failure, Result};
use crate::progress::Bar;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make a bootable image from Debian's packages
    Build(BuildArgs),
    /// Take in a disk image with its kernel, or an exported image
    Import(ImportArgs),
    /// Write an image into one file, to carry it elsewhere
    Export {
        /// Its name
        name: ImageName,
        /// The file
        file: PathBuf,
    },
    /// Show the images there are
    List,
    /// Remove an image
    Remove {
        /// Its name
        name: ImageName,
    },
}

/// Arguments of `tessera image build`.
#[derive(Debug, Args)]
pub struct BuildArgs {
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
}

/// Arguments of `tessera image import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// The disk: raw or qcow2, perhaps compressed (gzip, xz, zstd), or an exported image; a file or an address
    #[arg(value_name = "FILE|URL")]
    disk: String,
    /// The SHA-256 checksum of what is at the address
    #[arg(long, value_name = "SUM")]
    sha256: Option<String>,
    /// The kernel to boot it with; an exported image has its own
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line [default: root=/dev/vda1 rw console=ttyS0; an exported image has its own]
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// The image's name, if it is not to be the file's
    #[arg(long, value_name = "NAME")]
    name: Option<ImageName>,
    /// Replace the image of this name
    #[arg(long)]
    force: bool,
}

impl ImageCommand {
    /// Does it.
    pub fn execute(self) -> Result<()> {
        let store = open_store()?;
        match self {
            ImageCommand::Build(args) => {
                let name = match args.name {
                    Some(name) => name,
                    None => args.release.to_string().parse().map_err(Failure::input)?,
                };
                let recipe = Recipe {
                    release: args.release,
                    packages: args.packages,
                    size: args.size,
                    mirror: args.mirror,
                };
                recipe.check()?;
                let bar = Bar::steps(&format!("building {name}"), "this takes a minute or two");
                bar.watch(|told| images::build(&store, &name, &recipe, args.force, told))?;
                println!("{name} is ready: tessera run --image {name}");
            }
            ImageCommand::Import(args) => args.import(&store)?,
            ImageCommand::Export { name, file } => export(&store, &name, &file)?,
            ImageCommand::List => list(&store)?,
            ImageCommand::Remove { name } => store.remove(&name)?,
        }
        Ok(())
    }
}

impl ImportArgs {
    fn import(self, store: &Store) -> Result<()> {
        let name = match self.name {
            Some(name) => name,
            None => {
                let file = Path::new(&self.disk).file_stem().unwrap_or_default().to_string_lossy();
                file.parse().map_err(Failure::input)?
            }
        };
        let address = self.disk.starts_with("http://") || self.disk.starts_with("https://");
        let disk = match (address, self.sha256) {
            (true, Some(sha256)) => Source::Url { url: self.disk, sha256 },
            (true, None) => {
                return Err(Failure::input(
                    "an address needs --sha256: the checksum that its owner publishes",
                ));
            }
            (false, _) => Source::File { file: self.disk.into() },
        };
        let file = |file| Source::File { file };
        let import = Import {
            kernel: self.kernel.map(file),
            initrd: self.initrd.map(file),
            command_line: self.append,
            replace: self.force,
            ..Import::new(name.clone(), disk)
        };
        let bar = Bar::bytes("importing");
        bar.watch(|told| images::import(store, &import, told))?;
        println!("{name} is ready: tessera run --image {name}");
        Ok(())
    }
}

/// Writes an image into a new file, which is gone again if that fails.
fn export(store: &Store, name: &ImageName, path: &Path) -> Result<()> {
    let told = |error| Failure::input(format!("{}: {error}", path.display()));
    let mut file = File::create_new(path).map_err(told)?;
    let bar = Bar::bytes("exporting");
    let exported = bar.watch(|told| images::export(store, name, &mut file, told));
    if exported.is_err() {
        // What is left is of no use; the error says why.
        let _ = std::fs::remove_file(path);
    }
    Ok(exported?)
}

/// The store of this user, under `$TESSERA_HOME` or `~/.local/share/tessera`.
pub fn open_store() -> Result<Store> {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = set("TESSERA_HOME")
        .or_else(|| set("XDG_DATA_HOME").map(|data| data.join("tessera")))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/tessera")))
        .ok_or_else(|| Failure::input("no place for images: set TESSERA_HOME to a folder"))?;
    Ok(Store::new(home.join("images")))
}

fn list(store: &Store) -> Result<()> {
    let images = store.list()?;
    let width = images.iter().map(|image| image.name.as_str().len()).max().unwrap_or(0).max(4);
    let mut table = format!("{:width$}  {:>8}  {:>8}  ORIGIN\n", "NAME", "SIZE", "ON DISK");
    for image in images {
        let (size, used) = image.disk_sizes();
        let (size, used) = (Size(size).to_string(), Size(used).to_string());
        table += &format!("{:width$}  {size:>8}  {used:>8}  {}\n", image.name.as_str(), image.about.origin);
    }
    // Whoever reads may stop early; that is no failure.
    let _ = std::io::stdout().write_all(table.as_bytes());
    Ok(())
}
