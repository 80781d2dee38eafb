//! All that can happen to a disk, at random.

use std::fs::{self, File};

use disk::{Disk, Format, Stack};

use crate::guest::Guest;
use crate::tools::{have_qemu_img, read, write};

/// Merges a layer into the one above it, as the daemon does while a guest has the disk: the result takes that one's place.
fn merge(guest: &mut Guest, lower: usize) {
    let files = &mut guest.files;
    let (parent, child) = (files.layers.remove(lower), files.path(&files.layers[lower]));
    let new = files.path("new.qcow2");
    fs::copy(&child, &new).unwrap();
    Stack::open(&new, Format::Qcow2, false).unwrap().pull(1, |_, _| true).unwrap();
    fs::rename(&new, &child).unwrap();
    let below = files.layers.iter().rev().map(|name| File::open(files.path(name)).unwrap()).collect();
    guest.disk().replace_below(below).unwrap();
    fs::remove_file(guest.files.path(&parent)).unwrap();
}

fn grow(guest: &mut Guest) {
    let len = guest.disk().len() + 512 * (1 + guest.random.below(300));
    guest.disk().grow(len).unwrap();
    guest.want.resize(len as usize, 0);
}

/// TESSERA_FUZZ_SEED chooses the first case, TESSERA_FUZZ_CASES how many there are.
#[test]
fn whatever_happens_to_a_disk_it_reads_as_what_was_written() {
    if !have_qemu_img() {
        return;
    }
    let number = |name: &str| -> Option<u64> { std::env::var(name).ok()?.parse().ok() };
    let (first, cases) =
        (number("TESSERA_FUZZ_SEED").unwrap_or(1), number("TESSERA_FUZZ_CASES").unwrap_or(4));
    for seed in first..first + cases {
        let folder = tempfile::tempdir().unwrap();
        let format = if seed % 2 == 0 { Format::Raw } else { Format::Qcow2 };
        let mut guest = Guest::new(folder.path(), format, (1 << 20) + 512 * (seed % 1000));
        guest.random.0 = seed;
        for _ in 0..60 {
            let layers = guest.files.layers.len();
            match guest.random.below(12) {
                0..=2 => guest.freeze(),
                3 if layers > 0 => {
                    let count = 1 + guest.random.below(layers as u64) as usize;
                    guest.disk().pull(count, |_, _| true).unwrap();
                    guest.files.remove(count);
                }
                4 if layers > 1 => {
                    let lower = guest.random.below(layers as u64 - 1) as usize;
                    merge(&mut guest, lower);
                }
                5 if layers > 0 => {
                    let mut left = guest.random.below(4);
                    let count = 1 + guest.random.below(layers as u64) as usize;
                    let go_on = |_, _| {
                        left = left.saturating_sub(1);
                        left > 0
                    };
                    // A small disk may be done before.
                    if guest.disk().pull(count, go_on).is_ok() {
                        guest.files.remove(count);
                    }
                }
                6 => guest.reopen(),
                7 => grow(&mut guest),
                _ => guest.work(8),
            }
            guest.compare();
        }
        eprintln!("case {seed}: {} layers at the end", guest.files.layers.len());
        guest.end();
    }
}

#[test]
fn a_disk_grows_while_it_is_used_and_what_is_below_does_not_show() {
    for format in [Format::Raw, Format::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(folder.path(), format, 1 << 20);
        write(guest.disk(), 0, &vec![7; 1 << 20]).unwrap();
        guest.want.fill(7);
        guest.freeze();
        // Shorter, by a part of a cluster, and longer again.
        guest.disk().resize((512 << 10) + 512).unwrap();
        guest.disk().resize(3 << 20).unwrap();
        guest.want[(512 << 10) + 512..].fill(0);
        guest.want.resize(3 << 20, 0);
        guest.compare_all();
        guest.freeze();
        guest.work(20);
        guest.disk().grow(1 << 40).unwrap();
        assert_eq!(read(guest.disk(), (1 << 40) - 512, 512).unwrap(), [0; 512]);
        let size = fs::metadata(guest.files.path("disk.qcow2")).unwrap().len();
        assert!(size < 8 << 20, "{size} bytes for nothing");
        guest.reopen();
        assert_eq!(guest.disk().len(), 1 << 40);
        guest.compare_all();
    }
}
