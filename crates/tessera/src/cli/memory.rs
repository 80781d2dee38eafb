//! `tessera memory …` and the options by which a guest is promised memory of a host's pool.

use std::fmt::Write;
use std::str::FromStr;

use api::{
    MemoryNow, MemoryOfGuest, MemoryPool, MemoryPressure, MemoryReport, MemoryShare, ShareGroupInfo, Size,
};
use clap::{Args, Subcommand};
use host::daemon::{self, Paging};
use serde_json::Value;

use crate::cli::memory_plan;
use crate::cli::options::{OrNone, share_patch};
use crate::cli::output::{Column, OutputOption, print, size};
use crate::client::HostOption;
use crate::failure::{Failure, Result};

/// What can be asked of a host's memory.
#[derive(Debug, Subcommand)]
pub enum MemoryCommand {
    /// Show the host's pool of memory, and what each guest that runs has of it
    Show {
        #[command(flatten)]
        output: OutputOption,
    },
    /// Tell what a pool stands: by what the guests that run use now, and with more of them
    Plan {
        /// Take the pool to be so large
        #[arg(long, value_name = "SIZE")]
        pool: Option<Size>,
        /// So many guests more
        #[arg(long, value_name = "N", default_value_t = 0, requires = "like")]
        add: u32,
        /// What they are like: this guest, that runs
        #[arg(long, value_name = "GUEST")]
        like: Option<String>,
    },
}

impl MemoryCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let told: Value = host.client()?.get("/memory", &[]).await?;
        let now: MemoryPool = serde_json::from_value(told.clone())
            .map_err(|error| Failure::internal(format!("the host's answer: {error}")))?;
        match self {
            MemoryCommand::Show { output } if !output.is_table() => output.one(&told),
            MemoryCommand::Show { output } => {
                print(&(header(&now) + &beyond(&now)));
                let guests = told["guests"].as_array().cloned().unwrap_or_default();
                if guests.is_empty() { Ok(()) } else { output.list(&guests, &GUESTS) }
            }
            MemoryCommand::Plan { pool, add, like } => {
                let none =
                    || Failure::input("--pool: this host has no pool of memory: say how large one would be");
                let pool = pool.or(now.size).ok_or_else(none)?;
                print(&memory_plan::told(pool, &now, &memory_plan::guests(&now, add, like.as_deref())?));
                Ok(())
            }
        }
    }
}

fn header(pool: &MemoryPool) -> String {
    match pool.size {
        Some(of) => format!(
            "pool {of}: {} used, {} reserved; pressure: {}\n",
            pool.used,
            pool.reserved,
            pressure(pool.pressure)
        ),
        None => "this host has no pool of memory: guests have what they touch (tessera host --memory-pool)\n"
            .into(),
    }
}

/// What is compressed and paged, in lines below the pool.
fn beyond(pool: &MemoryPool) -> String {
    let mut text = String::new();
    let mut say = |line: String| text.push_str(&(line + "\n"));
    if let Some(of) = &pool.merging {
        let (merged, saved) = (size(of.merged), size(of.saved));
        say(format!("equal pages: {merged} are kept once, which saves {saved}"));
    }
    if let Some(of) = &pool.compression {
        let (used, taken) = (size(of.used), size(of.taken));
        say(format!("compressed: {used} of {} at most, in {taken} of the pool", size(of.size)));
    }
    if let Some(of) = &pool.paging {
        say(format!("paging to {}: {} of {} used", of.path, size(of.used), size(of.size)));
    }
    if let Some(of) = &pool.flow {
        let (now_out, now_back) = (size(of.out_rate), size(of.back_rate));
        let (out, back) = (size(of.out), size(of.back));
        say(format!("out {now_out}/s, back {now_back}/s; since the daemon's start {out} and {back}"));
    }
    text
}

/// How little is free, as a person reads it.
fn pressure(pressure: MemoryPressure) -> &'static str {
    match pressure {
        MemoryPressure::High => "none",
        MemoryPressure::Clear => "a little",
        MemoryPressure::Soft => "some",
        MemoryPressure::Hard => "much",
        MemoryPressure::Low => "next to nothing is free",
    }
}

