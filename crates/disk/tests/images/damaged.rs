use std::fs;
use std::path::Path;

use disk::qcow2::create_overlay;
use disk::{Format, OpenError};

use crate::damage::use_damaged;
use crate::tools::{Random, bytes, have_qemu_img, open, qemu_img, write};

/// A qcow2 image with some data; version 3, clusters of 64 KiB.
fn image(folder: &Path) -> Vec<u8> {
    let path = folder.join("whole.qcow2");
    let _ = fs::remove_file(&path);
    disk::qcow2::create(&path, 8 << 20).unwrap();
    let disk = open(&path, false).unwrap();
    for n in 0..4 {
        write(&disk, n << 20, &bytes(n, 100 << 10)).unwrap();
    }
    drop(disk);
    fs::read(path).unwrap()
}

/// What is said of an image.
fn refused(folder: &Path, image: &[u8]) -> String {
    let path = folder.join("bad.qcow2");
    fs::write(&path, image).unwrap();
    let told = open(&path, false).err().map(|error| error.to_string());
    let told = told.unwrap_or_else(|| panic!("it was opened"));
    assert!(!told.contains('\n') && told.len() < 200, "{told:?}");
    assert!(fs::read(&path).unwrap() == image, "it was changed: {told}");
    told
}

fn with(image: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut image = image.to_vec();
    image[at..at + bytes.len()].copy_from_slice(bytes);
    image
}

#[test]
fn each_thing_that_can_be_wrong_with_a_header_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let good = image(folder.path());
    let cases: &[(usize, &[u8], &str)] = &[
        (0, b"text", "it is not a qcow2 image"),
        (4, &9u32.to_be_bytes(), "is of version 9, which is not supported"),
        (20, &40u32.to_be_bytes(), "damaged: clusters of 2^40 bytes"),
        (20, &8u32.to_be_bytes(), "damaged: clusters of 2^8 bytes"),
        (32, &1u32.to_be_bytes(), "is encrypted, which is not supported"),
        (32, &2u32.to_be_bytes(), "is encrypted, which is not supported"),
        (24, &u64::MAX.to_be_bytes(), "not a positive multiple of 512"),
        (24, &0u64.to_be_bytes(), "not a positive multiple of 512"),
        (24, &1000u64.to_be_bytes(), "not a positive multiple of 512"),
        (24, &(1u64 << 60).to_be_bytes(), "more than its clusters can map"),
        (24, &(1u64 << 45).to_be_bytes(), "entries, where 65536 are needed"),
        (36, &u32::MAX.to_be_bytes(), "more than its clusters can map"),
        (40, &0u64.to_be_bytes(), "damaged: its first table at 0x0"),
        (40, &0x1_0200u64.to_be_bytes(), "damaged: its first table at 0x10200"),
        (40, &(1u64 << 50).to_be_bytes(), "cut short"),
        (48, &(1u64 << 50).to_be_bytes(), "cut short"),
        (56, &u32::MAX.to_be_bytes(), "damaged: a table of reference counts of 4294967295 clusters"),
        (72, &1u64.to_be_bytes(), "qemu-img check -r all"),
        (72, &2u64.to_be_bytes(), "damaged: it is marked as such"),
        (72, &4u64.to_be_bytes(), "keeps its data in another file"),
        (72, &8u64.to_be_bytes(), "compressed by other means than zlib"),
        (72, &16u64.to_be_bytes(), "has subclusters"),
        (72, &(1u64 << 40).to_be_bytes(), "has the unknown feature 40"),
        (96, &60u32.to_be_bytes(), "damaged"),
        (100, &8u32.to_be_bytes(), "damaged"),
    ];
    for (at, bytes, want) in cases {
        eprintln!("{bytes:?} at {at}: {want}");
        let told = refused(folder.path(), &with(&good, *at, bytes));
        assert!(told.contains(want), "{told:?}, not {want:?}");
    }
}

#[test]
fn an_image_that_was_cut_short_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let good = image(folder.path());
    for len in [4, 71, 72, 103, 104, 60_000, 100_000, good.len() / 2, good.len() - (64 << 10)] {
        refused(folder.path(), &good[..len]);
    }
}

