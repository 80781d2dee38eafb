//! Reading and writing disks by bytes, and QEMU's tool.

use std::path::Path;
use std::process::Command;
use std::sync::Once;

use disk::{Disk, Format, OpenError, Stack};
use libc::iovec;

/// Opens a qcow2 image.
pub fn open(path: &Path, read_only: bool) -> Result<Stack, OpenError> {
    Stack::open(path, Format::Qcow2, read_only)
}

/// Reads `len` bytes, into buffers of uneven lengths.
pub fn read(disk: &dyn Disk, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0xee; len];
    let list = uneven(&mut bytes);
    // SAFETY: the buffers are parts of `bytes`.
    unsafe { disk.read(&list, offset) }.map(|()| bytes)
}

/// Writes bytes from buffers of uneven lengths.
pub fn write(disk: &dyn Disk, offset: u64, bytes: &[u8]) -> std::io::Result<()> {
    let mut bytes = bytes.to_vec();
    let list = uneven(&mut bytes);
    // SAFETY: as above.
    unsafe { disk.write(&list, offset) }
}

fn uneven(bytes: &mut [u8]) -> Vec<iovec> {
    let base = bytes.as_mut_ptr();
    let (mut at, mut step, mut list) = (0, 1, Vec::new());
    while at < bytes.len() {
        let n = (step * 7 % 5000).min(bytes.len() - at);
        list.push(iovec { iov_base: base.wrapping_add(at).cast(), iov_len: n });
        (at, step) = (at + n, (step * 3 + 1) % 9973);
    }
    list
}

/// Bytes that are the same for the same seed, and have no period that matters.
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random(seed);
    (0..len).map(|_| random.next() as u8).collect()
}

/// Numbers without meaning (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Writes here and there, also zeroes, and puts down what must be read then.
pub fn scribble(disk: &dyn Disk, want: &mut [u8], random: &mut Random, rounds: u64) {
    for round in 0..rounds {
        let sectors = want.len() as u64 / 512;
        let at = random.below(sectors);
        let most = (sectors - at).min(if random.below(4) == 0 { 700 } else { 16 });
        let (at, len) = (at * 512, (1 + random.below(most)) as usize * 512);
        let part = &mut want[at as usize..at as usize + len];
        if random.below(4) == 0 {
            disk.write_zeroes(at, len as u64, round % 2 == 0).unwrap();
            part.fill(0);
        } else {
            let data = bytes(random.next(), len);
            write(disk, at, &data).unwrap();
            part.copy_from_slice(&data);
        }
    }
}

/// Whether qemu-img is there; says once if it is not.
pub fn have_qemu_img() -> bool {
    static TOLD: Once = Once::new();
    let there = Command::new("qemu-img").arg("--version").output().is_ok();
    if !there {
        TOLD.call_once(|| eprintln!("skipped: qemu-img is not installed (apt install qemu-utils)"));
    }
    there
}

/// Runs qemu-img, which must succeed, in a folder.
pub fn qemu_img(folder: &Path, arguments: &str) -> String {
    let output =
        Command::new("qemu-img").current_dir(folder).args(arguments.split_whitespace()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments}: {text}{errors}");
    text
}

/// Has qemu-img find no fault with an image.
pub fn check(folder: &Path, image: &str) {
    let text = qemu_img(folder, &format!("check {image}"));
    assert!(text.contains("No errors were found"), "{text}");
}

/// What QEMU reads in an image.
pub fn contents(folder: &Path, image: &str) -> Vec<u8> {
    qemu_img(folder, &format!("convert -O raw {image} contents.raw"));
    std::fs::read(folder.join("contents.raw")).unwrap()
}
