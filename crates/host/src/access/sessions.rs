//! Sessions: who has logged in stays so for a while, by a cookie; and links that log in who opens them first.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use api::{Bound, Id, Login, LoginLink, Name, Problem, Role, Time};
use serde::{Deserialize, Serialize};

use super::{Access, Identity, hashed, secret, unknown};
use crate::store::{Entry, StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where sessions are in the store: under the hash of their secrets.
const PREFIX: &str = "session/";
/// How long a session lasts.
pub const SESSION_LIFE: Duration = Duration::from_secs(12 * 3600);
/// How long a link can be opened.
const LINK_LIFE: Duration = Duration::from_secs(600);
/// How many links may wait to be opened.
const MOST_LINKS: usize = 100;
/// Where links lead.
pub const LINK_PATH: &str = "/login";

/// A session as the store has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stored {
    /// Whose it is.
    whose: Whose,
    /// Until when.
    expires: Time,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Whose {
    /// A user's; what they may do is looked up each time.
    User { id: Id, name: Name },
    /// That of somebody of this machine, who opened a link.
    Local { actor: String, role: Role, labels: Bound },
}

/// Links that nobody has opened yet.
#[derive(Default)]
pub struct Links {
    open: Mutex<HashMap<String, (Identity, Time)>>,
}

impl Links {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, (Identity, Time)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(secret: &str) -> String {
    format!("{PREFIX}{}", hashed(secret))
}

fn read(entry: &Entry) -> Result<Stored, Problem> {
    serde_json::from_slice(&entry.value).map_err(StoreError::from).map_err(store_problem)
}

fn later(life: Duration) -> Time {
    Time::now().checked_add(life).unwrap_or(Time::MAX)
}

/// Somebody who has just logged in.
pub struct Begun {
    /// Who.
    pub identity: Identity,
    /// What the cookie holds.
    pub secret: String,
}

impl Access {
    /// Logs a user in who shows their password from this place.
    ///
    /// # Errors
    /// 401 if user or password are wrong, 429 if that was tried too often.
    pub async fn log_in(&self, login: Login, place: &str) -> Result<Begun, Problem> {
        let account = self.authenticate(&login.user, login.password, place).await?.account;
        let identity = Identity {
            actor: account.name.to_string(),
            role: account.role,
            labels: account.labels,
            user: Some(account.name.clone()),
            expires: None,
        };
        self.begin(Whose::User { id: account.id, name: account.name }, identity).await
    }

    /// Changes the password of who shows the one they have.
    ///
    /// # Errors
    /// 401 if that is wrong, 429 if it was tried too often.
    pub async fn change_own_password(
        &self,
        user: &Name,
        change: api::PasswordChange,
        place: &str,
    ) -> Result<(), Problem> {
        self.authenticate(user.as_str(), change.old, place).await?;
        let change = api::AccountChange { password: Some(change.new), ..Default::default() };
        self.change_user(user.as_str(), change, user.as_str()).await.map(drop)
    }

    async fn begin(&self, whose: Whose, mut identity: Identity) -> Result<Begun, Problem> {
        let secret = secret()?;
        let expires = later(SESSION_LIFE);
        identity.expires = Some(expires);
        let stored = Stored { whose, expires };
        let transaction = Transaction::new().put(key(&secret), &stored).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        Ok(Begun { identity, secret })
    }

    /// Makes a link that logs whoever opens it first in as `identity`.
    ///
    /// # Errors
    /// If there is nothing random, or too many wait to be opened.
    pub fn link(&self, identity: Identity) -> Result<LoginLink, Problem> {
        let secret = secret()?;
        let expires = later(LINK_LIFE);
        let mut open = self.links.lock();
        open.retain(|_, (_, expires)| *expires > Time::now());
        if open.len() >= MOST_LINKS {
            return Err(Problem::conflict("too many links wait to be opened: use one of them"));
        }
        open.insert(hashed(&secret), (identity, expires));
        Ok(LoginLink { path: format!("{LINK_PATH}?once={secret}"), expires })
    }

    /// Logs in who opens a link.
    ///
    /// # Errors
    /// 401 if it has been opened before, or is too old.
    pub async fn open_link(&self, secret: &str) -> Result<Begun, Problem> {
        let found = self.links.lock().remove(&hashed(secret));
        let found = found.filter(|(_, expires)| *expires > Time::now());
        let (identity, _) = found.ok_or_else(|| {
            unknown("the link has been opened before, or is too old: tessera host link makes another one")
        })?;
        let whose = Whose::Local {
            actor: identity.actor.clone(),
            role: identity.role,
            labels: identity.labels.clone(),
        };
        self.begin(whose, identity).await
    }

    pub(super) async fn by_session(&self, secret: &str) -> Result<Option<Identity>, Problem> {
        let Some(entry) = self.store.get(&key(secret)).await.map_err(store_problem)? else { return Ok(None) };
        let Stored { whose, expires } = read(&entry)?;
        if expires <= Time::now() {
            return Ok(None);
        }
        let (id, name) = match whose {
            Whose::User { id, name } => (id, name),
            Whose::Local { actor, role, labels } => {
                return Ok(Some(Identity { actor, role, labels, user: None, expires: Some(expires) }));
            }
        };
        let known = self.known(&name).await?.map(|(known, _)| known.account);
        let known = known.filter(|account| account.id == id && !account.disabled);
        Ok(known.map(|account| Identity {
            actor: account.name.to_string(),
            role: account.role,
            labels: account.labels,
            user: Some(account.name),
            expires: Some(expires),
        }))
    }

    /// Logs out who holds this secret.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn log_out(&self, secret: &str) -> Result<(), Problem> {
        self.store.commit(Transaction::new().delete(key(secret))).await.map_err(store_problem).map(drop)
    }

    /// A transaction that also ends all sessions of a user.
    pub(super) async fn end_sessions(
        &self,
        user: Id,
        mut transaction: Transaction,
    ) -> Result<Transaction, Problem> {
        let (entries, _) = self.store.list(PREFIX).await.map_err(store_problem)?;
        for entry in entries {
            if matches!(read(&entry)?.whose, Whose::User { id, .. } if id == user) {
                transaction = transaction.delete(entry.key);
            }
        }
        Ok(transaction)
    }

    /// Forgets sessions that have ended.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn forget_old_sessions(&self) -> Result<(), Problem> {
        let (entries, _) = self.store.list(PREFIX).await.map_err(store_problem)?;
        let old =
            entries.into_iter().filter(|entry| read(entry).is_ok_and(|stored| stored.expires <= Time::now()));
        let transaction = old.fold(Transaction::new(), |all, entry| all.delete(entry.key));
        if transaction.changes.is_empty() {
            return Ok(());
        }
        self.store.commit(transaction).await.map_err(store_problem).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use api::{AccountChange, NewAccount};

    use super::super::tests::{access, remote};
    use super::super::{Access, Shown};
    use super::*;

    async fn with_ann() -> (tempfile::TempDir, Access, String) {
        let (folder, access) = access();
        let labels = Bound::from([("team".into(), "a".into())]);
        let name = "ann".parse().unwrap();
        access
            .make_user(
                NewAccount { name, role: Role::Operator, labels, password: "correct horse".into() },
                "root",
            )
            .await
            .unwrap();
        let login = Login { user: "ann".into(), password: "correct horse".into() };
        let begun = access.log_in(login, "here").await.unwrap();
        (folder, access, begun.secret)
    }

    async fn status(access: &Access, session: &str) -> Result<Identity, u16> {
        let shown = Shown { token: None, session: Some(session) };
        access.identify(remote(), shown).await.map_err(|problem| problem.status)
    }

    #[tokio::test]
    async fn who_has_logged_in_is_known_until_they_log_out() {
        let (_folder, access, secret) = with_ann().await;
        let identity = status(&access, &secret).await.unwrap();
        assert_eq!((identity.actor.as_str(), identity.role), ("ann", Role::Operator));
        assert!(identity.is_bound() && identity.expires.is_some());
        access.log_out(&secret).await.unwrap();
        assert_eq!(status(&access, &secret).await, Err(401));
    }

    #[tokio::test]
    async fn what_a_user_may_do_changes_at_once_and_a_new_password_ends_sessions() {
        let (_folder, access, secret) = with_ann().await;
        let change = AccountChange { role: Some(Role::Viewer), ..AccountChange::default() };
        access.change_user("ann", change, "root").await.unwrap();
        assert_eq!(status(&access, &secret).await.unwrap().role, Role::Viewer);
        let change = AccountChange { password: Some("another horse".into()), ..AccountChange::default() };
        access.change_user("ann", change, "root").await.unwrap();
        assert_eq!(status(&access, &secret).await, Err(401));
    }

    #[tokio::test]
    async fn another_user_of_the_same_name_is_not_logged_in() {
        let (_folder, access, secret) = with_ann().await;
        access.remove_user("ann", "root").await.unwrap();
        let (name, password) = ("ann".parse().unwrap(), "correct horse".into());
        access
            .make_user(NewAccount { name, role: Role::Admin, labels: Bound::new(), password }, "root")
            .await
            .unwrap();
        assert_eq!(status(&access, &secret).await, Err(401));
    }

    #[tokio::test]
    async fn a_link_logs_in_once() {
        let (_folder, access) = access();
        let link = access.link(Identity::of_this_machine("root".into())).unwrap();
        let secret = link.path.split_once("once=").unwrap().1;
        let begun = access.open_link(secret).await.unwrap();
        assert_eq!(status(&access, &begun.secret).await.unwrap().role, Role::Admin);
        assert!(access.open_link(secret).await.is_err(), "the second one");
    }
}
