use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use disk::{Disk, Format, OpenError, Raw};

use crate::tools::{bytes, read, write};

#[test]
fn what_is_written_is_read_back_and_zeroes_and_holes_are_zeroes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.raw");
    File::create(&path).unwrap().set_len(1 << 20).unwrap();
    let disk = Raw::open(&path, false).unwrap();
    let data = bytes(1, 256 << 10);
    write(&disk, 512, &data).unwrap();
    disk.flush().unwrap();
    assert!(read(&disk, 512, data.len()).unwrap() == data);
    disk.write_zeroes(1024, 4096, false).unwrap();
    disk.write_zeroes(64 << 10, 64 << 10, true).unwrap();
    disk.discard(128 << 10, 64 << 10).unwrap();
    let mut want = vec![0; 1 << 20];
    want[512..512 + data.len()].copy_from_slice(&data);
    want[1024..1024 + 4096].fill(0);
    want[64 << 10..192 << 10].fill(0);
    assert!(fs::read(&path).unwrap() == want);
    assert!(fs::metadata(&path).unwrap().blocks() * 512 <= 160 << 10);
    assert!(disk.write_zeroes((1 << 20) - 512, 1024, false).is_err());
    assert!(disk.discard(u64::MAX, 512).is_err());
    assert!(read(&disk, (1 << 20) - 512, 1024).is_err());
    assert!(write(&disk, u64::MAX - 100, &[0; 512]).is_err());
}

#[test]
fn a_disk_has_whole_sectors_and_one_at_least() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.raw");
    for len in [0, 1, 511, 513] {
        File::create(&path).unwrap().set_len(len).unwrap();
        let error = disk::open(&path, None, false).err().unwrap();
        assert!(matches!(error, OpenError::Size { bytes } if bytes == len), "{error}");
    }
}

#[test]
fn one_machine_writes_a_disk_or_many_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.raw");
    File::create(&path).unwrap().set_len(4096).unwrap();
    let writer = Raw::open(&path, false).unwrap();
    for read_only in [false, true] {
        let error = Raw::open(&path, read_only).unwrap_err();
        assert_eq!(error.to_string(), "it is in use by another machine");
    }
    drop(writer);
    let reader = Raw::open(&path, true).unwrap();
    assert!(Raw::open(&path, true).is_ok());
    assert!(matches!(Raw::open(&path, false), Err(OpenError::InUse)));
    assert!(write(&reader, 0, &[0; 512]).is_err());
}

#[test]
fn what_is_no_disk_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &std::path::Path, read_only| {
        disk::open(path, Some(Format::Raw), read_only).err().unwrap().to_string()
    };
    assert_eq!(refused(folder.path(), true), "it is a folder, not a disk");
    assert_eq!(refused(folder.path(), false), "it is a folder, not a disk");
    assert_eq!(refused("/dev/null".as_ref(), false), "it is neither a file nor a block device");
    let pipe = folder.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    assert_eq!(refused(&pipe, true), "it is neither a file nor a block device");
    assert!(refused(&folder.path().join("none"), true).contains("No such file"));
}
