//! qcow2 images, made and checked by QEMU's own tool.

use std::path::{Path, PathBuf};
use std::process::Command;

use disk::{Disk, Format, Qcow2};
use libc::iovec;

const MIB: u64 = 1 << 20;

fn qemu_img(arguments: &[&str], folder: &Path) -> String {
    let output = Command::new("qemu-img").args(arguments).current_dir(folder).output();
    let output = output.expect("qemu-img is needed: it is in Debian's package qemu-utils");
    assert!(output.status.success(), "qemu-img {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn make(&self, arguments: &[&str]) {
        qemu_img(&[&["create", "-q"], arguments].concat(), self.0.path());
    }

    fn open(&self, name: &str) -> Qcow2 {
        Qcow2::open(&self.path(name), false).unwrap()
    }

    fn refusal(&self, name: &str) -> String {
        match Qcow2::open(&self.path(name), true) {
            Ok(_) => panic!("{name} was opened"),
            Err(error) => error.to_string(),
        }
    }
}

fn write(disk: &dyn Disk, bytes: &[u8], offset: u64) {
    let (first, second) = bytes.split_at(bytes.len() / 3);
    let buffer = |b: &[u8]| iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() };
    // SAFETY: the buffers are there, and only read.
    unsafe { disk.write(&[buffer(first), buffer(second)], offset) }.unwrap();
}

fn read(disk: &dyn Disk, len: usize, offset: u64) -> Vec<u8> {
    let mut bytes = vec![0xee; len];
    // SAFETY: the buffer is there and ours.
    unsafe { disk.read(&[iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: len }], offset) }.unwrap();
    bytes
}

#[test]
fn what_is_written_is_read_and_the_image_stays_sound() {
    for version in ["compat=0.10", "compat=1.1"] {
        let folder = Folder::new();
        folder.make(&["-f", "qcow2", "-o", version, "d.qcow2", "64M"]);
        let disk = folder.open("d.qcow2");
        assert_eq!(disk.len(), 64 * MIB);
        write(&disk, &[7; 100 * 512], 5 * MIB - 512);
        write(&disk, &[9; 512], 64 * MIB - 512);
        disk.write_zeroes(5 * MIB, 512, true).unwrap();
        disk.discard(32 * MIB, MIB).unwrap();
        disk.flush().unwrap();
        assert_eq!(read(&disk, 1024, 5 * MIB - 512), [[7; 512], [0; 512]].concat());
        assert_eq!(read(&disk, 512, 64 * MIB - 512), [9; 512]);
        assert_eq!(read(&disk, 512, 40 * MIB), [0; 512]);
        drop(disk);
        qemu_img(&["check", "-q", "d.qcow2"], folder.0.path());
        qemu_img(&["convert", "-O", "raw", "d.qcow2", "d.raw"], folder.0.path());
        let raw = std::fs::read(folder.path("d.raw")).unwrap();
        assert_eq!(raw[5 * MIB as usize - 1], 7);
        assert_eq!(raw[64 * MIB as usize - 1], 9);
    }
}

#[test]
fn an_image_shows_what_it_is_based_on_and_leaves_that_alone() {
    let folder = Folder::new();
    std::fs::write(folder.path("base.raw"), vec![3; 4 * MIB as usize]).unwrap();
    folder.make(&["-f", "qcow2", "-b", "base.raw", "-F", "raw", "middle.qcow2"]);
    folder.make(&["-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", "top.qcow2"]);
    let disk = folder.open("top.qcow2");
    write(&disk, &[4; 512], MIB);
    assert_eq!(read(&disk, 1536, MIB - 512), [[3; 512], [4; 512], [3; 512]].concat());
    drop(disk);
    assert!(std::fs::read(folder.path("base.raw")).unwrap().iter().all(|&b| b == 3));
}

