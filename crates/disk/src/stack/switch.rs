//! A new layer on top.

use std::fs::File;
use std::sync::{Arc, PoisonError};

use super::{Stack, Top};
use crate::below::Layer;
use crate::qcow2::{Chain, Header, Image, check_name};
use crate::{Format, OpenError, file};

impl Stack {
    /// Goes on with a new top, which is an empty qcow2 image that names the one so far as what it is based on. That one stays as it
    /// is from now on, and others may read it. It takes no longer where there is more on the disk or below it: nothing is opened
    /// again.
    ///
    /// A request that is under way is waited for; which side of the change it is on is for the caller to know. What was written
    /// before is in the old top's file then, and is durable after the next [`flush`](crate::Disk::flush), which makes both files so.
    /// Flush right before, too, for that one to be short.
    ///
    /// # Errors
    /// If the new image is another one than that, or the host refuses: then all goes on as before.
    pub fn switch(&self, new: File) -> Result<(), OpenError> {
        if self.read_only {
            return Err(OpenError::ReadOnly);
        }
        let mut top = self.alone();
        file::check_kind(&new)?;
        file::lock(&new, false)?;
        let header = Header::read(&new)?;
        top.check_new(&new, &header)?;
        top.write_back()?;
        let old = Arc::clone(top.file());
        let layer = Layer::open(Arc::clone(&old), top.format())?;
        let below = top.below().cloned().unwrap_or_default();
        let image = Image::open(Arc::new(new), &header, Some(Arc::clone(&below)), false)?;
        // The last thing that can fail: who has this lock on it may read it.
        file::lock(&old, true)?;
        self.unsynced.lock().unwrap_or_else(PoisonError::into_inner).push(old);
        below.push(Arc::new(layer));
        *top = Top::Qcow2(image);
        Ok(())
    }
}

impl Top {
    fn format(&self) -> Format {
        match self {
            Top::Raw(_) => Format::Raw,
            Top::Qcow2(_) => Format::Qcow2,
        }
    }

    /// Whether an image is one to go on with over this one.
    fn check_new(&self, new: &File, header: &Header) -> Result<(), OpenError> {
        let backing = header.backing.as_ref().ok_or(OpenError::Unbased)?;
        check_name(self.file(), backing)?;
        if backing.format != Some(self.format()) {
            return Err(OpenError::Unrecorded);
        }
        if header.size != self.len() {
            return Err(OpenError::Unequal { want: self.len(), got: header.size });
        }
        if !Layer::is_empty(new, header)? {
            return Err(OpenError::NotEmpty);
        }
        let mut chain = Chain::default();
        for layer in self.below().iter().flat_map(|below| below.layers()) {
            chain.enter(layer.file())?;
        }
        chain.enter(self.file())?;
        chain.enter(new)
    }
}
