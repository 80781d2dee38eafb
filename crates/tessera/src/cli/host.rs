//! `tessera host`: the daemon of one machine, and what it says of itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use api::{HostDisk, HostInfo, HostNic, LoginLink, Size};
use clap::{Args, Subcommand};
use host::daemon::{self, Config, DaemonError};
use host::tls::Given;
use reqwest::Method;
use sd_notify::NotifyState;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::backup::{BackupArgs, RestoreArgs};
use crate::cli::history::HistoryArgs;
use crate::cli::host_config::{self, HostConfig};
use crate::cli::host_install::{InstallArgs, UninstallArgs};
use crate::cli::log::LogArgs;
use crate::cli::memory::{PagingOption, PoolOption};
use crate::cli::options::OrNone;
use crate::cli::output::{Column, OutputOption, print, size};
use crate::cli::report::ReportArgs;
use crate::client::{HostOption, default_state};
use crate::failure::{self, Failure, Result, Status};

/// Where the daemon listens for TCP if nothing is said.
const LISTEN: &str = "127.0.0.1:7117";

/// Arguments of `tessera host`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HostArgs {
    #[command(subcommand)]
    command: Option<HostCommand>,
    /// Take from this file (TOML: keys are the names of these options) what they do not say [default: /etc/tessera/host.toml for root, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Keep the host's state in this folder [default: /var/lib/tessera, or ~/.local/state/tessera]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Listen at this address, with TLS if it is no loopback one (may be repeated; `none` for the socket only) [default: 127.0.0.1:7117]
    #[arg(long, value_name = "ADDRESS:PORT|none")]
    listen: Vec<String>,
    /// Listen on this Unix socket, in place of host.sock in the state's folder
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Give all guests together only so much memory, however much each believes to have: a size, a part of the machine's such as 80%, or
    /// none [default: none]
    #[arg(long, value_name = "SIZE|PERCENT|none")]
    memory_pool: Option<PoolOption>,
    /// Page what guests use beyond that to a file of this size in the state's folder, to another file, to a block device on which there is nothing,
    /// or not at all [default: none]
    #[arg(long, value_name = "SIZE|FILE:SIZE|DEVICE|none")]
    memory_paging: Option<PagingOption>,
    /// Keep so much of what guests use beyond that compressed in memory (zram), before it is paged; what that takes is the pool's [default: none]
    #[arg(long, value_name = "SIZE|none")]
    memory_compression: Option<OrNone<Size>>,
    /// Keep equal pages once of guests that trust one another (vm create --merge-memory)
    #[arg(long)]
    memory_merge: bool,
    /// Leave guests the memory that their systems report as free (free-page reporting), as long as nobody needs it
    #[arg(long)]
    no_memory_reporting: bool,
    /// Start guests whose engine is kvm even where KVM cannot run stock guests: for those that need less
    #[arg(long)]
    kvm_as_it_is: bool,
    /// Show this certificate (PEM) to those who connect from elsewhere, in place of one of the host's own authority
    #[arg(long, value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// The private key of that certificate (PEM)
    #[arg(long, value_name = "FILE")]
    tls_key: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum HostCommand {
    /// Show what the machine has, and what of it is in use
    Info {
        #[command(flatten)]
        output: OutputOption,
    },
    /// Show the machine's disks, and what of them is in use
    Disks {
        #[command(flatten)]
        output: OutputOption,
    },
    /// Show the machine's network cards, and the bridges and bonds that they are in
    Nics {
        #[command(flatten)]
        output: OutputOption,
    },
    /// Show what the machine has used over time
    History(HistoryArgs),
    /// Write what a host knows into one file: guests' definitions, networks, pools, templates, users, tokens, its
    /// certificate authority; not disks, images and the audit log. Whoever has the file can be this host
    Backup(BackupArgs),
    /// Make a host what it was when a backup was made
    Restore(RestoreArgs),
    /// Write what is needed to find out what is wrong into one file that can be handed to others: the machine, the kernel, what the
    /// host knows, its latest tasks, events and log; what is secret or looks like it is left out
    Report(ReportArgs),
    /// Print what the daemon says of its work
    Log(LogArgs),
    /// Print the description of the API: OpenAPI 3.1
    Openapi,
    /// Have systemd start this machine's host: puts the program, its unit, a configuration that says nothing yet, manual pages and
    /// completions in their places
    Install(InstallArgs),
    /// Take away what install has put there; the configuration, what the host keeps, and guests that run stay
    Uninstall(UninstallArgs),
    /// Print an address that logs in whoever opens it first, within ten minutes: for a browser
    Link,
    /// Have systemd be able to start the daemon beside guests that run
    #[command(hide = true)]
    MakeWay,
}