#[test]
fn a_temporary_image_is_gone_with_its_guest_and_others_see_nothing_of_it() {
    let folder = Folder::new();
    std::fs::write(folder.path("base.raw"), vec![5; 4 * MIB as usize]).unwrap();
    folder.make(&["-f", "qcow2", "base.qcow2", "4M"]);
    for (name, format, before) in [("base.raw", Format::Raw, 5), ("base.qcow2", Format::Qcow2, 0)] {
        let [one, other] = [(), ()].map(|()| Qcow2::over(&folder.path(name), format).unwrap());
        write(&one, &[6; 4096], 2 * MIB);
        assert_eq!(read(&one, 4096, 2 * MIB), [6; 4096]);
        assert_eq!(read(&other, 4096, 2 * MIB), [before; 4096]);
        drop((one, other));
        assert_eq!(read(&*disk::open(&folder.path(name), None, true).unwrap(), 512, 2 * MIB), [before; 512]);
    }
    let names: Vec<_> = std::fs::read_dir(folder.0.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

#[test]
fn an_image_has_one_writer_or_many_readers() {
    let folder = Folder::new();
    folder.make(&["-f", "qcow2", "base.qcow2", "1M"]);
    folder.make(&["-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "top.qcow2"]);
    let writer = folder.open("top.qcow2");
    assert_eq!(folder.refusal("top.qcow2"), "it is in use by another machine");
    let based = Qcow2::open(&folder.path("base.qcow2"), false).err().unwrap();
    assert_eq!(based.to_string(), "it is in use by another machine");
    drop(writer);
    let _readers = [(), ()].map(|()| Qcow2::open(&folder.path("top.qcow2"), true).unwrap());
}

#[test]
fn what_cannot_be_used_is_refused_with_a_reason() {
    let folder = Folder::new();
    std::fs::write(folder.path("text"), "no image at all, but longer than a header has to be".repeat(20))
        .unwrap();
    folder.refusal("text");
    folder.refusal("missing");
    folder.make(&["-f", "qcow2", "-o", "data_file=data", "external.qcow2", "1M"]);
    assert_eq!(folder.refusal("external.qcow2"), "images with an external data file cannot be used");
    folder.make(&["-f", "qcow2", "-u", "-b", "gone.raw", "-F", "raw", "orphan.qcow2", "1M"]);
    assert!(folder.refusal("orphan.qcow2").contains("gone.raw"));
    folder.make(&["-f", "qcow2", "-u", "-b", "other.qcow2", "-F", "qcow2", "loop.qcow2", "1M"]);
    folder.make(&["-f", "qcow2", "-u", "-b", "loop.qcow2", "-F", "qcow2", "other.qcow2", "1M"]);
    assert!(folder.refusal("loop.qcow2").contains("a loop"));
    folder.make(&["-f", "qcow2", "-u", "-b", "x.vmdk", "-F", "vmdk", "foreign.qcow2", "1M"]);
    assert!(folder.refusal("foreign.qcow2").contains("vmdk"));
}

/// Damaged headers and tables: an error or a disk, never a panic, a hang or a huge allocation.
#[test]
fn a_damaged_image_does_no_harm() {
    let folder = Folder::new();
    folder.make(&["-f", "qcow2", "good.qcow2", "16M"]);
    write(&folder.open("good.qcow2"), &[1; 64 << 10], 0);
    let good = std::fs::read(folder.path("good.qcow2")).unwrap();
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..300 {
        let mut bad = good.clone();
        for _ in 0..1 + round % 4 {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let place = if round % 2 == 0 { seed % 112 } else { seed % good.len() as u64 };
            bad[place as usize] = (seed >> 32) as u8;
        }
        if round % 10 == 9 {
            bad.truncate((seed % good.len() as u64) as usize);
        }
        std::fs::write(folder.path("bad.qcow2"), bad).unwrap();
        let Ok(disk) = Qcow2::open(&folder.path("bad.qcow2"), false) else { continue };
        let mut bytes = vec![0; 4096];
        for offset in [0, 8 * MIB] {
            let buffer = [iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() }];
            // SAFETY: the buffer is there and ours.
            let _ = unsafe { disk.read(&buffer, offset) };
            // SAFETY: as above.
            let _ = unsafe { disk.write(&buffer, offset) };
        }
    }
}
