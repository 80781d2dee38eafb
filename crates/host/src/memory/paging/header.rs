//! The first page of a swap area (linux/swap.h, `union swap_header`; mkswap(8)).

use std::fs::File;
use std::os::unix::fs::FileExt;

use api::{Id, Size};

/// Bytes of a page.
pub const PAGE: u64 = 4096;
/// What it ends with.
const MAGIC: &[u8; 10] = b"SWAPSPACE2";
/// Where the words are: below are 1024 bytes for whoever starts a machine from there.
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
const UUID: usize = 1036;
const LABEL: usize = 1052;
/// What we call ours, in 16 bytes.
const NAME: &[u8; 16] = b"tessera paging\0\0";

/// What the first page says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    last_page: u32,
    uuid: [u8; 16],
    label: [u8; 16],
}

impl Header {
    /// For an area of so many bytes, of a host.
    pub fn new(size: Size, host: Id) -> Self {
        // What is beyond 16 TiB has no number.
        let last_page = u32::try_from((size.0 / PAGE).saturating_sub(1)).unwrap_or(u32::MAX);
        Self { last_page, uuid: *host.bytes(), label: *NAME }
    }

    /// That of an area, if its first page is one as we write it, to the byte: whoever uses the area for something else changes something of it.
    pub fn read(file: &File) -> Option<Self> {
        let mut page = [0; PAGE as usize];
        file.read_exact_at(&mut page, 0).ok()?;
        let word = |at: usize| page[at..at + 4].try_into().map(u32::from_le_bytes).ok();
        let part = |at: usize| page[at..at + 16].try_into().ok();
        let header = Self { last_page: word(LAST_PAGE)?, uuid: part(UUID)?, label: part(LABEL)? };
        (header.bytes() == page).then_some(header)
    }

    /// The page.
    pub fn bytes(&self) -> [u8; PAGE as usize] {
        let mut page = [0; PAGE as usize];
        page[VERSION..VERSION + 4].copy_from_slice(&1u32.to_le_bytes());
        page[LAST_PAGE..LAST_PAGE + 4].copy_from_slice(&self.last_page.to_le_bytes());
        page[UUID..UUID + 16].copy_from_slice(&self.uuid);
        page[LABEL..LABEL + 16].copy_from_slice(&self.label);
        page[PAGE as usize - MAGIC.len()..].copy_from_slice(MAGIC);
        page
    }

    /// Whether this host has made it.
    pub fn is_of(&self, host: Id) -> bool {
        self.uuid == *host.bytes() && self.label == *NAME
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found_again_and_is_nobody_elses() {
        let (host, other) = (Id::new(), Id::new());
        let file = tempfile::tempfile().unwrap();
        assert_eq!(Header::read(&file), None);
        let header = Header::new(Size(64 << 20), host);
        file.write_all_at(&header.bytes(), 0).unwrap();
        assert_eq!(Header::read(&file), Some(header.clone()));
        assert!(header.is_of(host) && !header.is_of(other));
        assert_eq!(header.last_page, 16383);
        for (at, byte) in [(PAGE - 1, b"1"), (0, b"x"), (2048, b"x")] {
            file.write_all_at(&header.bytes(), 0).unwrap();
            file.write_all_at(byte, at).unwrap();
            assert_eq!(Header::read(&file), None, "{at}");
        }
    }

    #[test]
    fn other_programs_take_it_for_swap() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(64 << 20).unwrap();
        file.as_file().write_all_at(&Header::new(Size(64 << 20), Id::new()).bytes(), 0).unwrap();
        let Ok(said) = std::process::Command::new("blkid")
            .args(["-p", "-s", "TYPE", "-o", "value"])
            .arg(file.path())
            .output()
        else {
            return;
        };
        assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), "swap");
    }
}
