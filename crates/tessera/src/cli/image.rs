//! `tessera image …`: the images that machines boot from.

use std::io::Write;
use std::path::PathBuf;

use api::{ImageName, Size};
use clap::{Args, Subcommand};

use storage::images::{self, Import, Recipe, Release, Store};

use crate::failure::{Failure, Result};
use crate::progress::Bar;

/// What can be done with images.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Make a bootable image from Debian's packages
    Build(BuildArgs),
    /// Take in a disk image with its kernel
    Import(ImportArgs),
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
    /// The disk: raw or qcow2
    file: PathBuf,
    /// The kernel to boot it with
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,
    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT", default_value = "root=/dev/vda1 rw console=ttyS0")]
    append: String,
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
            ImageCommand::Import(args) => {
                let name = match args.name {
                    Some(name) => name,
                    None => {
                        let stem = args.file.file_stem().unwrap_or_default().to_string_lossy();
                        stem.parse().map_err(Failure::input)?
                    }
                };
                let import = Import {
                    disk: args.file,
                    kernel: args.kernel,
                    initrd: args.initrd,
                    cmdline: args.append,
                };
                let bar = Bar::bytes("importing");
                bar.watch(|told| images::import(&store, &name, &import, args.force, told))?;
                println!("{name} is ready: tessera run --image {name}");
            }
            ImageCommand::List => list(&store)?,
            ImageCommand::Remove { name } => store.remove(&name)?,
        }
        Ok(())
    }
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
