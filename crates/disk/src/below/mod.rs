//! What lies below the uppermost layer of a disk: any number of layers, which are read through one map.
//!
//! ```text
//! offset ──▶ part of the map ──▶ place ──▶ a layer's file
//!              │ not known yet
//!              └─▶ the layers' own tables, from the uppermost down
//! ```
//!
//! A read costs the same however many layers there are. A part of the map is made when something in it is read for the first
//! time; a layer that comes on top is added to it the same way.

mod chunk;
mod layer;
mod place;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use libc::iovec;

use self::chunk::{CLUSTERS, Chunk, Table};
use self::place::{NOTHING, Place, Row, Target};
use crate::file;

pub use self::layer::Layer;

/// More would be a mistake, or an attack.
pub const MOST_LAYERS: usize = 256;

/// Bytes of clusters, as a power of two, where no layer has any: as QEMU has it.
const USUAL_BITS: u32 = 16;
/// How many parts of the map may take room at once, 32 KiB each. When there are more, all are forgotten.
const MOST_TABLES: usize = 8192;

/// A range of a disk that layers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// Bytes of it.
    pub len: u64,
    /// Whether it is known to be zeroes.
    pub zeroes: bool,
}

impl Extent {
    /// Where it ends.
    pub fn end(&self) -> u64 {
        self.offset + self.len
    }

    /// Appends it to others that lie before it; neighbours of one kind become one.
    pub(crate) fn append_to(self, extents: &mut Vec<Extent>) {
        match extents.last_mut() {
            Some(last) if last.end() == self.offset && last.zeroes == self.zeroes => last.len += self.len,
            _ => extents.push(self),
        }
    }
}

/// The layers below.
#[derive(Default)]
pub struct Below {
    state: RwLock<State>,
}

/// The layers and the map of them.
struct State {
    /// The bottom first.
    layers: Vec<Member>,
    row: Row,
    /// The parts of the map.
    parts: Vec<RwLock<Option<Part>>>,
    /// How many of them are tables.
    tables: AtomicUsize,
}

struct Member {
    layer: Arc<Layer>,
    /// Up to where it can be seen: neither beyond its own end nor beyond that of a layer above it.
    end: u64,
}

struct Part {
    /// How many layers are in it.
    layers: usize,
    chunk: Chunk,
}

impl Default for State {
    fn default() -> Self {
        State::new(Vec::new())
    }
}

impl State {
    /// With these layers, the bottom first.
    fn new(layers: Vec<Arc<Layer>>) -> Self {
        let bits = layers.iter().filter_map(|layer| layer.cluster_bits()).min().unwrap_or(USUAL_BITS);
        let row = Row::new(bits);
        let mut state = Self { layers: Vec::new(), row, parts: Vec::new(), tables: AtomicUsize::new(0) };
        for layer in layers {
            state.add(layer);
        }
        state
    }

    fn bits(&self) -> u32 {
        self.row.bits()
    }

    /// Bytes that a part of the map stands for.
    fn reach(&self) -> u64 {
        (CLUSTERS as u64) << self.bits()
    }

    fn len(&self) -> u64 {
        self.layers.last().map_or(0, |member| member.layer.len())
    }

    fn list(&self) -> Vec<Arc<Layer>> {
        self.layers.iter().map(|member| Arc::clone(&member.layer)).collect()
    }

    /// Puts a layer on top whose clusters are no smaller than the map's.
    fn add(&mut self, layer: Arc<Layer>) {
        let end = layer.len();
        self.row.push(layer.file_len());
        for member in &mut self.layers {
            member.end = member.end.min(end);
        }
        self.layers.push(Member { layer, end });
        let parts = self.len().div_ceil(self.reach()) as usize;
        self.parts.resize_with(parts.max(self.parts.len()), RwLock::default);
    }

    /// Looks up a part of the map in some of the layers.
    fn look_up(&self, part: u64, layers: Range<usize>, below: Option<&Chunk>) -> io::Result<Table> {
        let mut table = Table::new();
        for index in layers.rev() {
            if table.is_full() {
                return Ok(table);
            }
            let layer = &self.layers[index].layer;
            layer.add_to(&mut table, part * CLUSTERS as u64, self.row.layer(index))?;
        }
        if let Some(below) = below {
            below.add_to(&mut table);
        }
        Ok(table)
    }

