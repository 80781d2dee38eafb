//! How another guest begins where this one is: in layers of its disks and its memory, which are no snapshot.
//!
//! They belong to whoever asked for them until the new guest has them. Should this process die before, nobody knows of them, and the next one
//! removes them.

use api::Problem;
use tokio::sync::oneshot;

use super::Guest;
use super::snapshot::{Follower, Purpose};
use crate::snapshots::{self, Kept};
use crate::supervisor::saved;

/// Where that goes what another guest begins with.
pub type ForkReply = oneshot::Sender<Result<Box<Kept>, Problem>>;

impl Guest {
    /// Keeps what it is for another guest to begin with; the answer comes when it is kept.
    pub(super) async fn fork(&mut self, progress: Follower, reply: ForkReply) {
        match self.begin_to_fork().await {
            Ok((kept, Some(draft))) => self.follow_snapshot(kept, draft, Purpose::Fork(reply), progress),
            Ok((kept, None)) => self.hand_over(kept, reply).await,
            // Nobody may wait for it.
            Err(problem) => drop(reply.send(Err(problem))),
        }
    }

    async fn begin_to_fork(&mut self) -> Result<(Kept, Option<saved::Draft>), Problem> {
        self.must_be_still("a clone", false)?;
        if let Some(twin) = &self.record.twin {
            let what = format!("{} has the name, addresses and keys of {} still", self.name(), twin.of);
            return Err(Problem::conflict(format!("{what}: it can be cloned when it has its own")));
        }
        let (vm, runs) = (&self.record.vm, self.running.is_some());
        // While a change waits for the next start, the disks that are there are those of the machine.
        let layers = snapshots::disks(vm.id, self.record.made_of())?;
        let mut kept = Kept {
            snapshot: self.as_it_is(&layers, false),
            definition: vm.definition.clone(),
            machine: runs.then(|| self.record.made_of().clone()),
            twin: None,
            layers,
        };
        let draft = self.freeze_at_rest(&mut kept, runs).await?;
        Ok((kept, draft))
    }

    /// Whoever asked for it has it from now on; where nobody does any more, it goes.
    pub(super) async fn hand_over(&self, kept: Kept, reply: ForkReply) {
        if let Err(Ok(kept)) = reply.send(Ok(Box::new(kept))) {
            self.forget_layers(*kept).await;
        }
    }
}
