//! Requests that may be sent twice: a client that has heard no answer sends the same request with the same key again, and what it asks for
//! is done once (draft-ietf-httpapi-idempotency-key-header). What was answered is kept for a day.

use std::sync::Arc;

use api::{Id, Problem, Time};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::ToSpan;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::{Store, StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where they are in the store.
const PREFIX: &str = "repeat/";
/// How long an answer is kept, hours.
const KEPT_HOURS: i64 = 24;
/// More than these are not kept: the oldest go first.
const MOST_KEPT: usize = 20_000;
/// The longest answer that is kept, bytes.
const LONGEST: usize = 256 << 10;

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// What kind of text it is.
    pub kind: Option<String>,
    /// The text.
    pub body: Vec<u8>,
}

/// A request that has a key.
#[derive(Debug, Clone)]
pub struct Asked<'a> {
    /// Who asks, and as what.
    pub who: &'a str,
    /// The method, the path and the query.
    pub what: &'a str,
    /// The key.
    pub key: &'a str,
    /// What has to be so for it to be done (`If-Match`), if it says.
    pub condition: Option<&'a [u8]>,
    /// The body.
    pub body: &'a [u8],
}

/// What is to be done with a request.
#[derive(Debug)]
pub enum Turn {
    /// It is the first: it is done, and then [`Repeats::ended`] or [`Repeats::forget`] says so.
    First(Begun),
    /// It was answered before.
    Again(Answer),
}

/// A request that is being done.
#[derive(Debug)]
pub struct Begun {
    place: String,
    body: String,
}

/// What the store knows of a request.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    begun: Time,
    /// The run of the daemon that began it.
    run: Id,
    /// Its condition and its body, hashed with its key.
    body: String,
    answer: Said,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
enum Said {
    /// Nothing yet.
    Begun,
    /// Something that is not kept: it was too long, or told a secret.
    Unkept { status: u16 },
    /// This.
    Text {
        status: u16,
        kind: Option<String>,
        /// Base64.
        body: String,
    },
}

/// The requests that have keys.
pub struct Repeats {
    store: Arc<dyn Store>,
    /// This run of the daemon.
    run: Id,
}

/// A hash of `parts`, with their lengths, so that none runs into the next.
fn hashed(parts: &[&[u8]]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    BASE64.encode(hash.finalize())
}

