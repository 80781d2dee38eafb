//! Layers below that are taken up into the top, or have been merged by somebody else.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::{Arc, MutexGuard, TryLockError};

use super::{Stack, Top, busy};
use crate::below::{Below, Extent};
use crate::qcow2::{Backing, Chain, Header, Image, Name, beside};
use crate::{Disk, OpenError, file};

/// How much is taken up at once: others wait for so long.
const STEP: u64 = 1 << 20;

/// The layers that are being taken up.
struct Pull<'a> {
    stack: &'a Stack,
    _alone: MutexGuard<'a, ()>,
    /// The top's file.
    file: Arc<File>,
    /// Bytes of its clusters.
    cluster: u64,
    below: Arc<Below>,
    /// The layers, from the bottom.
    run: Range<usize>,
    /// What they are based on, as seen from the top.
    base: Option<Backing>,
}

impl Stack {
    /// Takes what is in the `layers` right below the top into the top, which is based on what is below them then: nobody needs their
    /// files any more for this disk. Reads and writes go on meanwhile. `told` hears how many bytes of how many are done, and says
    /// whether to go on.
    ///
    /// Whatever happens, the disk reads the same: what was taken up by the time it ends too soon need not be taken up again. The
    /// new base is in the top's header only when all that was taken up is durable.
    ///
    /// # Errors
    /// [`io::ErrorKind::Interrupted`] if it is not to go on; [`io::ErrorKind::ResourceBusy`] if a new top came on this one
    /// meanwhile, or layers are being taken up or replaced already; [`io::ErrorKind::InvalidInput`] if there are not so many layers;
    /// or if the host cannot read or write.
    pub fn pull(&self, layers: usize, mut told: impl FnMut(u64, u64) -> bool) -> io::Result<()> {
        let pull = Pull::begin(self, layers)?;
        let mut at = 0;
        while at < self.len() {
            let (held, next) = pull.below.held(at, pull.run.clone())?;
            // Zeroes matter only where they hide something.
            let hides = held.iter().any(|extent| extent.zeroes) && pull.run.start > 0;
            let hidden = if hides { pull.below.held(at, 0..pull.run.start)?.0 } else { Vec::new() };
            for extent in held {
                pull.take_up(&extent, &hidden, &mut told)?;
            }
            at = next;
            pull.ask(at, &mut told)?;
        }
        pull.finish()
    }

    /// Takes other files for what is below the top: somebody else has merged layers, and the disk reads the same. The first one is
    /// what the top's header names. Reads and writes go on meanwhile.
    ///
    /// # Errors
    /// If they are not what the headers name, or cannot be used, or layers are being taken up: then all goes on as before.
    pub fn replace_below(&self, files: Vec<File>) -> Result<(), OpenError> {
        let _alone = self.change_below().map_err(OpenError::Host)?;
        let top = match &*self.shared() {
            Top::Qcow2(image) => Arc::clone(image.file()),
            Top::Raw(_) => return Err(OpenError::Unbased),
        };
        let mut chain = Chain::handed(files);
        chain.enter(&top)?;
        let layers = chain.layers(Header::read(&top)?.backing, None)?;
        let now = self.alone();
        match now.below() {
            Some(below) if Arc::ptr_eq(now.file(), &top) => below.replace(layers),
            Some(_) => return Err(OpenError::Host(busy("a new layer came on top meanwhile"))),
            None => return Err(OpenError::Unbased),
        }
        Ok(())
    }

    fn change_below(&self) -> io::Result<MutexGuard<'_, ()>> {
        match self.changing.try_lock() {
            Ok(alone) => Ok(alone),
            Err(TryLockError::Poisoned(alone)) => Ok(alone.into_inner()),
            Err(TryLockError::WouldBlock) => Err(busy("layers are being merged already")),
        }
    }
}

fn failed(error: OpenError) -> io::Error {
    match error {
        OpenError::Host(error) => error,
        error => io::Error::other(error),
    }
}