#[test]
fn backing_files_that_cannot_be_had_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let told = |name: &str| open(&at(name), true).unwrap_err().to_string();
    fs::write(at("base"), [0; 4096]).unwrap();
    create_overlay(&at("a.qcow2"), &at("base"), Format::Raw).unwrap();
    create_overlay(&at("b.qcow2"), &at("a.qcow2"), Format::Qcow2).unwrap();
    fs::remove_file(at("base")).unwrap();
    let one_line =
        format!("its backing file {}: No such file or directory (os error 2)", at("base").display());
    assert_eq!(told("b.qcow2"), one_line);
}

#[test]
fn a_loop_of_backing_files_is_one() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    qemu_img(folder.path(), "create -q -f qcow2 a.qcow2 1M");
    qemu_img(folder.path(), "create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    qemu_img(folder.path(), "rebase -u -b b.qcow2 -F qcow2 a.qcow2");
    for name in ["a.qcow2", "b.qcow2"] {
        assert!(matches!(open(&at(name), false), Err(OpenError::Loop)), "{name}");
    }
    // Without the header extension that says so, nobody knows what a.qcow2 is.
    let mut image = fs::read(at("b.qcow2")).unwrap();
    let extension = image.windows(4).position(|w| w == 0xe279_2acau32.to_be_bytes()).unwrap();
    image[extension] = 1;
    fs::write(at("b.qcow2"), image).unwrap();
    assert!(matches!(open(&at("b.qcow2"), true), Err(OpenError::Unrecorded)));
    for (name, want) in [
        ("json:{}", "has the backing file \"json:{}\", which is not supported"),
        ("nbd://host/disk", "has the backing file \"nbd://host/disk\", which is not supported"),
    ] {
        qemu_img(folder.path(), &format!("rebase -u -b {name} -F raw a.qcow2"));
        let told = open(&at("a.qcow2"), true).unwrap_err().to_string();
        assert!(told.contains(want), "{told}");
    }
}

/// TESSERA_FUZZ_SEED chooses the first case, TESSERA_FUZZ_CASES how many there are.
#[test]
fn no_damage_makes_more_than_an_error() {
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let (first, cases) =
        (number("TESSERA_FUZZ_SEED").unwrap_or(1), number("TESSERA_FUZZ_CASES").unwrap_or(200));
    let folder = tempfile::tempdir().unwrap();
    let (good, path) = (image(folder.path()), folder.path().join("bad.qcow2"));
    let mut opened = 0;
    for seed in first..first + cases {
        let mut random = Random(seed);
        let input: Vec<u8> = (0..300).map(|_| random.next() as u8).collect();
        let result = std::panic::catch_unwind(|| use_damaged(&good, &input, &path));
        opened += u64::from(result.unwrap_or_else(|panic| {
            eprintln!("panics: TESSERA_FUZZ_SEED={seed} TESSERA_FUZZ_CASES=1");
            std::panic::resume_unwind(panic)
        }));
    }
    assert!(opened >= cases / 20, "only {opened} images were good enough to be opened");
}

#[test]
fn an_image_that_counts_as_free_what_it_uses_is_mended_before_it_is_written() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (good, path) = (image(folder.path()), folder.path().join("bad.qcow2"));
    // The block of reference counts lies in the third cluster; the last cluster in use is one of data.
    let counts = &good[2 << 16..3 << 16];
    let last = counts.as_chunks::<2>().0.iter().rposition(|count| *count != [0; 2]).unwrap();
    let bad = with(&good, (2 << 16) + last * 2, &[0; 2]);
    fs::write(&path, &bad).unwrap();
    drop(open(&path, true).unwrap());
    assert!(fs::read(&path).unwrap() == bad, "who only reads needs no counts");
    drop(open(&path, false).unwrap());
    assert!(fs::read(&path).unwrap() == good);
    // Used twice, it cannot be told whose it is.
    let entry = ((last as u64 * 65536) | (1 << 63)).to_be_bytes();
    let other = bad.windows(8).position(|bytes| bytes == entry).unwrap() + 8;
    assert!(refused(folder.path(), &with(&bad, other, &entry)).contains("as free"));
}
