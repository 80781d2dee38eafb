//! `tessera vm …`: the guests of a host.

use std::path::PathBuf;
use std::process::ExitCode;

use api::{Task, Vm, VmDefinition, VmState};
use clap::{Args, Subcommand};
use reqwest::Method;
use serde_json::{Value, json};

use crate::cli::history::HistoryArgs;
use crate::cli::inside;
use crate::cli::listing::{WatchOption, show};
use crate::cli::options::OrNone;
use crate::cli::output::{Column, OutputOption, age, agreed, print, size};
use crate::cli::share::{self, InBytesOption, ShareOption};
use crate::cli::targets::Targets;
use crate::cli::vm_create::CreateArgs;
use crate::cli::vm_devices::{DiskCommand, NicCommand};
use crate::cli::vm_snapshot::{ImportArgs, SnapshotCommand};
use crate::cli::waiting::all_at_once;
pub use crate::cli::waiting::{WaitOption, change, done};
pub use crate::client::everything;
use crate::client::{Client, HostOption, segment};
use crate::console::terminal::RawTerminal;
use crate::failure::{self, Failure, Result, Status};

/// What can be done with guests.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum VmCommand {
    /// Show the guests there are
    #[command(visible_alias = "list")]
    Ls(ListArgs),
    /// Show everything about a guest
    Show {
        /// Its name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make a guest
    Create(Box<CreateArgs>),
    /// Make a guest as one that does not run, with copies of its disks; of one that runs with --instant or --snapshot
    Clone {
        /// The guest to clone
        vm: String,
        /// The new one's name
        name: api::Name,
        /// Begin with what this snapshot of it kept, and have only what differs from that: whether it runs or not
        #[arg(long, value_name = "NAME")]
        snapshot: Option<String>,
        /// Go on in the memory of that snapshot, with a name, addresses and keys of its own
        #[arg(long, requires = "snapshot")]
        memory: bool,
        /// Begin at once with what it is now, and share its disks and, if it runs, its memory with it until one of them writes
        #[arg(long, conflicts_with = "snapshot")]
        instant: bool,
        /// Start it when it has been made
        #[arg(long)]
        start: bool,
        #[command(flatten)]
        wait: WaitOption,
    },
    /// Make a guest of a file that a snapshot was exported to
    Import(ImportArgs),
    /// Start guests
    Start(VerbArgs),
    /// Ask guests to power themselves off
    Shutdown(CloseArgs),
    /// Pull guests' plugs
    Stop(VerbArgs),
    /// Ask guests to power themselves off, and start them again
    Reboot(CloseArgs),
    /// Press guests' reset buttons
    Reset(VerbArgs),
    /// Have guests stand still
    Pause(VerbArgs),
    /// Have paused or suspended guests go on
    Resume(VerbArgs),
    /// Write guests to storage, to go on later where they were
    Suspend(VerbArgs),
    /// Change what a guest should be, and what it is while it runs
    Edit(EditArgs),
    /// The disks of a guest, also while it runs
    #[command(subcommand)]
    Disk(DiskCommand),
    /// What a guest was: keep it, and go back there
    #[command(subcommand, visible_alias = "snap")]
    Snapshot(SnapshotCommand),
    /// The network cards of a guest, also while it runs
    #[command(subcommand)]
    Nic(NicCommand),
    /// Remove guests with what they have of their own
    Delete(DeleteArgs),
    /// Watch a guest's serial console and type into it; Ctrl-] ends that
    Console {
        /// Its name or id
        vm: String,
    },
    /// Type keys on a guest's serial console: enter, esc, up, f1, ctrl-c, alt-x, one character or text:WORDS; break, or
    /// sysrq:LETTER, which Linux takes as typed with SysRq
    #[command(visible_alias = "send-keys")]
    SendKey {
        /// Its name or id
        vm: String,
        /// The keys
        #[arg(required = true, value_name = "KEY", allow_hyphen_values = true)]
        keys: Vec<String>,
    },
    /// Print the latest of what a guest has said on its console
    Log {
        /// Its name or id
        vm: String,
    },
    /// Show what the agent in a running guest says of it
    Agent {
        /// Its name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Run a program in a guest, by its agent; ends with the program's exit status
    Exec(inside::ExecArgs),
    /// Set the password of an account in a guest, by its agent; it is asked for, or read from the standard input
    Passwd {
        /// The guest's name or id
        vm: String,
        /// The account
        #[arg(default_value = "root")]
        user: String,
    },
    /// Show what a guest has used over time
    History {
        /// Its name or id
        vm: String,
        /// Only what this one of its processors did, from 0 on
        #[arg(long, value_name = "N")]
        processor: Option<u32>,
        #[command(flatten)]
        args: HistoryArgs,
    },
    /// Show what a running guest uses
    Stats {
        /// Its name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
}

/// Arguments of `tessera vm ls`.
#[derive(Debug, Args)]
pub struct ListArgs {
    #[command(flatten)]
    output: OutputOption,
    /// Only those that this fits: state=running, name=web*, label.KEY=VALUE, with commas between
    #[arg(short, long, value_name = "TERMS")]
    filter: Option<String>,
    /// Sort by this field; - before it for the other way round
    #[arg(long, value_name = "FIELD", allow_hyphen_values = true)]
    sort: Option<String>,
    #[command(flatten)]
    watch: WatchOption,
}

/// Arguments of verbs.
#[derive(Debug, Args)]
pub struct VerbArgs {
    #[command(flatten)]
    targets: Targets,
    #[command(flatten)]
    wait: WaitOption,
}

/// Arguments of verbs that have a guest end.
#[derive(Debug, Args)]
pub struct CloseArgs {
    #[command(flatten)]
    verb: VerbArgs,
    /// How many seconds they may take
    #[arg(long, value_name = "SECONDS", default_value = "90", value_parser = clap::value_parser!(u64).range(1..=86400))]
    deadline: u64,
    /// Pull the plug of those that have not by then
    #[arg(long)]
    force: bool,
}

/// Arguments of `tessera vm delete`.
#[derive(Debug, Args)]
pub struct DeleteArgs {
    #[command(flatten)]
    verb: VerbArgs,
    /// Pull the plug of those that run
    #[arg(long)]
    force: bool,
    /// Keep the disks that they have of their own, as volumes: by this name, with the disk's number behind it where there are several,
    /// or else by the guest's
    #[arg(long, value_name = "NAME", num_args = 0..=1, require_equals = true)]
    keep_disks: Option<Option<api::Name>>,
    /// Do not ask before all guests, or those with a label, are removed
    #[arg(short, long)]
    yes: bool,
}

/// Arguments of `tessera vm edit`.
#[derive(Debug, Args)]
pub struct EditArgs {
    /// Its name or id
    vm: String,
    /// Its new name
    #[arg(long, value_name = "NAME")]
    name: Option<api::Name>,
    /// The number of processors
    #[arg(long)]
    cpus: Option<u32>,
    /// The number of processors that it can have without a restart
    #[arg(long, value_name = "N")]
    cpus_max: Option<u32>,
    /// Memory
    #[arg(long, value_name = "SIZE")]
    memory: Option<api::Size>,
    /// The memory that it can have without a restart
    #[arg(long, value_name = "SIZE")]
    memory_max: Option<api::Size>,
    /// Whether pages that are equal to those of other guests that say so are kept once, if the host does that (tessera host --memory-merge): they have to trust one another
    #[arg(long, value_name = "on|off", value_parser = clap::builder::BoolishValueParser::new())]
    merge_memory: Option<bool>,
    /// What it is for
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// A label to set, or with nothing after = to take away
    #[arg(long = "label", value_name = "KEY=VALUE")]
    labels: Vec<String>,
    /// A JSON merge patch of the definition, or @FILE with one
    #[arg(long, value_name = "JSON|@FILE")]
    patch: Option<String>,
    #[command(flatten)]
    share: ShareOption,
    #[command(flatten)]
    in_bytes: InBytesOption,
    /// The group that it shares in
    #[arg(long, value_name = "GROUP|none")]
    share_group: Option<OrNone<api::Name>>,
    #[command(flatten)]
    apply: ApplyOption,
    #[command(flatten)]
    wait: WaitOption,
}

/// When a change of a guest that runs is brought about.
#[derive(Debug, Clone, Copy, Args)]
pub struct ApplyOption {
    /// All of it at once, or nothing [default: what can be at once, the rest at its next start]
    #[arg(long, conflicts_with = "next_boot")]
    live: bool,
    /// At its next start
    #[arg(long)]
    next_boot: bool,
    /// Pull out devices that its system does not let go of, or that it uses
    #[arg(long)]
    force: bool,
}

impl ApplyOption {
    /// The query that says so.
    pub fn query(self) -> Vec<(&'static str, String)> {
        let apply = match self {
            ApplyOption { live: true, .. } => "live",
            ApplyOption { next_boot: true, .. } => "next-boot",
            _ => "auto",
        };
        vec![("apply", apply.to_owned()), ("force", self.force.to_string())]
    }
}

const COLUMNS: [Column<Vm>; 11] = [
    Column::text("NAME", |vm: &Vm| vm.definition.name.to_string()),
    Column::text("STATE", |vm: &Vm| match vm.status.no_room.is_empty() {
        true => vm.status.state.word().to_owned(),
        false => format!("{} (no room)", vm.status.state.word()),
    }),
    Column::text("SINCE", |vm: &Vm| age(vm.status.since)).passing(),
    Column::number("CPUS", |vm: &Vm| vm.definition.cpus.to_string()),
    Column::number("MEMORY", |vm: &Vm| size(vm.definition.memory)),
    Column::text("IMAGE", |vm: &Vm| {
        vm.definition.image().map_or_else(|| "-".to_owned(), ToString::to_string)
    }),
    Column::text("ADDRESS", |vm: &Vm| {
        let addresses: Vec<_> =
            vm.definition.nics.iter().filter_map(|nic| Some(nic.address?.to_string())).collect();
        if addresses.is_empty() { "-".to_owned() } else { addresses.join(" ") }
    }),
    Column::text("SHARE", |vm: &Vm| match vm.definition.cpu_share {
        share if share.is_usual() => "-".to_owned(),
        share => share::told(&share),
    })
    .wide(),
    Column::text("ID", |vm: &Vm| vm.id.to_string()).wide(),
    Column::text("PID", |vm: &Vm| vm.status.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())).wide(),
    Column::text("LAST END", |vm: &Vm| {
        vm.status.last_end.as_ref().map_or_else(|| "-".to_owned(), |end| end.message.clone())
    })
    .wide(),
];

impl VmCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<ExitCode> {
        let client = host.client()?;
        match self {
            VmCommand::Exec(args) => return args.execute(&client).await,
            VmCommand::Agent { vm, output } => {
                output.one(&client.get(&format!("/vms/{}/agent", segment(&vm)?), &[]).await?)
            }
            VmCommand::Passwd { vm, user } => inside::set_password(&client, &vm, &user).await,
            VmCommand::Ls(args) => list(&client, args).await,
            VmCommand::Show { vm, output } => {
                output.one(&client.get(&format!("/vms/{}", segment(&vm)?), &[]).await?)
            }
            VmCommand::Create(args) => args.execute(&client).await,
            VmCommand::Clone { vm, name, snapshot, memory, instant, start, wait } => {
                let as_what = json!({
                    "name": name, "snapshot": snapshot, "memory": memory, "instant": instant, "start": start,
                });
                clone(&client, &vm, &as_what, wait).await
            }
            VmCommand::Import(args) => args.execute(&client).await,
            VmCommand::Start(args) => {
                each(&client, &args, ("start", "runs", |state| !state.is_alive()), None).await
            }
            VmCommand::Stop(args) => {
                each(&client, &args, ("stop", "does not run", VmState::is_alive), None).await
            }
            VmCommand::Reset(args) => {
                each(&client, &args, ("reset", "has been reset", VmState::is_alive), None).await
            }
            VmCommand::Pause(args) => {
                each(&client, &args, ("pause", "stands still", |state| state == VmState::Running), None).await
            }
            VmCommand::Resume(args) => {
                let fits = |state| matches!(state, VmState::Paused | VmState::Suspended);
                each(&client, &args, ("resume", "goes on", fits), None).await
            }
            VmCommand::Suspend(args) => {
                let fits = |state| matches!(state, VmState::Running | VmState::Paused);
                each(&client, &args, ("suspend", "is on storage", fits), None).await
            }
            VmCommand::Shutdown(args) => {
                let verb = ("shutdown", "has powered itself off", VmState::is_alive as fn(VmState) -> bool);
                each(&client, &args.verb, verb, Some(&args.body())).await
            }
            VmCommand::Reboot(args) => {
                let verb = ("reboot", "has started again", VmState::is_alive as fn(VmState) -> bool);
                each(&client, &args.verb, verb, Some(&args.body())).await
            }
            VmCommand::Edit(args) => edit(&client, args).await,
            VmCommand::Disk(command) => command.execute(&client).await,
            VmCommand::Nic(command) => command.execute(&client).await,
            VmCommand::Snapshot(command) => command.execute(&client).await,
            VmCommand::Delete(args) => delete(&client, &args).await,
            VmCommand::Console { vm } => console(&client, &vm).await,
            VmCommand::SendKey { vm, keys } => {
                let path = format!("/vms/{}/keys", segment(&vm)?);
                client
                    .change::<Value>(Method::POST, &path, &[], Some(&json!({ "keys": keys })))
                    .await
                    .map(drop)
            }
            VmCommand::Log { vm } => {
                let said = client.text(&format!("/vms/{}/console/log", segment(&vm)?)).await?;
                print(&String::from_utf8_lossy(&said));
                Ok(())
            }
            VmCommand::History { vm, processor, args } => {
                let of = processor.map_or_else(String::new, |number| format!("/processors/{number}"));
                args.execute(&client, &format!("/vms/{}{of}/history", segment(&vm)?)).await
            }
            VmCommand::Stats { vm, output } => {
                output.one(&client.get(&format!("/vms/{}/stats", segment(&vm)?), &[]).await?)
            }
        }?;
        Ok(Status::Done.into())
    }
}

