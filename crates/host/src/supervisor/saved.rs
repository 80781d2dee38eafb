//! Saved machines in folders: a guest's memory and everything else of it, to go on from.
//!
//! ```text
//! NAME.draft/   being written: of no use, whoever finds it removes it
//! NAME/         whole
//!   memory      as the guest's process writes it (vmm::memory)
//!   state.json  the rest: a line with the checksum of what follows, then what the process said
//! NAME.spent/   a machine has gone on from it: its disks are not what they were any more, and nobody may go on from it again
//! ```

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::paths;

const MEMORY: &str = "memory";
const STATE: &str = "state.json";
/// What the first line of the state begins with; the checksum follows.
const FORMAT: &str = "tessera-machine 1 sha256:";

/// A saved machine cannot be gone on from.
#[derive(Debug, thiserror::Error)]
pub enum SavedError {
    /// It cannot be read.
    #[error("the saved machine cannot be read: {0}")]
    Host(#[from] io::Error),
    /// It is of another version.
    #[error("the saved machine is not of a version that this program knows")]
    Version,
    /// Its state is none.
    #[error("the saved machine cannot be gone on from: {0}")]
    State(String),
    /// It is not what was written.
    #[error("the saved machine is damaged: its state is not what was written")]
    Damaged,
}

/// A saved machine that is being written. Dropped, it goes.
#[derive(Debug)]
pub struct Draft {
    place: PathBuf,
    folder: PathBuf,
    kept: bool,
}

/// A saved machine to go on from.
#[derive(Debug)]
pub struct Saved {
    /// What the process said.
    pub state: Value,
    /// Its memory, open for reading.
    pub memory: File,
}

fn beside(place: &Path, ending: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes the entries of a folder durable.
fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl Draft {
    fn empty(place: &Path) -> io::Result<Draft> {
        let folder = beside(place, ".draft");
        remove(&folder)?;
        paths::make(&folder)?;
        Ok(Draft { place: place.to_owned(), folder, kept: false })
    }

    /// Has a file of the saved machine at `from` be in this one, too.
    fn link(&self, from: &Path, file: &str) -> io::Result<()> {
        fs::hard_link(from.join(file), self.folder.join(file))
    }

    /// One that will be at `place`. Gives it and the file for the memory.
    ///
    /// # Errors
    /// If the host cannot write there.
    pub fn new(place: &Path) -> io::Result<(Draft, File)> {
        let draft = Draft::empty(place)?;
        let file = File::options().read(true).write(true).create_new(true).open(draft.folder.join(MEMORY))?;
        Ok((draft, file))
    }

    /// Writes what the process said.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn write_state(&self, state: &Value) -> io::Result<()> {
        let text = serde_json::to_vec(state)?;
        let mut file = File::create_new(self.folder.join(STATE))?;
        writeln!(file, "{FORMAT}{}", sum(&text))?;
        file.write_all(&text)?;
        file.sync_all()
    }

    /// It is whole, and in its place from now on, durably; one that was there goes.
    ///
    /// # Errors
    /// If the host cannot.
    pub fn keep(mut self) -> io::Result<()> {
        sync(&self.folder)?;
        remove(&self.place)?;
        fs::rename(&self.folder, &self.place)?;
        self.kept = true;
        self.place.parent().map_or(Ok(()), sync)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.kept
            && let Err(error) = remove(&self.folder)
        {
            tracing::warn!("{} stays behind: {error}", self.folder.display());
        }
    }
}

fn sum(text: &[u8]) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The saved machine at `place`.
///
/// # Errors
/// If there is none, it is of another version, or it is damaged. The memory itself is looked at by the process that goes on from it.
pub fn open(place: &Path) -> Result<Saved, SavedError> {
    let text = fs::read(place.join(STATE))?;
    let end = text.iter().position(|byte| *byte == b'\n').ok_or(SavedError::Version)?;
    let (first, rest) = (&text[..end], &text[end + 1..]);
    let wanted = std::str::from_utf8(first).ok().and_then(|line| line.strip_prefix(FORMAT));
    if wanted.ok_or(SavedError::Version)? != sum(rest) {
        return Err(SavedError::Damaged);
    }
    let state = serde_json::from_slice(rest).map_err(|_| SavedError::Damaged)?;
    Ok(Saved { state, memory: File::open(place.join(MEMORY))? })
}

/// Has the saved machine at `from` be at `to`, too, with another state: its memory is one file for both.
///
/// # Errors
/// If it cannot be gone on from, or the host cannot write there.
pub fn link_as(
    from: &Path,
    to: &Path,
    change: impl FnOnce(Value) -> Result<Value, String>,
) -> Result<(), SavedError> {
    let state = change(open(from)?.state).map_err(SavedError::State)?;
    let draft = Draft::empty(to)?;
    draft.link(from, MEMORY)?;
    draft.write_state(&state)?;
    Ok(draft.keep()?)
}

/// Has the saved machine at `from` be at `to`, too. Neither is ever written to.
///
/// # Errors
/// If the host cannot write there.
pub fn link(from: &Path, to: &Path) -> io::Result<()> {
    let draft = Draft::empty(to)?;
    for file in [MEMORY, STATE] {
        draft.link(from, file)?;
    }
    draft.keep()
}

/// A machine is about to go on from `place`, whose disks will not be what they were.
///
/// # Errors
/// If the host cannot write there: then nobody may go on.
pub fn spend(place: &Path) -> io::Result<()> {
    let spent = beside(place, ".spent");
    remove(&spent)?;
    fs::rename(place, spent)?;
    place.parent().map_or(Ok(()), sync)
}

/// Whether there is a whole one at `place`.
pub fn is_there(place: &Path) -> bool {
    place.join(STATE).exists()
}

/// Removes what was at `place`, whatever it was.
///
/// # Errors
/// If the host cannot.
pub fn clear(place: &Path) -> io::Result<()> {
    // What somebody could take for whole goes first.
    ["", ".draft", ".spent"].iter().try_for_each(|ending| remove(&beside(place, ending)))
}

/// The same where nobody would go on from what stays.
pub fn forget(place: &Path) {
    if let Err(error) = clear(place) {
        tracing::warn!("something of {} stays behind: {error}", place.display());
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kept(place: &Path) {
        let (draft, mut memory) = Draft::new(place).unwrap();
        memory.write_all(&[7; 8192]).unwrap();
        draft.write_state(&json!({ "a": 1 })).unwrap();
        draft.keep().unwrap();
    }

    #[test]
    fn what_is_kept_is_found_again_and_what_is_not_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s");
        let (draft, _memory) = Draft::new(&place).unwrap();
        draft.write_state(&json!({ "a": 1 })).unwrap();
        assert!(!is_there(&place), "it is no use before it is whole");
        drop(draft);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        kept(&place);
        kept(&place);
        let saved = open(&place).unwrap();
        assert_eq!((saved.state, saved.memory.metadata().unwrap().len()), (json!({ "a": 1 }), 8192));
        forget(&place);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn one_that_is_at_two_places_stays_at_one_when_it_is_spent_at_the_other() {
        let folder = tempfile::tempdir().unwrap();
        let (kept_there, place) = (folder.path().join("k"), folder.path().join("s"));
        kept(&kept_there);
        link(&kept_there, &place).unwrap();
        spend(&place).unwrap();
        forget(&place);
        link(&kept_there, &place).unwrap();
        assert_eq!(open(&place).unwrap().state, json!({ "a": 1 }));
    }

    #[test]
    fn nobody_goes_on_twice() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s");
        kept(&place);
        spend(&place).unwrap();
        assert!(!is_there(&place));
        assert!(spend(&place).is_err());
        forget(&place);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_changed_state_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("s");
        kept(&place);
        let path = place.join(STATE);
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("\"a\":1", "\"a\":2")).unwrap();
        assert!(matches!(open(&place), Err(SavedError::Damaged)));
        fs::write(&path, text.replace("machine 1", "machine 2")).unwrap();
        assert!(matches!(open(&place), Err(SavedError::Version)));
    }
}