impl Repeats {
    /// Those in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store, run: Id::new() }
    }

    fn kept(&self, begun: &Begun, answer: Said) -> Kept {
        Kept { begun: Time::now(), run: self.run, body: begun.body.clone(), answer }
    }

    /// Whether a request has been made before.
    ///
    /// # Errors
    /// If the same key came with another body or condition, if the first request is still being done, if nobody knows whether it was done, or if its
    /// answer is not kept.
    pub async fn begin(&self, asked: &Asked<'_>) -> Result<Turn, Problem> {
        // The key itself is not kept: without it nobody finds out by trying what was in the body.
        let place = hashed(&[asked.who.as_bytes(), asked.what.as_bytes(), asked.key.as_bytes()]);
        let parts = [Some(asked.key.as_bytes()), Some(asked.body), asked.condition];
        let body = hashed(&parts.into_iter().flatten().collect::<Vec<_>>());
        let begun = Begun { place: format!("{PREFIX}{place}"), body };
        let first = Transaction::new().expect_none(&begun.place);
        let first = first.put(&begun.place, &self.kept(&begun, Said::Begun)).map_err(store_problem)?;
        match self.store.commit(first).await {
            Ok(_) => return Ok(Turn::First(begun)),
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(store_problem(error)),
        }
        let entry = self.store.get(&begun.place).await.map_err(store_problem)?;
        let entry =
            entry.ok_or_else(|| Problem::conflict("the first request has just failed: ask once more"))?;
        let kept: Kept =
            serde_json::from_slice(&entry.value).map_err(|error| store_problem(StoreError::from(error)))?;
        if kept.body != begun.body {
            let detail =
                "Idempotency-Key: another request has had this key: give each request a key of its own";
            return Err(Problem::new(422, "The request is not valid", detail));
        }
        self.again(kept)
    }

    fn again(&self, kept: Kept) -> Result<Turn, Problem> {
        match kept.answer {
            Said::Begun if kept.run == self.run => {
                Err(Problem::conflict("the same request is being done: ask again in a moment"))
            }
            Said::Begun => Err(Problem::conflict(
                "the daemon ended while the same request was being done: look whether it was, and give the next one another key",
            )),
            Said::Unkept { status } => Err(Problem::conflict(format!(
                "the same request was answered with {status} before; that answer is told once"
            ))),
            Said::Text { status, kind, body } => {
                let body = BASE64.decode(body).map_err(|error| Problem::internal(error.to_string()))?;
                Ok(Turn::Again(Answer { status, kind, body }))
            }
        }
    }

    /// It has been answered. An answer that tells a `secret` is not kept.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub async fn ended(&self, begun: &Begun, answer: &Answer, secret: bool) -> Result<(), Problem> {
        let said = match secret || answer.body.len() > LONGEST {
            true => Said::Unkept { status: answer.status },
            false => Said::Text {
                status: answer.status,
                kind: answer.kind.clone(),
                body: BASE64.encode(&answer.body),
            },
        };
        let put = Transaction::new().put(&begun.place, &self.kept(begun, said)).map_err(store_problem)?;
        self.store.commit(put).await.map_err(store_problem).map(drop)
    }

    /// It was refused, or failed: the next one with this key is the first again.
    ///
    /// # Errors
    /// If the store cannot be written.
    pub async fn forget(&self, begun: &Begun) -> Result<(), Problem> {
        self.store.commit(Transaction::new().delete(&begun.place)).await.map_err(store_problem).map(drop)
    }

    /// Forgets what is older than a day.
    ///
    /// # Errors
    /// If the store fails.
    pub async fn trim(&self) -> Result<(), StoreError> {
        self.trim_to(Time::now(), MOST_KEPT).await
    }

    async fn trim_to(&self, now: Time, most: usize) -> Result<(), StoreError> {
        let (entries, _) = self.store.list(PREFIX).await?;
        let many = entries.len().saturating_sub(most);
        let oldest = now.checked_sub(KEPT_HOURS.hours()).unwrap_or(Time::MIN);
        // What cannot be read is of no use to anybody.
        let age = |value: &[u8]| serde_json::from_slice::<Kept>(value).map_or(Time::MIN, |kept| kept.begun);
        let mut aged: Vec<_> = entries.into_iter().map(|entry| (age(&entry.value), entry.key)).collect();
        aged.sort();
        let old = aged.into_iter().enumerate().filter(|(n, (begun, _))| *n < many || *begun < oldest);
        let transaction = old.fold(Transaction::new(), |all, (_, (_, key))| all.delete(key));
        if !transaction.changes.is_empty() {
            self.store.commit(transaction).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Sqlite;

    const ASKED: Asked<'_> =
        Asked { who: "ann", what: "POST /vms", key: "one", condition: None, body: b"{}" };

    fn repeats() -> (tempfile::TempDir, Repeats) {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("store")).unwrap();
        (folder, Repeats::new(Arc::new(store)))
    }

    fn answer() -> Answer {
        Answer { status: 202, kind: Some("application/json".into()), body: b"{\"a\":1}".to_vec() }
    }

    async fn first(repeats: &Repeats, asked: &Asked<'_>) -> Begun {
        match repeats.begin(asked).await.unwrap() {
            Turn::First(begun) => begun,
            Turn::Again(answer) => panic!("{answer:?}"),
        }
    }

    async fn refused(repeats: &Repeats, asked: &Asked<'_>) -> (u16, String) {
        let problem = repeats.begin(asked).await.unwrap_err();
        (problem.status, problem.detail)
    }

    #[tokio::test]
    async fn a_request_is_done_once_and_answered_twice() {
        let (_folder, repeats) = repeats();
        let begun = first(&repeats, &ASKED).await;
        assert_eq!(refused(&repeats, &ASKED).await.0, 409, "it is being done");
        repeats.ended(&begun, &answer(), false).await.unwrap();
        assert!(matches!(repeats.begin(&ASKED).await.unwrap(), Turn::Again(again) if again == answer()));
        let other = Asked { body: b"{\"b\":2}", ..ASKED };
        assert_eq!(refused(&repeats, &other).await.0, 422, "another body");
        let conditional = Asked { condition: Some(b"\"1\""), ..ASKED };
        assert_eq!(refused(&repeats, &conditional).await.0, 422, "a condition that the first had not");
        // Others' keys, and the same key elsewhere, are other requests.
        first(&repeats, &Asked { who: "bob", ..ASKED }).await;
        first(&repeats, &Asked { what: "POST /pools", ..ASKED }).await;
    }

    #[tokio::test]
    async fn what_failed_can_be_tried_again_and_a_secret_is_told_once() {
        let (_folder, repeats) = repeats();
        let begun = first(&repeats, &ASKED).await;
        repeats.forget(&begun).await.unwrap();
        let begun = first(&repeats, &ASKED).await;
        repeats.ended(&begun, &answer(), true).await.unwrap();
        let (status, detail) = refused(&repeats, &ASKED).await;
        assert!(status == 409 && detail.contains("told once"), "{detail}");
        let (entries, _) = repeats.store.list("").await.unwrap();
        assert!(!String::from_utf8_lossy(&entries[0].value).contains(&BASE64.encode(answer().body)));
    }

    #[tokio::test]
    async fn what_a_killed_daemon_was_at_is_not_done_twice() {
        let (_folder, repeats) = repeats();
        first(&repeats, &ASKED).await;
        let next = Repeats::new(Arc::clone(&repeats.store));
        let (status, detail) = refused(&next, &ASKED).await;
        assert!(status == 409 && detail.contains("look whether"), "{detail}");
    }

    #[tokio::test]
    async fn answers_are_kept_for_a_day_and_not_without_number() {
        let (_folder, repeats) = repeats();
        for key in ["one", "two", "three"] {
            first(&repeats, &Asked { key, ..ASKED }).await;
        }
        repeats.trim_to(Time::now() + 23.hours(), 2).await.unwrap();
        assert_eq!(repeats.store.list(PREFIX).await.unwrap().0.len(), 2);
        repeats.trim_to(Time::now() + 25.hours(), 2).await.unwrap();
        assert_eq!(repeats.store.list(PREFIX).await.unwrap().0.len(), 0);
    }
}
