//! The verbs of the command line, one file each.

mod access;
mod alarm;
mod apply;
mod backup;
mod bandwidth;
mod boot;
pub mod complete;
mod guest_backup;
mod history;
mod host;
mod host_config;
mod host_install;
mod image;
mod inside;
pub mod limits;
mod listing;
mod log;
mod memory;
mod memory_plan;
mod network;
pub mod options;
mod output;
mod receipts;
mod records;
mod report;
mod run;
mod schedule;
mod share;
mod share_group;
mod shell;
mod stats;
mod storage;
mod targets;
mod template;
mod top;
mod vm;
mod vm_create;
mod vm_devices;
mod vm_snapshot;
mod vmm;
mod waiting;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::client::HostOption;
use crate::failure::{Failure, Result, Status};

/// Boots virtual machines on any x86-64 Linux machine, with KVM or without it.
#[derive(Debug, Parser)]
#[command(name = "tessera", version, propagate_version = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    host: HostOption,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Boot one machine in the foreground
    Run(Box<run::RunArgs>),
    /// Build, import, export, show and remove the images that machines boot from
    ///
    /// They are those of the host that --host names, or of this machine's host if one answers; or else, with --local, or if TESSERA_HOME
    /// names a folder, this user's own, which tessera run boots.
    Image(image::ImageArgs),
    /// Look after this machine's guests: the daemon, its REST API
    Host(host::HostArgs),
    /// Make, start, stop, change and watch the guests of a host
    #[command(subcommand)]
    Vm(vm::VmCommand),
    /// Watch a guest's serial console and type into it: tessera vm console
    Console {
        /// Its name or id
        vm: String,
    },
    /// What guests are promised of the host, and get
    #[command(subcommand)]
    Share(share::ShareCommand),
    /// What guests have of the host's pool of memory
    #[command(subcommand)]
    Memory(memory::MemoryCommand),
    /// Watch what guests use, live
    Top(top::TopArgs),
    /// Make, change and watch the networks of a host
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Show, take in and leave the storage pools of a host
    #[command(subcommand)]
    Pool(storage::PoolCommand),
    /// Make, change, upload, download and remove the volumes of a host
    #[command(subcommand)]
    Volume(storage::VolumeCommand),
    /// Back guests up, check backups, make guests of them
    #[command(subcommand)]
    Backup(guest_backup::BackupCommand),
    /// Have snapshots and backups of a guest made again and again, and go when they are old
    #[command(subcommand)]
    Schedule(schedule::ScheduleCommand),
    /// Make, show and remove templates, which guests are made from
    #[command(subcommand)]
    Template(template::TemplateCommand),
    /// Make a host what a file says: pools, networks, volumes, groups that share, templates, guests, users
    Apply(apply::ApplyArgs),
    /// Show what tessera apply would do; the exit status says whether that is anything
    Diff(apply::DiffArgs),
    /// Print what a host has as a file for tessera apply
    Export(apply::ExportArgs),
    /// Follow the changes that a host makes
    #[command(subcommand)]
    Task(records::TaskCommand),
    /// Show what happened on a host
    #[command(subcommand)]
    Event(records::EventCommand),
    /// Make, change, acknowledge and try the alarms of a host
    #[command(subcommand)]
    Alarm(alarm::AlarmCommand),
    /// Make the tokens that programs show a host
    #[command(subcommand)]
    Token(access::TokenCommand),
    /// Make and change the users of a host, who log in with passwords
    #[command(subcommand)]
    User(access::UserCommand),
    /// Show who did what from where on a host
    #[command(subcommand)]
    Audit(access::AuditCommand),
    /// Run one machine that another program drives over a socket: JSON-RPC 2.0, a message a line
    Vmm(vmm::VmmArgs),
    /// Print what has a shell complete commands, options and the names of what a host has
    #[command(visible_alias = "completions")]
    Completion(shell::CompletionArgs),
    /// Write the manual pages into a folder
    Man(shell::ManArgs),
}

impl Cli {
    /// Whether it is the daemon that the command line asks for.
    pub fn serves(&self) -> bool {
        matches!(&self.command, Command::Host(args) if args.serves())
    }

    /// Does what the command line asks, and says how the process is to end.
    pub fn execute(self) -> Result<ExitCode> {
        match self.command {
            Command::Run(args) => return run::run(*args),
            Command::Image(args) => wait_for(args.execute(&self.host))?,
            Command::Host(args) => wait_for(args.execute(&self.host))?,
            Command::Vm(command) => return wait_for(command.execute(&self.host)),
            Command::Console { vm } => return wait_for(vm::VmCommand::Console { vm }.execute(&self.host)),
            Command::Share(command) => wait_for(command.execute(&self.host))?,
            Command::Memory(command) => wait_for(command.execute(&self.host))?,
            Command::Top(args) => wait_for(args.execute(&self.host))?,
            Command::Network(command) => wait_for(command.execute(&self.host))?,
            Command::Pool(command) => wait_for(command.execute(&self.host))?,
            Command::Volume(command) => wait_for(command.execute(&self.host))?,
            Command::Backup(command) => wait_for(command.execute(&self.host))?,
            Command::Schedule(command) => wait_for(command.execute(&self.host))?,
            Command::Template(command) => wait_for(command.execute(&self.host))?,
            Command::Apply(args) => wait_for(args.execute(&self.host))?,
            Command::Diff(args) => return wait_for(args.execute(&self.host)),
            Command::Export(args) => wait_for(args.execute(&self.host))?,
            Command::Task(command) => wait_for(command.execute(&self.host))?,
            Command::Event(command) => wait_for(command.execute(&self.host))?,
            Command::Alarm(command) => wait_for(command.execute(&self.host))?,
            Command::Token(command) => wait_for(command.execute(&self.host))?,
            Command::User(command) => wait_for(command.execute(&self.host))?,
            Command::Audit(command) => wait_for(command.execute(&self.host))?,
            Command::Vmm(args) => args.execute()?,
            Command::Completion(args) => args.execute()?,
            Command::Man(args) => args.execute()?,
        }
        Ok(Status::Done.into())
    }
}

/// Does what waits for others: the daemon's own work, and what asks it. The guests' processes have nothing of this.
fn wait_for<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::internal(format!("threads: {error}")))?;
    let result = runtime.block_on(work);
    // A thread that waits for the terminal would hold us up.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }
}
