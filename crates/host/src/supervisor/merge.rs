//! Layers that no snapshot wants any more: merged while guests run on them, who take the new files then.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use api::{Id, Name};
use storage::Silent;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::guest::{Follower, Order, Orders};
use super::{Shared, Supervisor};

type Guests = RwLock<HashMap<Id, Orders>>;

/// After how long it is tried again where something could not be merged: what was in the way may have been there for a moment only, as
/// somebody who looks at a volume is.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];

impl Supervisor {
    /// Merges what nobody wants any more. What cannot be now is some seconds later, or when something is the next time, or when guests have
    /// ended.
    pub(super) async fn merge_layers(&self, progress: Follower) {
        if merge(&self.shared, &self.guests, progress).await {
            self.merge_layers_in_the_background();
        }
    }

    /// The same while others go on.
    pub(super) fn merge_layers_in_the_background(&self) {
        // Whoever is at it looks once more.
        self.merging.notify_one();
    }

    /// Merges in the background whenever somebody wants it, from now on.
    pub(super) fn begin_to_merge(&self) {
        let (shared, guests, wanted) =
            (Arc::clone(&self.shared), Arc::clone(&self.guests), Arc::clone(&self.merging));
        tokio::spawn(async move {
            loop {
                wanted.notified().await;
                merge_again_and_again(&shared, &guests, &wanted).await;
            }
        });
    }
}

/// Merges until nothing is left, or what is left has been tried often enough.
async fn merge_again_and_again(shared: &Shared, guests: &Guests, wanted: &Notify) {
    let mut waits = AGAIN.iter();
    while merge(shared, guests, Arc::new(Silent)).await {
        let Some(wait) = waits.next() else { return };
        tokio::select! {
            () = sleep(*wait) => {}
            () = wanted.notified() => waits = AGAIN.iter(),
        }
    }
}

/// Merges what can be; true if something stays that nobody wants.
async fn merge(shared: &Shared, guests: &Guests, progress: Follower) -> bool {
    let mut stays = false;
    for (name, pool) in shared.pools.opened() {
        let follower = Arc::clone(&progress);
        let work = move || match pool.has_layers()? {
            true => Ok((pool.merge_in_use(&*follower)?, pool.has_unwanted_layers()?)),
            false => Ok((Vec::new(), false)),
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok((layers, more))) => {
                stays |= more;
                if !layers.is_empty() {
                    tell(guests, &name, &layers);
                }
            }
            Ok(Err(error)) => {
                let error: storage::Error = error;
                tracing::warn!("layers in the pool {name} stay: {error}");
                stays |= !matches!(error, storage::Error::Cancelled);
            }
            Err(error) => tracing::error!("layers in the pool {name} stay: {error}"),
        }
    }
    stays
}

/// Has guests that run let go of the files that these layers were.
fn tell(guests: &Guests, pool: &Name, layers: &[Id]) {
    let guests = guests.read().unwrap_or_else(PoisonError::into_inner);
    for orders in guests.values() {
        // One that has just been deleted has let go of all.
        let _ = orders.send(Order::TakeLayers(pool.clone(), layers.to_vec()));
    }
}
