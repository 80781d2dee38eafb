//! Tokens: what programs show.

use api::{Id, MadeToken, NewToken, Problem, Time, Token};
use jiff::SignedDuration;

use super::{Access, Identity, hashed, secret, unknown};
use crate::events::Happening;
use crate::store::{StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where tokens are in the store: under the hash of their secrets.
const PREFIX: &str = "token/";
/// What a secret begins with, so that one that leaked is recognised.
const MARK: &str = "tessera_";

impl Access {
    pub(super) async fn by_token(&self, secret: &str) -> Result<Identity, Problem> {
        let found = self.store.get(&key(secret)).await.map_err(store_problem)?;
        let entry = found.ok_or_else(|| unknown("the token is not one of this host's"))?;
        let token: Token =
            serde_json::from_slice(&entry.value).map_err(StoreError::from).map_err(store_problem)?;
        if token.expires.is_some_and(|expires| expires <= Time::now()) {
            return Err(unknown("the token has expired"));
        }
        let actor = format!("token {}", token.name);
        Ok(Identity { actor, role: token.role, labels: token.labels, user: None, expires: None })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// If there is one of this name, or the store fails.
    pub async fn make_token(&self, new: NewToken, actor: &str) -> Result<MadeToken, Problem> {
        if self.tokens().await?.iter().any(|token| token.name == new.name) {
            return Err(Problem::conflict(format!("there is a token called {} already", new.name)));
        }
        let secret = format!("{MARK}{}", secret()?);
        let day = SignedDuration::from_hours(24);
        let token = Token {
            id: Id::new(),
            name: new.name,
            role: new.role,
            labels: new.labels,
            created: Time::now(),
            expires: new.days.and_then(|days| Time::now().checked_add(day * days as i32).ok()),
        };
        let happening = happening("token.created", "was made", &token, actor);
        let transaction = Transaction::new().put(key(&secret), &token);
        let transaction = transaction.and_then(|all| happening.add(all)).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem)?;
        Ok(MadeToken { token, secret })
    }

    /// All tokens, the oldest first.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn tokens(&self) -> Result<Vec<Token>, Problem> {
        Ok(self.stored().await?.into_iter().map(|(_, token)| token).collect())
    }

    async fn stored(&self) -> Result<Vec<(String, Token)>, Problem> {
        let (entries, _) = self.store.list(PREFIX).await.map_err(store_problem)?;
        let read =
            |entry: crate::store::Entry| Ok((entry.key, serde_json::from_slice::<Token>(&entry.value)?));
        let mut tokens: Vec<_> =
            entries.into_iter().map(read).collect::<Result<_, StoreError>>().map_err(store_problem)?;
        tokens.sort_by_key(|(_, token)| token.id);
        Ok(tokens)
    }

    /// Takes a token away, by its name or id.
    ///
    /// # Errors
    /// If there is none, or the store fails.
    pub async fn remove_token(&self, name_or_id: &str, actor: &str) -> Result<(), Problem> {
        let tokens = self.stored().await?;
        let fits = |token: &Token| token.name.as_str() == name_or_id || token.id.to_string() == name_or_id;
        let found = tokens.into_iter().find(|(_, token)| fits(token));
        let (key, token) = found.ok_or_else(|| Problem::not_found("there is no such token"))?;
        let happening = happening("token.deleted", "is not taken any more", &token, actor);
        let transaction = happening.add(Transaction::new().delete(key)).map_err(store_problem)?;
        self.store.commit(transaction).await.map_err(store_problem).map(drop)
    }
}

/// What happened to a token.
fn happening(kind: &str, message: &str, token: &Token, actor: &str) -> Happening {
    Happening::new(kind, message).to(format!("/api/v1/tokens/{}", token.id), token.name.as_str()).by(actor)
}

/// Where a token with this secret is.
fn key(secret: &str) -> String {
    format!("{PREFIX}{}", hashed(secret))
}

#[cfg(test)]
mod tests {
    use api::{Bound, Role};

    use super::super::Shown;
    use super::super::tests::{access, remote};
    use super::*;

    fn show(token: Option<&str>) -> Shown<'_> {
        Shown { token, session: None }
    }

    #[tokio::test]
    async fn a_token_is_taken_until_it_expires_or_is_removed() {
        let (_folder, access) = access();
        assert_eq!(access.identify(remote(), show(None)).await.unwrap_err().status, 401);
        assert_eq!(access.identify(remote(), show(Some("tessera_00"))).await.unwrap_err().status, 401);
        let new = |name: &str| NewToken {
            name: name.parse().unwrap(),
            role: Role::Operator,
            days: Some(1),
            labels: Bound::new(),
        };
        let made = access.make_token(new("ci"), "root").await.unwrap();
        assert_eq!(access.make_token(new("ci"), "root").await.unwrap_err().status, 409);
        let identity = access.identify(remote(), show(Some(&made.secret))).await.unwrap();
        assert_eq!((identity.actor.as_str(), identity.role), ("token ci", Role::Operator));
        access.remove_token("ci", "root").await.unwrap();
        assert_eq!(access.identify(remote(), show(Some(&made.secret))).await.unwrap_err().status, 401);
        assert_eq!(access.remove_token("ci", "root").await.unwrap_err().status, 404);
    }

    #[tokio::test]
    async fn the_secret_is_not_in_the_store() {
        let (_folder, access) = access();
        let made = access
            .make_token(
                NewToken { name: "a".parse().unwrap(), role: Role::Viewer, days: None, labels: Bound::new() },
                "root",
            )
            .await
            .unwrap();
        let (entries, _) = access.store.list("").await.unwrap();
        for entry in entries {
            let text = format!("{} {}", entry.key, String::from_utf8_lossy(&entry.value));
            assert!(!text.contains(made.secret.trim_start_matches(MARK)), "{text}");
        }
    }
}
