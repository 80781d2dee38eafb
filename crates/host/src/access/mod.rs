//! Who asks, and what they may: people of this machine by their user id, people elsewhere by a password, programs by tokens.

mod local;
mod passwords;
mod sessions;
mod tokens;
mod users;

use std::net::SocketAddr;
use std::sync::Arc;

use api::{Bound, Name, Problem, Role, Session, Time, Vm};
use sha2::{Digest, Sha256};

use crate::store::Store;

pub use sessions::{LINK_PATH, SESSION_LIFE};

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is, as tasks and events tell.
    pub actor: String,
    /// What they may do.
    pub role: Role,
    /// Which guests they may do that with: those with all these labels. Without labels all guests, and the host.
    pub labels: Bound,
    /// The user whose password they have shown.
    pub user: Option<Name>,
    /// When they have to show it again.
    pub expires: Option<Time>,
}

impl Identity {
    fn of_this_machine(actor: String) -> Self {
        Self { actor, role: Role::Admin, labels: Bound::new(), user: None, expires: None }
    }

    /// Whether they may use some guests only.
    pub fn is_bound(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Whether something with these labels is theirs to see.
    pub fn sees_labels(&self, labels: &Bound) -> bool {
        self.labels.iter().all(|(key, value)| labels.get(key) == Some(value))
    }

    /// Whether a guest is theirs to see.
    pub fn sees(&self, vm: &Vm) -> bool {
        self.sees_labels(&vm.definition.labels)
    }

    /// What they may know of themselves.
    pub fn session(&self) -> Session {
        Session {
            actor: self.actor.clone(),
            role: self.role,
            labels: self.labels.clone(),
            user: self.user.clone(),
            expires: self.expires,
        }
    }
}

/// Where a request comes from.
#[derive(Debug, Clone, Copy)]
pub enum Origin {
    /// The Unix socket, from a process of this user id.
    Local(u32),
    /// A TCP connection between these two addresses.
    Network {
        /// Theirs.
        peer: SocketAddr,
        /// Ours.
        own: SocketAddr,
    },
}

impl Origin {
    /// Where that is, without what differs from one connection to the next.
    pub fn place(self) -> String {
        match self {
            Origin::Local(user) => format!("local user {user}"),
            Origin::Network { peer, .. } => peer.ip().to_canonical().to_string(),
        }
    }
}

/// What a request shows of who it is from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'a> {
    /// The secret of a token.
    pub token: Option<&'a str>,
    /// The secret of a session.
    pub session: Option<&'a str>,
}

/// Knows who may do what.
#[derive(Clone)]
pub struct Access {
    store: Arc<dyn Store>,
    attempts: Arc<passwords::Attempts>,
    links: Arc<sessions::Links>,
}

impl Access {
    /// Who is in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, attempts: Arc::default(), links: Arc::default() }
    }

    /// Who it is that asks from `origin` and shows this.
    ///
    /// # Errors
    /// 401 if nobody knows them.
    pub async fn identify(&self, origin: Origin, shown: Shown<'_>) -> Result<Identity, Problem> {
        if let Some(secret) = shown.token {
            return self.by_token(secret).await;
        }
        if let Some(secret) = shown.session
            && let Some(identity) = self.by_session(secret).await?
        {
            return Ok(identity);
        }
        let user = match origin {
            Origin::Local(user) => Some(user),
            Origin::Network { peer, own } if peer.ip().is_loopback() => local::owner(peer, own),
            Origin::Network { .. } => None,
        };
        // Whoever may become this user, or root, can do all that the daemon can.
        let own = rustix::process::geteuid().as_raw();
        match user {
            Some(0) => Ok(Identity::of_this_machine("root".into())),
            Some(user) if user == own => Ok(Identity::of_this_machine(format!("user {user}"))),
            _ if shown.session.is_some() => Err(unknown("the session has ended: log in again")),
            _ => Err(unknown("log in, or show a token: Authorization: Bearer SECRET")),
        }
    }
}

/// A secret of 256 random bits.
fn secret() -> Result<String, Problem> {
    let mut random = [0; 32];
    getrandom::fill(&mut random).map_err(|error| Problem::internal(error.to_string()))?;
    Ok(hex(&random))
}

/// What is stored in place of a secret. The secret has 256 random bits: nobody finds it from a plain hash.
fn hashed(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unknown(detail: &str) -> Problem {
    Problem::new(401, "Who are you?", detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sqlite;

    pub fn access() -> (tempfile::TempDir, Access) {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("host.db")).unwrap();
        (folder, Access::new(Arc::new(store)))
    }

    pub fn remote() -> Origin {
        let address = |text: &str| text.parse().unwrap();
        Origin::Network { peer: address("192.0.2.1:1000"), own: address("192.0.2.2:2000") }
    }

    #[tokio::test]
    async fn of_this_machine_root_and_the_daemons_user_are_known() {
        let (_folder, access) = access();
        let identify = |user| access.identify(Origin::Local(user), Shown::default());
        assert_eq!(identify(0).await.unwrap().role, Role::Admin);
        assert_eq!(identify(54321).await.unwrap_err().status, 401);
    }
}
