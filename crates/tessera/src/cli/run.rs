//! `tessera run`: one machine in the foreground.

use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Size;
use clap::Args;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use vmm::engine::{self, EngineError};
use vmm::machine::{Event, Machine, MachineConfig, MachineError};

use crate::cli::boot::BootOptions;
use crate::cli::options::{DiskOption, NetOption};
use crate::cli::stats;
use crate::console::escape::{self, Command};
use crate::console::input::{self, Listener};
use crate::console::output::{ConsoleOutput, ConsoleWriter};
use crate::console::terminal::RawTerminal;
use crate::devices::Devices;
use crate::failure::{self, Failure, Result, Status};
use crate::{network, socket};

/// A guest's kernel has no room to start in less.
const LEAST_MEMORY: u64 = 32 << 20;

/// Arguments of `tessera run`.
#[derive(Debug, Args)]
#[command(after_help = failure::EXIT_STATUS_HELP)]
pub struct RunArgs {
    #[command(flatten)]
    boot: BootOptions,
    /// The number of processors
    #[arg(long, value_name = "N", default_value = "1")]
    cpus: u32,
    /// The amount of memory
    #[arg(long, value_name = "SIZE", default_value = "1G", value_parser = memory)]
    memory: Size,
    /// Attach a disk: FILE[,ro][,format=raw|qcow2][,serial=TEXT] (may be repeated)
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<DiskOption>,
    /// Attach a network: user[,forward=[ADDRESS:]HOST:GUEST]…, tap=NAME or none (may be repeated) [default: user]
    #[arg(long = "net", value_name = "NET")]
    nets: Vec<NetOption>,
    /// Listen on this Unix socket for programs that talk to the guest's agent (qemu-guest-agent)
    #[arg(long, value_name = "SOCKET")]
    agent: Option<PathBuf>,
    /// What executes the guest
    #[arg(long, value_enum, default_value = "auto")]
    engine: EngineOption,
    /// Where the guest's serial line goes: tty, or a file
    #[arg(long, value_name = "tty|FILE", default_value = "tty")]
    console: ConsoleOption,
    /// End when the guest resets, with status 11
    #[arg(long)]
    no_reboot: bool,
    /// Tell at the end what the machine did
    #[arg(long)]
    stats: bool,
}

/// `--engine`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineOption {
    /// KVM if it can run a stock guest here, else the software processor
    Auto,
    /// The processor's own virtualization
    Kvm,
    /// The software processor
    Soft,
}

/// `--console`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum ConsoleOption {
    Tty,
    File(PathBuf),
}

impl From<&str> for ConsoleOption {
    fn from(text: &str) -> ConsoleOption {
        match text {
            "tty" => ConsoleOption::Tty,
            file => ConsoleOption::File(file.into()),
        }
    }
}

fn memory(text: &str) -> std::result::Result<Size, String> {
    let size: Size = text.parse().map_err(|e: api::SizeError| e.to_string())?;
    if size.0 < LEAST_MEMORY {
        return Err(format!("{size} is too little: a guest needs {} or more", Size(LEAST_MEMORY)));
    }
    Ok(size)
}

/// Boots the machine and stays until it ends.
pub fn run(args: RunArgs) -> Result<ExitCode> {
    let guest = args.boot.find()?;
    let engine = engine::choose(args.engine.into()).map_err(engine_failure)?;
    if let Some(why) = &engine.why {
        eprintln!("tessera: the guest runs on the software processor. {why}");
    }
    let (output, writer) = console_output(&args.console)?;
    let started = Instant::now();
    let mut devices = Devices::new(args.cpus);
    if let Some(disk) = &guest.disk {
        devices.add_image(disk, args.boot.persist)?;
    }
    for option in &args.disks {
        devices.add_option(option)?;
    }
    // Dropped last: the socket's file goes with the machine.
    let mut _agent = None;
    if let Some(path) = &args.agent {
        let (listener, file) = socket::listen("--agent", path)?;
        devices.add_agent(listener)?;
        _agent = Some(file);
    }
    let network = network::connect(&args.nets)?;
    // Dropped last.
    let _programs = network.programs;
    for card in network.cards {
        devices.add_card(card);
    }
    let config = MachineConfig {
        figures: None,
        processors: args.cpus,
        most_processors: None,
        memory: args.memory.0,
        most_memory: None,
        tsc_khz: None,
        kernel: guest.kernel,
        console: Box::new(writer),
        devices: devices.finish(),
    };
    let machine = Arc::new(Machine::new(&*engine.engine, config).map_err(machine_failure)?);
    let person = Arc::new(Person { machine: Arc::clone(&machine), quit: quit_event()? });
    let terminal = match args.console {
        ConsoleOption::Tty => attach(&person)?,
        ConsoleOption::File(_) => None,
    };
    machine.resume();
    let end = watch(&machine, &person, args.no_reboot);
    machine.pause();
    drop(output);
    drop(terminal);
    if args.stats {
        stats::print(started.elapsed(), machine.instructions());
    }
    end.map(ExitCode::from)
}

