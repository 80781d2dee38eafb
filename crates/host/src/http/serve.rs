//! Connections: taken in, bounded in number and in patience, and ended in order. Whoever opens many and says nothing pushes out their
//! own oldest ones, not other people's. Most of the files that the daemon may have open are not for connections, and when there are none
//! left, connections are given up until there are.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

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
/// The most connections of one user, or from one address; fewer where few files may be open.
const MOST_OF_ONE: usize = 512;
/// The most connections in all; fewer where few files may be open.
const MOST: usize = 4096;
/// How long nobody is taken in after the system has refused to.
const PAUSE: Duration = Duration::from_millis(100);
/// How long those take to close that are given up.
const MOMENT: Duration = Duration::from_millis(1);
/// How many are given up when no file can be opened any more: whoever comes next is not only taken in, but answered.
const GIVEN_UP: usize = 16;
/// How often the log says that nobody can be taken in.
const SAID: Duration = Duration::from_secs(10);

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

impl Guest {
    fn silent(&self) -> bool {
        !self.asked.load(Ordering::Relaxed)
    }
}

/// The connections that there are.
pub struct Room {
    guests: Mutex<HashMap<Whose, Vec<Guest>>>,
    next: AtomicU64,
    /// The most in all.
    most: usize,
    /// The most of one user, or from one address.
    most_of_one: usize,
}

impl Room {
    /// Room for the connections of a daemon that may have so many files open. Half of them are for guests and what else it works with.
    pub fn new(files: u64) -> Self {
        let most = usize::try_from(files / 2).map_or(MOST, |half| half.clamp(2, MOST));
        let (guests, next) = (Mutex::default(), AtomicU64::default());
        Self { guests, next, most, most_of_one: MOST_OF_ONE.min(most / 2) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Whose, Vec<Guest>>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for another connection of somebody, who may have to give one up for it.
    fn make(&self, whose: Whose) -> bool {
        let mut guests = self.lock();
        let own = guests.get(&whose).map_or(0, Vec::len);
        let all: usize = guests.values().map(Vec::len).sum();
        if own >= self.most_of_one {
            return guests.get_mut(&whose).is_some_and(give_up_silent);
        }
        if all < self.most {
            return true;
        }
        let Some(crowd) = largest(&mut guests) else { return false };
        if give_up_silent(crowd) {
            return true;
        }
        // All have asked for something, and do not take the answer, or are long about it. Nobody has many while others have none.
        let unfair = crowd.len() > own + 1;
        if unfair {
            crowd.remove(0).task.abort();
        }
        unfair
    }

    /// Closes connections that nothing has been asked for by, of whoever has most; says whether there were any.
    fn give_up(&self) -> bool {
        let mut guests = self.lock();
        (0..GIVEN_UP).filter(|_| largest(&mut guests).is_some_and(give_up_silent)).count() > 0
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

/// The connections of whoever has most that have not asked for anything, or has most at all if everybody has.
fn largest(guests: &mut HashMap<Whose, Vec<Guest>>) -> Option<&mut Vec<Guest>> {
    let silent = |crowd: &[Guest]| crowd.iter().filter(|guest| guest.silent()).count();
    guests.values_mut().max_by_key(|crowd| (silent(crowd), crowd.len()))
}

/// Closes the oldest connection by which nothing has ever been asked for: real clients do so at once. Says whether there was one.
fn give_up_silent(crowd: &mut Vec<Guest>) -> bool {
    let at = crowd.iter().position(Guest::silent);
    at.map(|at| crowd.remove(at).task.abort()).is_some()
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
    let mut said: Option<Instant> = None;
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
                if said.is_none_or(|said| said.elapsed() > SAID) {
                    tracing::warn!("a connection cannot be taken in: {error}");
                    said = Some(Instant::now());
                }
                let room_made = is_out_of_files(&error) && room.give_up();
                tokio::time::sleep(if room_made { MOMENT } else { PAUSE }).await;
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

/// Whether no file can be opened any more, by this process or by any.
fn is_out_of_files(error: &io::Error) -> bool {
    let number = rustix::io::Errno::from_io_error(error);
    matches!(number, Some(rustix::io::Errno::MFILE | rustix::io::Errno::NFILE))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes in a connection; says whether it was.
    fn come(room: &Room, whose: Whose, asked: bool) -> bool {
        let task = tokio::spawn(std::future::pending::<()>()).abort_handle();
        let id = room.next.fetch_add(1, Ordering::Relaxed);
        let guest = Guest { id, task, asked: Arc::new(AtomicBool::new(asked)) };
        let made = room.make(whose);
        if made {
            room.lock().entry(whose).or_default().push(guest);
        }
        made
    }

    fn ids(room: &Room, whose: Whose) -> Vec<u64> {
        room.lock().get(&whose).into_iter().flatten().map(|guest| guest.id).collect()
    }

    #[test]
    fn connections_take_no_more_than_half_of_the_files() {
        let bounds = |files| {
            let room = Room::new(files);
            (room.most, room.most_of_one)
        };
        assert_eq!(bounds(u64::MAX), (MOST, MOST_OF_ONE));
        assert_eq!(bounds(1024), (512, 256));
        assert_eq!(bounds(0), (2, 1));
    }

    #[tokio::test]
    async fn who_has_most_makes_room_for_who_has_none_whatever_they_have_asked() {
        let room = Room::new(16);
        let [many, some, new] = [1, 2, 3].map(Whose::User);
        // Half a room is the most of one.
        let taken: Vec<_> = (0..5).map(|_| come(&room, many, true)).collect();
        assert_eq!(taken, [true, true, true, true, false]);
        assert!((0..3).all(|_| come(&room, some, true)) && come(&room, new, true));
        assert!(come(&room, new, true), "the room is full, and one has more");
        assert_eq!((ids(&room, many), ids(&room, some).len()), (vec![1, 2, 3], 3));
        assert!(!come(&room, some, true), "nobody has more than they");
    }

    #[tokio::test]
    async fn the_silent_are_given_up_first_and_the_oldest_of_them() {
        let room = Room::new(16);
        let [a, b] = [1, 2].map(Whose::User);
        for (whose, asked) in [(a, true), (a, false), (a, false), (a, true), (b, true)] {
            assert!(come(&room, whose, asked));
        }
        assert!(come(&room, a, true));
        assert_eq!(ids(&room, a), [0, 2, 3, 5]);
        assert!(room.give_up() && !room.give_up(), "there was one silent one left");
        assert_eq!((ids(&room, a), ids(&room, b)), (vec![0, 3, 5], vec![4]));
    }
}
