//! A new layer on top: of one disk, or of several at the same time.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, PoisonError, RwLockWriteGuard};

use super::{Stack, Top};
use crate::below::{Below, Layer};
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
        Switch::prepare(vec![(self, new)]).map_err(|(_, error)| error)?.take();
        Ok(())
    }
}

/// New tops of disks that all are ready to go on with them. All requests wait as long as this is there; dropped, it changes nothing.
pub struct Switch<'a> {
    disks: Vec<Ready<'a>>,
    durable: bool,
}

impl fmt::Debug for Switch<'_> {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Switch").field("disks", &self.disks.len()).finish()
    }
}

struct Ready<'a> {
    stack: &'a Stack,
    top: RwLockWriteGuard<'a, Top>,
    /// What the top so far is from now on, and where it lies.
    layer: Layer,
    below: Arc<Below>,
    image: Image,
}

impl<'a> Switch<'a> {
    /// Has all requests of these disks wait, and makes everything ready for them to go on with these files, as [`Stack::switch`] has
    /// it. It is one point in time for all the disks: no request that came to its end before has waited for one that comes after.
    ///
    /// # Errors
    /// If one of the files is not what it is to be, or the host refuses: which one of them, and why. All goes on as before then.
    pub fn prepare(disks: Vec<(&'a Stack, File)>) -> Result<Self, (usize, OpenError)> {
        let mut tops = Vec::new();
        for (number, (stack, _)) in disks.iter().enumerate() {
            if disks[..number].iter().any(|(other, _)| std::ptr::eq(*other, *stack)) {
                return Err((number, OpenError::InUse));
            }
            tops.push((number, *stack));
        }
        // In the same order whoever does this, so that no two wait for each other.
        tops.sort_by_key(|(_, stack)| std::ptr::from_ref(*stack));
        let mut tops: Vec<_> = tops.into_iter().map(|(number, stack)| (number, stack.alone())).collect();
        tops.sort_by_key(|(number, _)| *number);
        let (mut ready, mut seen) = (Vec::new(), Vec::new());
        for ((number, top), (stack, new)) in tops.into_iter().zip(disks) {
            let who = new.metadata().map(|meta| (meta.dev(), meta.ino())).map_err(|e| (number, e.into()))?;
            if seen.contains(&who) {
                return Err((number, OpenError::InUse));
            }
            seen.push(who);
            ready.push(Ready::new(stack, top, new).map_err(|error| (number, error))?);
        }
        Ok(Self { disks: ready, durable: false })
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// If the host cannot, and for which of the disks.
    pub fn flush(&mut self) -> Result<(), (usize, io::Error)> {
        for (number, disk) in self.disks.iter().enumerate() {
            disk.stack.flush_top(&disk.top).map_err(|error| (number, error))?;
        }
        self.durable = true;
        Ok(())
    }

    /// Has all the disks go on with their new tops.
    pub fn take(self) {
        for Ready { stack, mut top, layer, below, image } in self.disks {
            let old = Arc::clone(top.file());
            // Others may read it from now on. Should the host refuse that, they cannot, and nothing else is lost.
            let _ = file::lock(&old, true);
            if !self.durable {
                stack.unsynced.lock().unwrap_or_else(PoisonError::into_inner).push(old);
            }
            below.push(Arc::new(layer));
            *top = Top::Qcow2(image);
        }
    }
}

impl<'a> Ready<'a> {
    fn new(stack: &'a Stack, top: RwLockWriteGuard<'a, Top>, new: File) -> Result<Self, OpenError> {
        if stack.read_only {
            return Err(OpenError::ReadOnly);
        }
        file::check_kind(&new)?;
        file::lock(&new, false)?;
        let header = Header::read(&new)?;
        top.check_new(&new, &header)?;
        top.write_back()?;
        let layer = Layer::open(Arc::clone(top.file()), top.format())?;
        let below = top.below().cloned().unwrap_or_default();
        let image = Image::open(Arc::new(new), &header, Some(Arc::clone(&below)), false)?;
        Ok(Self { stack, top, layer, below, image })
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
