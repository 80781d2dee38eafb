//! Users: people whom the host itself knows, with passwords.

use api::{Account, AccountChange, Id, Name, NewAccount, Problem, Time};
use serde::{Deserialize, Serialize};

use super::{Access, passwords};
use crate::events::Happening;
use crate::store::{Entry, Revision, StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where users are in the store.
const PREFIX: &str = "user/";

/// A user as the store has them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Known {
    /// What admins may know.
    #[serde(flatten)]
    pub account: Account,
    /// The hash of the password: a PHC string.
    hash: String,
}

fn key(name: &Name) -> String {
    format!("{PREFIX}{name}")
}

/// What happened to a user.
fn happening(kind: &str, message: &str, name: &Name, actor: &str) -> Happening {
    Happening::new(kind, message).to(format!("/api/v1/users/{name}"), name.as_str()).by(actor)
}

fn read(entry: &Entry) -> Result<Known, Problem> {
    serde_json::from_slice(&entry.value).map_err(StoreError::from).map_err(store_problem)
}

fn missing(name: &str) -> Problem {
    let shown: String = name.chars().take(80).collect();
    Problem::not_found(format!("there is no user {shown}"))
}

impl Access {
    /// All users, in the order of their names.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn users(&self) -> Result<Vec<Account>, Problem> {
        let (entries, _) = self.store.list(PREFIX).await.map_err(store_problem)?;
        entries.iter().map(|entry| read(entry).map(|known| known.account)).collect()
    }

    pub(super) async fn known(&self, name: &Name) -> Result<Option<(Known, Revision)>, Problem> {
        let entry = self.store.get(&key(name)).await.map_err(store_problem)?;
        entry.map(|entry| Ok((read(&entry)?, entry.revision))).transpose()
    }

    /// A user, by their name.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub async fn user(&self, name: &str) -> Result<Account, Problem> {
        Ok(self.found(name).await?.0.account)
    }

    async fn found(&self, name: &str) -> Result<(Known, Revision), Problem> {
        let parsed: Name = name.parse().map_err(|_| missing(name))?;
        self.known(&parsed).await?.ok_or_else(|| missing(name))
    }

    /// Makes a user known.
    ///
    /// # Errors
    /// If there is one of this name, or the store fails.
    pub async fn make_user(&self, new: NewAccount, actor: &str) -> Result<Account, Problem> {
        let (name, role, labels) = (new.name, new.role, new.labels);
        let taken = || Problem::conflict(format!("there is a user {name} already"));
        if self.known(&name).await?.is_some() {
            return Err(taken());
        }
        let hash = passwords::hash(new.password).await?;
        let account = Account {
            id: Id::new(),
            name: name.clone(),
            role,
            labels,
            disabled: false,
            created: Time::now(),
        };
        let known = Known { account, hash };
        let key = key(&name);
        let happening = happening("user.created", "was made known", &name, actor);
        let transaction = Transaction::new().expect_none(&key).put(key, &known);
        let transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        match self.store.commit(transaction).await {
            Err(StoreError::Conflict { .. }) => Err(taken()),
            Err(error) => Err(store_problem(error)),
            Ok(_) => Ok(known.account),
        }
    }

    /// Changes a user. With another password, or kept out, they have to log in again wherever they are.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub async fn change_user(
        &self,
        name: &str,
        change: AccountChange,
        actor: &str,
    ) -> Result<Account, Problem> {
        let (mut known, revision) = self.found(name).await?;
        let account = &mut known.account;
        account.role = change.role.unwrap_or(account.role);
        account.disabled = change.disabled.unwrap_or(account.disabled);
        if let Some(labels) = change.labels {
            account.labels = labels;
        }
        let out = change.password.is_some() || account.disabled;
        if let Some(password) = change.password {
            known.hash = passwords::hash(password).await?;
        }
        let key = key(&known.account.name);
        let happening = happening("user.edited", "was changed", &known.account.name, actor);
        let transaction = Transaction::new().expect(&key, revision).put(key, &known);
        let mut transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        if out {
            transaction = self.end_sessions(known.account.id, transaction).await?;
        }
        self.store.commit(transaction).await.map_err(store_problem)?;
        Ok(known.account)
    }

    /// Forgets a user.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub async fn remove_user(&self, name: &str, actor: &str) -> Result<(), Problem> {
        let (known, revision) = self.found(name).await?;
        let key = key(&known.account.name);
        let happening = happening("user.deleted", "is not known any more", &known.account.name, actor);
        let transaction = Transaction::new().expect(&key, revision).delete(key);
        let transaction = happening.add(transaction).map_err(store_problem)?;
        let transaction = self.end_sessions(known.account.id, transaction).await?;
        self.store.commit(transaction).await.map_err(store_problem).map(drop)
    }

    /// The user who shows this name and password from this place.
    ///
    /// # Errors
    /// 401 if it is not so, 429 if that was tried too often.
    pub(super) async fn authenticate(
        &self,
        name: &str,
        password: String,
        place: &str,
    ) -> Result<Known, Problem> {
        self.attempts.may_try(name, place)?;
        let known = match name.parse::<Name>() {
            Ok(name) => self.known(&name).await?.map(|(known, _)| known),
            Err(_) => None,
        };
        let known = known.filter(|known| !known.account.disabled);
        let fits = passwords::fits(password, known.as_ref().map(|known| known.hash.clone())).await?;
        match known.filter(|_| fits) {
            Some(known) => {
                self.attempts.succeeded(name, place);
                Ok(known)
            }
            None => {
                self.attempts.failed(name, place);
                Err(super::unknown("the user or the password is wrong"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use api::{Bound, Role};

    use super::super::tests::access;
    use super::*;

    fn new(name: &str) -> NewAccount {
        let name = name.parse().unwrap();
        NewAccount { name, role: Role::Viewer, labels: Bound::new(), password: "correct horse".into() }
    }

    #[tokio::test]
    async fn a_user_is_made_changed_and_forgotten() {
        let (_folder, access) = access();
        access.make_user(new("ann"), "root").await.unwrap();
        assert_eq!(access.make_user(new("ann"), "root").await.unwrap_err().status, 409);
        let change = AccountChange { role: Some(Role::Admin), ..AccountChange::default() };
        assert_eq!(access.change_user("ann", change, "root").await.unwrap().role, Role::Admin);
        assert_eq!(access.users().await.unwrap().len(), 1);
        access.remove_user("ann", "root").await.unwrap();
        assert_eq!(access.remove_user("ann", "root").await.unwrap_err().status, 404);
        assert_eq!(access.user("../x").await.unwrap_err().status, 404);
    }

    #[tokio::test]
    async fn only_the_right_password_of_somebody_who_is_not_kept_out_is_taken() {
        let (_folder, access) = access();
        access.make_user(new("ann"), "root").await.unwrap();
        let tried =
            async |name: &str, password: &str| access.authenticate(name, password.into(), "here").await;
        assert!(tried("ann", "correct horse").await.is_ok());
        let wrong = tried("ann", "correct hors").await.unwrap_err();
        let nobody = tried("bob", "correct horse").await.unwrap_err();
        assert_eq!((wrong.status, &wrong.detail), (401, &nobody.detail), "who there is is not told");
        let change = AccountChange { disabled: Some(true), ..AccountChange::default() };
        access.change_user("ann", change, "root").await.unwrap();
        assert!(tried("ann", "correct horse").await.is_err());
    }

    #[tokio::test]
    async fn the_password_is_not_in_the_store() {
        let (_folder, access) = access();
        access.make_user(new("ann"), "root").await.unwrap();
        for entry in access.store.list("").await.unwrap().0 {
            assert!(!String::from_utf8_lossy(&entry.value).contains("horse"));
        }
    }
}