impl CloseArgs {
    fn body(&self) -> Value {
        json!({ "deadline": self.deadline, "force": self.force })
    }
}

async fn list(client: &Client, args: ListArgs) -> Result<()> {
    let query = query(&[("filter", args.filter), ("sort", args.sort)]);
    show(client, "/vms", &query, &COLUMNS, (args.output, args.watch)).await
}

/// A query of those parameters that are there.
pub fn query<'a>(parameters: &[(&'a str, Option<String>)]) -> Vec<(&'a str, String)> {
    parameters.iter().filter_map(|(name, value)| Some((*name, value.clone()?))).collect()
}

/// Does a verb with guests; those meant by a label or as all only where their state is one for it.
async fn each(
    client: &Client,
    args: &VerbArgs,
    (verb, what, fits): (&str, &str, fn(VmState) -> bool),
    body: Option<&Value>,
) -> Result<()> {
    let vms = args.targets.find(client, fits).await?;
    let begin = async |vm: &str| {
        let path = format!("/vms/{}/{verb}", segment(vm)?);
        client.change(Method::POST, &path, &[], body).await
    };
    all_at_once(client, &vms, begin, |_| what.to_owned(), args.wait).await
}

/// Makes a clone of a guest.
///
/// # Errors
/// If the host refuses it, or it fails.
pub async fn clone(client: &Client, vm: &str, as_what: &Value, wait: WaitOption) -> Result<()> {
    let path = format!("/vms/{}/clone", segment(vm)?);
    let task = change(client, Method::POST, &path, &[], Some(as_what), wait).await?;
    let what = if as_what["start"] == true { "runs" } else { "has been made" };
    done(as_what["name"].as_str().unwrap_or_default(), what, &task);
    Ok(())
}

