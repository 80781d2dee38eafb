//! Whether to write in colours.

use std::io::IsTerminal;

/// Whether what is written to `to` may have colours: it is a terminal that has some, and `NO_COLOR` (no-color.org) does not forbid it.
pub fn wanted(to: &impl IsTerminal) -> bool {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    to.is_terminal() && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}
