//! Images whose files were opened by somebody else.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use disk::qcow2::{create, create_overlay};
use disk::{Format, OpenError};

use crate::tools::{bytes, open, read, write};

/// A raw base, an image on it and one on that.
fn chain(folder: &Path) -> Vec<u8> {
    let mut want = bytes(3, 3 << 20);
    fs::write(folder.join("base.raw"), &want).unwrap();
    create_overlay(&folder.join("middle.qcow2"), &folder.join("base.raw"), Format::Raw).unwrap();
    let middle = open(&folder.join("middle.qcow2"), false).unwrap();
    write(&middle, 1 << 20, &[7; 512]).unwrap();
    want[1 << 20..(1 << 20) + 512].fill(7);
    drop(middle);
    create_overlay(&folder.join("top.qcow2"), &folder.join("middle.qcow2"), Format::Qcow2).unwrap();
    want
}

#[test]
fn a_chain_of_open_files_is_the_image_that_its_names_make() {
    let folder = tempfile::tempdir().unwrap();
    let want = chain(folder.path());
    let (top, backing) = disk::files(&folder.path().join("top.qcow2"), Format::Qcow2, false).unwrap();
    assert_eq!(backing.len(), 2);
    let image = disk::from_files(top, backing, Format::Qcow2, false).unwrap();
    assert!(read(&*image, 0, want.len()).unwrap() == want);
    write(&*image, 4096, &[9; 512]).unwrap();
    image.flush().unwrap();
    assert_eq!(read(&*image, 4096, 512).unwrap(), [9; 512]);
}

#[test]
fn the_locks_of_a_chain_go_with_its_files() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    let at = |name: &str| folder.path().join(name);
    let (top, backing) = disk::files(&at("top.qcow2"), Format::Qcow2, false).unwrap();
    // As a process does that has them from another one.
    let theirs: Vec<File> = backing.iter().map(|file| file.try_clone().unwrap()).collect();
    let image = disk::from_files(top.try_clone().unwrap(), theirs, Format::Qcow2, false).unwrap();
    drop((top, backing));
    for name in ["top.qcow2", "middle.qcow2", "base.raw"] {
        let file = File::options().read(true).write(true).open(at(name)).unwrap();
        assert!(matches!(disk::lock(&file, false), Err(OpenError::InUse)), "{name}");
    }
    drop(image);
    assert!(disk::files(&at("top.qcow2"), Format::Qcow2, false).is_ok());
}

#[test]
fn only_the_files_that_the_headers_name_are_taken() {
    let folder = tempfile::tempdir().unwrap();
    chain(folder.path());
    fs::write(folder.path().join("other.raw"), [1; 4096]).unwrap();
    let open = |name: &str| File::open(folder.path().join(name)).unwrap();
    let refusal = |names: &[&str], format| {
        let (top, backing) = names.split_first().unwrap();
        let backing = backing.iter().map(|name| open(name)).collect();
        disk::from_files(open(top), backing, format, true).err().unwrap().to_string()
    };
    let chain = ["top.qcow2", "middle.qcow2", "base.raw", "other.raw"];
    assert!(refusal(&chain[..1], Format::Qcow2).contains("was not handed over"));
    assert!(refusal(&chain[..2], Format::Qcow2).contains("was not handed over"));
    assert_eq!(refusal(&chain, Format::Qcow2), "1 files were handed over that it is not based on");
    assert!(refusal(&["base.raw", "other.raw"], Format::Raw).starts_with("1 files were handed over"));
    let error = refusal(&["top.qcow2", "middle.qcow2", "other.raw"], Format::Qcow2);
    assert!(error.starts_with("it is based on \"base.raw\", and /"), "{error}");
    assert!(error.ends_with("other.raw was handed over"), "{error}");
    assert!(refusal(&["top.qcow2", "base.raw", "middle.qcow2"], Format::Qcow2).contains("it is based on"));
}

#[test]
fn a_copy_of_a_chain_has_its_data_and_takes_no_room_for_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let want = chain(folder.path());
    let at = |name: &str| folder.path().join(name);
    let from = disk::open(&at("top.qcow2"), None, true).unwrap();
    File::create_new(at("copy.raw")).unwrap().set_len(64 << 20).unwrap();
    create(&at("copy.qcow2"), 64 << 20).unwrap();
    for name in ["copy.raw", "copy.qcow2"] {
        let to = disk::open(&at(name), None, false).unwrap();
        let mut last = 0;
        disk::copy(&*from, &*to, |done, total| {
            assert!(done >= last && total == from.len());
            last = done;
            true
        })
        .unwrap();
        assert_eq!(last, from.len());
        assert!(read(&*to, 0, want.len()).unwrap() == want, "{name}");
    }
    // From a long, nearly empty image only what is in it is read.
    let from = disk::open(&at("copy.qcow2"), None, true).unwrap();
    assert_eq!(from.next_data(0).unwrap(), Some((0, 3 << 20)));
    assert_eq!(from.next_data(3 << 20).unwrap(), None);
    File::create_new(at("again.raw")).unwrap().set_len(64 << 20).unwrap();
    let to = disk::open(&at("again.raw"), None, false).unwrap();
    disk::copy(&*from, &*to, |_, _| true).unwrap();
    assert!(fs::metadata(at("again.raw")).unwrap().blocks() * 512 < 4 << 20);
    let error = disk::copy(&*from, &*to, |_, _| false).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::Interrupted);
}

#[test]
fn a_disk_is_made_longer_and_shorter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.qcow2");
    create(&path, 8 << 20).unwrap();
    let image = open(&path, false).unwrap();
    write(&image, 0, &bytes(1, 8 << 20)).unwrap();
    image.resize(1 << 20).unwrap();
    image.resize(2 << 20).unwrap();
    drop(image);
    let image = open(&path, false).unwrap();
    let want = [bytes(1, 1 << 20), vec![0; 1 << 20]].concat();
    assert!(read(&image, 0, 2 << 20).unwrap() == want, "what was cut off does not come back");
    assert!(image.resize(1000).is_err());
}
