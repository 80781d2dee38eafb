use std::fs;
use std::io;

use disk::{Disk, Extent, Format};

use crate::guest::Guest;
use crate::tools::{have_qemu_img, qemu_img, read, write};

fn held(guest: &Guest, layers: std::ops::Range<usize>) -> Vec<Extent> {
    guest.disk().held(layers).collect::<io::Result<_>>().unwrap()
}

#[test]
fn what_changed_since_a_layer_is_all_that_differs_and_not_much_more() {
    if !have_qemu_img() {
        return;
    }
    let len = (13 << 20) + 512;
    // With the small clusters the map has several parts.
    for options in ["-f raw disk.raw", "-f qcow2 disk.qcow2", "-f qcow2 -o cluster_size=512 disk.qcow2"] {
        let folder = tempfile::tempdir().unwrap();
        qemu_img(folder.path(), &format!("create -q {options} {len}"));
        let mut guest = Guest::of_file(folder.path(), len);
        let mut kept = vec![guest.want.clone()];
        for _ in 0..5 {
            guest.work(12);
            guest.freeze();
            kept.push(guest.want.clone());
        }
        guest.work(12);
        for layer in 1..=6 {
            // What was kept when that one was left alone, brought up to date as a backup is.
            let mut copy = kept[6 - layer].clone();
            let mut last = None;
            for extent in held(&guest, 0..layer) {
                assert!(last.is_none_or(|last: Extent| last.end() < extent.offset
                    || last.end() == extent.offset && last.zeroes != extent.zeroes));
                last = Some(extent);
                let part = extent.offset as usize..extent.end() as usize;
                let now = read(guest.disk(), extent.offset, part.len()).unwrap();
                assert!(!extent.zeroes || now.iter().all(|byte| *byte == 0));
                copy[part].copy_from_slice(&now);
            }
            assert!(copy == guest.want, "since layer {layer}");
        }
        let bytes: u64 = held(&guest, 0..3).iter().map(|extent| extent.len).sum();
        assert!(bytes < 8 << 20, "{bytes} bytes are said to have changed");
    }
}

#[test]
fn layers_are_counted_from_the_top_and_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Qcow2, 4 << 20);
    write(guest.disk(), 0, &[1; 512]).unwrap();
    guest.freeze();
    write(guest.disk(), 1 << 20, &[2; 512]).unwrap();
    guest.freeze();
    guest.disk().write_zeroes(2 << 20, 64 << 10, true).unwrap();
    let extent = |mib: u64, zeroes| Extent { offset: mib << 20, len: 64 << 10, zeroes };
    assert_eq!(held(&guest, 0..1), [extent(2, true)]);
    assert_eq!(held(&guest, 1..2), [extent(1, false)]);
    assert_eq!(held(&guest, 2..3), [extent(0, false)]);
    assert_eq!(held(&guest, 0..3), [extent(0, false), extent(1, false), extent(2, true)]);
    assert_eq!(held(&guest, 1..1), []);
    let error = guest.disk().held(0..4).next().unwrap().unwrap_err();
    assert_eq!(error.to_string(), "there are 3 layers, not 4");
    let (files, disk) = guest.parts();
    let mut since = disk.held(0..3);
    disk.switch(files.next_top(disk.len())).unwrap();
    assert_eq!(since.next().unwrap().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
    assert!(since.next().is_none());
}

#[test]
fn a_shorter_layer_has_zeroes_behind_its_end() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("0"), vec![7; 4 << 20]).unwrap();
    qemu_img(folder.path(), &format!("create -q -f qcow2 -b 0 -F raw 1 {}", (1 << 20) + 512));
    qemu_img(folder.path(), "create -q -f qcow2 -b 1 -F qcow2 2 4M");
    let disk = crate::tools::open(&folder.path().join("2"), true).unwrap();
    let got: Vec<_> = disk.held(0..2).collect::<io::Result<_>>().unwrap();
    let offset = (1 << 20) + 512;
    assert_eq!(got, [Extent { offset, len: (4 << 20) - offset, zeroes: true }]);
}