async fn delete(client: &Client, args: &DeleteArgs) -> Result<()> {
    let vms = args.verb.targets.find(client, |_| true).await?;
    if !args.yes && !args.verb.targets.are_named() && !vms.is_empty() {
        let what = if args.keep_disks.is_some() { "" } else { " with their disks" };
        if !agreed(&format!("Remove {}{what}?", vms.join(", ")))? {
            return Err(Failure::new(Status::NotNow, "nothing has been done"));
        }
    }
    let name = args.keep_disks.as_ref().map(|name| name.as_ref().map(ToString::to_string));
    let keep = name.is_some().to_string();
    let query = query(&[
        ("force", Some(args.force.to_string())),
        ("keep_disks", Some(keep)),
        ("keep_as", name.flatten()),
    ]);
    let begin =
        async |vm: &str| client.change(Method::DELETE, &format!("/vms/{}", segment(vm)?), &query, None).await;
    let what = |task: &Task| {
        let volumes = task.result["volumes"].as_array().into_iter().flatten();
        let volumes: Vec<_> = volumes.filter_map(|volume| volume["name"].as_str()).collect();
        match volumes.as_slice() {
            [] => "has been deleted".to_owned(),
            names => format!("has been deleted; its disks are volumes now: {}", names.join(", ")),
        }
    };
    all_at_once(client, &vms, begin, what, args.verb.wait).await
}

