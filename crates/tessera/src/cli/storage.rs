//! `tessera pool …` and `tessera volume …`: where guests' disks are.

use std::path::PathBuf;

use api::{ImageName, Name, Size};
use clap::{Args, Subcommand, ValueEnum};
use host::pools::PoolInfo;
use reqwest::Method;
use serde_json::{Map, Value, json};
use storage::{Allocation, PoolKind, VolumeDefinition, VolumeFormat, VolumeSource};

use crate::cli::bandwidth::PoolBandwidthOption;
use crate::cli::listing::{WatchOption, show};
use crate::cli::output::{Column, OutputOption, say, size};
use crate::cli::vm::{WaitOption, change, done, query};
use crate::client::{Client, HostOption, segment};
use crate::failure::{self, Failure, Result};

/// What can be done with pools.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum PoolCommand {
    /// Show the pools there are
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a pool
    Show {
        /// Its name
        pool: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Take a folder in as a pool, or make one
    Create {
        /// Its name
        name: Name,
        /// Its folder
        path: PathBuf,
        /// Use a folder that other hosts use, too
        #[arg(long)]
        shared: bool,
        #[command(flatten)]
        bandwidth: PoolBandwidthOption,
    },
    /// Change a pool, at once for the guests with disks on it
    Edit {
        /// Its name
        pool: String,
        /// What it is for
        #[arg(long, value_name = "TEXT")]
        description: Option<String>,
        #[command(flatten)]
        bandwidth: PoolBandwidthOption,
    },
    /// Use a pool no more; what is in it stays
    Delete {
        /// Its name
        pool: String,
    },
}

/// How a volume's file is laid out.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum FormatOption {
    /// The file is the disk
    Raw,
    /// QEMU's copy-on-write format
    Qcow2,
}

impl From<FormatOption> for VolumeFormat {
    fn from(option: FormatOption) -> VolumeFormat {
        match option {
            FormatOption::Raw => VolumeFormat::Raw,
            FormatOption::Qcow2 => VolumeFormat::Qcow2,
        }
    }
}

/// The pool that a volume is in.
#[derive(Debug, Args)]
pub struct PoolOption {
    /// The pool
    #[arg(long, value_name = "NAME", default_value = "default")]
    pool: String,
}

