//! Where clusters are: four bytes for each, whichever of the layers it is in.
//!
//! All clusters of all layers' files are numbered in one row, each layer's behind those of the layer under it. One number is left
//! out between two layers, so that neighbours by number are neighbours in a file.

/// Where a cluster is: a number, or one of those below.
pub type Place = u32;

/// No layer has anything there: zeroes.
pub const NOTHING: Place = 0;
/// A layer says that there are zeroes.
pub const ZERO: Place = 1;
/// The first number.
const FIRST: Place = 2;

/// The numbers of one layer's clusters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbers {
    /// Bytes of a cluster, as a power of two.
    bits: u32,
    first: Place,
    count: Place,
    /// What stands for all that is in the layer and has no number of its own.
    asks: Place,
}

/// What a place leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Zeroes.
    Zeroes,
    /// So far into the file of a layer.
    File {
        /// The layer, from the bottom.
        layer: usize,
        /// Bytes.
        offset: u64,
    },
    /// A layer, which must be asked: it is compressed there, or damaged.
    Ask {
        /// The layer, from the bottom.
        layer: usize,
    },
}

/// The numbers of all layers, the bottom's first.
#[derive(Debug)]
pub struct Row {
    bits: u32,
    layers: Vec<Numbers>,
}

impl Row {
    /// Numbers for clusters of 2^`bits` bytes.
    pub fn new(bits: u32) -> Self {
        Self { bits, layers: Vec::new() }
    }

    /// Bytes of a cluster, as a power of two.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// Numbers for another layer's file of `len` bytes. Where there are not enough, the rest of it has none.
    pub fn push(&mut self, len: u64) {
        let (bits, index) = (self.bits, self.layers.len() as Place);
        let first = self.layers.last().map_or(FIRST, |last| last.first + last.count + 1);
        // Two are left for each layer that can still come: one to be left out, and one that stands for it.
        let room = (Place::MAX - 2 * super::MOST_LAYERS as Place).saturating_sub(first);
        let count = u64::from(room).min(len.div_ceil(1 << bits)) as Place;
        self.layers.push(Numbers { bits, first, count, asks: Place::MAX - index });
    }

    /// The numbers of layer `index`.
    pub fn layer(&self, index: usize) -> Numbers {
        self.layers[index]
    }

    /// Where a place leads.
    pub fn target(&self, place: Place) -> Target {
        if place < FIRST {
            return Target::Zeroes;
        }
        let asked = (Place::MAX - place) as usize;
        if asked < self.layers.len() {
            return Target::Ask { layer: asked };
        }
        let layer = self.layers.partition_point(|layer| layer.first <= place) - 1;
        Target::File { layer, offset: u64::from(place - self.layers[layer].first) << self.bits }
    }
}

impl Numbers {
    /// The place of what is at `offset`, a multiple of a cluster, in the layer's file.
    pub fn at(&self, offset: u64) -> Place {
        let number = offset >> self.bits;
        if number < u64::from(self.count) { self.first + number as Place } else { self.asks }
    }

    /// The place of what only the layer itself can read.
    pub fn ask(&self) -> Place {
        self.asks
    }

    /// Bytes of a cluster, as a power of two.
    pub fn bits(&self) -> u32 {
        self.bits
    }
}

/// Whether the place behind `place` is that of the next bytes of the same file, or of as many zeroes.
pub fn follows(place: Place, next: Place) -> bool {
    match place {
        ..FIRST => next < FIRST,
        _ if asks(place) => next == place,
        _ => next == place + 1,
    }
}

/// Whether a place stands for a layer that must be asked.
pub fn asks(place: Place) -> bool {
    place >= Place::MAX - super::MOST_LAYERS as Place
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_leads_to_the_file_that_it_is_in() {
        let mut row = Row::new(16);
        for len in [0, 10 << 16, 1, 3 << 16] {
            row.push(len);
        }
        assert_eq!(row.target(NOTHING), Target::Zeroes);
        assert_eq!(row.target(ZERO), Target::Zeroes);
        for (layer, offset) in [(1, 0), (1, 9 << 16), (2, 0), (3, 2 << 16)] {
            assert_eq!(row.target(row.layer(layer).at(offset)), Target::File { layer, offset });
        }
        for layer in 0..4 {
            assert_eq!(row.target(row.layer(layer).ask()), Target::Ask { layer });
        }
        assert_eq!(row.target(row.layer(2).at(1 << 16)), Target::Ask { layer: 2 }, "it is not that long");
        let last = row.layer(1).at(9 << 16);
        assert!(follows(last - 1, last) && !follows(last, row.layer(2).at(0)));
        assert!(follows(NOTHING, ZERO) && !follows(ZERO, row.layer(1).at(0)));
        assert!(follows(row.layer(1).ask(), row.layer(1).ask()) && !follows(last, row.layer(1).ask()));
    }

    #[test]
    fn what_has_no_number_is_asked_for() {
        let mut row = Row::new(9);
        for _ in 0..super::super::MOST_LAYERS {
            row.push(1 << 50);
        }
        let far = row.layer(0).at((1 << 32) * 512);
        assert_eq!(row.target(far), Target::Ask { layer: 0 });
        let last = super::super::MOST_LAYERS - 1;
        assert_eq!(row.target(row.layer(last).at(0)), Target::Ask { layer: last });
        let near = row.layer(0).at(1 << 20);
        assert_eq!(row.target(near), Target::File { layer: 0, offset: 1 << 20 });
    }
}
