//! What can go wrong.

use std::io;
use std::path::PathBuf;

use crate::definition::Fault;

/// The result of an operation on networks.
pub type Result<T> = std::result::Result<T, Error>;

/// Why networks are not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A definition is wrong.
    #[error("the definition is wrong: {}", join(.0))]
    Definition(Vec<Fault>),
    /// The kernel cannot be talked to.
    #[error("no connection to the kernel's networks: {source}")]
    Connect {
        /// Why.
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{doing}: {source}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// Why.
        source: rtnetlink::Error,
    },
    /// A file or program could not be used.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: String,
        /// Why.
        source: io::Error,
    },
    /// A program is not installed.
    #[error("the program {program} is not installed; it is in Debian's package {package}")]
    Missing {
        /// Its name.
        program: &'static str,
        /// What brings it.
        package: &'static str,
    },
    /// A program failed.
    #[error("{program}: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it said.
        said: String,
    },
    /// There is no such port, or it has no tap.
    #[error("port {port}: {why}")]
    Port {
        /// Its id.
        port: String,
        /// Why it has no tap.
        why: String,
    },
    /// Changes were made and the kernel is still not as wanted: another program changes the same.
    #[error("this does not stay as it is set; another program may be changing it: {0}")]
    Unstable(String),
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }

    pub(crate) fn file(doing: &str, path: &std::path::Path) -> impl FnOnce(io::Error) -> Self {
        let path: PathBuf = path.to_owned();
        let doing = format!("{doing} {}", path.display());
        move |source| Self::Io { doing, source }
    }
}

fn join(faults: &[Fault]) -> String {
    faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
