//! The device thread: waits for file descriptors and timers, and calls what is registered for them, one at a time.
//!
//! Devices get a [`Handle`] and register their queue kicks, backends and timers; what they get back is a [`Source`] or a
//! [`Timer`], and dropping that ends the registration. A callback runs on the device thread and must not block. What takes less than to wake that
//! thread a vCPU's thread may do in its place ([`Prompt`]): one callback runs at a time in any case.
//!
//! While a machine is paused its devices must produce nothing: [`Reactor::pause`] returns when no callback of a device runs
//! and none will until [`Reactor::resume`]. What became ready meanwhile is still ready then, so nothing is lost. Sources
//! registered through [`Reactor::control_handle`] (the control socket, signals) are served all the time. Devices with threads
//! of their own stop them by [`Handle::rest_too`].
//!
//! ```text
//! outer epoll ──┬── wake eventfd          ends the thread
//!               ├── control sources
//!               └── inner epoll ── device sources     taken out of the outer one while paused
//! ```

mod turn;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use bitflags::bitflags;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};
use vmm_sys_util::timerfd::TimerFd;

use self::turn::{Turn, Turns};

bitflags! {
    /// What a descriptor is waited for, and what it is ready for.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Ready: u32 {
        /// Reading does not block.
        const READ = libc::EPOLLIN as u32;
        /// Writing does not block.
        const WRITE = libc::EPOLLOUT as u32;
        /// The other end is gone, or the descriptor is in error. Always waited for: who is told drops the [`Source`], or is
        /// told again and again.
        const GONE = (libc::EPOLLHUP | libc::EPOLLERR) as u32;
    }
}

/// Tokens of the outer epoll that are no sources.
const WAKE: u64 = 0;
const DEVICES: u64 = 1;
const FIRST_SOURCE: u64 = 2;

/// What a callback is called for by a [`Prompt`]: nothing is ready.
const PROMPTED: Ready = Ready::empty();

/// How many events are taken from the kernel at once.
const BATCH: usize = 32;

/// Threads of a device that must rest while the machine is paused.
pub trait Rest: Send + Sync {
    /// Returns when they do nothing, and does not let them until [`resume`](Self::resume).
    fn pause(&self);
    /// Lets them work again.
    fn resume(&self);
}

type Callback = Arc<Mutex<dyn FnMut(Ready) + Send>>;

fn lock<T: ?Sized>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Shared {
    outer: Epoll,
    devices: Epoll,
    wake: EventFd,
    stop: AtomicBool,
    next_token: AtomicU64,
    callbacks: Mutex<HashMap<u64, Callback>>,
    /// Had by whoever calls a callback.
    turns: Turns,
    paused: AtomicBool,
    resting: Mutex<Vec<Weak<dyn Rest>>>,
}

impl Shared {
    fn new() -> io::Result<Self> {
        let shared = Self {
            outer: Epoll::new()?,
            devices: Epoll::new()?,
            wake: EventFd::new(EFD_CLOEXEC | EFD_NONBLOCK)?,
            stop: AtomicBool::new(false),
            next_token: AtomicU64::new(FIRST_SOURCE),
            callbacks: Mutex::default(),
            turns: Turns::default(),
            paused: AtomicBool::new(false),
            resting: Mutex::default(),
        };
        shared.outer.ctl(
            ControlOperation::Add,
            shared.wake.as_raw_fd(),
            EpollEvent::new(EventSet::IN, WAKE),
        )?;
        shared.admit_devices()?;
        Ok(shared)
    }