    /// Where what is at `at` is, and up to where, at most `end`, it goes on there.
    fn run(&self, at: u64, end: u64) -> io::Result<(Place, u64)> {
        let (cluster, last) = (at >> self.bits(), (end - 1) >> self.bits());
        let (part, index) = (cluster / CLUSTERS as u64, (cluster % CLUSTERS as u64) as usize);
        let Some(slot) = self.parts.get(part as usize) else { return Ok((NOTHING, end)) };
        let most = (CLUSTERS - index).min((last - cluster + 1) as usize);
        let found = |(place, n): (Place, usize)| (place, ((cluster + n as u64) << self.bits()).min(end));
        let known = slot.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.as_ref().filter(|known| known.layers == self.layers.len()) {
            return Ok(found(known.chunk.run(index, most)));
        }
        drop(known);
        let mut known = slot.write().unwrap_or_else(PoisonError::into_inner);
        let (from, old) = known.as_ref().map_or((0, None), |part| (part.layers, Some(&part.chunk)));
        if from < self.layers.len() || old.is_none() {
            let had = usize::from(old.is_some_and(Chunk::is_table));
            let chunk = Chunk::from(self.look_up(part, from..self.layers.len(), old)?);
            self.tables.fetch_add(usize::from(chunk.is_table()), Ordering::Relaxed);
            self.tables.fetch_sub(had, Ordering::Relaxed);
            *known = Some(Part { layers: self.layers.len(), chunk });
        }
        Ok(known.as_ref().map_or((NOTHING, end), |part| found(part.chunk.run(index, most))))
    }

    /// Reads one run into buffers.
    ///
    /// # Safety
    /// The buffers must be writable for their lengths.
    unsafe fn read_run(&self, place: Place, buffers: &[iovec], at: u64) -> io::Result<()> {
        let within = at & ((1 << self.bits()) - 1);
        let (layer, offset) = match self.row.target(place) {
            Target::Zeroes => {
                // SAFETY: the caller vouches for the buffers.
                unsafe { file::fill_zeroes(buffers) };
                return Ok(());
            }
            Target::File { layer, offset } => (layer, Some(offset + within)),
            Target::Ask { layer } => (layer, None),
        };
        let Member { layer, end } = &self.layers[layer];
        let len = file::total(buffers);
        let seen = end.saturating_sub(at).min(len);
        // SAFETY: the caller vouches for the buffers.
        let read = |buffers: &[iovec]| unsafe {
            match offset {
                Some(offset) => layer.read(buffers, offset),
                None => layer.ask(buffers, at),
            }
        };
        if seen == len {
            return read(buffers);
        }
        let (mut rest, mut skip) = (buffers, 0);
        read(&file::take(&mut rest, &mut skip, seen))?;
        // SAFETY: parts of the caller's buffers.
        unsafe { file::fill_zeroes(&file::take(&mut rest, &mut skip, u64::MAX)) };
        Ok(())
    }

    /// Whether what is at `at` may be anything but zeroes, where it is at `place`, and up to where, at most `end`, that holds, if
    /// there are only the lowest `count` layers.
    fn is_data(&self, place: Place, at: u64, end: u64, count: usize) -> io::Result<(bool, u64)> {
        let index = match self.row.target(place) {
            Target::Zeroes => return Ok((false, end)),
            Target::File { layer, .. } | Target::Ask { layer } => layer,
        };
        let seen = self.end(index..count);
        if at >= seen {
            return Ok((false, end));
        }
        let (layer, end) = (&self.layers[index].layer, end.min(seen));
        if !layer.has_holes() {
            return Ok((true, end));
        }
        // What is data of a raw layer is at the same place in its file.
        Ok(match file::next_data(layer.file(), at, end)? {
            None => (false, end),
            Some((data, _)) if data > at => (false, data),
            Some((_, hole)) => (true, hole.min(end)),
        })
    }

    /// Up to where the lowest of some layers can be seen through the others.
    fn end(&self, layers: Range<usize>) -> u64 {
        self.layers[layers].iter().map(|member| member.layer.len()).min().unwrap_or(0)
    }