fn some(amount: Option<Size>) -> String {
    amount.map_or_else(|| "-".into(), size)
}

/// What a guest's process may take besides the guest's memory, bytes: nobody is told to be above a limit for that.
const BESIDES: u64 = 64 << 20;
/// Who lacks less than this of something has it, bytes.
const GRAIN: u64 = 1 << 20;

const GUESTS: [Column<MemoryOfGuest>; 10] = [
    Column::text("NAME", |guest: &MemoryOfGuest| guest.name.to_string()),
    Column::number("SIZE", |guest: &MemoryOfGuest| size(guest.now.size)),
    Column::number("HAS", |guest: &MemoryOfGuest| size(guest.now.held)),
    Column::number("TOUCHED", |guest: &MemoryOfGuest| size(guest.now.resident)),
    Column::number("MERGED", |guest: &MemoryOfGuest| size(guest.now.merged)).wide(),
    Column::number("OUT", |guest: &MemoryOfGuest| size(guest.now.out)),
    Column::number("USES", |guest: &MemoryOfGuest| some(guest.now.active)),
    Column::number("IS TO HAVE", |guest: &MemoryOfGuest| some(guest.now.target)),
    Column::number("RESERVE", |guest: &MemoryOfGuest| size(guest.promised.reserve)),
    Column::number("WEIGHT", |guest: &MemoryOfGuest| guest.promised.weight.to_string()),
];

/// A share of memory as a person reads it.
pub fn told(share: &MemoryShare) -> String {
    let limit = share.limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
    format!("reserve {}, weight {}, {limit}", share.reserve, share.weight)
}

/// What a guest in these groups is promised and has, in lines below those of its processors.
pub fn explained(memory: &MemoryReport, groups: &[ShareGroupInfo]) -> String {
    let mut text = "  memory\n".to_owned();
    let mut say = |what: &str, words: String| {
        // Writing to a string never fails.
        let _ = writeln!(text, "  {what:<12}{words}");
    };
    say("promised", told(&memory.promised));
    let Some(pool) = memory.pool else {
        if !memory.promised.is_usual() {
            say("NOT HELD TO", "this host has no pool of memory (tessera host --memory-pool)".into());
        }
        return text;
    };
    for group in groups {
        let of = &group.definition;
        let (share, held) = (told(&of.memory_share), size(group.memory.held));
        say("in group", format!("{} ({share}): {held} in all", of.name));
    }
    if let Some(now) = &memory.now {
        say("uses", now.active.map_or_else(|| "its system does not say".into(), size));
        say("is to have", some(now.target));
        let out = if now.out.0 > 0 { format!("; {} are paged out", now.out) } else { String::new() };
        say("has", format!("{} of {}, of which it has touched {}{out}", now.held, now.size, now.resident));
        say("why", why(&memory.promised, now).into());
        let limit = memory.promised.limit.filter(|limit| now.resident.0 > limit.0 + BESIDES);
        if let Some(limit) = limit {
            let way_out = "it goes to a paging device, if the host has one (tessera host --memory-paging)";
            let has = format!("it has touched {}, more than its limit of {limit}", now.resident);
            say("NOT HELD TO", format!("{has}, and what its programs use: {way_out}"));
        }
    }
    say("pool", format!("{pool}; pressure: {}", pressure(memory.pressure)));
    for other in &memory.others {
        say("other", format!("{:7}  {} ({})", size(other.now.resident), other.name, told(&other.promised)));
    }
    if memory.rest.0 > 0 {
        say("other", format!("{:7}  all further guests", size(memory.rest)));
    }
    text
}

fn why(promised: &MemoryShare, now: &MemoryNow) -> &'static str {
    let (Some(active), Some(target)) = (now.active, now.target) else {
        return "a system without a balloon keeps what it has touched";
    };
    if now.held >= now.size {
        "nobody needs any of what it has"
    } else if promised.limit.is_some_and(|limit| target.0 + GRAIN >= limit.0) {
        "it has what its limit allows"
    } else if target >= active {
        "it has what it uses; others have what it does not touch"
    } else {
        "others use more, too: what is left of all reserves is divided by weight"
    }
}

