//! `tessera vm disk …` and `tessera vm nic …`: devices that a guest gets and loses, also while it runs.

use api::{Disk, DiskSource, ImageName, Network, Nic, Size, Vm};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::options::{DiskOption, NetOption, VolumeOption};
use crate::cli::output::{Column, OutputOption, size};
use crate::cli::vm::{ApplyOption, WaitOption, change, changed, done};
use crate::cli::vm_create::{card, file_disk};
use crate::client::{Client, segment};
use crate::failure::{Failure, Result};

/// What can be done with a guest's disks.
#[derive(Debug, Subcommand)]
pub enum DiskCommand {
    /// Show a guest's disks
    #[command(visible_alias = "list")]
    Ls {
        /// The guest's name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Give a guest one more disk
    Add {
        /// The guest's name or id
        vm: String,
        #[command(flatten)]
        what: DiskArgs,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Put another disc into a drive: what a disk is becomes something else
    Change {
        /// The guest's name or id
        vm: String,
        /// The disk's number or serial number
        disk: String,
        #[command(flatten)]
        what: DiskArgs,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Make a disk longer, at once if the guest runs; the file systems on it are made larger in the guest
    Grow {
        /// The guest's name or id
        vm: String,
        /// The disk's number or serial number
        disk: String,
        /// How long it is to be
        size: Size,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Take a disk away from a guest; one of its own is removed for good
    #[command(visible_alias = "rm")]
    Remove {
        /// The guest's name or id
        vm: String,
        /// The disk's number or serial number
        disk: String,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
}

/// What a disk is.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct DiskArgs {
    /// An empty disk of this size, of the guest's own
    #[arg(long, value_name = "SIZE")]
    new: Option<Size>,
    /// A copy of this image's disk, of the guest's own
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageName>,
    /// A volume
    #[arg(long, value_name = "[POOL/]NAME[,ro]")]
    volume: Option<VolumeOption>,
    /// A file of the host's
    #[arg(long, value_name = "FILE[,ro][,format=raw|qcow2][,serial=TEXT]")]
    file: Option<DiskOption>,
}

/// What can be done with a guest's network cards.
#[derive(Debug, Subcommand)]
pub enum NicCommand {
    /// Show a guest's network cards
    #[command(visible_alias = "list")]
    Ls {
        /// The guest's name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Give a guest one more network card
    Add {
        /// The guest's name or id
        vm: String,
        /// What it is connected to
        #[arg(value_name = "user[,forward=HOST:GUEST]…|network=NAME[,mac=…][,ip=…][,vlan=N]|tap=NAME")]
        net: NetOption,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Take a network card away from a guest
    #[command(visible_alias = "rm")]
    Remove {
        /// The guest's name or id
        vm: String,
        /// The card's hardware address
        mac: String,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
}

const DISKS: [Column<Disk>; 5] = [
    Column::number("DISK", |disk: &Disk| disk.number(0).to_string()),
    Column::text("KIND", |disk: &Disk| kind(&disk.source).to_owned()),
    Column::text("SOURCE", |disk: &Disk| source(disk)),
    Column::text("SERIAL", |disk: &Disk| disk.serial_at(disk.number(0))),
    Column::text("ACCESS", |disk: &Disk| if disk.read_only { "read-only" } else { "read-write" }.to_owned()),
];

const NICS: [Column<Nic>; 5] = [
    Column::text("MAC", |nic: &Nic| nic.mac.clone().unwrap_or_default()),
    Column::text("NETWORK", |nic: &Nic| match &nic.network {
        Network::User => "user".to_owned(),
        Network::Tap(name) => format!("tap {name}"),
        Network::Named(name) => name.to_string(),
    }),
    Column::text("ADDRESS", |nic: &Nic| nic.address.map_or_else(dash, |address| address.to_string())),
    Column::text("ADDRESS6", |nic: &Nic| nic.address6.map_or_else(dash, |address| address.to_string())),
    Column::text("VLAN", |nic: &Nic| nic.vlan.map_or_else(dash, |vlan| vlan.to_string())),
];

fn dash() -> String {
    "-".to_owned()
}

fn kind(source: &DiskSource) -> &'static str {
    match source {
        DiskSource::Image(_) => "image",
        DiskSource::Size(_) => "empty",
        DiskSource::Volume(_) => "volume",
        DiskSource::File(_) => "file",
    }
}

fn source(disk: &Disk) -> String {
    match &disk.source {
        DiskSource::Image(image) => image.to_string(),
        DiskSource::Size(bytes) => size(*bytes),
        DiskSource::Volume(volume) => volume.to_string(),
        DiskSource::File(path) => path.display().to_string(),
    }
}

impl DiskArgs {
    fn disk(&self) -> Result<Disk> {
        match self {
            Self { new: Some(size), .. } => Ok(Disk::of(DiskSource::Size(*size))),
            Self { image: Some(image), .. } => Ok(Disk::of(DiskSource::Image(image.clone()))),
            Self { volume: Some(option), .. } => {
                let source = DiskSource::Volume(option.volume.clone());
                Ok(Disk { read_only: option.read_only, ..Disk::of(source) })
            }
            Self { file: Some(option), .. } => file_disk(option),
            _ => Err(Failure::input("say what the disk is: --new, --image, --volume or --file")),
        }
    }
}

async fn vm_of(client: &Client, vm: &str) -> Result<Vm> {
    client.get(&format!("/vms/{}", segment(vm)?), &[]).await
}

fn values<T: serde::Serialize>(items: impl Iterator<Item = T>) -> Result<Vec<Value>> {
    let values = items.map(serde_json::to_value).collect::<std::result::Result<_, _>>();
    values.map_err(|error| Failure::internal(error.to_string()))
}

async fn do_it(
    client: &Client,
    method: Method,
    (vm, device): (&str, &str),
    body: Option<&Value>,
    apply: ApplyOption,
    wait: WaitOption,
) -> Result<()> {
    let path = format!("/vms/{}/{device}", segment(vm)?);
    let task = change(client, method, &path, &apply.query(), body, wait).await?;
    changed(vm, &task);
    Ok(())
}

impl DiskCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the host refuses it, or cannot be reached.
    pub async fn execute(self, client: &Client) -> Result<()> {
        match self {
            DiskCommand::Ls { vm, output } => {
                let disks = vm_of(client, &vm).await?.definition.disks.into_iter().enumerate();
                let numbered =
                    disks.map(|(place, disk)| Disk { unit: Some(disk.number(place) as u32), ..disk });
                output.list(&values(numbered)?, &DISKS)
            }
            DiskCommand::Add { vm, what, apply, wait } => {
                let disk = json!(what.disk()?);
                do_it(client, Method::POST, (&vm, "disks"), Some(&disk), apply, wait).await
            }
            DiskCommand::Change { vm, disk, what, apply, wait } => {
                let device = format!("disks/{}", segment(&disk)?);
                let disk = json!(what.disk()?);
                do_it(client, Method::PATCH, (&vm, &device), Some(&disk), apply, wait).await
            }
            DiskCommand::Grow { vm, disk, size, wait } => {
                let path = format!("/vms/{}/disks/{}/grow", segment(&vm)?, segment(&disk)?);
                let task =
                    change(client, Method::POST, &path, &[], Some(&json!({ "size": size })), wait).await?;
                done(&vm, "has a longer disk", &task);
                Ok(())
            }
            DiskCommand::Remove { vm, disk, apply, wait } => {
                let device = format!("disks/{}", segment(&disk)?);
                do_it(client, Method::DELETE, (&vm, &device), None, apply, wait).await
            }
        }
    }
}

impl NicCommand {
    /// Does it.
    ///
    /// # Errors
    /// If the host refuses it, or cannot be reached.
    pub async fn execute(self, client: &Client) -> Result<()> {
        match self {
            NicCommand::Ls { vm, output } => {
                let nics = vm_of(client, &vm).await?.definition.nics;
                output.list(&values(nics.into_iter())?, &NICS)
            }
            NicCommand::Add { vm, net, apply, wait } => {
                let nic = card(&net)?.ok_or_else(|| Failure::input("none is no network card"))?;
                do_it(client, Method::POST, (&vm, "nics"), Some(&json!(nic)), apply, wait).await
            }
            NicCommand::Remove { vm, mac, apply, wait } => {
                let device = format!("nics/{}", segment(&mac)?);
                do_it(client, Method::DELETE, (&vm, &device), None, apply, wait).await
            }
        }
    }
}