    fn admit_devices(&self) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::IN, DEVICES);
        self.outer.ctl(ControlOperation::Add, self.devices.as_raw_fd(), event)
    }

    /// What rests while the machine is paused; what is gone is forgotten.
    fn resting(&self) -> Vec<Arc<dyn Rest>> {
        let mut list = lock(&self.resting);
        list.retain(|rest| rest.strong_count() > 0);
        list.iter().filter_map(Weak::upgrade).collect()
    }

    /// Calls what is registered; says whether it did.
    fn call(&self, turn: Turn<'_>, token: u64, ready: Ready, of_device: bool) -> bool {
        if of_device && self.paused.load(Ordering::SeqCst) {
            return false;
        }
        // A source that an earlier callback of this batch dropped is not there any more.
        let Some(callback) = lock(&self.callbacks).get(&token).cloned() else { return false };
        lock(&callback)(ready);
        drop(turn);
        true
    }

    fn serve(&self, epoll: &Epoll, timeout: i32) -> io::Result<()> {
        let mut events = [EpollEvent::default(); BATCH];
        let of_devices = std::ptr::eq(epoll, &self.devices);
        let count = match epoll.wait(timeout, &mut events) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => 0,
            result => result?,
        };
        for event in &events[..count] {
            match event.data() {
                WAKE => {
                    // Only empties the counter; `stop` says what it was for.
                    let _ = self.wake.read();
                }
                DEVICES => self.serve(&self.devices, 0)?,
                token => {
                    let ready = Ready::from_bits_truncate(event.events());
                    self.call(self.turns.take(), token, ready, of_devices);
                }
            }
        }
        Ok(())
    }

    fn work(&self) {
        while !self.stop.load(Ordering::SeqCst) {
            if let Err(error) = self.serve(&self.outer, -1) {
                // Waiting on a valid epoll descriptor fails for no reason that trying again would mend.
                tracing::error!(%error, "the device thread cannot wait for events and ends");
                return;
            }
        }
    }
}

/// The device thread. Dropping it ends the thread; sources that are left are never called again.
pub struct Reactor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Reactor {
    /// Starts the thread, named `name`.
    ///
    /// # Errors
    /// If the kernel gives no descriptors or no thread.
    pub fn start(name: &str) -> io::Result<Self> {
        let shared = Arc::new(Shared::new()?);
        let mine = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || mine.work())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Registers sources of devices: they rest while the machine is paused.
    pub fn handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared), for_devices: true }
    }

    /// Registers sources that are served while the machine is paused, too.
    pub fn control_handle(&self) -> Handle {
        Handle { shared: Arc::clone(&self.shared), for_devices: false }
    }

    /// Lets no callback of a device run any more; returns when none does. Not to be called from a device's callback.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn pause(&self) -> io::Result<()> {
        if self.shared.paused.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.shared.turns.wait();
        let devices = self.shared.devices.as_raw_fd();
        let result = self.shared.outer.ctl(ControlOperation::Delete, devices, EpollEvent::default());
        // Nobody gives them work any more.
        self.shared.resting().iter().for_each(|rest| rest.pause());
        result
    }

    /// Serves devices again.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn resume(&self) -> io::Result<()> {
        if !self.shared.paused.swap(false, Ordering::SeqCst) {
            return Ok(());
        }
        self.shared.resting().iter().for_each(|rest| rest.resume());
        self.shared.admit_devices()
    }
}

impl Drop for Reactor {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // The counter cannot be full: it is written once.
        let _ = self.shared.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A callback that panicked has been reported by the panic hook.
            let _ = thread.join();
        }
        // A callback may own what owns a handle; without this the two would keep each other.
        let callbacks = std::mem::take(&mut *lock(&self.shared.callbacks));
        drop(callbacks);
    }
}

/// Registers descriptors and timers with the device thread, from any thread. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    for_devices: bool,
}

impl Handle {
    fn epoll(&self) -> &Epoll {
        if self.for_devices { &self.shared.devices } else { &self.shared.outer }
    }

    /// Has `rest` rest while the machine is paused, from now on (it may be now).
    pub fn rest_too(&self, rest: Weak<dyn Rest>) {
        let mut list = lock(&self.shared.resting);
        if self.shared.paused.load(Ordering::SeqCst)
            && let Some(rest) = rest.upgrade()
        {
            rest.pause();
        }
        list.push(rest);
    }

