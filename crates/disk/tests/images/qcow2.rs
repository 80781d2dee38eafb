use std::fs::{self, File};
use std::path::Path;

use disk::qcow2::{create, create_overlay};
use disk::{Disk, Format, OpenError, Stack};

use crate::tools::{Random, bytes, check, contents, have_qemu_img, open, qemu_img, read, write};

/// A disk, and what must be in it.
struct Model {
    disk: Stack,
    want: Vec<u8>,
    random: Random,
}

impl Model {
    fn new(path: &Path, want: Vec<u8>) -> Self {
        let disk = open(path, false).unwrap();
        assert_eq!(disk.len(), want.len() as u64);
        Self { disk, want, random: Random(7) }
    }

    /// A range of sectors.
    fn range(&mut self) -> (u64, usize) {
        let sectors = self.want.len() as u64 / 512;
        let at = self.random.below(sectors);
        let most = (sectors - at).min(if self.random.below(4) == 0 { 700 } else { 16 });
        (at * 512, (1 + self.random.below(most)) as usize * 512)
    }

    /// Does some of everything, and compares.
    fn play(&mut self, rounds: u64) {
        for round in 0..rounds {
            let (at, len) = self.range();
            let part = at as usize..at as usize + len;
            match self.random.below(8) {
                0..=2 => {
                    let data = bytes(round, len);
                    write(&self.disk, at, &data).unwrap();
                    self.want[part].copy_from_slice(&data);
                }
                3 => {
                    self.disk.write_zeroes(at, len as u64, round.is_multiple_of(2)).unwrap();
                    self.want[part].fill(0);
                }
                4 => {
                    self.disk.discard(at, len as u64).unwrap();
                    let now = read(&self.disk, at, len).unwrap();
                    let old = &self.want[part.clone()];
                    assert!(now.iter().zip(old).all(|(now, old)| now == old || *now == 0));
                    self.want[part].copy_from_slice(&now);
                }
                5 => self.disk.flush().unwrap(),
                _ => assert!(read(&self.disk, at, len).unwrap() == self.want[part], "at {at:#x}+{len:#x}"),
            }
        }
        let all = read(&self.disk, 0, self.want.len()).unwrap();
        assert!(all == self.want);
    }
}

#[test]
fn all_requests_do_on_an_image_what_they_do_on_memory_and_qemu_agrees() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for options in [
        "compat=1.1",
        "compat=0.10",
        "cluster_size=512",
        "cluster_size=2M",
        "refcount_bits=1",
        "preallocation=metadata",
        "lazy_refcounts=on",
    ] {
        qemu_img(folder.path(), &format!("create -q -f qcow2 -o {options} a.qcow2 5M"));
        let mut model = Model::new(&folder.path().join("a.qcow2"), vec![0; 5 << 20]);
        model.play(300);
        let want = std::mem::take(&mut model.want);
        drop(model);
        check(folder.path(), "a.qcow2");
        assert!(contents(folder.path(), "a.qcow2") == want, "{options}");
    }
}

#[test]
fn an_overlay_shows_its_backing_files_until_it_is_written() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut want = bytes(3, 3 << 20);
    fs::write(at("base.raw"), &want).unwrap();
    create_overlay(&at("middle.qcow2"), &at("base.raw"), Format::Raw).unwrap();
    let middle = open(&at("middle.qcow2"), false).unwrap();
    write(&middle, 1 << 20, &[7; 100 * 512]).unwrap();
    want[1 << 20..(1 << 20) + 100 * 512].fill(7);
    drop(middle);
    // One made by us, one by QEMU, longer than what is behind it.
    create_overlay(&at("top.qcow2"), &at("middle.qcow2"), Format::Qcow2).unwrap();
    qemu_img(folder.path(), "create -q -f qcow2 -b middle.qcow2 -F qcow2 long.qcow2 4M");
    for (name, len) in [("top.qcow2", 3 << 20), ("long.qcow2", 4 << 20)] {
        let mut expected = want.clone();
        expected.resize(len, 0);
        let mut model = Model::new(&at(name), expected);
        model.play(200);
        let expected = std::mem::take(&mut model.want);
        drop(model);
        check(folder.path(), name);
        assert!(contents(folder.path(), name) == expected, "{name}");
    }
    assert!(contents(folder.path(), "middle.qcow2") == want);
}

