//! The way into the guest's console: from stdin, with the escape key taken out where a person types.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use crate::console::escape::{Command, Escape};

/// Who receives what is typed.
pub trait Listener: Send + Sync + 'static {
    /// Takes bytes for the guest; says how many it had room for.
    fn typed(&self, bytes: &[u8]) -> usize;
    /// Does what a person asked with the escape key.
    fn command(&self, command: Command);
}

/// How often to offer the guest what it had no room for.
const PATIENCE_MS: libc::c_int = 2;

/// How much may wait for the guest. Beyond it a pipe is not read, and what a person types is lost.
const MOST: usize = 64 << 10;

/// How much is read at once.
const READ: usize = 1024;

/// Reads stdin on a thread of its own until it ends. `escape` says whether the escape key means anything.
pub fn start(escape: bool, listener: Arc<dyn Listener>) -> io::Result<()> {
    // Past std's own buffer, which would hold bytes back.
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    std::thread::Builder::new()
        .name("console-in".into())
        .spawn(move || read_in(stdin, escape, &*listener))?;
    Ok(())
}

fn read_in(mut stdin: File, escape: bool, listener: &dyn Listener) {
    let mut filter = Escape::default();
    let mut pending = VecDeque::new();
    let mut ended = false;
    while !ended || !pending.is_empty() {
        // A terminal is always read, for the escape key; a pipe only while there is room.
        let wanted = !ended && (escape || pending.len() + READ <= MOST);
        let patience = if pending.is_empty() { -1 } else { PATIENCE_MS };
        if ready(wanted.then_some(&stdin), patience) {
            let mut buffer = [0; READ];
            let typed = match stdin.read(&mut buffer) {
                Ok(0) => &[],
                Ok(count) => &buffer[..count],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => &[],
            };
            ended = typed.is_empty();
            let (bytes, commands) = if escape { filter.filter(typed) } else { (typed.to_vec(), Vec::new()) };
            pending.extend(bytes.into_iter().take(MOST.saturating_sub(pending.len())));
            for command in commands {
                listener.command(command);
            }
        }
        let taken = listener.typed(pending.make_contiguous());
        pending.drain(..taken.min(pending.len()));
    }
}

/// Waits until there is something to read or the patience ends.
fn ready(file: Option<&File>, patience_ms: libc::c_int) -> bool {
    let mut poll = libc::pollfd { fd: file.map_or(-1, AsRawFd::as_raw_fd), events: libc::POLLIN, revents: 0 };
    // SAFETY: poll is given one structure and writes only its `revents`; it passes over a negative descriptor.
    unsafe { libc::poll(&mut poll, 1, patience_ms) == 1 }
}
