//! How a guest that was made in another one's memory becomes itself: see [`identity`].

use api::{Problem, VmState};

use super::Guest;
use crate::supervisor::identity;

impl Guest {
    /// Has its system become one of its own, if it still is another one's and is not at it.
    pub(super) fn begin_to_be_itself(&mut self) {
        let vm = &self.record.vm;
        if let (Some(twin), Some(running)) = (&self.record.twin, &mut self.running) {
            let turn = running.turn.take();
            let failures = running.not_itself;
            let take = || identity::take(&self.shared, vm.id, &vm.definition, twin, turn, failures);
            running.becoming.get_or_insert_with(take);
        }
    }

    /// Its system has addresses of its own, and nothing else yet: whoever goes on in its memory finds it so.
    pub(super) async fn on_addresses(&mut self) {
        let definition = &self.record.vm.definition;
        if let Some(twin) = &mut self.record.twin {
            twin.has_addresses(definition);
            self.note(None).await;
        }
    }

    /// Its system is one of its own, or has not become one: that is tried again, and when it goes on the next time.
    pub(super) async fn on_identity(&mut self, result: Result<(), Problem>) {
        let mut is_first = true;
        if let Some(running) = &mut self.running {
            running.becoming = None;
            is_first = running.not_itself == 0;
            running.not_itself += u32::from(result.is_err());
        }
        if result.is_err() {
            self.begin_to_be_itself();
        }
        let Some(twin) = &self.record.twin else { return };
        let of = twin.of.clone();
        let happening = match result {
            Ok(()) => {
                self.record.twin = None;
                self.happening(
                    "vm.identity",
                    format!("has a name, addresses and keys of its own, not those of {of}"),
                )
            }
            // Nobody can tell it anything while it does not run, and of the rest once is enough.
            Err(_) if self.state() != VmState::Running || !is_first => return,
            Err(problem) => {
                let message = format!("has the name, addresses and keys of {of} still: {}", problem.detail);
                self.happening("vm.no-identity", message)
            }
        };
        self.note(Some(happening)).await;
    }
}
