//! Getting a vCPU out of the kernel.
//!
//! `immediate_exit` in the shared run page makes KVM_RUN return at once, and a signal makes one that is already under way
//! return; together they leave no moment in which a kick could be lost (Linux, Documentation/virt/kvm/api.rst, 5. kvm_run,
//! `immediate_exit`).

use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};

use kvm_bindings::KVMIO;
use kvm_ioctls::VcpuFd;
use vmm_sys_util::ioctl::{ioctl_with_ptr, ioctl_with_ref};
use vmm_sys_util::ioctl_iow_nr;

use super::failed;
use crate::engine::{EngineError, Kicker};

/// The signal that interrupts KVM_RUN; its handler does nothing.
fn signal_number() -> libc::c_int {
    libc::SIGRTMIN()
}

extern "C" fn on_signal(_: libc::c_int) {}

/// How often threads of this process were told to look whether others are to run.
static TOLD: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_told(_: libc::c_int) {
    TOLD.fetch_add(1, Ordering::Relaxed);
}

/// That.
pub(super) fn told() -> u32 {
    TOLD.load(Ordering::Relaxed)
}

/// Installs the handlers, once for the process: the empty one of a kick, and that of SIGIO, by which a processor is told to look whether it is to let others run. That one may come at any
/// moment and interrupts nothing but KVM_RUN, which pays no heed to SA_RESTART.
fn install_handlers() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let handlers: [(_, extern "C" fn(libc::c_int), _); 2] =
            [(signal_number(), on_signal, 0), (libc::SIGIO, on_told, libc::SA_RESTART)];
        for (signal, handler, flags) in handlers {
            // SAFETY: the handlers do nothing, or count, so they are safe at any moment; without SA_RESTART the ioctl returns EINTR.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = handler as *const () as usize;
                action.sa_flags = flags;
                libc::sigemptyset(&raw mut action.sa_mask);
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
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
        install_handlers();
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

    /// Whether there is one to be taken note of.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst)
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

/// `struct kvm_signal_mask` with the kernel's set of 64 signals.
#[repr(C)]
struct SignalMask {
    len: u32,
    signals: [u8; 8],
}

ioctl_iow_nr!(KVM_SET_SIGNAL_MASK, KVMIO, 0x8b, u32);

/// A signal that waits for this thread and that KVM_RUN sees: until this is dropped, KVM_RUN does what is still to be done for
/// the vCPU, may exit for that, and executes nothing of the guest.
///
/// `immediate_exit` will not do: with it KVM returns before it looks at its own requests, such as to tell of an interrupt's
/// end, and those are in no state that is saved.
pub(super) struct PendingSignal {
    vcpu: RawFd,
    mask_before: libc::sigset_t,
}

impl PendingSignal {
    /// For a vCPU that outlives the answer.
    pub fn new(vcpu: &VcpuFd) -> Result<Self, EngineError> {
        // SAFETY: the sets are written before they are read, and the pointers are to locals.
        let mask_before = unsafe {
            let (mut kick, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigemptyset(&raw mut kick);
            libc::sigaddset(&raw mut kick, signal_number());
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const kick, &raw mut before);
            before
        };
        let pending = Self { vcpu: vcpu.as_raw_fd(), mask_before };
        let mut mask = SignalMask { len: 8, signals: [0; 8] };
        // SAFETY: a sigset_t is at least as long as the kernel's set, which it begins with; KVM reads a SignalMask.
        let set = unsafe {
            let from = (&raw const pending.mask_before).cast::<u8>();
            std::ptr::copy_nonoverlapping(from, mask.signals.as_mut_ptr(), mask.signals.len());
            libc::pthread_kill(libc::pthread_self(), signal_number());
            ioctl_with_ref(vcpu, KVM_SET_SIGNAL_MASK(), &mask)
        };
        match set {
            0 => Ok(pending),
            _ => Err(failed("KVM_SET_SIGNAL_MASK")(kvm_ioctls::Error::last())),
        }
    }
}

impl Drop for PendingSignal {
    fn drop(&mut self) {
        // SAFETY: a null pointer takes KVM's mask away, and the thread's mask is one it had. The signal then comes, and its
        // handler does nothing.
        unsafe {
            ioctl_with_ptr(&self.vcpu, KVM_SET_SIGNAL_MASK(), std::ptr::null::<SignalMask>());
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.mask_before, std::ptr::null_mut());
        }
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