async fn edit(client: &Client, args: EditArgs) -> Result<()> {
    let cpus = async || match args.cpus {
        Some(cpus) => Ok(cpus),
        None => {
            let vm: Vm = client.get(&format!("/vms/{}", segment(&args.vm)?), &[]).await?;
            Ok(vm.definition.cpus)
        }
    };
    let share = args.share.patch(client, cpus).await?;
    let mut patch = match &args.patch {
        Some(text) => read_json("--patch", text)?,
        None => json!({}),
    };
    let fields =
        patch.as_object_mut().ok_or_else(|| Failure::input("--patch: it has to be a JSON object"))?;
    let mut set = |name: &str, value: Option<Value>| value.map(|value| fields.insert(name.into(), value));
    set("name", args.name.as_ref().map(|name| json!(name)));
    set("cpus", args.cpus.map(|cpus| json!(cpus)));
    set("cpus_max", args.cpus_max.map(|cpus| json!(cpus)));
    set("cpu_share", share);
    for (field, share) in args.in_bytes.patches() {
        set(field, Some(share));
    }
    set("share_group", args.share_group.as_ref().map(|OrNone(group)| json!(group)));
    set("memory", args.memory.map(|memory| json!(memory)));
    set("merge_memory", args.merge_memory.map(|merge| json!(merge)));
    set("memory_max", args.memory_max.map(|memory| json!(memory)));
    set("description", args.description.map(|text| json!(text)));
    if !args.labels.is_empty() {
        let mut labels = serde_json::Map::new();
        for label in &args.labels {
            let (key, value) = label
                .split_once('=')
                .ok_or_else(|| Failure::input(format!("--label {label}: write it as KEY=VALUE")))?;
            labels.insert(key.into(), if value.is_empty() { Value::Null } else { value.into() });
        }
        set("labels", Some(Value::Object(labels)));
    }
    let path = format!("/vms/{}", segment(&args.vm)?);
    let query = args.apply.query();
    let task = change(client, Method::PATCH, &path, &query, Some(&patch), args.wait).await?;
    changed(&args.vm, &task);
    Ok(())
}

