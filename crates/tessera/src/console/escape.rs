//! The escape key: what a person types to talk to Tessera instead of the guest.

/// Ctrl-], as telnet and virsh have it.
pub const KEY: u8 = 0x1d;

/// Told at start, and on request.
pub const HELP: &str =
    "Ctrl-] then q ends the machine, p presses its power button, Ctrl-] sends Ctrl-] itself";

/// What a person asked of Tessera.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// End the machine at once.
    Quit,
    /// Press the guest's power button.
    PowerButton,
    /// Tell the commands.
    Help,
}

/// Takes the escape sequences out of what is typed.
#[derive(Debug, Default)]
pub struct Escape {
    escaped: bool,
}

impl Escape {
    /// Takes typed bytes; gives those that are for the guest, and the commands among them in order.
    pub fn filter(&mut self, typed: &[u8]) -> (Vec<u8>, Vec<Command>) {
        let (mut guest, mut commands) = (Vec::with_capacity(typed.len()), Vec::new());
        for &byte in typed {
            if !self.escaped {
                match byte {
                    KEY => self.escaped = true,
                    _ => guest.push(byte),
                }
                continue;
            }
            self.escaped = false;
            match byte {
                KEY => guest.push(KEY),
                b'q' => commands.push(Command::Quit),
                b'p' => commands.push(Command::PowerButton),
                _ => commands.push(Command::Help),
            }
        }
        (guest, commands)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_escaped_goes_to_the_guest() {
        assert_eq!(Escape::default().filter(b"ls\r\x03\x1b[A"), (b"ls\r\x03\x1b[A".to_vec(), vec![]));
    }

    #[test]
    fn an_escape_may_come_in_two_reads() {
        let mut escape = Escape::default();
        assert_eq!(escape.filter(b"a\x1d"), (b"a".to_vec(), vec![]));
        assert_eq!(escape.filter(b"qb"), (b"b".to_vec(), vec![Command::Quit]));
    }

    #[test]
    fn the_key_twice_sends_it() {
        assert_eq!(
            Escape::default().filter(b"\x1d\x1d\x1dp\x1dx"),
            (vec![KEY], vec![Command::PowerButton, Command::Help])
        );
    }
}
