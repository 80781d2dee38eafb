//! The rules in the kernel, and what is known of them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::definition::Site;
use crate::error::{Error, Result};
use crate::kernel::nft::{self, Generation};
use crate::names::{Owner, hash};
use crate::rules::{self, Rules};

/// How long nothing must have changed before it is noted what was set: until then somebody may wait for the processor.
const QUIET: Duration = Duration::from_secs(1);

/// The rules of one host.
#[derive(Debug)]
pub(crate) struct Firewall {
    owner: Owner,
    /// Where it is for the next process which rules were set.
    file: PathBuf,
    known: Mutex<Option<Known>>,
    /// Elements were changed, and the file does not say so.
    changed: Notify,
}

/// The rules that are there, as long as the kernel's are of this generation.
#[derive(Debug)]
struct Known {
    rules: Rules,
    generation: Generation,
}

/// Which rules were set last, and how the kernel told them: if both are still so, nothing needs to be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RulesSet {
    script: u64,
    told: u64,
}

impl Firewall {
    pub(crate) fn new(owner: Owner, file: PathBuf) -> Self {
        Self { owner, file, known: Mutex::default(), changed: Notify::new() }
    }

    /// The rules of a site, if they have to be set.
    pub(crate) async fn lacks(&self, site: &Site) -> Result<Option<Rules>> {
        let rules = Rules::of(self.owner, site);
        if let Some(same) = self.if_known(|known| known.rules == rules) {
            return Ok((!same).then_some(rules));
        }
        let kept = std::fs::read(&self.file).ok();
        let kept: Option<RulesSet> = kept.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let Some(kept) = kept.filter(|kept| kept.script == digest(&rules)) else { return Ok(Some(rules)) };
        let before = nft::generation();
        if nft::digest(self.owner).await? != Some(kept.told) {
            return Ok(Some(rules));
        }
        if let Some(generation) = before.filter(|before| nft::generation() == Some(*before)) {
            *self.lock() = Some(Known { rules, generation });
        }
        Ok(None)
    }

    /// Whether there are rules of ours. Where nobody has changed any they are all as they were set.
    pub(crate) async fn is_there(&self) -> Result<bool> {
        Ok(self.if_known(|_| ()).is_some() || nft::are_there(self.owner).await?)
    }

    /// Sets rules: what differs from those that are there, if these are known, and else all.
    ///
    /// # Errors
    /// If nft is not there or refuses them; then those are there that were.
    pub(crate) async fn set(&self, rules: Rules) -> Result<()> {
        let differs = self.if_known(|known| Some((rules.script_after(&known.rules)?, known.generation)));
        if let Some((script, before)) = differs.flatten() {
            // Where that fails, or something else has been changed beside it, all is set.
            let done = nft::run(&script).await.is_ok();
            if done && nft::generation() == Some(before.next()) {
                *self.lock() = Some(Known { rules, generation: before.next() });
                self.changed.notify_one();
                return Ok(());
            }
        }
        *self.lock() = None;
        let before = nft::generation();
        nft::run(&rules.script()).await?;
        let told = nft::digest(self.owner).await?;
        let Some(generation) = before.map(Generation::next).filter(|after| nft::generation() == Some(*after))
        else {
            // What was told may be others' work: the next one to look sets all again.
            return Ok(());
        };
        if let Some(told) = told {
            self.write(RulesSet { script: digest(&rules), told })?;
        }
        *self.lock() = Some(Known { rules, generation });
        Ok(())
    }

    /// Removes them.
    pub(crate) async fn remove(&self) -> Result<()> {
        *self.lock() = None;
        nft::run(&rules::remove(self.owner)).await?;
        match std::fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::file("removing", &self.file)(error))
            }
            _ => Ok(()),
        }
    }

    /// Notes for the next process which elements were changed, whenever nobody has waited for such a change for a while: that takes as
    /// long as the change itself. Where it was not done the next process finds other rules than it knows of, and sets all. Never returns.
    pub(crate) async fn note(&self) -> ! {
        loop {
            self.changed.notified().await;
            while tokio::time::timeout(QUIET, self.changed.notified()).await.is_ok() {}
            if let Err(error) = self.note_once().await {
                tracing::warn!("which rules are set is not noted: {error}");
            }
        }
    }

    async fn note_once(&self) -> Result<()> {
        let Some(before) = self.if_known(|known| known.generation) else { return Ok(()) };
        let Some(told) = nft::digest(self.owner).await? else { return Ok(()) };
        let known = self.lock();
        match known.as_ref().filter(|known| known.generation == before && known.is_there()) {
            Some(known) => self.write(RulesSet { script: digest(&known.rules), told }),
            None => Ok(()),
        }
    }

    /// Something of the rules that are there, if they are known.
    fn if_known<T>(&self, ask: impl FnOnce(&Known) -> T) -> Option<T> {
        self.lock().as_ref().filter(|known| known.is_there()).map(ask)
    }

    fn lock(&self) -> MutexGuard<'_, Option<Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, set: RulesSet) -> Result<()> {
        let path: &Path = &self.file;
        let bytes = serde_json::to_vec(&set).unwrap_or_default();
        std::fs::write(path, bytes).map_err(Error::file("writing", path))
    }
}

impl Known {
    fn is_there(&self) -> bool {
        nft::generation() == Some(self.generation)
    }
}

fn digest(rules: &Rules) -> u64 {
    hash(&[rules.script().as_bytes()])
}
