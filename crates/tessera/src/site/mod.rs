//! A host as text: what a file says should be there, what is there, what has to be done to make it so, and doing it.
//!
//! A file is read ([`file`]), compared ([`plan`]) with what the host has ([`found`]), shown ([`show`]) and applied ([`apply`]). What an apply
//! has made and what was there before is remembered by the host, under the site's name: what the file says no more can go, and the
//! last apply can be undone. [`export`] writes a host as such a file, [`schema`] says how one looks.

pub mod apply;
pub mod difference;
pub mod export;
pub mod file;
pub mod found;
pub mod plan;
mod schedules;
pub mod schema;
pub mod show;
mod wanted;

use api::SiteKind;
use serde::Serialize;
use serde_json::Value;

/// What names a thing on a host: its kind and its name; a volume's is `POOL/NAME`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Key {
    /// What it is.
    pub kind: SiteKind,
    /// Its name.
    pub name: String,
}

impl Key {
    /// The key of a thing.
    pub fn new(kind: SiteKind, name: impl Into<String>) -> Key {
        Key { kind, name: name.into() }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind.word(), self.name)
    }
}

/// Something that should be there.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    /// What names it.
    pub key: Key,
    /// Where in the file it is: `vms[0]`. Empty if it is from no file.
    pub place: String,
    /// What it should be: all of it, what is not said as it usually is. A guest has the fields `state` and
    /// `schedules` more, if these are said; schedules are by their names.
    pub definition: Value,
}

/// Where a JSON pointer (RFC 6901) leads, as people write it: `.nics[0].vlan`.
pub fn field(pointer: &str) -> String {
    let parts = pointer.split('/').skip(1).map(|part| match part.parse::<usize>() {
        Ok(number) => format!("[{number}]"),
        Err(_) => format!(".{}", part.replace("~1", "/").replace("~0", "~")),
    });
    parts.collect()
}
