//! The memory in which guests' processes say all the time what they do ([`vmm::figures`]): nobody has to ask them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use api::Id;
use serde_json::Value;
use vmm::control::FiguresSpec;
use vmm::figures::Page;

use crate::supervisor::{Client, RpcError};

/// That of each guest that runs.
#[derive(Debug, Default)]
pub struct Figures(Mutex<HashMap<Id, Arc<Page>>>);

impl Figures {
    fn pages(&self) -> MutexGuard<'_, HashMap<Id, Arc<Page>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands guest `id`'s process memory to say it in. A process of an older version says nothing there, and nothing else comes of it.
    pub async fn begin(&self, id: Id, client: &Client) {
        match hand_over(client).await {
            Ok(page) => drop(self.pages().insert(id, Arc::new(page))),
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
