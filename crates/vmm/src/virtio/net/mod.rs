//! The network device (section 5.1): one pair of queues between the guest and a [`Backend`].

mod alias;
mod port;
mod stream;
mod tap;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::limit::{Allowance, Limit, Throttle};
use super::{Activation, Counter, Device, DeviceState, RestoreError, read_slice};
use crate::reactor::{Ready, Source};
use alias::Translator;
use port::Port;

pub use alias::Alias;
pub use stream::Stream;
pub use tap::Tap;

const QUEUE_SIZE: u16 = 256;
/// Bytes of the header before each frame (5.1.6).
const HEADER: usize = 12;
/// The largest frame: 65535 bytes of IP in Ethernet, with a VLAN tag.
const LARGEST_FRAME: usize = 65535 + 14 + 4;

/// Features (5.1.3).
pub mod feature {
    /// The device completes checksums.
    pub const CSUM: u64 = 1 << 0;
    /// The driver takes frames without a checksum.
    pub const GUEST_CSUM: u64 = 1 << 1;
    /// The device says how large frames may be.
    pub const MTU: u64 = 1 << 3;
    /// The device has an address.
    pub const MAC: u64 = 1 << 5;
    /// The driver takes TCP segments larger than frames.
    pub const GUEST_TSO4: u64 = 1 << 7;
    /// The same, IPv6.
    pub const GUEST_TSO6: u64 = 1 << 8;
    /// The same, with congestion notification.
    pub const GUEST_ECN: u64 = 1 << 9;
    /// The device splits TCP segments.
    pub const HOST_TSO4: u64 = 1 << 11;
    /// The same, IPv6.
    pub const HOST_TSO6: u64 = 1 << 12;
    /// The same, with congestion notification.
    pub const HOST_ECN: u64 = 1 << 13;
    /// A frame may take several buffers.
    pub const MRG_RXBUF: u64 = 1 << 15;
    /// The device says whether the link is up.
    pub const STATUS: u64 = 1 << 16;
}

/// The other side of the cable. Nothing here blocks.
pub trait Backend: Send {
    /// Offloads it is good for: bits of [`feature`].
    fn offloads(&self) -> u64;
    /// Largest packet it carries, bytes; `None` for the usual 1500.
    fn mtu(&self) -> Option<u16>;
    /// What to wait for.
    fn descriptor(&self) -> Arc<OwnedFd>;
    /// The driver has accepted these of the offloads.
    ///
    /// # Errors
    /// If the host refuses.
    fn use_offloads(&mut self, accepted: u64) -> io::Result<()>;
    /// Reads one frame with its header into `buffer`; gives the length of both.
    ///
    /// # Errors
    /// `WouldBlock` if there is none now; anything else means that the cable is cut.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Takes in what has come although the guest has no buffers for it; false when it takes no more. A cable whose other end
    /// throws away what is not read at once does well to.
    ///
    /// # Errors
    /// If the cable is cut.
    fn absorb(&mut self) -> io::Result<bool> {
        Ok(false)
    }
    /// Sends one frame with its header. A frame it cannot carry is lost, as on any network.
    ///
    /// # Errors
    /// `WouldBlock` if it must be offered again when the descriptor is writable; anything else means that the cable is cut.
    fn send(&mut self, frame: &[u8]) -> io::Result<()>;
    /// Sends what an earlier `send` took but could not pass on whole; true when nothing is left.
    ///
    /// # Errors
    /// If the cable is cut.
    fn flush(&mut self) -> io::Result<bool> {
        Ok(true)
    }
}

/// What a card has carried, as the guest sees it: headers of virtio do not count.
#[derive(Debug, Default)]
pub struct Meter {
    /// Frames that came and had room.
    pub received: Counter,
    /// Bytes of them.
    pub received_bytes: Counter,
    /// Frames that the guest sent.
    pub sent: Counter,
    /// Bytes of them.
    pub sent_bytes: Counter,
}

/// How much a card may carry, from the guest's side. What it may not receive yet waits on the cable, which may lose some of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetLimits {
    /// What it receives.
    #[serde(default, skip_serializing_if = "Limit::is_none")]
    pub receive: Limit,
    /// What it sends.
    #[serde(default, skip_serializing_if = "Limit::is_none")]
    pub send: Limit,
}

impl NetLimits {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.lanes().iter().all(Limit::is_none)
    }

    /// What is wrong with them, with the field.
    ///
    /// # Errors
    /// If there is something.
    pub fn check(&self) -> Result<(), String> {
        self.receive.check().map_err(|why| format!("receive.{why}"))?;
        self.send.check().map_err(|why| format!("send.{why}"))
    }

    /// Lane n is that of queue n.
    fn lanes(&self) -> [Limit; 2] {
        [self.receive, self.send]
    }
}

/// Changes the limits of a card, whether it is being served or not.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Throttle>);

impl Limiter {
    /// They are these from now on.
    pub fn set(&self, limits: &NetLimits) {
        self.0.change(&limits.lanes());
    }

    /// What it receives and what it sends count against these from now on, besides, which other cards have, too.
    pub fn share(&self, receive: Option<Arc<Allowance>>, send: Option<Arc<Allowance>>) {
        self.0.share(vec![receive, send]);
    }
}

