//! Passwords: kept as argon2id hashes (RFC 9106), and not to be guessed by trying.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use api::Problem;
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use tokio::sync::Semaphore;

/// How many passwords are hashed at once: each takes 19 MiB and some 30 ms of a processor.
static HASHING: Semaphore = Semaphore::const_new(2);
/// How long somebody may wait for their turn.
const QUEUE: Duration = Duration::from_secs(10);

/// So many wrong passwords of one name from one place are forgiven; after that each one doubles the wait.
const FORGIVEN_ONE: u32 = 5;
/// So many of all names from one place.
const FORGIVEN_PLACE: u32 = 30;
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(300);
/// How long failures are remembered.
const MEMORY: Duration = Duration::from_secs(3600);
/// How many names and places are remembered.
const MOST: usize = 10_000;

/// The hash of no password that anybody knows: what is compared with when there is no such user, so that it takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| {
    let random = super::secret().unwrap_or_default();
    Argon2::default().hash_password(random.as_bytes()).map(|hash| hash.to_string()).unwrap_or_default()
});

async fn hashing<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
    let crowded = || Problem::new(503, "Too many at once", "too many people log in at once: try again");
    let turn = tokio::time::timeout(QUEUE, HASHING.acquire()).await.map_err(|_| crowded())?;
    let turn = turn.map_err(|_| crowded())?;
    let done = tokio::task::spawn_blocking(work).await;
    drop(turn);
    done.map_err(|error| Problem::internal(error.to_string()))
}

/// The hash of a password, as it is stored: a PHC string.
///
/// # Errors
/// If there is no random salt, or too many wait.
pub async fn hash(password: String) -> Result<String, Problem> {
    let hashed =
        hashing(move || Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()));
    hashed.await?.map_err(|error| Problem::internal(format!("a password cannot be hashed: {error}")))
}

/// Whether a password is the one that was hashed; it never is where there is no hash, and that takes as long.
///
/// # Errors
/// If too many wait.
pub async fn fits(password: String, hash: Option<String>) -> Result<bool, Problem> {
    hashing(move || {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.clone());
        let verified = PasswordHash::new(&hash)
            .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok());
        known && verified
    })
    .await
}

#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// How long whoever failed so often has to wait.
    fn wait(self, forgiven: u32) -> Duration {
        match self.count.checked_sub(forgiven) {
            None => Duration::ZERO,
            Some(over) => Duration::from_secs(1 << over.min(9)).min(LONGEST_WAIT),
        }
    }
}

/// Whose wrong passwords are remembered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    One(String, String),
    Place(String),
}

impl Whose {
    fn forgiven(&self) -> u32 {
        match self {
            Whose::One(..) => FORGIVEN_ONE,
            Whose::Place(_) => FORGIVEN_PLACE,
        }
    }
}

/// The wrong passwords that were tried of late.
#[derive(Default)]
pub struct Attempts {
    failures: Mutex<HashMap<Whose, Failures>>,
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, HashMap<Whose, Failures>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn both(user: &str, place: &str) -> [Whose; 2] {
        [Whose::One(user.to_owned(), place.to_owned()), Whose::Place(place.to_owned())]
    }

    /// Whether a password for this user may be tried from this place now.
    ///
    /// # Errors
    /// 429 with how long to wait.
    pub fn may_try(&self, user: &str, place: &str) -> Result<(), Problem> {
        let failures = self.lock();
        let left = Self::both(user, place).into_iter().filter_map(|whose| {
            let known = failures.get(&whose)?;
            known.wait(whose.forgiven()).checked_sub(known.last.elapsed())
        });
        match left.max().filter(|left| !left.is_zero()) {
            None => Ok(()),
            Some(left) => {
                let detail = format!("too many wrong passwords: try again in {} s", left.as_secs() + 1);
                Err(Problem::new(429, "Too many tries", detail))
            }
        }
    }

    /// A password was wrong.
    pub fn failed(&self, user: &str, place: &str) {
        let mut failures = self.lock();
        if failures.len() >= MOST {
            failures.retain(|_, known| known.last.elapsed() < MEMORY);
        }
        if failures.len() >= MOST
            && let Some(oldest) =
                failures.iter().min_by_key(|(_, known)| known.last).map(|(whose, _)| whose.clone())
        {
            failures.remove(&oldest);
        }
        for whose in Self::both(user, place) {
            let known = failures.entry(whose).or_insert(Failures { count: 0, last: Instant::now() });
            if known.last.elapsed() >= MEMORY {
                known.count = 0;
            }
            known.count = known.count.saturating_add(1);
            known.last = Instant::now();
        }
    }

    /// A password was right.
    pub fn succeeded(&self, user: &str, place: &str) {
        let [one, _] = Self::both(user, place);
        self.lock().remove(&one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_fits_its_own_hash_only() {
        let hash = hash("correct horse".into()).await.unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(fits("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!fits("correct horsf".into(), Some(hash)).await.unwrap());
        assert!(!fits("correct horse".into(), None).await.unwrap());
    }

    #[test]
    fn who_guesses_waits_and_others_do_not() {
        let attempts = Attempts::default();
        for _ in 0..FORGIVEN_ONE {
            assert!(attempts.may_try("ann", "192.0.2.1").is_ok());
            attempts.failed("ann", "192.0.2.1");
        }
        assert_eq!(attempts.may_try("ann", "192.0.2.1").unwrap_err().status, 429);
        assert!(attempts.may_try("ann", "192.0.2.2").is_ok(), "from where nobody guessed");
        assert!(attempts.may_try("bob", "192.0.2.1").is_ok());
        for n in 0..FORGIVEN_PLACE {
            attempts.failed(&format!("user-{n}"), "192.0.2.1");
        }
        assert!(attempts.may_try("bob", "192.0.2.1").is_err(), "one place tries them all");
        attempts.succeeded("ann", "192.0.2.9");
        assert!(attempts.may_try("ann", "192.0.2.1").is_err());
    }

    #[test]
    fn what_is_remembered_of_failures_is_bounded() {
        let attempts = Attempts::default();
        for n in 0..MOST {
            attempts.failed(&n.to_string(), "192.0.2.1");
        }
        assert!(attempts.lock().len() <= MOST + 1);
    }

    #[test]
    fn the_wait_is_bounded() {
        let wait = |count| Failures { count, last: Instant::now() }.wait(FORGIVEN_ONE);
        assert_eq!(wait(4), Duration::ZERO);
        assert_eq!(wait(5), Duration::from_secs(1));
        assert_eq!(wait(u32::MAX), LONGEST_WAIT);
    }
}