#[test]
fn an_image_made_by_us_is_one_of_qemus() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    create(&path, 10 << 30).unwrap();
    assert!(matches!(create(&path, 1 << 20), Err(OpenError::Host(_))), "the name is taken");
    assert!(fs::metadata(&path).unwrap().len() < 1 << 20);
    check(folder.path(), "a.qcow2");
    let disk = open(&path, false).unwrap();
    write(&disk, (10 << 30) - 512, &[5; 512]).unwrap();
    disk.grow((10 << 30) + 4096).unwrap();
    write(&disk, 10 << 30, &[6; 4096]).unwrap();
    assert!(disk.grow(1 << 30).is_err());
    assert!(disk.grow((11 << 30) + 1).is_err());
    drop(disk);
    check(folder.path(), "a.qcow2");
    assert!(qemu_img(folder.path(), "info a.qcow2").contains("10737422336 bytes"));
    let disk = open(&path, true).unwrap();
    assert_eq!(read(&disk, (10 << 30) - 512, 1024).unwrap(), [[5; 512], [6; 512]].concat());
    assert!(write(&disk, 0, &[0; 512]).is_err());
    assert!(disk.discard(0, 512).is_err() && disk.write_zeroes(0, 512, false).is_err());
}

#[test]
fn compressed_clusters_and_those_of_a_snapshot_are_read_and_written_over() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut want: Vec<u8> = (0..3u32 << 20).map(|n| (n / 1000) as u8).collect();
    fs::write(at("a.raw"), &want).unwrap();
    qemu_img(folder.path(), "convert -c -O qcow2 a.raw small.qcow2");
    assert!(fs::metadata(at("small.qcow2")).unwrap().len() < 1 << 20);
    qemu_img(folder.path(), "convert -O qcow2 a.raw kept.qcow2");
    qemu_img(folder.path(), "snapshot -c before kept.qcow2");
    for name in ["small.qcow2", "kept.qcow2"] {
        let mut model = Model::new(&at(name), want.clone());
        model.play(200);
        let now = std::mem::take(&mut model.want);
        drop(model);
        check(folder.path(), name);
        assert!(contents(folder.path(), name) == now, "{name}");
    }
    qemu_img(folder.path(), "snapshot -a before kept.qcow2");
    assert!(contents(folder.path(), "kept.qcow2") == std::mem::take(&mut want), "the snapshot is as it was");
}

#[test]
fn several_threads_write_an_image_at_once() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    create(&path, 16 << 20).unwrap();
    let disk = open(&path, false).unwrap();
    let want: Vec<u8> = bytes(9, 16 << 20);
    // Sectors in turn: all share clusters with each other.
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (disk, want) = (&disk, &want);
            scope.spawn(move || {
                for sector in (thread..want.len() / 512).step_by(4).filter(|s| s % 16 < 8) {
                    write(disk, sector as u64 * 512, &want[sector * 512..][..512]).unwrap();
                    if sector % 1024 == thread {
                        disk.flush().unwrap();
                        disk.discard(((sector as u64 / 16) * 16 + 8) * 512, 512).unwrap();
                    }
                }
            });
        }
    });
    drop(disk);
    check(folder.path(), "a.qcow2");
    let now = contents(folder.path(), "a.qcow2");
    for sector in (0..want.len() / 512).filter(|s| s % 16 < 8) {
        assert!(now[sector * 512..][..512] == want[sector * 512..][..512], "sector {sector}");
    }
}

#[test]
fn an_image_is_locked_and_so_are_its_backing_files() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    File::create(at("base.raw")).unwrap().set_len(1 << 20).unwrap();
    create_overlay(&at("a.qcow2"), &at("base.raw"), Format::Raw).unwrap();
    create_overlay(&at("b.qcow2"), &at("base.raw"), Format::Raw).unwrap();
    let a = open(&at("a.qcow2"), false).unwrap();
    let b = open(&at("b.qcow2"), false).unwrap();
    assert!(matches!(open(&at("a.qcow2"), true), Err(OpenError::InUse)));
    assert!(matches!(disk::open(&at("base.raw"), None, false), Err(OpenError::InUse)));
    drop((a, b));
    let _writer = disk::open(&at("base.raw"), None, false).unwrap();
    let error = open(&at("a.qcow2"), false).unwrap_err().to_string();
    assert!(error.ends_with("base.raw: it is in use by another machine"), "{error}");
}

#[test]
fn a_disk_that_a_guest_made_look_like_qcow2_leads_to_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("secret"), [7; 4096]).unwrap();
    create_overlay(&at("x.qcow2"), &at("secret"), Format::Raw).unwrap();
    fs::copy(at("x.qcow2"), at("disk.img")).unwrap();
    assert!(matches!(disk::open(&at("disk.img"), None, true), Err(OpenError::Untrusted)));
    assert!(disk::open(&at("disk.img"), Some(Format::Qcow2), true).is_ok());
    let raw = disk::open(&at("disk.img"), Some(Format::Raw), true).unwrap();
    assert_eq!(raw.len(), fs::metadata(at("disk.img")).unwrap().len());
    assert!(disk::open(&at("x.qcow2"), None, true).is_ok());
    // Without a name there is no folder to look in.
    let handed_over = disk::from_file(File::open(at("x.qcow2")).unwrap(), Format::Qcow2, true);
    assert!(matches!(handed_over, Err(OpenError::Alone)));
}
