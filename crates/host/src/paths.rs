//! Where the daemon keeps things.
//!
//! ```text
//! STATE/host.db               what should be, and what happened
//! STATE/images/               images, as `tessera image` keeps them
//! STATE/vms/ID/               a guest's console log, its process's log; where it is while it is suspended
//! STATE/run/ID/               sockets of a guest that runs
//! STATE/networks/             leases
//! STATE/audit/                who did what from where
//! STATE/log/                  what the daemon says of its work
//! STATE/series/               what was used over time
//! STATE/paging               what of guests' memory is paged out, if nothing else is said
//! STATE/tls/                 the host's own certificate authority
//! STATE/host.sock             the API for this machine
//! ```

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::Id;

/// sun_path has 108 bytes, and the longest name of ours in it is `/run/` + an id + `/console.sock` and a zero (unix(7)).
const LONGEST_STATE: usize = 108 - 5 - 36 - 14;

/// The daemon's folder.
#[derive(Debug, Clone)]
pub struct Paths {
    state: PathBuf,
}

/// The daemon's folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PathsError {
    /// Sockets in it could not be bound.
    #[error(
        "--state-dir {0}: the path has more than {LONGEST_STATE} bytes, so that sockets cannot be made there"
    )]
    TooLong(PathBuf),
    /// It cannot be made or found.
    #[error("--state-dir {path}: {error}")]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Paths {
    /// Takes a folder for the daemon's state, and makes it if it is not there. Only this user can look into it; others can pass through.
    ///
    /// # Errors
    /// If it cannot be made, or its path is too long for sockets.
    pub fn new(state: &Path) -> Result<Paths, PathsError> {
        let told = |error| PathsError::Folder { path: state.to_owned(), error };
        make(state).map_err(told)?;
        let state = state.canonicalize().map_err(told)?;
        if state.as_os_str().len() > LONGEST_STATE {
            return Err(PathsError::TooLong(state));
        }
        let paths = Paths { state };
        for folder in ["images", "vms", "run", "networks", "audit", "log", "series", "tls"] {
            make(&paths.state.join(folder)).map_err(told)?;
        }
        for folder in [paths.state.clone(), paths.networks()] {
            fs::set_permissions(&folder, Permissions::from_mode(0o711)).map_err(told)?;
        }
        Ok(paths)
    }

    /// The folder itself.
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The database.
    pub fn database(&self) -> PathBuf {
        self.state.join("host.db")
    }

    /// The record of who did what from where.
    pub fn audit(&self) -> PathBuf {
        self.state.join("audit")
    }

    /// The daemon's own log.
    pub fn log(&self) -> PathBuf {
        self.state.join("log")
    }

    /// What was used over time.
    pub fn series(&self) -> PathBuf {
        self.state.join("series")
    }

    /// The file that guests' memory is paged to.
    pub fn paging(&self) -> PathBuf {
        self.state.join("paging")
    }

    /// The certificate authority.
    pub fn tls(&self) -> PathBuf {
        self.state.join("tls")
    }

    /// What the networks keep. The DHCP server, which is no root, must be able to pass through to it.
    pub fn networks(&self) -> PathBuf {
        self.state.join("networks")
    }

    /// The socket of the API.
    pub fn socket(&self) -> PathBuf {
        self.state.join("host.sock")
    }

    /// The images.
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// What all guests have.
    pub fn vms(&self) -> PathBuf {
        self.state.join("vms")
    }

    /// What a guest has of its own.
    pub fn vm(&self, id: Id) -> PathBuf {
        self.vms().join(id.to_string())
    }

    /// What cloud-init in a guest is told.
    pub fn seed(&self, id: Id) -> PathBuf {
        self.vm(id).join("seed.img")
    }

    /// The latest of what a guest said on its console.
    pub fn console_log(&self, id: Id) -> PathBuf {
        self.vm(id).join("console.log")
    }

    /// Where a guest is that is suspended.
    pub fn suspended(&self, id: Id) -> PathBuf {
        self.vm(id).join("suspended")
    }

    /// The memory of a guest's snapshots.
    pub fn snapshots(&self, id: Id) -> PathBuf {
        self.vm(id).join("snapshots")
    }

    /// The memory of one of them.
    pub fn snapshot(&self, id: Id, snapshot: Id) -> PathBuf {
        self.snapshots(id).join(snapshot.to_string())
    }

    /// What a guest's process says.
    pub fn process_log(&self, id: Id) -> PathBuf {
        self.vm(id).join("vmm.log")
    }

    /// The sockets of a guest that runs.
    pub fn run(&self, id: Id) -> PathBuf {
        self.state.join("run").join(id.to_string())
    }

    /// Where a guest's process is driven.
    pub fn control_socket(&self, id: Id) -> PathBuf {
        self.run(id).join("control.sock")
    }

    /// Where a guest's agent is.
    pub fn agent_socket(&self, id: Id) -> PathBuf {
        self.run(id).join("agent.sock")
    }

    /// Where a guest's console is.
    pub fn console_socket(&self, id: Id) -> PathBuf {
        self.run(id).join("console.sock")
    }
}

/// Makes a folder that only this user can look into, if it is not there.
pub fn make(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}
