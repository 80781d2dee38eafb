//! Keys that are typed on a guest's serial console.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;

/// The most keys at once, and the most bytes that they are together.
const MOST_KEYS: usize = 256;
const MOST_BYTES: usize = 4096;

/// Keys to be typed, in this order.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SendKeys {
    /// `text:…` is that text, one character is itself. `enter`, `tab`, `shift-tab`, `esc`, `space`, `backspace`, `delete`, `insert`, `home`, `end`,
    /// `page-up`, `page-down`, `up`, `down`, `left`, `right` and `f1` to `f12` are what a terminal sends for them (xterm's Control Sequences),
    /// `ctrl-c` and the like a control character, `alt-KEY` a key after an escape. `break` is a break of the line; `sysrq:b` is a break and the
    /// letter, which Linux takes as typed with SysRq (Documentation/admin-guide/sysrq.rst).
    #[schema(min_items = 1, max_items = 256)]
    pub keys: Vec<String>,
}

/// What is typed at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Typed {
    /// These characters.
    Text(String),
    /// A break.
    Break,
}

/// What terminals send for keys that are no characters.
const NAMED: [(&str, &str); 34] = [
    ("enter", "\r"),
    ("return", "\r"),
    ("tab", "\t"),
    ("shift-tab", "\x1b[Z"),
    ("esc", "\x1b"),
    ("escape", "\x1b"),
    ("space", " "),
    ("backspace", "\x7f"),
    ("delete", "\x1b[3~"),
    ("del", "\x1b[3~"),
    ("insert", "\x1b[2~"),
    ("home", "\x1b[H"),
    ("end", "\x1b[F"),
    ("page-up", "\x1b[5~"),
    ("pageup", "\x1b[5~"),
    ("page-down", "\x1b[6~"),
    ("pagedown", "\x1b[6~"),
    ("up", "\x1b[A"),
    ("down", "\x1b[B"),
    ("right", "\x1b[C"),
    ("left", "\x1b[D"),
    ("f1", "\x1bOP"),
    ("f2", "\x1bOQ"),
    ("f3", "\x1bOR"),
    ("f4", "\x1bOS"),
    ("f5", "\x1b[15~"),
    ("f6", "\x1b[17~"),
    ("f7", "\x1b[18~"),
    ("f8", "\x1b[19~"),
    ("f9", "\x1b[20~"),
    ("f10", "\x1b[21~"),
    ("f11", "\x1b[23~"),
    ("f12", "\x1b[24~"),
    ("ctrl-space", "\0"),
];

/// The one character of a text that has no more.
fn only(text: &str) -> Option<char> {
    let mut characters = text.chars();
    characters.next().filter(|_| characters.next().is_none())
}

/// What a key is that is no break.
fn plain(key: &str) -> Option<String> {
    if let Some(text) = key.strip_prefix("text:") {
        return Some(text.to_owned()).filter(|text| !text.is_empty());
    }
    if let Some(character) = only(key).filter(|character| !character.is_control()) {
        return Some(character.into());
    }
    let name = key.to_ascii_lowercase();
    if let Some((_, sent)) = NAMED.iter().find(|(known, _)| *known == name) {
        return Some((*sent).to_owned());
    }
    if let Some(character) = name.strip_prefix("ctrl-").and_then(only) {
        let control = match character {
            'a'..='z' | '[' | '\\' | ']' | '^' | '_' | '@' => character as u8 & 0x1f,
            '?' => 0x7f,
            _ => return None,
        };
        return Some(char::from(control).into());
    }
    // The case of what follows counts.
    let rest = name.starts_with("alt-").then(|| &key[4..]).filter(|rest| !rest.starts_with("text:"))?;
    plain(rest).map(|rest| format!("\x1b{rest}"))
}

impl SendKeys {
    /// What is to be typed.
    ///
    /// # Errors
    /// What is wrong with each key that is none.
    pub fn read(&self) -> Result<Vec<Typed>, Vec<Invalid>> {
        let shown = |key: &str| key.chars().take(80).collect::<String>();
        let (mut typed, mut wrong) = (Vec::new(), Vec::new());
        for (number, key) in self.keys.iter().enumerate() {
            let letter = key.strip_prefix("sysrq:").map(only);
            match (letter, plain(key)) {
                (Some(Some(letter)), _) if letter.is_ascii_alphanumeric() || letter == '?' => {
                    typed.extend([Typed::Break, Typed::Text(letter.into())]);
                }
                (None, _) if key.eq_ignore_ascii_case("break") => typed.push(Typed::Break),
                (None, Some(text)) => typed.push(Typed::Text(text)),
                _ => {
                    let detail = "a key is one character, text:WORDS, a name such as enter, esc, up, f1, ctrl-c or alt-x, or break or sysrq:LETTER";
                    wrong.push(Invalid::new(format!("/keys/{number}"), shown(key), detail));
                }
            }
        }
        let bytes: usize = self.keys.iter().map(String::len).sum();
        if !(1..=MOST_KEYS).contains(&self.keys.len()) || bytes > MOST_BYTES {
            let detail = "1 to 256 keys are sent at once, with at most 4096 bytes";
            wrong.push(Invalid::new("/keys", self.keys.len(), detail));
        }
        if wrong.is_empty() { Ok(typed) } else { Err(wrong) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &[&str]) -> Result<Vec<Typed>, Vec<Invalid>> {
        SendKeys { keys: keys.iter().map(|&key| key.to_owned()).collect() }.read()
    }

    #[test]
    fn keys_are_what_a_terminal_sends_for_them() {
        for (key, sent) in [
            ("a", "a"),
            ("A", "A"),
            ("ä", "ä"),
            ("-", "-"),
            ("text:ls -l", "ls -l"),
            ("text:enter", "enter"),
            ("Enter", "\r"),
            ("ctrl-c", "\x03"),
            ("CTRL-C", "\x03"),
            ("ctrl-]", "\x1d"),
            ("ctrl-space", "\0"),
            ("up", "\x1b[A"),
            ("F12", "\x1b[24~"),
            ("alt-x", "\x1bx"),
            ("alt-X", "\x1bX"),
            ("alt-ctrl-h", "\x1b\x08"),
            ("alt-left", "\x1b\x1b[D"),
        ] {
            assert_eq!(read(&[key]), Ok(vec![Typed::Text(sent.into())]), "{key}");
        }
        let letter = Typed::Text("b".into());
        assert_eq!(read(&["break", "sysrq:b"]), Ok(vec![Typed::Break, Typed::Break, letter]));
    }

    #[test]
    fn each_key_that_is_none_is_named() {
        let wrong = read(&["enter", "", "text:", "ctrl-enter", "hello", "sysrq:", "sysrq:bc", "alt-", "\n"]);
        let pointers: Vec<_> = wrong.unwrap_err().into_iter().map(|wrong| wrong.pointer).collect();
        assert_eq!(pointers, [1, 2, 3, 4, 5, 6, 7, 8].map(|n| format!("/keys/{n}")));
        assert_eq!(read(&[]).unwrap_err()[0].pointer, "/keys");
        assert_eq!(read(&["a"; 257]).unwrap_err()[0].pointer, "/keys");
        assert_eq!(read(&[&format!("text:{}", "x".repeat(5000))]).unwrap_err()[0].pointer, "/keys");
    }
}