/// What is said of a guest that has changed.
pub fn changed(vm: &str, task: &Task) {
    let pending = task.result["status"]["pending_restart"] == true;
    done(vm, if pending { "has changed; what needs a start shows after it" } else { "has changed" }, task);
}

/// JSON that a person gave, or `@FILE` with it.
///
/// # Errors
/// If it is none, or the file cannot be read.
pub fn read_json(option: &str, text: &str) -> Result<Value> {
    let told = |error: &dyn std::fmt::Display| Failure::input(format!("{option}: {error}"));
    let text = match text.strip_prefix('@') {
        Some(path) => std::fs::read_to_string(PathBuf::from(path)).map_err(|error| told(&error))?,
        None => text.to_owned(),
    };
    serde_json::from_str(&text).map_err(|error| told(&error))
}

async fn console(client: &Client, vm: &str) -> Result<()> {
    let vm = segment(vm)?;
    eprintln!("tessera: the console of {vm}; Ctrl-] ends this, the guest goes on");
    let terminal =
        RawTerminal::enter().map_err(|error| Failure::internal(format!("the terminal: {error}")))?;
    let result = client.console(vm).await;
    drop(terminal);
    eprintln!();
    result
}

/// What a definition is in JSON.
///
/// # Errors
/// Never: it is plain data.
pub fn body(definition: &VmDefinition) -> Result<Value> {
    serde_json::to_value(definition).map_err(|error| Failure::internal(error.to_string()))
}
