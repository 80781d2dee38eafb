//! What the kernel pages to now (proc_swaps(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use api::Size;

/// A swap area in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Active {
    /// Where it is.
    pub path: PathBuf,
    /// How large it is, without its first page.
    pub size: Size,
    /// What of it is in use.
    pub used: Size,
}

/// All of them.
pub fn all() -> Vec<Active> {
    // A kernel without swap has none in use.
    read(&std::fs::read_to_string("/proc/swaps").unwrap_or_default())
}

fn read(text: &str) -> Vec<Active> {
    let one = |line: &str| {
        let mut words = line.split_whitespace();
        let (path, _kind) = (words.next()?, words.next()?);
        let mut size = || Some(Size(words.next()?.parse::<u64>().ok()? << 10));
        Some(Active { path: plain(path), size: size()?, used: size()? })
    };
    text.lines().skip(1).filter_map(one).collect()
}

/// A path in which spaces and the like are written as `\040`.
fn plain(text: &str) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let number =
            behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_read_with_any_name() {
        let text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/vdb  partition\t1048572\t8\t-2\n\
                    /a\\040b\\134c\\  file\t\t65532\t\t0\t\t100\nnonsense\n";
        let active =
            |path: &str, size, used| Active { path: path.into(), size: Size(size), used: Size(used) };
        assert_eq!(
            read(text),
            [active("/dev/vdb", 1_048_572 << 10, 8192), active("/a b\\c\\", 65532 << 10, 0)]
        );
        assert!(read("").is_empty());
    }
}
