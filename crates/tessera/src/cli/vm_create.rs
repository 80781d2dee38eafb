//! `tessera vm create`.

use std::path::PathBuf;

use api::{
    Boot, CloudInit, Disk, DiskFormat, DiskSource, Engine, ImageName, Name, Network, Nic, OnEnd, PortForward,
    Protocol, Size, User, VmDefinition,
};
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::limits::DiskWords;
use crate::cli::options::{DiskOption, NetOption, NewDiskOption, VolumeOption};
use crate::cli::run::EngineOption;
use crate::cli::share::{InBytesOption, ShareOption};
use crate::cli::vm::{WaitOption, body, change, clone, done};
use crate::client::Client;
use crate::failure::{Failure, Result};

/// What is said of a guest that has none of it from a saved one.
const OWN: [&str; 43] = [
    "template",
    "image",
    "kernel",
    "initrd",
    "append",
    "cpus",
    "cpus_max",
    "cpu_reserve",
    "cpu_weight",
    "cpu_limit",
    "shares",
    "entitlement",
    "share_absolute",
    "share_relative",
    "cpu_soft",
    "cpu_dedicated",
    "cpu_shared",
    "memory",
    "memory_max",
    "merge_memory",
    "memory_reserve",
    "memory_weight",
    "memory_limit",
    "disk_reserve",
    "disk_weight",
    "disk_limit",
    "network_reserve",
    "network_weight",
    "network_limit",
    "share_group",
    "new_disks",
    "full",
    "grow",
    "image_limit",
    "volumes",
    "disks",
    "nets",
    "user",
    "user_data",
    "description",
    "labels",
    "autostart",
    "no_restart",
];

/// Arguments of `tessera vm create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: Name,
    /// Begin with what this template says; options change it
    #[arg(long, value_name = "NAME")]
    template: Option<Name>,
    /// Go on in the memory of this snapshot of a guest, with a name, addresses and keys of its own: it runs at once
    #[arg(long, value_name = "GUEST/SNAPSHOT", conflicts_with_all = OWN)]
    from_saved: Option<String>,
    /// Its first disk is a copy of this image's, whose kernel it boots
    #[arg(long, value_name = "IMAGE")]
    image: Option<ImageName>,
    /// Boot this kernel of the host's
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// The kernel's initial RAM disk, on the host
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// The kernel's command line
    #[arg(long, value_name = "TEXT")]
    append: Option<String>,
    /// The number of processors [default: 1]
    #[arg(long, value_name = "N")]
    cpus: Option<u32>,
    /// The number of processors that it can have without a restart
    #[arg(long, value_name = "N")]
    cpus_max: Option<u32>,
    /// Memory [default: 1G]
    #[arg(long, value_name = "SIZE")]
    memory: Option<Size>,
    /// The memory that it can have without a restart
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<Size>,
    /// Keep pages that are equal to those of other guests that say so once, if the host does that (tessera host --memory-merge): they have to trust one another
    #[arg(long)]
    merge_memory: bool,
    /// An empty disk of this size (may be repeated)
    #[arg(long = "new-disk", value_name = "SIZE[,bps=SIZE][,iops=N]…")]
    new_disks: Vec<NewDiskOption>,
    /// Copy the image's disk rather than keep only what differs from it
    #[arg(long, requires = "image")]
    full: bool,
    /// Make the image's disk this large
    #[arg(long, value_name = "SIZE", requires = "image")]
    grow: Option<Size>,
    /// Limit what the image's disk may do each second, with bursts as 10M:64M; other disks say that themselves, cards as rx= and tx=
    #[arg(
        long,
        value_name = "bps=SIZE|bps_rd=…|bps_wr=…|iops=N|iops_rd=…|iops_wr=…[,…]",
        requires = "image"
    )]
    image_limit: Option<DiskWords>,
    /// A volume (may be repeated)
    #[arg(long = "volume", value_name = "[POOL/]NAME[,ro][,bps=SIZE][,iops=N]…")]
    volumes: Vec<VolumeOption>,
    /// A disk that is a file of the host's (may be repeated)
    #[arg(long = "disk", value_name = "FILE[,ro][,format=raw|qcow2][,serial=TEXT][,bps=SIZE][,iops=N]…")]
    disks: Vec<DiskOption>,
    /// A network card (may be repeated)
    #[arg(
        long = "net",
        value_name = "user[,forward=HOST:GUEST]…|network=NAME[,mac=…][,ip=…][,vlan=N]|tap=NAME, with [,rx=SIZE][,tx=SIZE]…|none"
    )]
    nets: Vec<NetOption>,
    /// Make this account in the guest, by cloud-init
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Let this public key into it: the key, or a file that has it (may be repeated)
    #[arg(long = "ssh-key", value_name = "KEY|FILE", requires = "user")]
    ssh_keys: Vec<String>,
    /// User data for cloud-init, in place of what is made from the options above
    #[arg(long, value_name = "FILE", conflicts_with = "user")]
    user_data: Option<PathBuf>,
    /// What executes it
    #[arg(long, default_value = "auto")]
    engine: EngineOption,
    /// What it is for
    #[arg(long, value_name = "TEXT", default_value = "")]
    description: String,
    /// A label (may be repeated)
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// Start it with the host
    #[arg(long)]
    autostart: bool,
    /// Leave it as it is when it crashes
    #[arg(long)]
    no_restart: bool,
    /// Start it when it has been made
    #[arg(long)]
    start: bool,
    #[command(flatten)]
    share: ShareOption,
    #[command(flatten)]
    in_bytes: InBytesOption,
    /// The group that it shares in
    #[arg(long, value_name = "GROUP")]
    share_group: Option<Name>,
    #[command(flatten)]
    wait: WaitOption,
}

