//! The threads that run processors: all start, pause and stop together.

use std::num::NonZeroU64;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;

use crate::engine::{Exit, Kicker, Processor};
use crate::precedence::{Member, Precedence};

/// What a processor's thread reports of itself; it then waits to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VcpuEvent {
    /// A triple fault.
    TripleFault,
    /// The engine cannot go on.
    Failed(String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Pause,
    Run,
    Stop,
}

/// One processor: its thread takes it out to run and puts it back when told to pause. The lock is held while it runs.
struct Seat {
    order: Mutex<(Order, bool)>,
    changed: Condvar,
    processor: Mutex<Box<dyn Processor>>,
    kicker: Arc<dyn Kicker>,
    /// Whether the machine has this processor now. One that was pulled out stays here, and may come back: no engine can unmake one.
    there: AtomicBool,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

type Report = Arc<dyn Fn(VcpuEvent) + Send + Sync>;

/// All processors of a machine with their threads.
pub struct Team {
    /// By number; some may never have been there.
    seats: RwLock<Vec<Option<Arc<Seat>>>>,
    threads: Mutex<Vec<(u32, JoinHandle<()>)>>,
    report: Report,
    precedence: Arc<Precedence>,
}

impl Team {
    /// A team of at most `most` processors, none of which is there yet. `report` hears what happens to them, on their threads.
    pub fn new(most: u32, report: impl Fn(VcpuEvent) + Send + Sync + 'static) -> Self {
        let seats = RwLock::new((0..most).map(|_| None).collect());
        Self { seats, threads: Mutex::default(), report: Arc::new(report), precedence: Arc::default() }
    }

    /// Which of the threads goes before the others, if one does.
    pub fn precedence(&self) -> &Arc<Precedence> {
        &self.precedence
    }

    /// Adds processor `index`, which was never there, with a thread of its own. It is paused.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn add(&self, index: u32, processor: Box<dyn Processor>) -> std::io::Result<()> {
        let seat = Arc::new(Seat {
            order: Mutex::new((Order::Pause, true)),
            changed: Condvar::new(),
            kicker: processor.kicker(),
            processor: Mutex::new(processor),
            there: AtomicBool::new(true),
        });
        let (mine, report) = (Arc::clone(&seat), Arc::clone(&self.report));
        let precedence = Arc::clone(&self.precedence);
        let work = move || {
            let member = precedence.enter(Arc::clone(&mine.kicker));
            mine.work(member, &*report);
        };
        let thread = std::thread::Builder::new().name(format!("vcpu{index}")).spawn(work)?;
        lock(&self.threads).push((index, thread));
        if let Some(place) = self.write().get_mut(index as usize) {
            *place = Some(seat);
        }
        Ok(())
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Option<Arc<Seat>>>> {
        self.seats.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn seat(&self, index: u32) -> Option<Arc<Seat>> {
        self.seats.read().unwrap_or_else(PoisonError::into_inner).get(index as usize).cloned().flatten()
    }

    /// Those that have ever been there.
    fn seats(&self) -> Vec<Arc<Seat>> {
        self.seats.read().unwrap_or_else(PoisonError::into_inner).iter().flatten().cloned().collect()
    }

    /// The numbers of those that are there.
    pub fn there(&self) -> Vec<u32> {
        let seats = self.seats.read().unwrap_or_else(PoisonError::into_inner);
        let there =
            |seat: &Option<Arc<Seat>>| seat.as_ref().is_some_and(|seat| seat.there.load(Ordering::SeqCst));
        (0..).zip(seats.iter()).filter(|(_, seat)| there(seat)).map(|(index, _)| index).collect()
    }

    /// Whether processor `index` has ever been there.
    pub fn has(&self, index: u32) -> bool {
        self.seat(index).is_some()
    }

    /// Takes processor `index` away; its thread stops soon and stays, for when it comes back.
    pub fn remove(&self, index: u32) {
        if let Some(seat) = self.seat(index) {
            seat.there.store(false, Ordering::SeqCst);
            seat.order(Order::Pause);
        }
    }

    /// Has processor `index`, which has been there, back. Only while all are paused.
    pub fn bring_back(&self, index: u32) {
        if let Some(seat) = self.seat(index) {
            seat.there.store(true, Ordering::SeqCst);
        }
    }

    fn order(&self, order: Order) {
        for seat in self.seats() {
            if order != Order::Run || seat.there.load(Ordering::SeqCst) {
                seat.order(order);
            }
        }
    }

    /// Lets all run.
    pub fn resume(&self) {
        self.order(Order::Run);
    }

    /// Stops all; returns when each has.
    pub fn pause(&self) {
        self.order(Order::Pause);
        for seat in self.seats() {
            let mut state = lock(&seat.order);
            while !state.1 {
                state = seat.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Host processor time that the threads of those which have been there have used, nanoseconds, by number.
    pub fn cpu_times_ns(&self) -> Vec<u64> {
        let mut times: Vec<_> =
            lock(&self.threads).iter().map(|(index, thread)| (*index, cpu_time_ns(thread))).collect();
        times.sort_unstable();
        times.into_iter().map(|(_, time)| time).collect()
    }

    /// Ends all threads. Not to be called from one of them.
    pub fn stop(&self) {
        self.order(Order::Stop);
        for (_, thread) in lock(&self.threads).drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }

    /// Uses processor `index`, if it has ever been there, while all are paused.
    pub fn with<R>(&self, index: u32, f: impl FnOnce(&mut dyn Processor) -> R) -> Option<R> {
        let seat = self.seat(index)?;
        let mut processor = lock(&seat.processor);
        Some(f(&mut **processor))
    }
}

/// Host processor time of a thread, nanoseconds.
fn cpu_time_ns<T>(thread: &JoinHandle<T>) -> u64 {
    let (mut clock, mut time) = (0, libc::timespec { tv_sec: 0, tv_nsec: 0 });
    // SAFETY: a thread that was not joined has a pthread_t; both calls write only what they are given.
    let result = unsafe {
        match libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) {
            0 => libc::clock_gettime(clock, &raw mut time),
            error => error,
        }
    };
    if result == 0 { time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64 } else { 0 }
}

impl Seat {
    fn order(&self, order: Order) {
        lock(&self.order).0 = order;
        self.changed.notify_all();
        if order != Order::Run {
            self.kicker.kick();
        }
    }

    fn work(&self, mut member: Member, report: &dyn Fn(VcpuEvent)) {
        // One that waits for another for ten microseconds must not sleep for sixty. Without it, it only waits longer.
        if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
            tracing::debug!("a processor's thread has the usual timer slack: {error}");
        }
        while self.wait_for_run() {
            let exit = lock(&self.processor).run();
            match exit {
                Exit::Kicked => member.stand_back(),
                Exit::Shutdown => self.rest(report, VcpuEvent::TripleFault),
                Exit::Failed(why) => self.rest(report, VcpuEvent::Failed(why)),
            }
        }
    }

    /// Reports, and runs no more until told to pause and run again.
    fn rest(&self, report: &dyn Fn(VcpuEvent), event: VcpuEvent) {
        lock(&self.order).0 = Order::Pause;
        report(event);
    }

    /// Waits until there is running to do; false when the thread is to end.
    fn wait_for_run(&self) -> bool {
        let mut state = lock(&self.order);
        loop {
            match state.0 {
                Order::Run => {
                    state.1 = false;
                    return true;
                }
                Order::Stop => return false,
                Order::Pause => {
                    state.1 = true;
                    self.changed.notify_all();
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}