/// Waits for the end of the machine, and starts the guest anew when it resets.
fn watch(machine: &Machine, person: &Person, no_reboot: bool) -> Result<Status> {
    loop {
        let mut ready = [
            PollFd::from_borrowed_fd(person.quit.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(machine.events(), PollFlags::IN),
        ];
        match poll(&mut ready, None) {
            Err(rustix::io::Errno::INTR) => continue,
            result => result.map_err(|error| Failure::internal(format!("waiting for the guest: {error}")))?,
        };
        if !ready[0].revents().is_empty() {
            return Ok(Status::Stopped);
        }
        match machine.wait(Duration::ZERO) {
            None => {}
            Some(Event::PowerOff) => return Ok(Status::Done),
            Some(Event::GuestPanic) => return Ok(Status::GuestPanic),
            Some(Event::Reset | Event::TripleFault) if no_reboot => return Ok(Status::GuestReset),
            Some(Event::Reset | Event::TripleFault) => machine.reset().map_err(machine_failure)?,
            Some(Event::EngineFailure(why)) => return Err(Failure::internal(why)),
            // A guest that lets go of its hardware has less of it.
            Some(Event::Hardware(_)) => {}
        }
    }
}

impl From<EngineOption> for engine::Kind {
    fn from(option: EngineOption) -> engine::Kind {
        match option {
            EngineOption::Auto => engine::Kind::Auto,
            EngineOption::Kvm => engine::Kind::Kvm,
            EngineOption::Soft => engine::Kind::Soft,
        }
    }
}

fn engine_failure(error: EngineError) -> Failure {
    machine_failure(MachineError::Engine(error))
}

/// Opens where the guest's serial line goes.
fn console_output(console: &ConsoleOption) -> Result<(ConsoleOutput, ConsoleWriter)> {
    let file = match console {
        ConsoleOption::Tty => std::io::stdout().as_fd().try_clone_to_owned().map(File::from),
        ConsoleOption::File(path) => File::create(path),
    };
    let started = file.and_then(ConsoleOutput::start);
    started.map_err(|error| match console {
        ConsoleOption::Tty => Failure::internal(format!("stdout: {error}")),
        ConsoleOption::File(path) => Failure::input(format!("{}: {error}", path.display())),
    })
}

/// Puts the terminal into raw mode, if there is one, and lets what is typed through to the guest.
fn attach(person: &Arc<Person>) -> Result<Option<RawTerminal>> {
    let failure = |error: std::io::Error| Failure::internal(format!("the terminal: {error}"));
    let is_terminal = std::io::stdin().is_terminal();
    if is_terminal {
        eprintln!("tessera: {}", escape::HELP);
    }
    let terminal = RawTerminal::enter().map_err(failure)?;
    input::start(is_terminal, Arc::clone(person) as Arc<dyn Listener>).map_err(failure)?;
    Ok(terminal)
}

/// The person at the terminal, as the machine sees them.
struct Person {
    machine: Arc<Machine>,
    /// Readable when the person has ended the machine.
    quit: OwnedFd,
}

fn quit_event() -> Result<OwnedFd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
        .map_err(|error| Failure::internal(format!("eventfd: {error}")))
}

impl Listener for Person {
    fn typed(&self, bytes: &[u8]) -> usize {
        self.machine.input(bytes)
    }

    fn command(&self, command: Command) {
        match command {
            Command::Quit => {
                // An event that has been counted already is as good as two.
                let _ = rustix::io::write(&self.quit, &1u64.to_ne_bytes());
            }
            Command::PowerButton => self.machine.press_power_button(),
            // The terminal is raw: lines need their carriage returns.
            Command::Help => eprint!("\r\ntessera: {}\r\n", escape::HELP),
        }
    }
}

/// What went wrong with a machine, and whose doing it is.
fn machine_failure(error: MachineError) -> Failure {
    let line = failure::chain(&error);
    match error {
        MachineError::Engine(EngineError::Unusable { .. }) => Failure::engine(line),
        MachineError::Processors { .. } | MachineError::Memory(_) | MachineError::Boot(_) => {
            Failure::input(line)
        }
        _ => Failure::internal(line),
    }
}