impl<'a> Pull<'a> {
    fn begin(stack: &'a Stack, layers: usize) -> io::Result<Self> {
        if stack.read_only {
            return Err(failed(OpenError::ReadOnly));
        }
        let alone = stack.change_below()?;
        let top = stack.shared();
        let image = match &*top {
            Top::Qcow2(image) => Some(image),
            Top::Raw(_) => None,
        };
        let below = image.and_then(Image::below);
        let all = below.map_or_else(Vec::new, |below| below.layers());
        let (Some(image), Some(below), Some(rest)) =
            (image, below, all.len().checked_sub(layers).filter(|_| layers > 0))
        else {
            let what = format!("there are {} layers below the top, not {layers}", all.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        };
        let mut base = Header::read(image.file()).map_err(failed)?.backing;
        for layer in all[rest..].iter().rev() {
            let next = layer.backing().cloned();
            base = base.zip(next).map(|(of, next)| Backing { name: beside(&of.name, &next.name), ..next });
        }
        Ok(Self {
            stack,
            _alone: alone,
            file: Arc::clone(image.file()),
            cluster: image.cluster(),
            below: Arc::clone(below),
            run: rest..all.len(),
            base,
        })
    }

    /// Whether to go on.
    fn ask(&self, at: u64, told: &mut impl FnMut(u64, u64) -> bool) -> io::Result<()> {
        let len = self.stack.len();
        if told(at.min(len), len) { Ok(()) } else { Err(io::ErrorKind::Interrupted.into()) }
    }

    /// Does something with the top, if it is still the same.
    fn with<'t, T>(
        &self,
        top: &'t mut Top,
        act: impl FnOnce(&'t mut Image) -> io::Result<T>,
    ) -> io::Result<T> {
        match top {
            Top::Qcow2(image) if Arc::ptr_eq(image.file(), &self.file) => act(image),
            _ => Err(busy("a new layer came on top meanwhile")),
        }
    }

    fn take_up(
        &self,
        extent: &Extent,
        hidden: &[Extent],
        told: &mut impl FnMut(u64, u64) -> bool,
    ) -> io::Result<()> {
        let end = |at: u64| at.next_multiple_of(self.cluster);
        let (from, to) = (extent.offset - extent.offset % self.cluster, end(extent.end()));
        if !extent.zeroes {
            return self.copy(from, to, told);
        }
        let shows = |other: &Extent| !other.zeroes && other.offset < to && from < other.end();
        if !hidden.iter().any(shows) {
            return Ok(());
        }
        // Clusters that it has only a part of are copied.
        let (first, last) = (end(extent.offset), extent.end() - extent.end() % self.cluster);
        let last = if extent.end() >= self.stack.len() { to } else { last };
        if first >= last {
            return self.copy(from, to, told);
        }
        self.copy(from, first, told)?;
        self.copy(last, to, told)?;
        self.ask(first, told)?;
        self.with(&mut self.stack.alone(), |image| image.take_up_zeroes(first, last.min(image.len())))
    }

    fn copy(&self, mut at: u64, end: u64, told: &mut impl FnMut(u64, u64) -> bool) -> io::Result<()> {
        while at < end {
            self.ask(at, told)?;
            let to = end.min(at + STEP);
            match &*self.stack.shared() {
                Top::Qcow2(image) if Arc::ptr_eq(image.file(), &self.file) => {
                    image.take_up(at, to.min(image.len()))?;
                }
                _ => return Err(busy("a new layer came on top meanwhile")),
            }
            at = to;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<()> {
        self.with(&mut self.stack.alone(), |image| image.write_back())?;
        file::sync(&self.file)?;
        let name = Name::put_down(&self.file, self.base.as_ref()).map_err(failed)?;
        // imago writes to the header, too, so it has to know.
        self.with(&mut self.stack.alone(), |image| {
            name.enter(image.file()).and_then(|()| image.reopen(image.below().cloned())).map_err(failed)
        })?;
        file::sync(&self.file)?;
        let mut layers = self.below.layers();
        layers.drain(self.run.clone());
        let none = layers.is_empty();
        self.below.replace(layers);
        if let Top::Qcow2(image) = &mut *self.stack.alone()
            && none
            && Arc::ptr_eq(image.file(), &self.file)
        {
            // It is only quicker; if it fails, all goes on as it is.
            let _ = image.reopen(None);
        }
        Ok(())
    }
}