/// What a guest is promised of a pool of memory.
#[derive(Debug, Default, Clone, Args)]
pub struct MemoryShareOption {
    /// Memory of the host's pool that is always its own
    #[arg(long, value_name = "SIZE")]
    memory_reserve: Option<Size>,
    /// Its part of what is left of the pool, compared with others': 1 to 1000000, 1000 is usual
    #[arg(long, value_name = "N")]
    memory_weight: Option<u32>,
    /// Memory of the host that it never has more of, whatever it believes to have: what its programs use beyond goes to the paging device, if the host has one
    #[arg(long, value_name = "SIZE|none")]
    memory_limit: Option<OrNone<Size>>,
}

impl MemoryShareOption {
    /// A JSON merge patch of the share of a guest, if anything is said of it.
    pub fn patch(&self) -> Option<Value> {
        share_patch(self.memory_reserve, self.memory_weight, self.memory_limit.as_ref())
    }
}

/// The host's pool of memory, as it is said: `12G`, `80%` or `none`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolOption(pub Option<daemon::MemoryPool>);

impl FromStr for PoolOption {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        if let Some(number) = text.strip_suffix('%') {
            let percent = number.parse().ok().filter(|percent| (0.0..=100.0).contains(percent));
            let wrong = || format!("'{text}' is no part of a machine's memory: write it as 80%");
            return percent.map(|percent| Self(Some(daemon::MemoryPool::Percent(percent)))).ok_or_else(wrong);
        }
        let size = text.parse().map_err(|error: api::SizeError| format!("{error}, 80% or none"))?;
        Ok(Self(Some(daemon::MemoryPool::Bytes(size))))
    }
}

/// Where guests' memory is paged to, as it is said: `8G`, `/swap/guests:8G`, `/dev/vdb` or `none`.
#[derive(Debug, Clone, PartialEq)]
pub struct PagingOption(pub Option<Paging>);

impl FromStr for PagingOption {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        if text == "none" {
            return Ok(Self(None));
        }
        let paging = match text.rsplit_once(':') {
            Some((path, bytes)) if path.starts_with('/') => {
                Paging::File(path.into(), bytes.parse().map_err(|error: api::SizeError| error.to_string())?)
            }
            None if text.starts_with('/') => Paging::Device(text.into()),
            _ => {
                let hint = "write it as 8G, /FILE:8G, /dev/DEVICE or none";
                Paging::Own(text.parse().map_err(|error: api::SizeError| format!("{error}: {hint}"))?)
            }
        };
        Ok(Self(Some(paging)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_paged_to_an_own_file_another_one_or_a_device() {
        let read = |text: &str| text.parse::<PagingOption>().map(|paging| paging.0);
        assert_eq!(read("8G"), Ok(Some(Paging::Own(Size(8 << 30)))));
        assert_eq!(read("/a:b/c:64M"), Ok(Some(Paging::File("/a:b/c".into(), Size(64 << 20)))));
        assert_eq!(read("/dev/disk/by-id/x"), Ok(Some(Paging::Device("/dev/disk/by-id/x".into()))));
        assert_eq!(read("none"), Ok(None));
        assert!(read("much").unwrap_err().contains("write it as 8G, /FILE:8G, /dev/DEVICE or none"));
        assert!(read("swap:8G").unwrap_err().contains("write it as 8G"));
        assert!(read("/a:much").unwrap_err().contains("'much' is not a unit of size"));
    }

    #[test]
    fn a_pool_is_a_size_a_part_or_none() {
        let read = |text: &str| text.parse::<PoolOption>().map(|pool| pool.0);
        assert_eq!(read("2G"), Ok(Some(daemon::MemoryPool::Bytes(Size(2 << 30)))));
        assert_eq!(read("80%"), Ok(Some(daemon::MemoryPool::Percent(80.0))));
        assert_eq!(read("none"), Ok(None));
        for (text, wrong) in [
            ("120%", "'120%' is no part of a machine's memory: write it as 80%"),
            ("-1%", "'-1%' is no part of a machine's memory: write it as 80%"),
            ("nan%", "'nan%' is no part of a machine's memory: write it as 80%"),
            ("much", "'much' is not a unit of size: use K, M, G or T, 80% or none"),
        ] {
            assert_eq!(read(text), Err(wrong.into()));
        }
    }
}
