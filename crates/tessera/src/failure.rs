//! How a command ends: its exit status, and the one line that says what went wrong.

use std::fmt;
use std::process::ExitCode;

/// The exit statuses of `tessera`. They are part of the interface: scripts tell the ends of a guest apart by them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// The guest powered itself off, or the command did what it was asked.
    Done = 0,
    /// Tessera or the machine under it failed.
    Internal = 1,
    /// The command line, or a file or device that it names, is not usable.
    BadInput = 2,
    /// The engine asked for cannot run a guest here.
    NoEngine = 3,
    /// There is no such thing on the host.
    NotFound = 4,
    /// It cannot be done as things stand.
    NotNow = 5,
    /// The host does not let this user do it.
    NotAllowed = 6,
    /// No host answers.
    Unreachable = 7,
    /// It goes on for longer than somebody wanted to wait.
    TimedOut = 8,
    /// The guest said that it panicked.
    GuestPanic = 10,
    /// The guest reset itself, and `--no-reboot` was given.
    GuestReset = 11,
    /// A person ended the machine with the escape key.
    Stopped = 12,
}

/// What `tessera run --help` and the manual say about the exit status.
pub const EXIT_STATUS_HELP: &str = "\
Exit status:
   0  the guest powered itself off
   1  Tessera or the machine under it failed
   2  bad arguments, or a file or device that they name is not usable
   3  the engine cannot run a guest here
  10  the guest panicked
  11  the guest reset itself, and --no-reboot was given
  12  ended from the console with the escape key
 128+n  ended by signal n";

/// What the commands that ask a host say about the exit status.
pub const HOST_STATUS_HELP: &str = "\
Exit status:
   0  done
   1  the host or the command failed
   2  bad arguments, or the host says that they are not valid
   4  there is no such thing on the host
   5  it cannot be done as things stand
   6  the host does not let this user do it
   7  no host answers
   8  it goes on, for longer than --timeout";

impl From<Status> for ExitCode {
    fn from(status: Status) -> ExitCode {
        ExitCode::from(status as u8)
    }
}

/// Why a command did not do what it was asked, in one line for a person.
#[derive(Debug)]
pub struct Failure {
    /// The exit status that goes with it.
    pub status: Status,
    message: String,
}

impl Failure {
    /// It ends with this status.
    pub fn new(status: Status, message: impl fmt::Display) -> Failure {
        Failure { status, message: message.to_string() }
    }

    /// The same, with where it went wrong before it.
    pub fn within(self, place: impl fmt::Display) -> Failure {
        Failure { status: self.status, message: format!("{place}: {}", self.message) }
    }

    /// No host answers.
    pub fn unreachable(message: impl fmt::Display) -> Failure {
        Failure::new(Status::Unreachable, message)
    }

    /// Something that the person gave is not usable.
    pub fn input(message: impl fmt::Display) -> Failure {
        Failure { status: Status::BadInput, message: message.to_string() }
    }

    /// Whether the same may succeed a little later: the host was not reached, or was busy with it.
    pub fn may_pass(&self) -> bool {
        matches!(self.status, Status::Unreachable | Status::NotNow)
    }

    /// The engine cannot run a guest here.
    pub fn engine(message: impl fmt::Display) -> Failure {
        Failure { status: Status::NoEngine, message: message.to_string() }
    }

    /// Tessera itself, or the machine under it, failed.
    pub fn internal(message: impl fmt::Display) -> Failure {
        Failure { status: Status::Internal, message: message.to_string() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<storage::Error> for Failure {
    fn from(error: storage::Error) -> Failure {
        use storage::{Cause, Error};
        match &error {
            Error::ImageExists(name) => Failure::input(format!(
                "an image {name} exists already: remove it, use --force or give another name"
            )),
            Error::Invalid(wrong) => {
                let told: Vec<&str> = wrong.iter().map(|wrong| wrong.detail.as_str()).collect();
                Failure::input(told.join("; "))
            }
            Error::Tool { words, .. } => {
                for line in words {
                    eprintln!("  {line}");
                }
                Failure::internal(format!("{error}; its last words are above"))
            }
            _ if error.cause() == Cause::Host => Failure::internal(error),
            _ => Failure::input(error),
        }
    }
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Failure>;

/// An error and what caused it, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line += &format!(": {error}");
        cause = error.source();
    }
    line
}