    /// Calls `callback` on the device thread whenever `fd` is ready for what `interest` names, for as long as it is (level
    /// triggered). The descriptor is kept open until the source is dropped.
    ///
    /// # Errors
    /// If the descriptor cannot be waited for (a regular file), or the kernel refuses.
    pub fn add<F>(
        &self,
        fd: F,
        interest: Ready,
        callback: impl FnMut(Ready) + Send + 'static,
    ) -> io::Result<Source>
    where
        F: AsRawFd + Send + Sync + 'static,
    {
        let token = self.shared.next_token.fetch_add(1, Ordering::Relaxed);
        lock(&self.shared.callbacks).insert(token, Arc::new(Mutex::new(callback)));
        let event = EpollEvent::new(EventSet::from_bits_truncate(interest.bits()), token);
        if let Err(error) = self.epoll().ctl(ControlOperation::Add, fd.as_raw_fd(), event) {
            let callback = lock(&self.shared.callbacks).remove(&token);
            drop(callback);
            return Err(error);
        }
        Ok(Source { handle: self.clone(), token, fd: Box::new(fd) })
    }

    /// Calls `callback` on the device thread each time `event` was written to since the last call, and for a [`Prompt`].
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn on_event(
        &self,
        event: Arc<EventFd>,
        mut callback: impl FnMut() + Send + 'static,
    ) -> io::Result<Source> {
        let mine = Arc::clone(&event);
        self.add(event, Ready::READ, move |ready| {
            if ready == PROMPTED || mine.read().is_ok() {
                callback();
            }
        })
    }

    /// A timer that calls `callback` on the device thread each time it expires; it is not armed yet.
    ///
    /// # Errors
    /// If the kernel gives no timer.
    pub fn timer(&self, mut callback: impl FnMut() + Send + 'static) -> io::Result<Timer> {
        let fd = TimerFd::new()?;
        // SAFETY: the descriptor is ours and open; the call only sets its status flags.
        if unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let raw = fd.as_raw_fd();
        let fd = Arc::new(Mutex::new(fd));
        let mine = Arc::clone(&fd);
        let source = self.add(TimerSource { raw, _keep: Arc::clone(&fd) }, Ready::READ, move |_| {
            // If it was armed anew since it expired there is nothing to read, and nothing to tell.
            let expired = lock(&mine).wait().is_ok();
            if expired {
                callback();
            }
        })?;
        Ok(Timer { fd, _source: source })
    }
}

/// A registration. Dropping it ends it: when the drop returns, the callback neither runs nor will (unless the callback itself
/// drops it, then it is the last run). So no lock that the callback takes may be held while dropping.
#[must_use = "dropping it ends the registration"]
pub struct Source {
    handle: Handle,
    token: u64,
    fd: Box<dyn AsRawFd + Send + Sync>,
}

impl Source {
    /// Waits for something else from now on; nothing at all with [`Ready::empty`] (but [`Ready::GONE`]).
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_interest(&self, interest: Ready) -> io::Result<()> {
        let event = EpollEvent::new(EventSet::from_bits_truncate(interest.bits()), self.token);
        self.handle.epoll().ctl(ControlOperation::Modify, self.fd.as_raw_fd(), event)
    }

    /// Has its callback called at once.
    pub fn prompt(&self) -> Prompt {
        Prompt { handle: self.handle.clone(), token: self.token }
    }
}

/// Has the callback of a [`Source`] called without the device thread. Cheap to clone.
#[derive(Clone)]
pub struct Prompt {
    handle: Handle,
    token: u64,
}