/// What a patch makes of a share of which nothing is said.
fn share<T: serde::de::DeserializeOwned>(patch: Value) -> Result<T> {
    let mut share = json!({});
    api::merge(&mut share, patch);
    serde_json::from_value(share).map_err(|error| Failure::input(format!("the guest's share: {error}")))
}

impl CreateArgs {
    /// Does it.
    pub async fn execute(self, client: &Client) -> Result<()> {
        if let Some(saved) = &self.from_saved {
            let told = || Failure::input(format!("--from-saved {saved}: give GUEST/SNAPSHOT"));
            let (vm, snapshot) = saved.split_once('/').ok_or_else(told)?;
            let as_what = json!({ "name": self.name, "snapshot": snapshot, "memory": true, "start": true });
            return clone(client, vm, &as_what, self.wait).await;
        }
        let mut definition = self.definition()?;
        let cpus = definition.cpus;
        if let Some(patch) = self.share.patch(client, async || Ok(cpus)).await? {
            definition.cpu_share = share(patch)?;
        }
        if let Some(patch) = self.in_bytes.memory.patch() {
            definition.memory_share = share(patch)?;
        }
        if let Some(patch) = self.in_bytes.disk.patch() {
            definition.disk_share = share(patch)?;
        }
        if let Some(patch) = self.in_bytes.network.patch() {
            definition.network_share = share(patch)?;
        }
        let mut query = vec![("start", self.start.to_string())];
        let mut body = body(&definition)?;
        if let Some(template) = &self.template {
            query.push(("template", template.to_string()));
            self.leave_holes(&mut body)?;
        }
        let task = change(client, Method::POST, "/vms", &query, Some(&body), self.wait).await?;
        done(definition.name.as_str(), if self.start { "runs" } else { "has been made" }, &task);
        Ok(())
    }

    /// Takes out what nobody has said: the template says it.
    fn leave_holes(&self, said: &mut Value) -> Result<()> {
        let usual = body(&VmDefinition::named(self.name.clone()))?;
        if let (Value::Object(said), Value::Object(usual)) = (said, usual) {
            said.retain(|field, value| match field.as_str() {
                "name" => true,
                "cpus" => self.cpus.is_some(),
                "memory" => self.memory.is_some(),
                _ => usual.get(field) != Some(value),
            });
        }
        Ok(())
    }

