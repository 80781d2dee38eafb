//! A device in memory that compresses what is paged to it (Linux, admin-guide/blockdev/zram).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use api::Size;

/// Where devices are made and removed.
const CONTROL: &str = "/sys/class/zram-control";
/// How often it is tried to remove one that somebody has open, and the time between.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(50);

/// A device, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Zram(u32);

/// What is in one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// What was written to it.
    pub plain: Size,
    /// What it takes of memory for that.
    pub taken: Size,
}

impl Zram {
    /// A new one, for so many bytes as they are before they are compressed.
    ///
    /// # Errors
    /// If this kernel has none, or we may not.
    pub fn add(size: Size) -> io::Result<Self> {
        let number = fs::read_to_string(Path::new(CONTROL).join("hot_add"))?;
        let number =
            number.trim().parse().map_err(|_| io::Error::other(format!("'{number}' is no device")))?;
        let device = Self(number);
        let sized = fs::write(device.told("disksize"), size.0.to_string());
        sized.inspect_err(|_| device.give_up())?;
        Ok(device)
    }

    /// The one that is found there.
    pub fn at(path: &Path) -> Option<Self> {
        path.to_str()?.strip_prefix("/dev/zram")?.parse().ok().map(Self)
    }

    /// Where it is found.
    pub fn path(self) -> PathBuf {
        format!("/dev/zram{}", self.0).into()
    }

    fn told(self, name: &str) -> PathBuf {
        format!("/sys/block/zram{}/{name}", self.0).into()
    }

    /// What is in it.
    pub fn holds(self) -> Holds {
        // One that is gone holds nothing.
        holds(&fs::read_to_string(self.told("mm_stat")).unwrap_or_default()).unwrap_or_default()
    }

    /// Removes it. Nobody may use it any more; who only looks what it is (udev does) is waited for.
    ///
    /// # Errors
    /// If somebody does.
    pub fn remove(self) -> io::Result<()> {
        let mut tries = 0;
        loop {
            match fs::write(Path::new(CONTROL).join("hot_remove"), self.0.to_string()) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < TRIES => tries += 1,
                result => return result,
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Removes one that is of no use; says so if it stays.
    pub fn give_up(self) {
        if let Err(error) = self.remove() {
            tracing::warn!("{}: it is not in use, and cannot be removed: {error}", self.path().display());
        }
    }
}

fn holds(text: &str) -> Option<Holds> {
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok().map(Size));
    let (plain, _compressed, taken) = (numbers.next()??, numbers.next()??, numbers.next()??);
    Some(Holds { plain, taken })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_one_is_the_first_and_the_third_number() {
        let wanted = Holds { plain: Size(536_883_200), taken: Size(12_288) };
        assert_eq!(holds("  536883200       74    12288        0 536883200        0 0\n"), Some(wanted));
        assert_eq!(holds("4096 74"), None);
        assert_eq!(Zram::at(Path::new("/dev/zram12")), Some(Zram(12)));
        assert_eq!(Zram(12).path(), Path::new("/dev/zram12"));
        assert_eq!(Zram::at(Path::new("/dev/vda")), None);
    }
}
