//! The latest commits, for watchers that come back.

use std::collections::VecDeque;
use std::sync::Arc;

use super::{Revision, StoreError, Update};

/// How many updates are remembered.
const MOST: usize = 20_000;

/// The latest commits. It begins empty: what was before the program's start is not remembered.
pub struct History {
    /// Everything after this revision is here.
    since: Revision,
    commits: VecDeque<Arc<[Update]>>,
    updates: usize,
}

impl History {
    pub fn new(since: Revision) -> Self {
        Self { since, commits: VecDeque::new(), updates: 0 }
    }

    /// Remembers a commit, and forgets old ones.
    pub fn add(&mut self, commit: Arc<[Update]>) {
        self.updates += commit.len();
        self.commits.push_back(commit);
        while self.updates > MOST && self.commits.len() > 1 {
            if let Some(oldest) = self.commits.pop_front() {
                self.updates -= oldest.len();
                self.since = oldest.first().map_or(self.since, |update| update.revision);
            }
        }
    }

    /// What was committed after revision `after`.
    pub fn after(&self, after: Revision) -> Result<Vec<Update>, StoreError> {
        if after < self.since {
            return Err(StoreError::TooOld(after));
        }
        let later = |commit: &&Arc<[Update]>| commit.first().is_some_and(|update| update.revision > after);
        let first = self.commits.partition_point(|commit| !later(&commit));
        Ok(self.commits.range(first..).flat_map(|commit| commit.iter().cloned()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(revision: Revision, updates: usize) -> Arc<[Update]> {
        (0..updates).map(|n| Update { revision, key: format!("{n}"), value: None }).collect()
    }

    #[test]
    fn a_watcher_gets_what_came_after_and_hears_when_that_is_forgotten() {
        let mut history = History::new(10);
        (11..=20).for_each(|revision| history.add(commit(revision, 2)));
        assert_eq!(history.after(20).unwrap().len(), 0);
        assert_eq!(history.after(18).unwrap().len(), 4);
        assert_eq!(history.after(10).unwrap().len(), 20);
        assert!(matches!(history.after(9), Err(StoreError::TooOld(9))));
        history.add(commit(21, MOST - 5));
        assert!(matches!(history.after(11), Err(StoreError::TooOld(11))));
        assert_eq!(history.after(20).unwrap().len(), MOST - 5);
    }
}
