//! The terminal in raw mode, and back to what it was however the process ends.
//!
//! The mode is put back by [`RawTerminal`]'s drop, which runs on return and on panic, and by a handler for the signals
//! that end a process. Only SIGKILL gets past them. [`FullScreen`] takes the whole screen as well, in the same way.

use std::io::{self, IsTerminal, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Once, OnceLock};

/// The terminal and its mode before the machine started; read by the signal handler, which can take no lock.
static BEFORE: OnceLock<(libc::c_int, libc::termios)> = OnceLock::new();

/// Whether the terminal is in raw mode now.
static RAW: AtomicBool = AtomicBool::new(false);

/// Whether the alternate screen is shown now.
static SCREEN: AtomicBool = AtomicBool::new(false);

/// Shows the alternate screen, without a cursor (xterm control sequences: DECSET 1049, DECRST 25).
const ENTER_SCREEN: &[u8] = b"\x1b[?1049h\x1b[?25l";

/// Plain letters, the cursor, and the screen that was there before.
const LEAVE_SCREEN: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

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

/// The whole screen of a terminal in raw mode. Dropping it shows what was there before.
#[derive(Debug)]
pub struct FullScreen {
    _raw: RawTerminal,
}

impl FullScreen {
    /// Takes the screen. Gives `None` if stdin or stdout is not a terminal. What a panic says is seen afterwards.
    pub fn enter() -> io::Result<Option<FullScreen>> {
        let mut stdout = io::stdout();
        if !stdout.is_terminal() {
            return Ok(None);
        }
        let Some(raw) = RawTerminal::enter()? else { return Ok(None) };
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let usual = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |told| {
                restore();
                usual(told);
            }));
        });
        SCREEN.store(true, Ordering::SeqCst);
        let screen = FullScreen { _raw: raw };
        stdout.write_all(ENTER_SCREEN)?;
        stdout.flush()?;
        Ok(Some(screen))
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

/// Puts screen and mode back once. Safe in a signal handler: only atomics, write and tcsetattr.
fn restore() {
    if SCREEN.swap(false, Ordering::SeqCst) {
        // SAFETY: the bytes are static. Where they do not arrive there is no screen any more.
        unsafe { libc::write(libc::STDOUT_FILENO, LEAVE_SCREEN.as_ptr().cast(), LEAVE_SCREEN.len()) };
    }
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

#[cfg(test)]
#[path = "../../tests/host/terminal.rs"]
#[allow(dead_code)]
mod at_terminal;

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::at_terminal::AtTerminal;
    use super::*;

    #[test]
    #[ignore = "it panics: the test below runs it"]
    fn panics_with_the_whole_screen() {
        let _screen = FullScreen::enter().unwrap().unwrap();
        panic!("something unforeseen");
    }

    #[test]
    fn after_a_panic_the_terminal_is_as_it_was_and_shows_what_was_wrong() {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let name = "console::terminal::tests::panics_with_the_whole_screen";
        command.args(["--exact", name, "--ignored", "--nocapture"]).env("RUST_BACKTRACE", "0");
        let mut program = AtTerminal::start(command);
        assert!(!program.ended().success());
        program.is_as_before();
        program.reads("something unforeseen");
    }
}
