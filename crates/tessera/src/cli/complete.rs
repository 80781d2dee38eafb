//! What shells complete: the command line itself, and the names that the host has for what it asks for.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Arg, Command, CommandFactory, Parser};
use clap_complete::engine::{ArgValueCandidates, CompletionCandidate};
use clap_complete::env::CompleteEnv;
use serde_json::Value;

use crate::cli::{Cli, wait_for};
use crate::client::{HostOption, everything, segment};

/// The variable by which a shell's script says that it wants to know how a command line can go on.
pub const VARIABLE: &str = "TESSERA_COMPLETE";

/// The longest that a person who has pressed a key waits for names.
const PATIENCE: Duration = Duration::from_secs(1);

/// Things of a host that have names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Named {
    Guest,
    Network,
    Pool,
    Volume,
    Template,
    Image,
    Task,
    Token,
    User,
    Backup,
    ShareGroup,
}

/// Answers a shell that wants to know how a command line can go on, and ends; does nothing if none does.
pub fn answer() {
    CompleteEnv::with_factory(|| with_names(Cli::command(), &[])).var(VARIABLE).bin("tessera").complete();
}

/// The command, with names where it takes some. `above` are the commands that it is one of.
fn with_names(command: Command, above: &[String]) -> Command {
    let path = [above, &[command.get_name().to_owned()]].concat();
    let named = command.mut_args(|arg| match named(&path, arg.get_id().as_str()) {
        Some(named) => names(arg, named),
        None => arg,
    });
    named.mut_subcommands(|command| with_names(command, &path))
}

fn names(arg: Arg, named: Named) -> Arg {
    // A person who types is told nothing of what fails.
    arg.add(ArgValueCandidates::new(move || found(named).unwrap_or_default()))
}

/// What an argument names, if that is something there is.
fn named(path: &[String], argument: &str) -> Option<Named> {
    let path: Vec<&str> = path.iter().skip(1).map(String::as_str).collect();
    Some(match (path.as_slice(), argument) {
        (["user", "edit" | "passwd"], "name") | (["user", _], "users") => Named::User,
        (["template", "create"], "from") | (_, "vm" | "vms") => Named::Guest,
        (["backup", _], "backup" | "backups") => Named::Backup,
        (_, "network" | "networks") => Named::Network,
        (_, "pool") => Named::Pool,
        (_, "volume" | "volumes") => Named::Volume,
        (_, "template" | "templates") => Named::Template,
        (["image", "export" | "show"], "name") | (["image", _], "names") | (_, "image") => Named::Image,
        (["task", _], "task") => Named::Task,
        (["token", _], "tokens") => Named::Token,
        (["share", "group", _], "group" | "groups") | (_, "share_group" | "within") => Named::ShareGroup,
        _ => return None,
    })
}

/// The names of what there is.
fn found(named: Named) -> Option<Vec<CompletionCandidate>> {
    let line = Line::of_this_process();
    let path = match named {
        Named::Guest => "/vms".to_owned(),
        Named::Network => "/networks".to_owned(),
        Named::Pool => "/pools".to_owned(),
        Named::Volume => {
            let pool = line.option("--pool").unwrap_or_else(|| "default".to_owned());
            format!("/pools/{}/volumes", segment(&pool).ok()?)
        }
        Named::Template => "/templates".to_owned(),
        Named::Image => "/images".to_owned(),
        Named::Task => "/tasks".to_owned(),
        Named::Token => "/tokens".to_owned(),
        Named::User => "/users".to_owned(),
        Named::Backup => "/backups".to_owned(),
        Named::ShareGroup => "/share-groups".to_owned(),
    };
    let client = line.host()?.client().ok()?;
    let listed =
        wait_for(async { Ok(tokio::time::timeout(PATIENCE, everything(&client, &path, &[])).await) });
    let items = listed.ok()?.ok()?.ok()?;
    Some(items.iter().filter_map(|item| candidate(named, item)).collect())
}

fn candidate(named: Named, item: &Value) -> Option<CompletionCandidate> {
    let (name, told) = match named {
        Named::Guest => (item["name"].as_str()?, item["status"]["state"].as_str().map(str::to_owned)),
        Named::Task => {
            let word = |field: &str| item[field].as_str().unwrap_or_default().to_owned();
            (item["id"].as_str()?, Some(format!("{} {} {}", word("action"), word("name"), word("state"))))
        }
        _ => (item["name"].as_str()?, None),
    };
    Some(CompletionCandidate::new(name).help(told.map(Into::into)))
}

/// A command line that is not whole yet.
struct Line(Vec<String>);

impl Line {
    /// The one that the shell asks about: it comes after `--`.
    fn of_this_process() -> Self {
        let told = |word: OsString| word.to_string_lossy().into_owned();
        Self(std::env::args_os().map(told).skip_while(|word| word != "--").skip(1).collect())
    }

    /// What is said with an option.
    fn option(&self, name: &str) -> Option<String> {
        let after = |word: &String| word.strip_prefix(name)?.strip_prefix('=').map(str::to_owned);
        let apart = self.0.windows(2).find(|two| two[0] == name).map(|two| two[1].clone());
        apart.or_else(|| self.0.iter().find_map(after))
    }

    /// The host that it is for.
    fn host(&self) -> Option<HostOption> {
        #[derive(Parser)]
        struct Told {
            #[command(flatten)]
            host: HostOption,
        }
        let options = ["--host", "--token", "--ca"];
        let said = options.iter().filter_map(|name| Some(format!("{name}={}", self.option(name)?)));
        Told::try_parse_from(["tessera".to_owned()].into_iter().chain(said)).ok().map(|told| told.host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        Line(text.split(' ').map(str::to_owned).collect())
    }

    #[test]
    fn options_are_found_in_a_line_that_is_not_whole() {
        let line = line("tessera volume delete --pool fast --host=/run/x.sock ");
        assert_eq!(line.option("--pool").as_deref(), Some("fast"));
        assert_eq!(line.option("--host").as_deref(), Some("/run/x.sock"));
        assert_eq!(line.option("--ca"), None);
        assert!(line.host().unwrap().is_given());
    }

    #[test]
    fn an_argument_named_after_something_of_a_host_knows_its_names() {
        let path = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for (command, argument, expected) in [
            ("tessera vm start", "vms", Some(Named::Guest)),
            ("tessera vm create", "image", Some(Named::Image)),
            ("tessera vm create", "name", None),
            ("tessera vm passwd", "user", None),
            ("tessera user passwd", "name", Some(Named::User)),
            ("tessera user create", "name", None),
            ("tessera task ls", "token", None),
        ] {
            assert_eq!(named(&path(command), argument), expected, "{command} {argument}");
        }
    }
}