/// What can be done with volumes.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum VolumeCommand {
    /// Show the volumes of a pool
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        pool: PoolOption,
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: name=web*, format=raw, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a volume
    Show {
        /// Its name
        volume: String,
        #[command(flatten)]
        pool: PoolOption,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make a volume
    Create(CreateArgs),
    /// Make a volume longer
    Resize {
        /// Its name
        volume: String,
        /// Its new size
        size: Size,
        /// Let it become shorter: what is beyond is lost
        #[arg(long)]
        shrink: bool,
        #[command(flatten)]
        pool: PoolOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Lay a volume's file out otherwise
    Convert {
        /// Its name
        volume: String,
        /// How
        format: FormatOption,
        #[command(flatten)]
        pool: PoolOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Overwrite all that is on a volume
    Wipe {
        /// Its name
        volume: String,
        #[command(flatten)]
        pool: PoolOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Remove volumes that no guest has
    Delete {
        /// Their names
        #[arg(required = true, value_name = "VOLUME")]
        volumes: Vec<String>,
        #[command(flatten)]
        pool: PoolOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Make a volume of a file of this machine
    Upload {
        /// The file
        file: PathBuf,
        /// The volume's name
        name: Name,
        /// How the file is laid out; found out if nothing is said
        #[arg(long)]
        format: Option<FormatOption>,
        #[command(flatten)]
        pool: PoolOption,
    },
    /// Write what is on a volume into a file of this machine
    Download {
        /// The volume's name
        volume: String,
        /// The file, which must not be there
        file: PathBuf,
        /// The bytes of the disk, or the volume's own file
        #[arg(long, default_value = "raw")]
        format: FormatOption,
        #[command(flatten)]
        pool: PoolOption,
    },
}

/// Arguments of `tessera volume create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: Name,
    /// Its size: that of its source if nothing is said
    #[arg(long)]
    size: Option<Size>,
    /// How its file is laid out
    #[arg(long, default_value = "qcow2")]
    format: FormatOption,
    /// Take all its room at once
    #[arg(long)]
    preallocate: bool,
    /// Begin with the disk of this image
    #[arg(long, value_name = "NAME", conflicts_with = "volume")]
    image: Option<ImageName>,
    /// Begin with what is on this volume
    #[arg(long, value_name = "NAME")]
    volume: Option<Name>,
    /// Copy its source rather than keep only what differs from it
    #[arg(long)]
    full: bool,
    #[command(flatten)]
    pool: PoolOption,
    #[command(flatten)]
    wait: WaitOption,
}

const POOLS: [Column<PoolInfo>; 6] = [
    Column::text("NAME", |pool: &PoolInfo| pool.definition.name.to_string()),
    Column::text("KIND", |pool: &PoolInfo| match pool.definition.kind {
        PoolKind::Directory => "directory".into(),
        PoolKind::Shared => "shared".into(),
    }),
    Column::number("VOLUMES", |pool: &PoolInfo| status(pool, |status| status.volumes.to_string())),
    Column::number("FREE", |pool: &PoolInfo| status(pool, |status| size(status.available))).passing(),
    Column::number("CAPACITY", |pool: &PoolInfo| status(pool, |status| size(status.capacity))),
    Column::text("STATE", |pool: &PoolInfo| pool.problem.clone().unwrap_or_else(|| "good".into())),
];

fn status(pool: &PoolInfo, tell: fn(&storage::PoolStatus) -> String) -> String {
    pool.status.as_ref().map_or_else(|| "-".into(), tell)
}

const VOLUMES: [Column<storage::Volume>; 6] = [
    Column::text("NAME", |volume: &storage::Volume| volume.name.to_string()),
    Column::text("FORMAT", |volume: &storage::Volume| match volume.format {
        VolumeFormat::Raw => "raw".into(),
        VolumeFormat::Qcow2 => "qcow2".into(),
    }),
    Column::number("SIZE", |volume: &storage::Volume| size(volume.size)),
    Column::number("ALLOCATED", |volume: &storage::Volume| size(volume.allocated)),
    Column::text("BASED ON", |volume: &storage::Volume| match &volume.based_on {
        None => "-".into(),
        Some(VolumeSource::Image(image)) => image.to_string(),
        Some(VolumeSource::Volume(name)) => name.to_string(),
    }),
    Column::text("USED BY", |volume: &storage::Volume| match volume.used_by.as_slice() {
        [] => "-".into(),
        users => users.join(" "),
    }),
];

impl PoolCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            PoolCommand::Ls { output, watch } => show(&client, "/pools", &[], &POOLS, (output, watch)).await,
            PoolCommand::Show { pool, output } => {
                output.one(&client.get(&format!("/pools/{}", segment(&pool)?), &[]).await?)
            }
            PoolCommand::Create { name, path, shared, bandwidth } => {
                let told = |error| Failure::input(format!("{}: {error}", path.display()));
                let path = std::path::absolute(&path).map_err(told)?;
                let kind = if shared { PoolKind::Shared } else { PoolKind::Directory };
                let mut body = Map::from_iter([
                    ("name".to_owned(), json!(name)),
                    ("path".to_owned(), json!(path)),
                    ("kind".to_owned(), json!(kind)),
                ]);
                bandwidth.add_to(&mut body);
                let body = Value::Object(body);
                let _: Value = client.change(Method::POST, "/pools", &[], Some(&body)).await?;
                say(&format!("{name} has been taken in"));
                Ok(())
            }
            PoolCommand::Edit { pool, description, bandwidth } => {
                let mut patch = Map::new();
                patch.extend(description.map(|text| ("description".to_owned(), json!(text))));
                bandwidth.add_to(&mut patch);
                if patch.is_empty() {
                    return Err(Failure::input(
                        "say what is to change: --bandwidth, --operations or --description",
                    ));
                }
                let (path, patch) = (format!("/pools/{}", segment(&pool)?), Value::Object(patch));
                let _: Value = client.change(Method::PATCH, &path, &[], Some(&patch)).await?;
                say(&format!("{pool} has changed"));
                Ok(())
            }
            PoolCommand::Delete { pool } => {
                let path = format!("/pools/{}", segment(&pool)?);
                let _: Value = client.change(Method::DELETE, &path, &[], None).await?;
                say(&format!("{pool} is not used any more"));
                Ok(())
            }
        }
    }
}

impl PoolOption {
    fn volumes(&self) -> Result<String> {
        Ok(format!("/pools/{}/volumes", segment(&self.pool)?))
    }

    fn volume(&self, name: &str) -> Result<String> {
        Ok(format!("{}/{}", self.volumes()?, segment(name)?))
    }
}

