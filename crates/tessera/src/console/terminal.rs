//! The terminal in raw mode, and back to what it was however the process ends.
//!
//! The mode is put back by [`RawTerminal`]'s drop, which runs on return and on panic, and by a handler for the signals
//! that end a process. Only SIGKILL gets past them.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

/// The terminal and its mode before the machine started; read by the signal handler, which can take no lock.
static BEFORE: OnceLock<(libc::c_int, libc::termios)> = OnceLock::new();

/// Whether the terminal is in raw mode now.
static RAW: AtomicBool = AtomicBool::new(false);

/// The signals that end a process unless it says otherwise, and that a person, a program or a crash may raise.
const ENDING: [libc::c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGABRT,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGILL,
    libc::SIGFPE,
];

/// A terminal in raw mode. Dropping it puts the terminal's mode back.
#[derive(Debug)]
pub struct RawTerminal(());

impl RawTerminal {
    /// Puts stdin's terminal into raw mode: every key goes to the guest, and nothing is echoed. Gives `None` if stdin is
    /// not a terminal.
    pub fn enter() -> io::Result<Option<RawTerminal>> {
        let stdin = io::stdin();
        let Some(before) = mode(stdin.as_fd()) else { return Ok(None) };
        let (_, before) = BEFORE.get_or_init(|| (stdin.as_raw_fd(), before));
        let mut raw = *before;
        // SAFETY: cfmakeraw only writes to the structure.
        unsafe { libc::cfmakeraw(&mut raw) };
        for signal in ENDING {
            restore_on(signal)?;
        }
        RAW.store(true, Ordering::SeqCst);
        let terminal = RawTerminal(());
        // SAFETY: the descriptor is stdin's and the structure is a whole termios.
        match unsafe { libc::tcsetattr(stdin.as_raw_fd(), libc::TCSANOW, &raw) } {
            0 => Ok(Some(terminal)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        restore();
    }
}

fn mode(file: BorrowedFd) -> Option<libc::termios> {
    let mut mode = MaybeUninit::uninit();
    // SAFETY: tcgetattr writes a whole termios if it returns 0.
    unsafe { (libc::tcgetattr(file.as_raw_fd(), mode.as_mut_ptr()) == 0).then(|| mode.assume_init()) }
}

/// Puts the mode back once. Safe in a signal handler: only atomics and tcsetattr.
fn restore() {
    if RAW.swap(false, Ordering::SeqCst)
        && let Some((stdin, before)) = BEFORE.get()
    {
        // SAFETY: the structure came whole from tcgetattr.
        unsafe { libc::tcsetattr(*stdin, libc::TCSANOW, before) };
    }
}

/// Restores the terminal when this signal comes, and then lets the signal do what it does. A handler that is set
/// already, or a signal that is ignored, stays so.
fn restore_on(signal: libc::c_int) -> io::Result<()> {
    let mut old = MaybeUninit::<libc::sigaction>::uninit();
    // SAFETY: with no new action sigaction only writes the old one, whole if it returns 0.
    if unsafe { libc::sigaction(signal, std::ptr::null(), old.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call above returned 0.
    let old = unsafe { old.assume_init() };
    // Rust's own handler for stack overflow sits on SIGSEGV and SIGBUS; a crash there ends in SIGABRT, which is ours.
    if old.sa_sigaction != libc::SIG_DFL {
        return Ok(());
    }
    // SAFETY: all-zero is a valid sigaction, filled in below; the handler calls only async-signal-safe functions.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESETHAND | libc::SA_NODEFER;
        match libc::sigaction(signal, &action, std::ptr::null_mut()) {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// SA_RESETHAND has put the default action back before this runs, so raising the signal again ends the process by it.
extern "C" fn on_signal(signal: libc::c_int) {
    restore();
    // SAFETY: raise is async-signal-safe.
    unsafe { libc::raise(signal) };
}
