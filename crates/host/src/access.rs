//! Who asks, and what they may: people of this machine by their user id, programs by tokens.

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;

use api::{Id, MadeToken, NewToken, Problem, Role, Time, Token};
use jiff::SignedDuration;
use sha2::{Digest, Sha256};

use crate::store::{Store, StoreError, Transaction};
use crate::supervisor::store_problem;

/// Where tokens are in the store: under the hash of their secrets.
const PREFIX: &str = "token/";
/// What a secret begins with, so that one that leaked is recognised.
const MARK: &str = "tessera_";

/// Somebody who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is, as tasks and events tell.
    pub actor: String,
    /// What they may do.
    pub role: Role,
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

/// Knows who may do what.
#[derive(Clone)]
pub struct Access {
    store: Arc<dyn Store>,
}

impl Access {
    /// Who is in `store`.
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }

    /// Who it is that asks from `origin`, showing `secret` if they do.
    ///
    /// # Errors
    /// 401 if nobody knows them.
    pub async fn identify(&self, origin: Origin, secret: Option<&str>) -> Result<Identity, Problem> {
        if let Some(secret) = secret {
            return self.by_token(secret).await;
        }
        let user = match origin {
            Origin::Local(user) => Some(user),
            Origin::Network { peer, own } if peer.ip().is_loopback() => owner(peer, own),
            Origin::Network { .. } => None,
        };
        // Whoever may become this user, or root, can do all that the daemon can.
        let own = rustix::process::geteuid().as_raw();
        match user {
            Some(0) => Ok(Identity { actor: "root".into(), role: Role::Admin }),
            Some(user) if user == own => Ok(Identity { actor: format!("user {user}"), role: Role::Admin }),
            _ => Err(unknown("show a token: Authorization: Bearer SECRET")),
        }
    }

    async fn by_token(&self, secret: &str) -> Result<Identity, Problem> {
        let found = self.store.get(&key(secret)).await.map_err(store_problem)?;
        let entry = found.ok_or_else(|| unknown("the token is not one of this host's"))?;
        let token: Token =
            serde_json::from_slice(&entry.value).map_err(StoreError::from).map_err(store_problem)?;
        if token.expires.is_some_and(|expires| expires <= Time::now()) {
            return Err(unknown("the token has expired"));
        }
        Ok(Identity { actor: format!("token {}", token.name), role: token.role })
    }

    /// Makes a token.
    ///
    /// # Errors
    /// If there is one of this name, or the store fails.
    pub async fn make(&self, new: NewToken) -> Result<MadeToken, Problem> {
        if self.tokens().await?.iter().any(|token| token.name == new.name) {
            return Err(Problem::conflict(format!("there is a token called {} already", new.name)));
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|error| Problem::internal(error.to_string()))?;
        let secret = format!("{MARK}{}", hex(&random));
        let day = SignedDuration::from_hours(24);
        let token = Token {
            id: Id::new(),
            name: new.name,
            role: new.role,
            created: Time::now(),
            expires: new.days.and_then(|days| Time::now().checked_add(day * days as i32).ok()),
        };
        let transaction = Transaction::new().put(key(&secret), &token).map_err(store_problem)?;
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
    pub async fn remove(&self, name_or_id: &str) -> Result<(), Problem> {
        let tokens = self.stored().await?;
        let fits = |token: &Token| token.name.as_str() == name_or_id || token.id.to_string() == name_or_id;
        let found = tokens.into_iter().find(|(_, token)| fits(token));
        let (key, _) = found.ok_or_else(|| Problem::not_found("there is no such token"))?;
        self.store.commit(Transaction::new().delete(key)).await.map_err(store_problem).map(drop)
    }
}

/// Where a token with this secret is. The secret has 256 random bits: nobody finds it from a plain hash.
fn key(secret: &str) -> String {
    format!("{PREFIX}{}", hex(&Sha256::digest(secret.as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unknown(detail: &str) -> Problem {
    Problem::new(401, "Who are you?", detail)
}

/// The user whose socket is at the other end of a connection within this machine (proc(5), /proc/net/tcp).
fn owner(peer: SocketAddr, own: SocketAddr) -> Option<u32> {
    let table = if peer.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let want = format!("{} {}", coded(peer), coded(own));
    let text = fs::read_to_string(table).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, remote) = (words.next()?, words.next()?);
        let user = words.nth(4)?;
        (format!("{local} {remote}") == want).then(|| user.parse().ok())?
    })
}

/// An address as /proc/net/tcp has it: words of the host's byte order, in hexadecimal.
fn coded(address: SocketAddr) -> String {
    let octets = match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let word = |word: &[u8]| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    let ip: String = octets.chunks_exact(4).map(word).collect();
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::store::Sqlite;

    fn access() -> (tempfile::TempDir, Access) {
        let folder = tempfile::tempdir().unwrap();
        let store = Sqlite::open(&folder.path().join("host.db")).unwrap();
        (folder, Access::new(Arc::new(store)))
    }

    fn remote() -> Origin {
        let address = |text: &str| text.parse().unwrap();
        Origin::Network { peer: address("192.0.2.1:1000"), own: address("192.0.2.2:2000") }
    }

    #[test]
    fn the_owner_of_a_local_connection_is_found() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (server, _) = listener.accept().unwrap();
            let user = owner(server.peer_addr().unwrap(), server.local_addr().unwrap());
            assert_eq!(user, Some(rustix::process::geteuid().as_raw()), "{address}");
            drop(client);
        }
    }

    #[tokio::test]
    async fn a_token_is_taken_until_it_expires_or_is_removed() {
        let (_folder, access) = access();
        assert_eq!(access.identify(remote(), None).await.unwrap_err().status, 401);
        assert_eq!(access.identify(remote(), Some("tessera_00")).await.unwrap_err().status, 401);
        let new = |name: &str| NewToken { name: name.parse().unwrap(), role: Role::Operator, days: Some(1) };
        let made = access.make(new("ci")).await.unwrap();
        assert_eq!(access.make(new("ci")).await.unwrap_err().status, 409);
        let identity = access.identify(remote(), Some(&made.secret)).await.unwrap();
        assert_eq!(identity, Identity { actor: "token ci".into(), role: Role::Operator });
        access.remove("ci").await.unwrap();
        assert_eq!(access.identify(remote(), Some(&made.secret)).await.unwrap_err().status, 401);
        assert_eq!(access.remove("ci").await.unwrap_err().status, 404);
    }

    #[tokio::test]
    async fn the_secret_is_not_in_the_store() {
        let (_folder, access) = access();
        let made = access
            .make(NewToken { name: "a".parse().unwrap(), role: Role::Viewer, days: None })
            .await
            .unwrap();
        let (entries, _) = access.store.list("").await.unwrap();
        for entry in entries {
            let text = format!("{} {}", entry.key, String::from_utf8_lossy(&entry.value));
            assert!(!text.contains(made.secret.trim_start_matches(MARK)), "{text}");
        }
    }

    #[tokio::test]
    async fn of_this_machine_root_and_the_daemons_user_are_known() {
        let (_folder, access) = access();
        assert_eq!(access.identify(Origin::Local(0), None).await.unwrap().role, Role::Admin);
        assert_eq!(access.identify(Origin::Local(54321), None).await.unwrap_err().status, 401);
    }
}
