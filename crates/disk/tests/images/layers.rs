//! Disks of many layers.

use std::fs::{self, File};
use std::path::Path;

use disk::qcow2::create_overlay;
use disk::{Disk, Format, OpenError};

use crate::tools::{Random, bytes, check, contents, have_qemu_img, open, qemu_img, read, scribble, write};

/// Reads all of a disk in pieces that begin and end anywhere.
fn all(disk: &dyn Disk, random: &mut Random) -> Vec<u8> {
    let mut got = Vec::new();
    while (got.len() as u64) < disk.len() {
        let rest = (disk.len() - got.len() as u64) / 512;
        let len = (1 + random.below(rest.min(5000))) * 512;
        got.extend(read(disk, got.len() as u64, len as usize).unwrap());
    }
    got
}

#[test]
fn a_disk_is_what_its_layers_make_it_however_each_is_laid_out() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random(11);
    let mut want = bytes(1, (3 << 20) + 512 * 7);
    fs::write(folder.path().join("0"), &want).unwrap();
    // Shorter and longer than what is below, with smaller and larger clusters, of both versions.
    let layers = [
        ("compat=1.1", 3 << 20),
        ("compat=1.1,cluster_size=512", (5 << 20) + 512),
        ("compat=1.1,cluster_size=2M", 2 << 20),
        ("compat=0.10,cluster_size=4k", (2 << 20) + 512 * 9),
        ("compat=1.1,refcount_bits=1", 9 << 20),
        ("compat=1.1,preallocation=metadata", 7 << 20),
        ("compat=1.1", 8 << 20),
    ];
    for (n, (options, len)) in layers.iter().enumerate() {
        let (name, base) = (format!("{}", n + 1), format!("{n}"));
        let format = if n == 0 { "raw" } else { "qcow2" };
        let based = if options.contains("preallocation") { "" } else { &format!("-b {base} -F {format}") };
        qemu_img(folder.path(), &format!("create -q -f qcow2 -o {options} {based} {name} {len}"));
        if based.is_empty() {
            qemu_img(folder.path(), &format!("rebase -u -b {base} -F {format} {name}"));
            want.fill(0);
        }
        want.resize(*len, 0);
        let disk = open(&folder.path().join(&name), false).unwrap();
        assert_eq!(disk.layers(), n + 1);
        assert!(all(&disk, &mut random) == want, "over layer {n}");
        scribble(&disk, &mut want, &mut random, 60);
        assert!(all(&disk, &mut random) == want, "layer {name}");
        drop(disk);
        check(folder.path(), &name);
        assert!(contents(folder.path(), &name) == want, "layer {name}");
    }
}

#[test]
fn compressed_layers_are_read_through_those_above_them() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let mut want: Vec<u8> = (0..3u32 << 20).map(|n| (n / 1000) as u8).collect();
    fs::write(at("a.raw"), &want).unwrap();
    qemu_img(folder.path(), "convert -c -O qcow2 a.raw a.qcow2");
    qemu_img(folder.path(), "create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2");
    create_overlay(&at("c.qcow2"), &at("b.qcow2"), Format::Qcow2).unwrap();
    let mut random = Random(3);
    for name in ["b.qcow2", "c.qcow2"] {
        let disk = open(&at(name), false).unwrap();
        scribble(&disk, &mut want, &mut random, 20);
        assert!(all(&disk, &mut random) == want, "{name}");
    }
    assert!(contents(folder.path(), "c.qcow2") == want);
}

/// Makes `count` empty layers over a raw disk of 1 MiB; gives the name of the last.
fn chain(folder: &Path, count: usize) -> String {
    fs::write(folder.join("0"), bytes(1, 1 << 20)).unwrap();
    for n in 1..=count {
        let (name, base) = (folder.join(n.to_string()), (n - 1).to_string());
        let format = if n == 1 { Format::Raw } else { Format::Qcow2 };
        disk::qcow2::create_layer(&name, &base, format, 1 << 20).unwrap();
    }
    count.to_string()
}

#[test]
fn a_disk_has_so_many_layers_and_no_more() {
    let folder = tempfile::tempdir().unwrap();
    let last = chain(folder.path(), 257);
    let error = open(&folder.path().join(last), false).unwrap_err();
    assert!(matches!(error, OpenError::Chain(256)), "{error}");
    let disk = open(&folder.path().join("256"), false).unwrap();
    assert_eq!(disk.layers(), 256);
    write(&disk, 4096, &[5; 512]).unwrap();
    let mut want = bytes(1, 1 << 20);
    want[4096..4608].fill(5);
    assert!(read(&disk, 0, 1 << 20).unwrap() == want);
}

#[test]
fn what_a_layer_lacks_is_an_error_where_it_is_read_and_nowhere_else() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    disk::qcow2::create(&at("a.qcow2"), 4 << 20).unwrap();
    let disk = open(&at("a.qcow2"), false).unwrap();
    for n in 0..4 {
        write(&disk, n << 20, &bytes(n, 64 << 10)).unwrap();
    }
    drop(disk);
    create_overlay(&at("b.qcow2"), &at("a.qcow2"), Format::Qcow2).unwrap();
    let file = File::options().write(true).open(at("a.qcow2")).unwrap();
    file.set_len(file.metadata().unwrap().len() - (64 << 10)).unwrap();
    let disk = open(&at("b.qcow2"), false).unwrap();
    for n in 0..3 {
        assert!(read(&disk, n << 20, 64 << 10).unwrap() == bytes(n, 64 << 10));
    }
    let error = read(&disk, 3 << 20, 512).unwrap_err();
    assert!(error.to_string().contains("cut short"), "{error}");
    assert_eq!(read(&disk, (3 << 20) + (64 << 10), 512).unwrap(), [0; 512]);
}
