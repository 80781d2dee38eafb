//! The memory in which guests' processes say all the time what they do ([`vmm::figures`]): nobody has to ask them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::Id;
use serde_json::Value;
use vmm::control::FiguresSpec;
use vmm::figures::Page;

use crate::supervisor::{Client, RpcError};

/// How long a guest's processor runs before others have their turn, where the kernel's shortest slice is not longer: of twenty on a processor of the host each comes to its turn every 30 ms.
pub const TURN: Duration = Duration::from_micros(1500);

/// That of each guest that runs.
#[derive(Debug, Default)]
pub struct Figures(Mutex<HashMap<Id, Arc<Page>>>);

impl Figures {
    fn pages(&self) -> MutexGuard<'_, HashMap<Id, Arc<Page>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands guest `id`'s process memory to say it in. A process of an older version says nothing there, and nothing else comes of it. One that is `alone` in a control group
    /// lets others have their turns.
    pub async fn begin(&self, id: Id, client: &Client, alone: bool) {
        match hand_over(client).await {
            Ok(page) => {
                if alone {
                    page.set_turn(TURN);
                }
                self.pages().insert(id, Arc::new(page));
            }
            Err(error) => tracing::warn!("guest {id} does not say all the time what it does: {error}"),
        }
    }

    /// What guest `id`'s process says.
    pub fn of(&self, id: Id) -> Option<Arc<Page>> {
        self.pages().get(&id).cloned()
    }

    /// Guest `id` has no process any more.
    pub fn end(&self, id: Id) {
        self.pages().remove(&id);
    }
}

async fn hand_over(client: &Client) -> Result<Page, RpcError> {
    let (page, file) = Page::create()?;
    let params = serde_json::to_value(FiguresSpec { file: 0 })?;
    let _: Value = client.call("figures", params, &[file]).await?;
    Ok(page)
}
