//! `tessera share …` and the options by which a guest is promised something: in our words, and in those of others.

use std::fmt::Write;

use api::{CpuBound, CpuReport, CpuShare, Processors, ShareReport};
use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};
use share::words::{self, Level, ZvmLimit};

use crate::cli::bandwidth::{self, DiskShareOption, NetworkShareOption};
use crate::cli::memory::{self, MemoryShareOption};
use crate::cli::options::OrNone;
use crate::cli::output::{OutputOption, print};
use crate::cli::receipts::ReceiptsArgs;
use crate::cli::share_group::GroupCommand;
use crate::client::{Client, HostOption, segment};
use crate::failure::{Failure, Result};

/// What somebody is promised of memory, of pools and of networks.
#[derive(Debug, Args)]
pub struct InBytesOption {
    #[command(flatten)]
    pub memory: MemoryShareOption,
    #[command(flatten)]
    pub disk: DiskShareOption,
    #[command(flatten)]
    pub network: NetworkShareOption,
}

impl InBytesOption {
    /// What is said, as merge patches of the fields of whoever it is said of.
    pub fn patches(&self) -> impl Iterator<Item = (&'static str, Value)> {
        let all = [
            ("memory_share", self.memory.patch()),
            ("disk_share", self.disk.patch()),
            ("network_share", self.network.patch()),
        ];
        all.into_iter().filter_map(|(field, patch)| Some((field, patch?)))
    }
}

/// What can be asked of shares.
#[derive(Debug, Subcommand)]
pub enum ShareCommand {
    /// Make, change and remove groups in which guests share: resource pools, shared processor pools
    #[command(subcommand)]
    Group(Box<GroupCommand>),
    /// Show what a guest is promised, wants and gets of processors, memory, pools and networks, and who gets the rest
    Explain {
        /// Its name or id
        vm: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Show what became of what a guest was promised of processors: asked for, due and delivered, second by second
    Receipts(ReceiptsArgs),
}

impl ShareCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let (vm, output) = match self {
            ShareCommand::Group(command) => return command.execute(host).await,
            ShareCommand::Receipts(args) => return args.execute(host).await,
            ShareCommand::Explain { vm, output } => (vm, output),
        };
        let told: Value = host.client()?.get(&format!("/vms/{}/share", segment(&vm)?), &[]).await?;
        if !output.is_table() {
            return output.one(&told);
        }
        let report: ShareReport = serde_json::from_value(told)
            .map_err(|error| Failure::internal(format!("the host's answer: {error}")))?;
        let groups = &report.cpu.groups;
        let memory = memory::explained(&report.memory, groups);
        let bandwidth = bandwidth::explained(&report.disks, &report.networks, groups);
        print(&(explained(&vm, &report.cpu) + &memory + &bandwidth));
        Ok(())
    }
}

/// A share as a person reads it.
pub fn told(share: &CpuShare) -> String {
    if share.dedicated {
        return "dedicated processors".into();
    }
    let limit = match share.limit {
        None => "no limit".to_owned(),
        Some(limit) if share.soft => format!("soft limit {limit}"),
        Some(limit) if limit == share.reserve => "capped".to_owned(),
        Some(limit) => format!("limit {limit}"),
    };
    format!("reserve {}, weight {}, {limit}", share.reserve, share.weight)
}

