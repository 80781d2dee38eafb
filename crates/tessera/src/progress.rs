//! What a person sees while something takes a while.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use storage::Progress;

/// A bar on the terminal. It is gone when the work is done.
pub struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// One that says what is done at the moment; `patience` tells those who have no terminal how long that takes.
    pub fn steps(what: &str, patience: &str) -> Bar {
        let bar = ProgressBar::new_spinner().with_message("starting").with_prefix(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        if bar.is_hidden() {
            eprintln!("{what} ({patience})");
        }
        Bar { bar }
    }

    /// One that says how many bytes are done.
    pub fn bytes(what: &str) -> Bar {
        let bar = ProgressBar::new(0).with_prefix(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{prefix} {bar:40} {bytes}/{total_bytes} {eta}") {
            bar.set_style(style);
        }
        Bar { bar }
    }

    /// Does what takes a while.
    pub fn watch<T>(&self, work: impl FnOnce(&dyn Progress) -> T) -> T {
        let result = work(self);
        self.bar.finish_and_clear();
        result
    }
}

impl Progress for Bar {
    fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    fn amount(&self, done: u64, total: u64) {
        self.bar.set_length(total);
        self.bar.set_position(done);
    }
}
