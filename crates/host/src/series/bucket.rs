//! What several values were together.

/// Values of one series, gathered.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spread {
    /// How many values.
    pub count: u32,
    /// What they are all together.
    pub sum: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// One value.
    pub fn of(value: f64) -> Self {
        Self { count: 1, sum: value, min: value, max: value }
    }

    /// What they are in the middle.
    pub fn avg(&self) -> f64 {
        self.sum / f64::from(self.count.max(1))
    }

    fn join(self, other: Self) -> Self {
        Self {
            count: self.count.saturating_add(other.count),
            sum: self.sum + other.sum,
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }
}

/// What all series of a track were in one span of time.
#[derive(Debug, Clone, PartialEq)]
pub struct Bucket {
    /// Which span: its beginning, in seconds since the epoch, divided by how long spans are.
    pub number: u32,
    /// The series in their order; nothing where nothing is known.
    pub of: Vec<Option<Spread>>,
}

impl Bucket {
    /// A span of which nothing is known.
    pub fn empty(number: u32, series: usize) -> Self {
        Self { number, of: vec![None; series] }
    }

    /// How many values of a series it holds, at most.
    pub fn count(&self) -> u32 {
        self.of.iter().flatten().map(|spread| spread.count).max().unwrap_or(0)
    }

    /// Adds what is known of a part of it.
    pub fn add(&mut self, part: &[Option<Spread>]) {
        for (own, other) in self.of.iter_mut().zip(part) {
            *own = match (*own, *other) {
                (Some(own), Some(other)) => Some(own.join(other)),
                (own, other) => own.or(other),
            };
        }
    }
}

/// What was in spans of `length` times those of `parts`, which are in order.
pub fn coarser(parts: &[Bucket], length: u32) -> Vec<Bucket> {
    let mut all: Vec<Bucket> = Vec::new();
    for part in parts {
        let number = part.number / length;
        match all.last_mut().filter(|last| last.number == number) {
            Some(last) => last.add(&part.of),
            None => all.push(Bucket { number, of: part.of.clone() }),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_what_its_parts_were() {
        let part = |number, value| Bucket { number, of: vec![Some(Spread::of(value)), None] };
        let all = coarser(&[part(10, 1.0), part(11, 3.0), part(14, 8.0), part(15, 2.0)], 5);
        let expected = Spread { count: 3, sum: 12.0, min: 1.0, max: 8.0 };
        assert_eq!(all[0], Bucket { number: 2, of: vec![Some(expected), None] });
        assert_eq!((all[0].of[0].unwrap().avg(), all[1].number, all.len()), (4.0, 3, 2));
    }
}
