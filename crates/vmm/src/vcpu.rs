//! The threads that run processors: all start, pause and stop together.

use std::os::unix::thread::JoinHandleExt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crate::engine::{Exit, Kicker, Processor};

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
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All processors of a machine with their threads.
pub struct Team {
    seats: Vec<Arc<Seat>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Team {
    /// Starts a thread a processor, all paused. `report` hears what happens to them, on their threads.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(
        processors: Vec<Box<dyn Processor>>,
        report: impl Fn(VcpuEvent) + Send + Sync + 'static,
    ) -> std::io::Result<Self> {
        let report: Arc<dyn Fn(VcpuEvent) + Send + Sync> = Arc::new(report);
        let mut team = Self { seats: Vec::new(), threads: Mutex::default() };
        for (index, processor) in processors.into_iter().enumerate() {
            let seat = Arc::new(Seat {
                order: Mutex::new((Order::Pause, true)),
                changed: Condvar::new(),
                kicker: processor.kicker(),
                processor: Mutex::new(processor),
            });
            let (mine, report) = (Arc::clone(&seat), Arc::clone(&report));
            let thread = std::thread::Builder::new()
                .name(format!("vcpu{index}"))
                .spawn(move || mine.work(&*report))?;
            team.seats.push(seat);
            lock(&team.threads).push(thread);
        }
        Ok(team)
    }

    fn order(&self, order: Order) {
        for seat in &self.seats {
            lock(&seat.order).0 = order;
            seat.changed.notify_all();
            if order != Order::Run {
                seat.kicker.kick();
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
        for seat in &self.seats {
            let mut state = lock(&seat.order);
            while !state.1 {
                state = seat.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// Host processor time each thread has used, nanoseconds.
    pub fn cpu_times_ns(&self) -> Vec<u64> {
        lock(&self.threads).iter().map(cpu_time_ns).collect()
    }

    /// Ends all threads. Not to be called from one of them.
    pub fn stop(&self) {
        self.order(Order::Stop);
        for thread in lock(&self.threads).drain(..) {
            // A thread that panicked has said so already.
            let _ = thread.join();
        }
    }

    /// Uses processor `index` while all are paused.
    pub fn with<R>(&self, index: usize, f: impl FnOnce(&mut dyn Processor) -> R) -> R {
        f(&mut **lock(&self.seats[index].processor))
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
    fn work(&self, report: &dyn Fn(VcpuEvent)) {
        while self.wait_for_run() {
            let exit = lock(&self.processor).run();
            match exit {
                Exit::Kicked => {}
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