    fn held(&self, at: u64, layers: Range<usize>) -> io::Result<(Vec<Extent>, u64)> {
        let (part, last) = (at / self.reach(), layers.end);
        if layers.is_empty() {
            return Ok((Vec::new(), (part + 1) * self.reach()));
        }
        let seen = self.end(layers.clone());
        let table = self.look_up(part, layers, None)?;
        let offset = |index: usize| part * self.reach() + ((index as u64) << self.bits());
        let mut extents = Vec::new();
        let mut index = ((at - offset(0)) >> self.bits()) as usize;
        while index < CLUSTERS {
            let (start, first) = (index, table.place(index));
            let alike = |index| {
                let (last, next) = (table.place(index - 1), table.place(index));
                place::follows(last, next) && (first == NOTHING) == (next == NOTHING)
            };
            index += 1;
            while index < CLUSTERS && alike(index) {
                index += 1;
            }
            let (mut at, end) = (offset(start).max(at), offset(index));
            if first == NOTHING && seen < end {
                // A layer ends within this cluster, and hides what is below behind its end.
                let at = at.max(seen);
                Extent { offset: at, len: end - at, zeroes: true }.append_to(&mut extents);
            }
            while first != NOTHING && at < end {
                let (data, to) = self.is_data(first, at, end, last)?;
                Extent { offset: at, len: to - at, zeroes: !data }.append_to(&mut extents);
                at = to;
            }
        }
        Ok((extents, offset(CLUSTERS)))
    }
}

impl Below {
    /// These layers, the bottom first.
    pub fn new(layers: Vec<Arc<Layer>>) -> Self {
        Self { state: RwLock::new(State::new(layers)) }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn alone(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The layers, the bottom first.
    pub fn layers(&self) -> Vec<Arc<Layer>> {
        self.state().list()
    }

    /// How many layers there are.
    pub fn count(&self) -> usize {
        self.state().layers.len()
    }

    /// Bytes of the disk that they are: behind it there are zeroes.
    pub fn len(&self) -> u64 {
        self.state().len()
    }

    /// Takes these layers instead, the bottom first.
    pub fn replace(&self, layers: Vec<Arc<Layer>>) {
        *self.alone() = State::new(layers);
    }

    /// Puts a layer on top. What is read changes nowhere else than where that layer has something.
    pub fn push(&self, layer: Arc<Layer>) {
        let mut state = self.alone();
        if layer.cluster_bits().is_some_and(|bits| bits < state.bits()) {
            let mut layers = state.list();
            layers.push(layer);
            *state = State::new(layers);
        } else {
            state.add(layer);
        }
    }

    /// Reads from `offset` into the buffers, all of them.
    ///
    /// # Errors
    /// If the host cannot read, or a layer is damaged.
    ///
    /// # Safety
    /// The buffers must be writable for their lengths.
    pub unsafe fn read(&self, buffers: &[iovec], offset: u64) -> io::Result<()> {
        let state = self.state();
        let end = offset + file::total(buffers);
        let (mut rest, mut skip, mut at) = (buffers, 0, offset);
        while at < end {
            let (place, to) = state.run(at, end)?;
            // The common case, all of it in one place, copies no list.
            if at == offset && to == end {
                // SAFETY: the caller vouches for the buffers.
                unsafe { state.read_run(place, buffers, at) }?;
            } else {
                let part = file::take(&mut rest, &mut skip, to - at);
                // SAFETY: parts of the caller's buffers.
                unsafe { state.read_run(place, &part, at) }?;
            }
            at = to;
        }
        let crowded = state.tables.load(Ordering::Relaxed) > MOST_TABLES;
        drop(state);
        if crowded {
            let mut state = self.alone();
            *state = State::new(state.list());
        }
        Ok(())
    }

    /// Whether what is at `at` may be anything but zeroes, and up to where, at most `end`, that holds.
    ///
    /// # Errors
    /// If the host cannot read the layers' tables.
    pub fn data(&self, at: u64, end: u64) -> io::Result<(bool, u64)> {
        let state = self.state();
        let (place, to) = state.run(at, end)?;
        state.is_data(place, at, to, state.layers.len())
    }

    /// What some of the layers, counted from the bottom, have in the part of the disk that `at` is in, from `at` on, and where that
    /// part ends.
    ///
    /// # Errors
    /// If the host cannot read the layers' tables.
    pub fn held(&self, at: u64, layers: Range<usize>) -> io::Result<(Vec<Extent>, u64)> {
        self.state().held(at, layers)
    }
}

impl fmt::Debug for Below {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} layers", self.count())
    }
}