fn explained(vm: &str, cpu: &CpuReport) -> String {
    let mut text = format!("{vm}: processors\n");
    let mut say = |what: &str, words: String| {
        // Writing to a string never fails.
        let _ = writeln!(text, "  {what:<12}{words}");
    };
    say("promised", told(&cpu.promised));
    for group in &cpu.groups {
        let of = &group.definition;
        say(
            "in group",
            format!("{} ({}): {:.2} in the last 10 s", of.name, told(&of.cpu_share), group.got_10s),
        );
    }
    match &cpu.now {
        None => say("now", "it does not run, or has just begun to".into()),
        Some(now) => {
            if cpu.promised.dedicated && now.own.is_empty() {
                say("its own", "none: the host has none to give away just now".into());
            } else if !now.own.is_empty() {
                let own: Vec<_> = now.own.iter().map(u32::to_string).collect();
                say("its own", format!("of the host's processors: number {}", own.join(", ")));
            }
            say("asked for", format!("{:.2}", now.asked));
            say("is to have", format!("{:.2}", now.target));
            say("got", format!("{:.2}, and {:.2} in the last 10 s", now.got, now.got_10s));
            let why = match now.bound {
                CpuBound::Nothing => "nothing keeps it from having what it asks for",
                CpuBound::Limit => "its own limit keeps it from having more",
                CpuBound::Group => "its group has all that it may have, and others in it want more, too",
                CpuBound::Others => {
                    "others want more, too: what is left of all reserves is divided by weight"
                }
            };
            say("why", why.into());
        }
    }
    let host = &cpu.host;
    say("host", format!("{} processors, of which {} are reserved", host.processors, host.reserved));
    say("10 s", format!("guests {:.2}, everything else {:.2}", host.guests, host.besides));
    for other in &cpu.others {
        say("other", format!("{:.2}  {} ({})", other.got_10s, other.name, told(&other.promised)));
    }
    if cpu.rest >= 0.005 {
        say("other", format!("{:.2}  all further guests", cpu.rest));
    }
    if let Some(why) = &cpu.not_enforced {
        say("NOT HELD TO", why.clone());
    }
    text
}

/// A part of all that there is, as `30%`.
#[derive(Debug, Clone, Copy)]
pub struct Percent(f64);

impl std::str::FromStr for Percent {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let number = text.strip_suffix('%').and_then(|number| number.parse().ok());
        number.map(Self).ok_or_else(|| format!("'{text}' is no part of a whole: write it as 30%"))
    }
}

/// vSphere's presets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LevelOption {
    /// 2000 for each processor that the guest has
    High,
    /// 1000
    Normal,
    /// 500
    Low,
}

/// What a guest is promised.
#[derive(Debug, Default, Clone, Args)]
pub struct ShareOption {
    /// Processors of the host that are always its own when it wants them: 0.05 is a twentieth of one
    #[arg(long, value_name = "PROCESSORS")]
    cpu_reserve: Option<Processors>,
    /// Its part of what is left, compared with others': 1 to 1000000, 1000 is usual
    #[arg(long, value_name = "N")]
    cpu_weight: Option<u32>,
    /// Processors that it never passes
    #[arg(long, value_name = "PROCESSORS|none")]
    cpu_limit: Option<OrNone<Processors>>,
    /// It may pass the limit when nobody else wants more
    #[arg(long, requires = "cpu_limit")]
    cpu_soft: bool,
    /// Each of its processors has one of the host's to itself: no other guest runs there
    #[arg(long, conflicts_with_all = OTHERS, conflicts_with_all = OWN)]
    cpu_dedicated: bool,
    /// It shares processors with others again
    #[arg(long, conflicts_with = "cpu_dedicated")]
    cpu_shared: bool,
    /// Its weight in vSphere's words
    #[arg(long, value_name = "LEVEL", conflicts_with_all = ["cpu_weight"])]
    shares: Option<LevelOption>,
    /// Its reserve in PowerVM's words, with --capped or --uncapped-weight
    #[arg(long, value_name = "PROCESSORS", requires = "sharing_mode", conflicts_with_all = OWN)]
    entitlement: Option<Processors>,
    /// It never has more than its entitlement
    #[arg(long, group = "sharing_mode", requires = "entitlement")]
    capped: bool,
    /// Its part of what is left in PowerVM's words: 0 to 255, 128 is usual, 0 is capped
    #[arg(long, value_name = "N", group = "sharing_mode", requires = "entitlement")]
    uncapped_weight: Option<u32>,
    /// Its reserve in z/VM's words: a part of all processors that guests may use
    #[arg(long, value_name = "PERCENT", conflicts_with_all = OWN, conflicts_with_all = ["entitlement", "share_relative"])]
    share_absolute: Option<Percent>,
    /// It never has more than that
    #[arg(long, requires = "share_absolute", conflicts_with = "limit_soft")]
    limit_hard: bool,
    /// It has more than that only when nobody else wants it
    #[arg(long, requires = "share_absolute")]
    limit_soft: bool,
    /// Its weight in z/VM's words: 1 to 10000, 100 is usual
    #[arg(long, value_name = "N", conflicts_with_all = OWN, conflicts_with = "entitlement")]
    share_relative: Option<u32>,
}

