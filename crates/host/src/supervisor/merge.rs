//! Layers that no snapshot wants any more: merged while guests run on them, who take the new files then.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use api::{Id, Name};
use storage::Silent;

use super::guest::{Follower, Order, Orders};
use super::{Shared, Supervisor};

type Guests = RwLock<HashMap<Id, Orders>>;

impl Supervisor {
    /// Merges what nobody wants any more. What cannot be now is when something is the next time, or when guests have ended.
    pub(super) async fn merge_layers(&self, progress: Follower) {
        merge(&self.shared, &self.guests, progress).await;
    }

    /// The same while others go on.
    pub(super) fn merge_layers_in_the_background(&self) {
        let (shared, guests) = (Arc::clone(&self.shared), Arc::clone(&self.guests));
        tokio::spawn(async move { merge(&shared, &guests, Arc::new(Silent)).await });
    }
}

async fn merge(shared: &Shared, guests: &Guests, progress: Follower) {
    for (name, pool) in shared.pools.opened() {
        let follower = Arc::clone(&progress);
        let work = move || match pool.has_layers()? {
            true => pool.merge_in_use(&*follower),
            false => Ok(Vec::new()),
        };
        match tokio::task::spawn_blocking(work).await {
            Ok(Ok(layers)) if !layers.is_empty() => tell(guests, &name, &layers),
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!("layers in the pool {name} stay: {error}"),
            Err(error) => tracing::error!("layers in the pool {name} stay: {error}"),
        }
    }
}

/// Has guests that run let go of the files that these layers were.
fn tell(guests: &Guests, pool: &Name, layers: &[Id]) {
    let guests = guests.read().unwrap_or_else(PoisonError::into_inner);
    for orders in guests.values() {
        // One that has just been deleted has let go of all.
        let _ = orders.send(Order::TakeLayers(pool.clone(), layers.to_vec()));
    }
}