impl Prompt {
    /// Calls it here and now. False if it was not called: another callback runs or is to, devices are paused, or the source is gone. Then whoever asks leaves it to
    /// the device thread. Never waits for another callback, so that a callback may wait for this thread.
    pub fn call(&self) -> bool {
        let shared = &self.handle.shared;
        let Some(turn) = shared.turns.try_take() else { return false };
        shared.call(turn, self.token, PROMPTED, self.handle.for_devices)
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        let shared = &self.handle.shared;
        // It is registered and open, so this cannot fail; and without its callback an event would be ignored.
        let _ = self.handle.epoll().ctl(ControlOperation::Delete, self.fd.as_raw_fd(), EpollEvent::default());
        let callback = lock(&shared.callbacks).remove(&self.token);
        shared.turns.wait();
        drop(callback);
    }
}

struct TimerSource {
    raw: RawFd,
    _keep: Arc<Mutex<TimerFd>>,
}

impl AsRawFd for TimerSource {
    fn as_raw_fd(&self) -> RawFd {
        self.raw
    }
}

/// A timer (CLOCK_MONOTONIC). Dropping it ends it, as with a [`Source`].
#[must_use = "dropping it ends the timer"]
pub struct Timer {
    fd: Arc<Mutex<TimerFd>>,
    _source: Source,
}