/// A network card.
pub struct Net {
    mac: [u8; 6],
    mtu: Option<u16>,
    offloads: u64,
    link: Arc<AtomicBool>,
    backend: Arc<Mutex<Box<dyn Backend>>>,
    meter: Arc<Meter>,
    throttle: Arc<Throttle>,
    /// What changes frames as long as the guest knows another one's addresses: for the first driver only, any other reads the card's own.
    alias: Option<Translator>,
    sources: Vec<Source>,
    /// The backend's source, shared with its own callback, which changes what it waits for.
    cable: Option<Arc<Mutex<Option<Source>>>>,
}

impl Net {
    /// A card with address `mac` on the cable `backend`.
    pub fn new(mac: [u8; 6], backend: Box<dyn Backend>) -> Self {
        Self {
            mac,
            mtu: backend.mtu(),
            offloads: backend.offloads(),
            link: Arc::new(AtomicBool::new(true)),
            backend: Arc::new(Mutex::new(backend)),
            meter: Arc::default(),
            throttle: Throttle::new(&NetLimits::default().lanes()),
            alias: None,
            sources: Vec::new(),
            cable: None,
        }
    }

    /// The same, for a guest that knows another one's addresses until it sends from this card's own, or its driver begins anew.
    #[must_use]
    pub fn known_as(mut self, alias: Alias) -> Self {
        self.alias = Some(Translator::new(alias, self.mac));
        self
    }

    /// What it has carried, for who wants to know.
    pub fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// What changes its limits: at first it has none.
    pub fn limiter(&self) -> Limiter {
        Limiter(Arc::clone(&self.throttle))
    }
}

impl Device for Net {
    fn id(&self) -> u16 {
        1
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn features(&self) -> u64 {
        let mtu = if self.mtu.is_some() { feature::MTU } else { 0 };
        feature::MAC | feature::STATUS | feature::MRG_RXBUF | mtu | self.offloads
    }

    /// The configuration structure (5.1.4): address, status, queue pairs, MTU.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.mac);
        config[6..8].copy_from_slice(&u16::from(self.link.load(Ordering::SeqCst)).to_le_bytes());
        config[8..10].copy_from_slice(&1u16.to_le_bytes());
        config[10..12].copy_from_slice(&self.mtu.unwrap_or(0).to_le_bytes());
        read_slice(&config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Activation { memory, features, queues, health, reactor } = activation;
        let mut queues = queues.into_iter();
        let (Some(receive), Some(transmit)) = (queues.next().flatten(), queues.next().flatten()) else {
            return Ok(());
        };
        let descriptor = {
            let mut backend = lock(&self.backend);
            backend.use_offloads(features & self.offloads)?;
            backend.descriptor()
        };
        let kicks = [Arc::clone(&receive.kick), Arc::clone(&transmit.kick)];
        self.throttle.attach(reactor.clone(), kicks.to_vec());
        let port = Arc::new(Mutex::new(Port::new(port::Parts {
            memory,
            health,
            receive,
            transmit,
            mergeable: features & feature::MRG_RXBUF != 0,
            backend: Arc::clone(&self.backend),
            meter: Arc::clone(&self.meter),
            throttle: Arc::clone(&self.throttle),
            link: Arc::clone(&self.link),
            alias: self.alias.take(),
        })));
        let cable = Arc::new(Mutex::new(None));
        let on_cable = worker(&port, &cable, |port, ready| port.cable_ready(ready));
        let mut source = lock(&cable);
        *source = Some(reactor.add(descriptor, Ready::READ, on_cable)?);
        drop(source);
        let [receive_kick, transmit_kick] = kicks;
        let mut on_room = worker(&port, &cable, |port, _| port.receive_all());
        self.sources.push(reactor.on_event(receive_kick, move || on_room(Ready::empty()))?);
        let mut on_frames = worker(&port, &cable, |port, _| port.transmit_all());
        self.sources.push(reactor.on_event(transmit_kick, move || on_frames(Ready::empty()))?);
        self.cable = Some(cable);
        Ok(())
    }

    fn deactivate(&mut self) {
        // Dropped without the lock, which the callback takes.
        let cable = self.cable.take().and_then(|cable| lock(&cable).take());
        drop(cable);
        self.sources.clear();
        self.throttle.detach();
    }

    fn save(&self, _: bool) -> DeviceState {
        self.throttle.save()
    }

    fn restore(&mut self, state: &DeviceState) -> Result<(), RestoreError> {
        self.throttle.restore(state)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A callback that lets the port work, and then waits for what the port waits for.
fn worker(
    port: &Arc<Mutex<Port>>,
    cable: &Arc<Mutex<Option<Source>>>,
    work: impl Fn(&mut Port, Ready) + Send + 'static,
) -> impl FnMut(Ready) + Send + 'static {
    let (port, cable): (_, Weak<Mutex<Option<Source>>>) = (Arc::clone(port), Arc::downgrade(cable));
    move |ready| {
        let mut port = lock(&port);
        work(&mut port, ready);
        let (Some(change), Some(cable)) = (port.changed_interest(), cable.upgrade()) else { return };
        let mut source = lock(&cable);
        let result = match (change, &*source) {
            (Some(interest), Some(source)) => source.set_interest(interest),
            _ => {
                *source = None;
                Ok(())
            }
        };
        if let Err(error) = result {
            tracing::error!(%error, "a network card cannot wait for its cable");
        }
    }
}