impl HostArgs {
    /// Whether it is to serve.
    pub fn serves(&self) -> bool {
        self.command.is_none()
    }

    /// Serves until a signal ends it, or asks another one.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        match self.command {
            Some(HostCommand::Info { ref output }) => output.one(&host.client()?.get("/host", &[]).await?),
            Some(HostCommand::Disks { output }) => output.list(&part_of_host(host, "disks").await?, &DISKS),
            Some(HostCommand::Nics { output }) => output.list(&part_of_host(host, "nics").await?, &NICS),
            Some(HostCommand::History(args)) => args.execute(&host.client()?, "/host/history").await,
            Some(HostCommand::Openapi) => {
                let text = host::http::openapi().to_pretty_json();
                print(&(text.map_err(|error| Failure::internal(error.to_string()))? + "\n"));
                Ok(())
            }
            Some(HostCommand::Log(args)) => args.execute(host).await,
            Some(HostCommand::Backup(args)) => args.execute(host).await,
            Some(HostCommand::Report(args)) => args.execute(host).await,
            Some(HostCommand::Restore(args)) => args.execute().await,
            Some(HostCommand::Install(args)) => args.execute(),
            Some(HostCommand::Uninstall(args)) => args.execute(),
            Some(HostCommand::Link) => link(host).await,
            Some(HostCommand::MakeWay) => {
                host::make_way().map_err(|error| Failure::internal(format!("control groups: {error}")))
            }
            None => self.serve().await,
        }
    }

    async fn serve(self) -> Result<()> {
        let program =
            std::env::current_exe().map_err(|error| Failure::internal(format!("this program: {error}")))?;
        let usual = rustix::process::geteuid().is_root().then_some(Path::new(host_config::USUAL));
        let file = HostConfig::find(self.config.as_deref(), usual)?;
        // A certificate without its own key is of no use.
        let pair = match (self.tls_cert, self.tls_key) {
            (None, None) => (file.tls_cert, file.tls_key),
            said => said,
        };
        let listen = if self.listen.is_empty() { file.listen } else { self.listen };
        let config = Config {
            state: self.state_dir.or(file.state_dir).map_or_else(default_state, Ok)?,
            listen: addresses(&listen)?,
            socket: self.socket.or(file.socket),
            program,
            memory_pool: self.memory_pool.or(file.memory_pool).and_then(|pool| pool.0),
            memory_paging: self.memory_paging.or(file.memory_paging).and_then(|paging| paging.0),
            memory_compression: self.memory_compression.or(file.memory_compression).and_then(|of| of.0),
            memory_merge: self.memory_merge || file.memory_merge,
            memory_reporting: !(self.no_memory_reporting || file.no_memory_reporting),
            kvm_as_it_is: self.kvm_as_it_is || file.kvm_as_it_is,
            certificate: certificate(pair)?,
            announce,
        };
        let failed = |error: std::io::Error| Failure::internal(format!("signals: {error}"));
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!("the daemon ends; guests go on");
            // The daemon may have ended by itself.
            let _ = stop.send(true);
        });
        daemon::run(config, stopped).await.map_err(failure_of)
    }
}