impl Timer {
    /// Expires once, `after` from now; at once for zero.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn arm(&self, after: Duration) -> io::Result<()> {
        // Zero would disarm it.
        Ok(lock(&self.fd).reset(after.max(Duration::from_nanos(1)), None)?)
    }

    /// Expires every `period` from now on.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn arm_every(&self, period: Duration) -> io::Result<()> {
        let period = period.max(Duration::from_nanos(1));
        Ok(lock(&self.fd).reset(period, Some(period))?)
    }

    /// Expires no more.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn disarm(&self) -> io::Result<()> {
        Ok(lock(&self.fd).clear()?)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{RecvTimeoutError, channel};

    use super::*;

    const SOON: Duration = Duration::from_secs(10);
    const NEVER: Duration = Duration::from_millis(30);

    fn event() -> Arc<EventFd> {
        Arc::new(EventFd::new(EFD_NONBLOCK).unwrap())
    }

    #[test]
    fn a_written_event_is_told_on_the_device_thread() {
        let reactor = Reactor::start("devices").unwrap();
        let (sender, told) = channel();
        let kick = event();
        let _source = reactor
            .handle()
            .on_event(kick.clone(), move || {
                sender.send(std::thread::current().name().map(str::to_owned)).unwrap();
            })
            .unwrap();
        kick.write(1).unwrap();
        assert_eq!(told.recv_timeout(SOON).unwrap().as_deref(), Some("devices"));
        assert_eq!(told.recv_timeout(NEVER), Err(RecvTimeoutError::Timeout));
    }

    #[test]
    fn a_dropped_source_is_never_told_again() {
        let reactor = Reactor::start("devices").unwrap();
        let (sender, told) = channel();
        let kick = event();
        let source = reactor.handle().on_event(kick.clone(), move || sender.send(()).unwrap()).unwrap();
        drop(source);
        kick.write(1).unwrap();
        assert_eq!(told.recv_timeout(NEVER), Err(RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_callback_may_drop_its_own_source() {
        let reactor = Reactor::start("devices").unwrap();
        let (sender, told) = channel();
        let kick = event();
        let slot: Arc<Mutex<Option<Source>>> = Arc::default();
        let mine = Arc::clone(&slot);
        let source = reactor
            .handle()
            .on_event(kick.clone(), move || {
                drop(mine.lock().unwrap().take());
                sender.send(()).unwrap();
            })
            .unwrap();
        *slot.lock().unwrap() = Some(source);
        kick.write(1).unwrap();
        told.recv_timeout(SOON).unwrap();
        kick.write(1).unwrap();
        assert!(told.recv_timeout(NEVER).is_err());
    }

    #[test]
    fn what_comes_while_paused_is_told_after_resume() {
        let reactor = Reactor::start("devices").unwrap();
        let (sender, told) = channel();
        let control = sender.clone();
        let (kick, order) = (event(), event());
        let _device =
            reactor.handle().on_event(kick.clone(), move || sender.send("device").unwrap()).unwrap();
        let _control = reactor
            .control_handle()
            .on_event(order.clone(), move || control.send("control").unwrap())
            .unwrap();
        reactor.pause().unwrap();
        kick.write(1).unwrap();
        order.write(1).unwrap();
        assert_eq!(told.recv_timeout(SOON), Ok("control"));
        assert!(told.recv_timeout(NEVER).is_err());
        reactor.resume().unwrap();
        assert_eq!(told.recv_timeout(SOON), Ok("device"));
    }

    #[test]
    fn a_timer_expires_when_armed_and_not_when_disarmed() {
        let reactor = Reactor::start("devices").unwrap();
        let (sender, told) = channel();
        let timer = reactor.handle().timer(move || sender.send(()).unwrap()).unwrap();
        timer.arm(Duration::from_secs(3600)).unwrap();
        timer.arm(Duration::ZERO).unwrap();
        told.recv_timeout(SOON).unwrap();
        timer.arm(Duration::from_millis(5)).unwrap();
        timer.disarm().unwrap();
        assert!(told.recv_timeout(NEVER).is_err());
    }

    #[test]
    fn whoever_asks_has_a_callback_called_on_its_own_thread_unless_something_is_in_the_way() {
        let reactor = Reactor::start("devices").unwrap();
        let (sender, told) = channel();
        let kick = event();
        let source = reactor
            .handle()
            .on_event(kick.clone(), move || sender.send(std::thread::current().id()).unwrap())
            .unwrap();
        let prompt = source.prompt();
        assert!(prompt.call());
        assert_eq!(told.try_recv(), Ok(std::thread::current().id()));
        reactor.pause().unwrap();
        assert!(!prompt.call(), "devices are paused");
        reactor.resume().unwrap();
        let (inside, reached) = channel();
        let (go, on) = channel::<()>();
        let other = event();
        let _other = reactor.handle().on_event(other.clone(), move || {
            inside.send(()).unwrap();
            let _ = on.recv_timeout(SOON);
        });
        other.write(1).unwrap();
        reached.recv_timeout(SOON).unwrap();
        assert!(!prompt.call(), "another callback runs");
        go.send(()).unwrap();
        drop(source);
        assert!(!prompt.call(), "it is gone");
        assert!(told.try_recv().is_err());
    }

    #[test]
    fn whoever_has_much_done_at_once_does_not_keep_the_device_thread_waiting() {
        let reactor = Reactor::start("devices").unwrap();
        let (done, order) = channel();
        let (go, on) = channel::<()>();
        let (inside, reached) = channel();
        let (mine, mut first) = (done.clone(), true);
        let source = reactor.handle().on_event(event(), move || {
            if std::mem::take(&mut first) {
                inside.send(()).unwrap();
                on.recv_timeout(SOON).unwrap();
            }
            mine.send("at once").unwrap();
        });
        let source = source.unwrap();
        let kick = event();
        let _other = reactor.handle().on_event(kick.clone(), move || done.send("device").unwrap()).unwrap();
        let prompt = source.prompt();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert!(prompt.call());
                while !prompt.call() {}
            });
            reached.recv_timeout(SOON).unwrap();
            kick.write(1).unwrap();
            while !reactor.shared.turns.is_awaited() {
                std::thread::yield_now();
            }
            go.send(()).unwrap();
        });
        let order: Vec<_> = order.iter().take(3).collect();
        assert_eq!(order, ["at once", "device", "at once"]);
    }

    #[test]
    fn a_callback_that_is_called_at_once_may_drop_its_own_source() {
        let reactor = Reactor::start("devices").unwrap();
        let slot: Arc<Mutex<Option<Source>>> = Arc::default();
        let mine = Arc::clone(&slot);
        let source = reactor.handle().on_event(event(), move || drop(mine.lock().unwrap().take())).unwrap();
        let prompt = source.prompt();
        *slot.lock().unwrap() = Some(source);
        assert!(prompt.call());
        assert!(!prompt.call());
    }
}
