//! Getting a vCPU out of the kernel.
//!
//! `immediate_exit` in the shared run page makes KVM_RUN return at once, and a signal makes one that is already under way
//! return; together they leave no moment in which a kick could be lost (Linux, Documentation/virt/kvm/api.rst, 5. kvm_run,
//! `immediate_exit`).

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use crate::engine::Kicker;

/// The signal that interrupts KVM_RUN; its handler does nothing.
fn signal_number() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {}

/// Installs the empty handler, once for the process.
fn install_handler() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: the handler does nothing, so it is safe at any moment; without SA_RESTART the ioctl returns EINTR.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            libc::sigemptyset(&raw mut action.sa_mask);
            libc::sigaction(signal_number(), &raw const action, std::ptr::null_mut());
        }
    });
}

/// One vCPU's kick: shared by the thread that runs it and those that want it to stop.
#[derive(Debug)]
pub struct Kick {
    wanted: AtomicBool,
    /// `kvm_run.immediate_exit`; null once the vCPU is gone.
    immediate_exit: AtomicPtr<AtomicU8>,
    /// The thread that runs it; a thread is here only for as long as it lives.
    thread: Mutex<Option<libc::pthread_t>>,
}

impl Kick {
    /// For the vCPU whose run page has `immediate_exit` at this address.
    ///
    /// # Safety
    /// The pointer must stay valid until [`gone`](Self::gone).
    pub(super) unsafe fn new(immediate_exit: *mut u8) -> Self {
        install_handler();
        Self {
            wanted: AtomicBool::new(false),
            immediate_exit: AtomicPtr::new(immediate_exit.cast()),
            thread: Mutex::new(None),
        }
    }

    fn set_immediate_exit(&self, on: bool) {
        let at = self.immediate_exit.load(Ordering::SeqCst);
        if !at.is_null() {
            // SAFETY: the run page is mapped until `gone`. The vCPU's owner, who calls that, calls this too; others call
            // this under `thread`'s lock, which `gone` takes.
            unsafe { (*at).store(u8::from(on), Ordering::SeqCst) };
        }
    }

    fn thread(&self) -> MutexGuard<'_, Option<libc::pthread_t>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends kicks to this thread until the answer is dropped, on this thread.
    pub(super) fn enter(&self) -> Inside<'_> {
        // SAFETY: always valid.
        *self.thread() = Some(unsafe { libc::pthread_self() });
        Inside(self)
    }

    /// Takes note of a kick: true once for each (or several at once).
    pub(super) fn take(&self) -> bool {
        self.set_immediate_exit(false);
        self.wanted.swap(false, Ordering::SeqCst)
    }

    /// The run page is about to go.
    pub(super) fn gone(&self) {
        let _thread = self.thread();
        self.immediate_exit.store(std::ptr::null_mut(), Ordering::SeqCst);
    }
}

/// A thread is running the vCPU.
#[must_use]
pub(super) struct Inside<'a>(&'a Kick);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        *self.0.thread() = None;
    }
}

impl Kicker for Kick {
    fn kick(&self) {
        self.wanted.store(true, Ordering::SeqCst);
        let thread = self.thread();
        self.set_immediate_exit(true);
        if let Some(thread) = *thread {
            // SAFETY: a thread that is here lives.
            unsafe { libc::pthread_kill(thread, signal_number()) };
        }
    }
}
