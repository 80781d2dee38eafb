//! A terminal that a test sits at: a pseudo-terminal, and what a person would see on it.

use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZero;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

/// More than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program at a terminal of its own.
pub struct AtTerminal {
    child: Child,
    keyboard: File,
    /// The program's side, kept open so that what it wrote last can be read.
    line: OwnedFd,
    seen: Arc<Mutex<vt100::Parser>>,
    before: Termios,
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

fn some(number: u16) -> NonZero<u16> {
    NonZero::new(number).unwrap()
}

impl AtTerminal {
    /// Starts a program at a terminal of 80 columns and 24 rows.
    pub fn start(mut command: Command) -> Self {
        let control = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&control).unwrap();
        unlockpt(&control).unwrap();
        let name = ptsname(&control, Vec::new()).unwrap();
        let line = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty()).unwrap();
        tcsetwinsize(&line, size(24, 80)).unwrap();
        let before = tcgetattr(&line).unwrap();
        let end = || line.try_clone().unwrap();
        command.stdin(end()).stdout(end()).stderr(end()).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        // SAFETY: only system calls that may be made between fork and exec.
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        let seen = Arc::new(Mutex::new(vt100::Parser::new(some(24), some(80), 0)));
        let (mut reader, parser) = (File::from(control.try_clone().unwrap()), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut bytes) {
                parser.lock().unwrap().process(&bytes[..count]);
            }
        });
        Self { child, keyboard: File::from(control), line, seen, before }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn types(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    pub fn resize(&self, rows: u16, columns: u16) {
        self.seen.lock().unwrap().screen_mut().set_size(some(rows), some(columns));
        tcsetwinsize(&self.line, size(rows, columns)).unwrap();
    }

    pub fn screen(&self) -> vt100::Screen {
        self.seen.lock().unwrap().screen().clone()
    }

    /// Waits until what is to be seen is so.
    pub fn sees(&self, what: &str, happened: impl Fn(&vt100::Screen) -> bool) {
        let start = Instant::now();
        while !happened(&self.screen()) {
            let contents = self.screen().contents();
            assert!(start.elapsed() < PATIENCE, "not seen: {what}; the screen is\n{contents}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a text is to be seen.
    pub fn reads(&self, text: &str) {
        self.sees(text, |screen| screen.contents().contains(text));
    }

    /// Waits until the program has ended.
    pub fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            let contents = self.screen().contents();
            assert!(start.elapsed() < PATIENCE, "it does not end; the screen is\n{contents}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The terminal has to be as it was before the program.
    pub fn is_as_before(&self) {
        self.sees("the screen that was there before", |screen| {
            !screen.alternate_screen() && !screen.hide_cursor()
        });
        let now = tcgetattr(self.line.as_fd()).unwrap();
        let modes = |of: &Termios| (of.input_modes, of.output_modes, of.local_modes, of.control_modes);
        assert_eq!(modes(&now), modes(&self.before));
    }
}

impl Drop for AtTerminal {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
