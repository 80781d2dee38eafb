//! `tessera vm disk …` and `tessera vm nic …`: devices that a guest gets and loses, also while it runs.

use api::{Disk, DiskSource, ImageName, Network, Nic, Size, Vm};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Map, Value, json};

use crate::cli::limits::{CardWords, DiskWords, shown};
use crate::cli::options::{DiskOption, NetOption, VolumeOption};
use crate::cli::output::{Column, OutputOption, size};
use crate::cli::vm::{ApplyOption, WaitOption, change, changed, done};
use crate::cli::vm_create::{card, file_disk, volume_disk};
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
        limit: LimitOption,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Put another disc into a drive: what a disk is becomes something else, and it keeps its limits unless told
    Change {
        /// The guest's name or id
        vm: String,
        /// The disk's number or serial number
        disk: String,
        #[command(flatten)]
        what: DiskArgs,
        #[command(flatten)]
        limit: LimitOption,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Limit what a disk may do each second, at once if the guest runs; what is not said stays
    Limit {
        /// The guest's name or id
        vm: String,
        /// The disk's number or serial number
        disk: String,
        /// Bytes each second with a burst (bps=10M:64M) of all, reads (bps_rd) or writes (bps_wr), operations (iops, iops_rd, iops_wr);
        /// bps=none for no such limit, none for none at all
        #[arg(required = true, value_name = "bps=SIZE[:BURST]|iops=N[:BURST]|…|none")]
        limits: Vec<DiskWords>,
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
    #[arg(long, value_name = "[POOL/]NAME[,ro][,bps=SIZE][,iops=N]…")]
    volume: Option<VolumeOption>,
    /// A file of the host's
    #[arg(long, value_name = "FILE[,ro][,format=raw|qcow2][,serial=TEXT][,bps=SIZE][,iops=N]…")]
    file: Option<DiskOption>,
}

/// How much a disk may do.
#[derive(Debug, Args)]
pub struct LimitOption {
    /// Limit what it may do each second
    #[arg(long, value_name = "bps=SIZE|bps_rd=…|bps_wr=…|iops=N|iops_rd=…|iops_wr=…[,…]")]
    limit: Option<DiskWords>,
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
        #[arg(
            value_name = "user[,forward=HOST:GUEST]…|network=NAME[,mac=…][,ip=…][,vlan=N]|tap=NAME, with [,rx=SIZE][,tx=SIZE]…"
        )]
        net: NetOption,
        #[command(flatten)]
        apply: ApplyOption,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Limit what a network card may carry each second, at once if the guest runs; what is not said stays
    Limit {
        /// The guest's name or id
        vm: String,
        /// The card's hardware address
        mac: String,
        /// Bytes each second that it receives (rx=10M, with a burst rx=10M:64M) or sends (tx), frames (rx_pps, tx_pps); rx=none for no
        /// such limit, none for none at all
        #[arg(required = true, value_name = "rx=SIZE[:BURST]|tx=…|rx_pps=N[:BURST]|tx_pps=…|none")]
        limits: Vec<CardWords>,
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

const DISKS: [Column<Disk>; 6] = [
    Column::number("DISK", |disk: &Disk| disk.number(0).to_string()),
    Column::text("KIND", |disk: &Disk| kind(&disk.source).to_owned()),
    Column::text("SOURCE", |disk: &Disk| source(disk)),
    Column::text("SERIAL", |disk: &Disk| disk.serial_at(disk.number(0))),
    Column::text("ACCESS", |disk: &Disk| if disk.read_only { "read-only" } else { "read-write" }.to_owned()),
    Column::text("LIMIT", |disk: &Disk| shown(disk.limits(), ["", "read ", "write "])),
];

const NICS: [Column<Nic>; 6] = [
    Column::text("MAC", |nic: &Nic| nic.mac.clone().unwrap_or_default()),
    Column::text("NETWORK", |nic: &Nic| match &nic.network {
        Network::User => "user".to_owned(),
        Network::Tap(name) => format!("tap {name}"),
        Network::Named(name) => name.to_string(),
    }),
    Column::text("ADDRESS", |nic: &Nic| nic.address.map_or_else(dash, |address| address.to_string())),
    Column::text("ADDRESS6", |nic: &Nic| nic.address6.map_or_else(dash, |address| address.to_string())),
    Column::text("VLAN", |nic: &Nic| nic.vlan.map_or_else(dash, |vlan| vlan.to_string())),
    Column::text("LIMIT", |nic: &Nic| shown(nic.limits(), ["receive ", "send "])),
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
            Self { volume: Some(option), .. } => volume_disk(option),
            Self { file: Some(option), .. } => file_disk(option),
            _ => Err(Failure::input("say what the disk is: --new, --image, --volume or --file")),
        }
    }
}

/// Several merge patches as one: nulls, which take something away, stay in it.
fn together(patches: impl Iterator<Item = Value>) -> Value {
    let mut whole = Value::Object(Map::new());
    for patch in patches {
        add(&mut whole, patch);
    }
    whole
}

fn add(whole: &mut Value, patch: Value) {
    match (whole, patch) {
        (Value::Object(whole), Value::Object(patch)) => {
            for (key, value) in patch {
                add(whole.entry(key).or_insert(Value::Null), value);
            }
        }
        (whole, patch) => *whole = patch,
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
            DiskCommand::Add { vm, what, limit, apply, wait } => {
                let disk = json!(limit.limit.unwrap_or_default().on(&what.disk()?)?);
                do_it(client, Method::POST, (&vm, "disks"), Some(&disk), apply, wait).await
            }
            DiskCommand::Limit { vm, disk, limits, apply, wait } => {
                let device = format!("disks/{}", segment(&disk)?);
                let patch = together(limits.iter().map(DiskWords::patch));
                do_it(client, Method::PATCH, (&vm, &device), Some(&patch), apply, wait).await
            }
            DiskCommand::Change { vm, disk, what, limit, apply, wait } => {
                let device = format!("disks/{}", segment(&disk)?);
                let mut disk = json!(what.disk()?);
                if let Some(limit) = &limit.limit {
                    disk = together([disk, limit.patch()].into_iter());
                }
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
            NicCommand::Limit { vm, mac, limits, apply, wait } => {
                let device = format!("nics/{}", segment(&mac)?);
                let patch = together(limits.iter().map(CardWords::patch));
                do_it(client, Method::PATCH, (&vm, &device), Some(&patch), apply, wait).await
            }
            NicCommand::Remove { vm, mac, apply, wait } => {
                let device = format!("nics/{}", segment(&mac)?);
                do_it(client, Method::DELETE, (&vm, &device), None, apply, wait).await
            }
        }
    }
}