impl VolumeCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            VolumeCommand::Ls { pool, output, filter, watch } => {
                let query = query(&[("filter", filter)]);
                show(&client, &pool.volumes()?, &query, &VOLUMES, (output, watch)).await
            }
            VolumeCommand::Show { volume, pool, output } => {
                output.one(&client.get(&pool.volume(&volume)?, &[]).await?)
            }
            VolumeCommand::Create(args) => args.execute(&client).await,
            VolumeCommand::Resize { volume, size, shrink, pool, wait } => {
                let body = json!({ "size": size, "shrink": shrink });
                verb(&client, &pool, &volume, ("resize", "has its new size"), &body, wait).await
            }
            VolumeCommand::Convert { volume, format, pool, wait } => {
                let body = json!({ "format": VolumeFormat::from(format) });
                verb(&client, &pool, &volume, ("convert", "has been converted"), &body, wait).await
            }
            VolumeCommand::Wipe { volume, pool, wait } => {
                verb(&client, &pool, &volume, ("wipe", "has been wiped"), &json!({}), wait).await
            }
            VolumeCommand::Delete { volumes, pool, wait } => {
                for volume in &volumes {
                    let task =
                        change(&client, Method::DELETE, &pool.volume(volume)?, &[], None, wait).await?;
                    done(volume, "has been deleted", &task);
                }
                Ok(())
            }
            VolumeCommand::Upload { file, name, format, pool } => {
                upload(&client, &file, &name, format, &pool).await
            }
            VolumeCommand::Download { volume, file, format, pool } => {
                let query = [("format", word(format.into()))];
                let to = std::fs::File::create_new(&file);
                let to = to.map_err(|error| Failure::input(format!("{}: {error}", file.display())))?;
                let path = format!("{}/data", pool.volume(&volume)?);
                if let Err(failure) = client.download(&path, &query, to).await {
                    // What is there is a part, which looks like the whole.
                    let _ = std::fs::remove_file(&file);
                    return Err(failure);
                }
                say(&format!("{volume} has been downloaded"));
                Ok(())
            }
        }
    }
}

fn word(format: VolumeFormat) -> String {
    match format {
        VolumeFormat::Raw => "raw".into(),
        VolumeFormat::Qcow2 => "qcow2".into(),
    }
}

async fn verb(
    client: &Client,
    pool: &PoolOption,
    volume: &str,
    (verb, what): (&str, &str),
    body: &Value,
    wait: WaitOption,
) -> Result<()> {
    let path = format!("{}/{verb}", pool.volume(volume)?);
    let task = change(client, Method::POST, &path, &[], Some(body), wait).await?;
    done(volume, what, &task);
    Ok(())
}

async fn upload(
    client: &Client,
    path: &std::path::Path,
    name: &Name,
    format: Option<FormatOption>,
    pool: &PoolOption,
) -> Result<()> {
    let told = |error: std::io::Error| Failure::input(format!("{}: {error}", path.display()));
    let file = std::fs::File::open(path).map_err(told)?;
    let length = file.metadata().map_err(told)?.len();
    let format = match format {
        Some(format) => format.into(),
        None => match disk::Format::of(&file).map_err(told)? {
            disk::Format::Raw => VolumeFormat::Raw,
            disk::Format::Qcow2 => VolumeFormat::Qcow2,
        },
    };
    let query = [("format", word(format)), ("length", length.to_string())];
    let path = format!("{}/data", pool.volume(name.as_str())?);
    let _: Value = client.upload(&path, &query, file, length).await?;
    say(&format!("{name} has been made"));
    Ok(())
}

impl CreateArgs {
    async fn execute(self, client: &Client) -> Result<()> {
        let source = self.image.map(VolumeSource::Image).or(self.volume.map(VolumeSource::Volume));
        let linked = source.is_some() && !self.full;
        let body = VolumeDefinition {
            name: self.name.clone(),
            description: String::new(),
            format: self.format.into(),
            size: self.size,
            allocation: if self.preallocate { Allocation::Full } else { Allocation::Thin },
            source,
            linked,
        };
        let body = serde_json::to_value(body).map_err(|error| Failure::internal(error.to_string()))?;
        let path = self.pool.volumes()?;
        let task = change(client, Method::POST, &path, &[], Some(&body), self.wait).await?;
        done(self.name.as_str(), "has been made", &task);
        Ok(())
    }
}