    fn definition(&self) -> Result<VmDefinition> {
        let mut definition = VmDefinition::named(self.name.clone());
        definition.description = self.description.clone();
        definition.share_group = self.share_group.clone();
        definition.cpus = self.cpus.unwrap_or(definition.cpus);
        (definition.cpus_max, definition.memory_max) = (self.cpus_max, self.memory_max);
        definition.merge_memory = self.merge_memory;
        definition.memory = self.memory.unwrap_or(definition.memory);
        definition.engine = match self.engine {
            EngineOption::Auto => Engine::Auto,
            EngineOption::Kvm => Engine::Kvm,
            EngineOption::Soft => Engine::Soft,
        };
        let absolute = |path: &PathBuf| {
            std::path::absolute(path).map_err(|error| Failure::input(format!("{}: {error}", path.display())))
        };
        definition.boot = Boot {
            kernel: self.kernel.as_ref().map(absolute).transpose()?,
            initrd: self.initrd.as_ref().map(absolute).transpose()?,
            command_line: self.append.clone(),
        };
        if let Some(image) = &self.image {
            let disk =
                Disk { full: self.full, grow: self.grow, ..Disk::of(DiskSource::Image(image.clone())) };
            definition.disks.push(self.image_limit.clone().unwrap_or_default().on(&disk)?);
        }
        for option in &self.new_disks {
            definition.disks.push(option.limits.on(&Disk::of(DiskSource::Size(option.size)))?);
        }
        for option in &self.volumes {
            definition.disks.push(volume_disk(option)?);
        }
        for option in &self.disks {
            definition.disks.push(file_disk(option)?);
        }
        let cards = self.nets.iter().filter_map(|option| card(option).transpose());
        definition.nics = cards.collect::<Result<_>>()?;
        definition.cloud_init = self.cloud_init()?;
        for label in &self.labels {
            let (key, value) = label
                .split_once('=')
                .ok_or_else(|| Failure::input(format!("--label {label}: write it as KEY=VALUE")))?;
            definition.labels.insert(key.into(), value.into());
        }
        definition.autostart.enabled = self.autostart;
        if self.no_restart {
            definition.on_crash = OnEnd::Stop;
        }
        Ok(definition)
    }

    fn cloud_init(&self) -> Result<Option<CloudInit>> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path)
                .map_err(|error| Failure::input(format!("{}: {error}", path.display())))
        };
        let keys = self
            .ssh_keys
            .iter()
            .map(|key| if key.split_whitespace().count() >= 2 { Ok(key.clone()) } else { read(&key.into()) });
        let keys: Vec<String> = keys.collect::<Result<_>>()?;
        let lines = keys.iter().flat_map(|text| text.lines()).map(str::trim);
        let ssh_keys =
            lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned).collect();
        let user = self.user.clone().map(|name| User { name, ssh_keys });
        let user_data = self.user_data.as_ref().map(read).transpose()?;
        if user.is_none() && user_data.is_none() {
            return Ok(None);
        }
        Ok(Some(CloudInit { user, user_data, ..CloudInit::default() }))
    }
}

/// The disk that is a file of the host's, which sees it from where this program was started.
///
/// # Errors
/// If its path cannot be made absolute.
pub fn file_disk(option: &DiskOption) -> Result<Disk> {
    let path = std::path::absolute(&option.file)
        .map_err(|error| Failure::input(format!("{}: {error}", option.file.display())))?;
    option.limits.on(&Disk {
        format: option.format.map(|format| match format {
            disk::Format::Raw => DiskFormat::Raw,
            disk::Format::Qcow2 => DiskFormat::Qcow2,
        }),
        read_only: option.read_only,
        serial: option.serial.clone().unwrap_or_default(),
        ..Disk::of(DiskSource::File(path))
    })
}

/// The disk that is a volume.
///
/// # Errors
/// Never: it is plain data.
pub fn volume_disk(option: &VolumeOption) -> Result<Disk> {
    let source = DiskSource::Volume(option.volume.clone());
    option.limits.on(&Disk { read_only: option.read_only, ..Disk::of(source) })
}

/// The card that an option says, if it says one.
///
/// # Errors
/// If a network of this name cannot be.
pub fn card(option: &NetOption) -> Result<Option<Nic>> {
    Ok(match option {
        NetOption::None => None,
        NetOption::Named { name, mac, address, vlan, limits } => {
            let named =
                name.parse().map_err(|error| Failure::input(format!("--net network={name}: {error}")))?;
            let network = Network::Named(named);
            let nic = Nic { network, mac: mac.clone(), address: *address, vlan: *vlan, ..Nic::default() };
            Some(limits.on(&nic)?)
        }
        NetOption::Tap { name, limits } => {
            Some(limits.on(&Nic { network: Network::Tap(name.clone()), ..Nic::default() })?)
        }
        NetOption::User { forwards, limits } => {
            let forward = |forward: &crate::cli::options::PortForward| PortForward {
                protocol: Protocol::Tcp,
                address: Some(forward.address),
                host: forward.host,
                guest: forward.guest,
            };
            Some(limits.on(&Nic { forwards: forwards.iter().map(forward).collect(), ..Nic::default() })?)
        }
    })
}