/// What is not said together with the words of others.
const OWN: [&str; 5] = ["cpu_reserve", "cpu_weight", "cpu_limit", "cpu_soft", "shares"];

/// The words of others.
const OTHERS: [&str; 3] = ["entitlement", "share_absolute", "share_relative"];

/// What share options ask for, as a JSON merge patch of a share.
enum Asked {
    Nothing,
    Fields(serde_json::Map<String, Value>),
    Whole(share::Share),
}

impl ShareOption {
    /// A JSON merge patch of the share of a guest, if anything is said of it; `cpus` is how many processors it has.
    ///
    /// # Errors
    /// If something is not in the words of the system that it is said in, or the host cannot be asked what it has.
    pub async fn patch(
        &self,
        client: &Client,
        cpus: impl AsyncFnOnce() -> Result<u32>,
    ) -> Result<Option<Value>> {
        let asked = match self.share_absolute {
            Some(Percent(percent)) => {
                let host: Value = client.get("/host", &[]).await?;
                let limit = match (self.limit_hard, self.limit_soft) {
                    (true, _) => ZvmLimit::Hard,
                    (_, true) => ZvmLimit::Soft,
                    _ => ZvmLimit::None,
                };
                let share = words::absolute(percent, limit, host["cpus"].as_f64().unwrap_or(1.0));
                Asked::Whole(share.map_err(|error| wrong("--share-absolute", error))?)
            }
            None => match self.shares {
                Some(level) => self.fields(Some(level_of(level).weight(cpus().await?))),
                None => self.others()?,
            },
        };
        Ok(match asked {
            Asked::Nothing => None,
            Asked::Fields(fields) => Some(Value::Object(fields)),
            Asked::Whole(share) => Some(whole(&share)),
        })
    }

    fn others(&self) -> Result<Asked> {
        if let Some(entitlement) = self.entitlement {
            let share = words::power(entitlement.get(), self.uncapped_weight);
            return share.map(Asked::Whole).map_err(|error| wrong("--uncapped-weight", error));
        }
        if let Some(relative) = self.share_relative {
            let share = words::relative(relative);
            return share.map(Asked::Whole).map_err(|error| wrong("--share-relative", error));
        }
        Ok(self.fields(self.cpu_weight))
    }

    fn fields(&self, weight: Option<u32>) -> Asked {
        let mut fields = serde_json::Map::new();
        if self.cpu_dedicated {
            let alone = json!({ "reserve": 0, "limit": null, "soft": false, "dedicated": true });
            fields.extend(alone.as_object().cloned().unwrap_or_default());
        }
        let mut set = |name: &str, value: Option<Value>| value.map(|value| fields.insert(name.into(), value));
        set("dedicated", self.cpu_shared.then_some(json!(false)));
        set("reserve", self.cpu_reserve.map(|reserve| json!(reserve)));
        set("weight", weight.map(|weight| json!(weight)));
        if let Some(OrNone(limit)) = self.cpu_limit {
            let soft = limit.is_some() && self.cpu_soft;
            set("limit", Some(json!(limit)));
            set("soft", Some(json!(soft)));
        }
        if fields.is_empty() { Asked::Nothing } else { Asked::Fields(fields) }
    }
}

fn wrong(option: &str, error: impl std::fmt::Display) -> Failure {
    Failure::input(format!("{option}: {error}"))
}

fn level_of(level: LevelOption) -> Level {
    match level {
        LevelOption::High => Level::High,
        LevelOption::Normal => Level::Normal,
        LevelOption::Low => Level::Low,
    }
}

fn whole(share: &share::Share) -> Value {
    let (limit, soft) = match share.limit {
        share::Limit::None => (None, false),
        share::Limit::Hard(limit) => (Some(limit), false),
        share::Limit::Soft(limit) => (Some(limit), true),
    };
    let limit = limit.map(Processors::nearest);
    json!({ "reserve": Processors::nearest(share.reserve), "weight": share.weight, "limit": limit, "soft": soft, "dedicated": false })
}