const DISKS: [Column<HostDisk>; 4] = [
    Column::text("NAME", |disk: &HostDisk| disk.name.clone()),
    Column::number("SIZE", |disk: &HostDisk| size(disk.size)),
    Column::text("MODEL", |disk: &HostDisk| match (disk.model.as_str(), disk.rotational) {
        ("", true) => "turns".into(),
        ("", false) => "-".into(),
        (model, true) => format!("{model} (turns)"),
        (model, false) => model.into(),
    }),
    Column::text("IN USE FOR", |disk: &HostDisk| match disk.mounts.as_slice() {
        [] => "-".into(),
        mounts => mounts.iter().map(|mount| mount.path.as_str()).collect::<Vec<_>>().join(" "),
    }),
];

const NICS: [Column<HostNic>; 7] = [
    Column::text("NAME", |nic: &HostNic| nic.name.clone()),
    Column::text("KIND", |nic: &HostNic| if nic.kind.is_empty() { "card".into() } else { nic.kind.clone() }),
    Column::text("STATE", |nic: &HostNic| nic.state.clone()),
    Column::number("MBIT/S", |nic: &HostNic| nic.speed.map_or_else(|| "-".into(), |speed| speed.to_string())),
    Column::text("IN", |nic: &HostNic| nic.bridge.clone().unwrap_or_else(|| "-".into())),
    Column::text("MAC", |nic: &HostNic| nic.mac.clone()),
    Column::text("ADDRESSES", |nic: &HostNic| nic.addresses.join(" ")),
];

/// A list in what a host says of itself.
async fn part_of_host(host: &HostOption, part: &str) -> Result<Vec<Value>> {
    let info: Value = host.client()?.get("/host", &[]).await?;
    Ok(info[part].as_array().cloned().unwrap_or_default())
}

/// Says where the page is, and tells systemd, if that has started the daemon, that it is there (sd_notify(3)).
fn announce(pages: &[String]) {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        tracing::warn!("systemd does not hear that the daemon is there: {error}");
    }
    for page in pages {
        eprintln!("tessera: the page is at {page}");
    }
    if !pages.is_empty() {
        eprintln!("tessera: root's browser needs no login there; for another one: tessera host link");
    }
}

async fn link(host: &HostOption) -> Result<()> {
    let client = host.client()?;
    let link: LoginLink = client.change(Method::POST, "/session/links", &[], None).await?;
    let page: HostInfo = client.get("/host", &[]).await?;
    let Some(page) = page.pages.first() else {
        return Err(Failure::new(Status::NotNow, "the host serves no page: it listens on its socket only"));
    };
    print(&format!("{}{}\n", page.trim_end_matches('/'), link.path));
    Ok(())
}

fn addresses(list: &[String]) -> Result<Vec<SocketAddr>> {
    let list: Vec<&str> =
        if list.is_empty() { vec![LISTEN] } else { list.iter().map(String::as_str).collect() };
    let parse = |text: &str| {
        let wrong = |_| Failure::input(format!("--listen {text}: write it as 127.0.0.1:7117 or [::1]:7117"));
        text.parse().map_err(wrong)
    };
    list.into_iter().filter(|text| *text != "none").map(parse).collect()
}

fn certificate(pair: (Option<PathBuf>, Option<PathBuf>)) -> Result<Option<Given>> {
    match pair {
        (Some(certificate), Some(key)) => Ok(Some(Given { certificate, key })),
        (None, None) => Ok(None),
        (Some(_), None) => Err(Failure::input("--tls-cert: it needs --tls-key, too")),
        (None, Some(_)) => Err(Failure::input("--tls-key: it needs --tls-cert, too")),
    }
}

fn failure_of(error: DaemonError) -> Failure {
    let line = failure::chain(&error);
    match error {
        DaemonError::Store(..) => Failure::internal(line),
        DaemonError::Engine(_) => Failure::engine(line),
        _ => Failure::input(line),
    }
}
