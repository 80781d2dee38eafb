//! Connections: taken in, bounded in number and in patience, and ended in order. Whoever opens many and says nothing pushes out their
//! own oldest ones, not other people's.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tower::ServiceExt;

use super::caller::Peer;
use crate::access::Origin;
use crate::tls::Certificates;

/// How long the head of a request may take, and how long a connection may stay without another one.
const PATIENCE: Duration = Duration::from_secs(20);
/// The most connections of one user, or from one address.
const MOST_OF_ONE: usize = 512;
/// The most connections in all.
const MOST: usize = 4096;
/// How long nobody is taken in after the system has refused to.
const PAUSE: Duration = Duration::from_millis(100);

/// Whose a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Whose {
    User(u32),
    Address(IpAddr),
    Nobody,
}

fn whose(peer: Peer) -> Whose {
    match peer.origin {
        Some(Origin::Local(user)) => Whose::User(user),
        Some(Origin::Network { peer, .. }) => Whose::Address(peer.ip()),
        None => Whose::Nobody,
    }
}

struct Guest {
    id: u64,
    task: AbortHandle,
    /// Whether it has asked for something.
    asked: Arc<AtomicBool>,
}

/// The connections that there are.
#[derive(Default)]
pub struct Room {
    guests: Mutex<HashMap<Whose, Vec<Guest>>>,
    next: AtomicU64,
}

impl Room {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Whose, Vec<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for another connection of somebody, who may have to give one up for it.
    fn make(&self, whose: Whose) -> bool {
        let mut guests = self.lock();
        let own = guests.get(&whose).map_or(0, Vec::len);
        let all: usize = guests.values().map(Vec::len).sum();
        let crowded = match (own >= MOST_OF_ONE, all >= MOST) {
            (true, _) => whose,
            (false, false) => return true,
            // Whoever has most gives one up.
            (false, true) => match guests.iter().max_by_key(|(_, guests)| guests.len()) {
                Some((most, _)) => *most,
                None => return false,
            },
        };
        let Some(crowd) = guests.get_mut(&crowded) else { return false };
        // The oldest that has never asked for anything: real clients do so at once.
        let Some(at) = crowd.iter().position(|guest| !guest.asked.load(Ordering::Relaxed)) else {
            return false;
        };
        crowd.remove(at).task.abort();
        true
    }

    fn leave(&self, whose: Whose, id: u64) {
        let mut guests = self.lock();
        if let Some(own) = guests.get_mut(&whose) {
            own.retain(|guest| guest.id != id);
            if own.is_empty() {
                guests.remove(&whose);
            }
        }
    }
}

/// Leaves the room when a connection's task ends, however it does.
struct Leaving {
    room: Arc<Room>,
    whose: Whose,
    id: u64,
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.room.leave(self.whose, self.id);
    }
}

/// Where people connect.
pub enum Door {
    /// On this machine.
    Unix(UnixListener),
    /// On this machine, at a loopback address.
    Tcp(TcpListener),
    /// From the network, encrypted.
    Tls(TcpListener, Arc<Certificates>),
}

/// A connection, wherever it comes from.
type Stream = Box<dyn Io>;

/// What a connection is read from and written to.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection as it comes in.
enum Accepted {
    Plain(Stream),
    Tls(TcpStream, Arc<Certificates>),
}

impl Accepted {
    /// The connection when it can be talked over; nothing if they never get so far.
    async fn ready(self) -> Option<Stream> {
        let (stream, certificates) = match self {
            Accepted::Plain(stream) => return Some(stream),
            Accepted::Tls(stream, certificates) => (stream, certificates),
        };
        let acceptor = certificates.acceptor(stream.local_addr().ok()?.ip());
        let acceptor = acceptor.inspect_err(|error| tracing::warn!("a connection: {error}")).ok()?;
        match tokio::time::timeout(PATIENCE, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => Some(Box::new(stream)),
            Ok(Err(error)) => {
                tracing::debug!("a connection: {error}");
                None
            }
            Err(_) => None,
        }
    }
}

impl Door {
    async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        match self {
            Door::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let origin = stream.peer_cred().ok().map(|peer| Origin::Local(peer.uid()));
                Ok((Accepted::Plain(Box::new(stream)), Peer { origin, secure: false }))
            }
            Door::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                let origin = stream.local_addr().ok().map(|own| Origin::Network { peer, own });
                Ok((Accepted::Plain(Box::new(stream)), Peer { origin, secure: false }))
            }
            Door::Tls(listener, certificates) => {
                let (stream, peer) = listener.accept().await?;
                let own = stream.local_addr().ok();
                let origin = own.map(|own| Origin::Network { peer, own });
                Ok((Accepted::Tls(stream, Arc::clone(certificates)), Peer { origin, secure: true }))
            }
        }
    }
}

/// Serves who comes to `door`, until `stop` says so and those who are there have got their answers.
pub async fn serve(door: Door, router: Router, room: Arc<Room>, mut stop: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            // A sender that is gone says stop as well.
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = door.accept() => accepted,
        };
        while connections.try_join_next().is_some() {}
        let (accepted, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("a connection cannot be taken in: {error}");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let whose = whose(peer);
        if !room.make(whose) {
            continue;
        }
        let id = room.next.fetch_add(1, Ordering::Relaxed);
        let asked = Arc::new(AtomicBool::new(false));
        let leaving = Leaving { room: Arc::clone(&room), whose, id };
        let serving = connection(accepted, peer, router.clone(), Arc::clone(&asked), stop.clone());
        // It cannot leave before it is in.
        let mut guests = room.lock();
        let task = connections.spawn(async move {
            serving.await;
            drop(leaving);
        });
        guests.entry(whose).or_default().push(Guest { id, task, asked });
    }
    while connections.join_next().await.is_some() {}
}

/// Serves one connection to its end.
async fn connection(
    accepted: Accepted,
    peer: Peer,
    router: Router,
    asked: Arc<AtomicBool>,
    mut stop: watch::Receiver<bool>,
) {
    let Some(stream) = accepted.ready().await else { return };
    let service = service_fn(move |mut request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        request.extensions_mut().insert(ConnectInfo(peer));
        router.clone().oneshot(request.map(Body::new))
    });
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let mut serving = std::pin::pin!(http.serve_connection(TokioIo::new(stream), service).with_upgrades());
    // What the wait gives is a lock.
    let stopping = async { drop(stop.wait_for(|stop| *stop).await) };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        () = stopping => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    // People go as they like.
    if let Err(error) = ended {
        tracing::debug!("a connection: {error}");
    }
}
