//! What layers have. All that was written since a layer was left alone is in those above it: that is what a backup needs to know.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::{Stack, Top, busy};
use crate::below::Extent;
use crate::qcow2::{Image, Own};
use crate::{Disk, Raw};

/// The ranges that some layers of a disk have, in order.
#[derive(Debug)]
pub struct Held<'a> {
    stack: &'a Stack,
    /// The layers, counted from the top, which is 0.
    layers: Range<usize>,
    /// The top's file: the layers are counted otherwise when there is another one.
    top: Arc<File>,
    /// Up to where it was looked.
    at: u64,
    /// What was found. The last one may go on.
    found: Vec<Extent>,
    /// How many of them were given.
    given: usize,
}

impl Stack {
    /// Which ranges of the disk these layers have, counted from the top, which is 0: `0..n` is what was written since layer `n` was
    /// left alone. They are whole clusters, so it may be more than was written. Requests may go on meanwhile.
    ///
    /// After an error nothing follows: the host cannot read the layers' tables, there are not so many layers, or a new top has
    /// come.
    pub fn held(&self, layers: Range<usize>) -> Held<'_> {
        let top = Arc::clone(self.shared().file());
        Held { stack: self, layers, top, at: 0, found: Vec::new(), given: 0 }
    }
}

impl Held<'_> {
    /// Looks at the next part of the disk; false if there is none.
    fn look(&mut self) -> io::Result<bool> {
        if self.layers.is_empty() {
            return Ok(false);
        }
        let top = self.stack.shared();
        if !Arc::ptr_eq(top.file(), &self.top) {
            return Err(busy("a new layer came on top meanwhile"));
        }
        let all = top.below().map_or(0, |below| below.count()) + 1;
        if self.layers.end > all {
            let what = format!("there are {all} layers, not {}", self.layers.end);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        if self.at >= top.len() {
            return Ok(false);
        }
        // Below they are counted from the bottom.
        let lower = all - self.layers.end..all - self.layers.start.max(1).min(self.layers.end);
        let (below, next) = match top.below() {
            Some(below) => below.held(self.at, lower)?,
            None => (Vec::new(), top.len()),
        };
        let part = self.at..next.min(top.len());
        self.found.drain(..self.given);
        self.given = 0;
        match &*top {
            _ if self.layers.start > 0 => add(&mut self.found, &below, part.clone()),
            Top::Raw(raw) => add_raw(&mut self.found, raw, part.clone())?,
            Top::Qcow2(image) => add_image(&mut self.found, image, &below, part.clone())?,
        }
        self.at = part.end;
        Ok(true)
    }
}

impl Iterator for Held<'_> {
    type Item = io::Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let left = self.found.len() - self.given;
            // The last one may go on in the next part.
            let more = if left < 2 { self.look() } else { Ok(false) };
            match more {
                Ok(true) => continue,
                Ok(false) if left == 0 => return None,
                Ok(false) => {}
                Err(error) => {
                    (self.layers, self.found, self.given) = (0..0, Vec::new(), 0);
                    return Some(Err(error));
                }
            }
            self.given += 1;
            return Some(Ok(self.found[self.given - 1]));
        }
    }
}

/// Adds what others have within a range.
fn add(found: &mut Vec<Extent>, others: &[Extent], part: Range<u64>) {
    for other in others {
        let (from, to) = (other.offset.max(part.start), other.end().min(part.end));
        if from < to {
            Extent { offset: from, len: to - from, zeroes: other.zeroes }.append_to(found);
        }
    }
}

/// A raw disk has all of it.
fn add_raw(found: &mut Vec<Extent>, raw: &Raw, part: Range<u64>) -> io::Result<()> {
    let mut at = part.start;
    while at < part.end {
        let (from, to) = raw.next_data(at)?.unwrap_or((part.end, part.end));
        let (from, to) = (from.min(part.end), to.min(part.end));
        for (offset, end, zeroes) in [(at, from, true), (from, to, false)] {
            if offset < end {
                Extent { offset, len: end - offset, zeroes }.append_to(found);
            }
        }
        at = to;
    }
    Ok(())
}

/// What an image has not, layers below it may have.
fn add_image(found: &mut Vec<Extent>, image: &Image, below: &[Extent], part: Range<u64>) -> io::Result<()> {
    let mut at = part.start;
    while at < part.end {
        let (own, to) = image.own(at, part.end)?;
        match own {
            Own::Nothing => add(found, below, at..to),
            own => Extent { offset: at, len: to - at, zeroes: own == Own::Zeroes }.append_to(found),
        }
        at = to;
    }
    Ok(())
}
