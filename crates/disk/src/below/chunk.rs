//! Where the clusters of a part of the disk are.

use super::place::{self, NOTHING, Place, ZERO};

/// Clusters of a part: as many as a table of the second level has where clusters have 64 KiB.
pub const CLUSTERS: usize = 8192;

/// A part that is being looked up, from the uppermost layer down: each adds what no layer above it has.
pub struct Table {
    places: Box<[Place]>,
    missing: usize,
}

impl Table {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self { places: vec![NOTHING; CLUSTERS].into_boxed_slice(), missing: CLUSTERS }
    }

    /// Whether no layer below can add anything.
    pub fn is_full(&self) -> bool {
        self.missing == 0
    }

    /// Puts down where a cluster is, unless that is known.
    pub fn add(&mut self, index: usize, place: Place) {
        if self.places[index] == NOTHING && place != NOTHING {
            self.places[index] = place;
            self.missing -= 1;
        }
    }

    /// Puts down that there are zeroes from `start` on, where nothing is known.
    pub fn end(&mut self, start: usize) {
        for index in start..CLUSTERS {
            self.add(index, ZERO);
        }
    }

    /// Where a cluster is.
    pub fn place(&self, index: usize) -> Place {
        self.places[index]
    }
}

/// A part, in as little room as it needs.
#[derive(Debug)]
pub enum Chunk {
    /// No layer has anything.
    Zeroes,
    /// All of it is in one place, in order: the first cluster's, or where one has to ask.
    Run(Place),
    /// Each cluster is somewhere.
    Table(Box<[Place]>),
}

impl From<Table> for Chunk {
    fn from(table: Table) -> Self {
        let places = table.places;
        let alike = places.windows(2).all(|pair| place::follows(pair[0], pair[1]));
        match places[0] {
            NOTHING | ZERO if alike => Chunk::Zeroes,
            first if alike => Chunk::Run(first),
            _ => Chunk::Table(places),
        }
    }
}

impl Chunk {
    /// Where the cluster `index` is, and how many of the `most` from there on lie in order.
    pub fn run(&self, index: usize, most: usize) -> (Place, usize) {
        match self {
            Chunk::Zeroes => (NOTHING, most),
            Chunk::Run(first) if place::asks(*first) => (*first, most),
            Chunk::Run(first) => (*first + index as Place, most),
            Chunk::Table(places) => {
                let part = &places[index..index + most];
                let n = part.windows(2).take_while(|pair| place::follows(pair[0], pair[1])).count() + 1;
                (part[0], n)
            }
        }
    }

    /// Adds what it has to a table.
    pub fn add_to(&self, table: &mut Table) {
        for index in 0..CLUSTERS {
            table.add(index, self.run(index, 1).0);
        }
    }

    /// Whether it takes room for each of its clusters.
    pub fn is_table(&self) -> bool {
        matches!(self, Chunk::Table(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(place: impl Fn(usize) -> Place) -> Chunk {
        let mut table = Table::new();
        for index in 0..CLUSTERS {
            table.add(index, place(index));
        }
        table.into()
    }

    #[test]
    fn the_uppermost_layer_counts() {
        let mut table = Table::new();
        table.add(5, 100);
        table.add(5, 200);
        table.add(6, ZERO);
        table.add(6, 200);
        table.end(CLUSTERS - 1);
        assert_eq!((table.place(5), table.place(6), table.place(7)), (100, ZERO, NOTHING));
        assert_eq!(table.place(CLUSTERS - 1), ZERO);
        assert!(!table.is_full());
        let chunk = Chunk::from(table);
        assert_eq!(chunk.run(4, 10), (NOTHING, 1));
        assert_eq!(chunk.run(5, 10), (100, 1));
        assert_eq!(chunk.run(6, 10), (ZERO, 10));
        assert_eq!(chunk.run(7, CLUSTERS - 7), (NOTHING, CLUSTERS - 7));
    }

    #[test]
    fn what_is_all_alike_takes_no_room() {
        let linear = chunk(|index| 50 + index as Place);
        assert!(!linear.is_table());
        assert_eq!(linear.run(10, 7), (60, 7));
        assert!(matches!(chunk(|index| index as Place % 2), Chunk::Zeroes));
        let asked = chunk(|_| Place::MAX - 3);
        assert_eq!((asked.is_table(), asked.run(10, 7)), (false, (Place::MAX - 3, 7)));
        let mixed = chunk(|index| if index < 100 { 50 + index as Place } else { NOTHING });
        assert_eq!((mixed.is_table(), mixed.run(90, 20)), (true, (140, 10)));
        let mut table = Table::new();
        linear.add_to(&mut table);
        assert!(table.is_full() && table.place(3) == 53);
    }
}
