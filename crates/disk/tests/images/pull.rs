use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use disk::qcow2::create_overlay;
use disk::{Disk, Format, Stack};

use crate::guest::Guest;
use crate::tools::{Random, bytes, check, contents, have_qemu_img, open, qemu_img, read, scribble, write};

/// Takes up the layers right below the top, and removes their files.
fn pull(guest: &mut Guest, count: usize) {
    guest.disk().pull(count, |_, _| true).unwrap();
    guest.files.remove(count);
    assert_eq!(guest.disk().layers(), guest.files.layers.len());
}

#[test]
fn layers_are_taken_up_and_the_disk_reads_the_same_without_them() {
    if !have_qemu_img() {
        return;
    }
    for format in [Format::Raw, Format::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(folder.path(), format, (5 << 20) + 512);
        for count in [1, 3, 2, 5] {
            while guest.files.layers.len() < 5 {
                guest.work(30);
                guest.freeze();
            }
            guest.work(30);
            pull(&mut guest, count);
            guest.compare_all();
            guest.work(30);
            if count == 2 {
                guest.reopen();
            }
        }
        assert_eq!(guest.disk().layers(), 0);
        guest.reopen();
        guest.end();
    }
}

#[test]
fn what_lies_under_the_layers_that_are_taken_up_does_not_come_out() {
    if !have_qemu_img() {
        return;
    }
    // Zeroes, a shorter layer and larger clusters above data.
    for (n, (options, len)) in [
        ("compat=1.1", 8 << 20),
        ("compat=1.1", (3 << 20) + 512),
        ("compat=1.1,cluster_size=4k", 8 << 20),
        ("compat=1.1,cluster_size=2M", 8 << 20),
        ("compat=0.10", (5 << 20) + 512),
    ]
    .into_iter()
    .enumerate()
    {
        let tops = ["compat=1.1", "compat=0.10", "compat=1.1,cluster_size=1M", "compat=1.1,cluster_size=4k"];
        for top in [tops[n % 4], tops[(n + 1) % 4]] {
            let folder = tempfile::tempdir().unwrap();
            let mut random = Random(n as u64);
            let mut want = bytes(7, 8 << 20);
            fs::write(folder.path().join("0"), &want).unwrap();
            let image = |name: &str, based: &str, options: &str, len: usize| {
                let options = format!("create -q -f qcow2 -o {options} -b {based} {name} {len}");
                qemu_img(folder.path(), &options);
                open(&folder.path().join(name), false).unwrap()
            };
            want.resize(len, 0);
            let middle = image("1", "0 -F raw", options, len);
            scribble(&middle, &mut want, &mut random, 40);
            drop(middle);
            want.resize(8 << 20, 0);
            let disk = image("2", "1 -F qcow2", top, 8 << 20);
            scribble(&disk, &mut want, &mut random, 20);
            disk.pull(1, |_, _| true).unwrap();
            let got = read(&disk, 0, want.len()).unwrap();
            let bad = got.iter().zip(&want).position(|(a, b)| a != b);
            assert_eq!(bad, None, "{options} below {top}");
            drop(disk);
            fs::remove_file(folder.path().join("1")).unwrap();
            check(folder.path(), "2");
            assert!(contents(folder.path(), "2") == want, "{options} below {top}");
            assert!(
                qemu_img(folder.path(), "info 2").contains("backing file: 0\nbacking file format: raw\n")
            );
        }
    }
}

#[test]
fn only_what_layers_have_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("base.raw"), bytes(1, 8 << 20)).unwrap();
    create_overlay(&at("a.qcow2"), &at("base.raw"), Format::Raw).unwrap();
    write(&open(&at("a.qcow2"), false).unwrap(), 0, &[5; 512]).unwrap();
    create_overlay(&at("b.qcow2"), &at("a.qcow2"), Format::Qcow2).unwrap();
    let disk = open(&at("b.qcow2"), false).unwrap();
    let mut last = 0;
    disk.pull(1, |done, total| {
        assert!(done >= last && total == 8 << 20);
        last = done;
        true
    })
    .unwrap();
    assert_eq!(last, 8 << 20);
    assert!(fs::metadata(at("b.qcow2")).unwrap().blocks() * 512 < 1 << 20);
    // Holes of a raw disk are not data.
    File::create(at("hole.raw")).unwrap().set_len(1 << 40).unwrap();
    create_overlay(&at("c.qcow2"), &at("hole.raw"), Format::Raw).unwrap();
    let disk = open(&at("c.qcow2"), false).unwrap();
    disk.pull(1, |_, _| true).unwrap();
    drop(disk);
    fs::remove_file(at("hole.raw")).unwrap();
    assert_eq!(open(&at("c.qcow2"), false).unwrap().layers(), 0);
    assert!(fs::metadata(at("c.qcow2")).unwrap().blocks() * 512 < 2 << 20);
}

#[test]
fn it_can_end_at_any_time_and_go_on_later() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Qcow2, 8 << 20);
    for _ in 0..3 {
        guest.work(40);
        guest.freeze();
    }
    for steps in 0..4 {
        let mut left = steps;
        let error = guest.disk().pull(2, |_, _| {
            left -= 1;
            left >= 0
        });
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::Interrupted);
        assert_eq!(guest.disk().layers(), 3);
        guest.work(10);
        if steps == 2 {
            guest.reopen();
        }
    }
    pull(&mut guest, 2);
    for (count, what) in [(0, "not 0"), (2, "there are 1 layers below the top, not 2")] {
        let error = guest.disk().pull(count, |_, _| true).unwrap_err();
        assert!(error.to_string().ends_with(what), "{error}");
    }
    guest.end();
}

#[test]
fn guests_read_and_write_while_layers_are_taken_up_and_a_new_top_comes_first() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Raw, 16 << 20);
    for _ in 0..4 {
        guest.work(60);
        guest.freeze();
    }
    let done = AtomicBool::new(false);
    let disk = guest.disk();
    let want = std::thread::scope(|scope| {
        let want = scope.spawn(|| {
            let (mut want, mut random) = (guest.want.clone(), Random(9));
            while !done.load(Ordering::Relaxed) {
                scribble(disk, &mut want, &mut random, 1);
                let at = random.below(want.len() as u64 / 512) * 512;
                assert!(read(disk, at, 512).unwrap() == want[at as usize..at as usize + 512]);
            }
            want
        });
        // Slowly, so that there is something to do meanwhile.
        disk.pull(3, |_, _| {
            std::thread::sleep(std::time::Duration::from_millis(2));
            true
        })
        .unwrap();
        done.store(true, Ordering::Relaxed);
        want.join().unwrap()
    });
    guest.want = want;
    guest.files.remove(3);
    guest.compare_all();
    guest.freeze();
    let (files, disk) = guest.parts();
    let error = disk.pull(2, |done, _| {
        if done == 0 && files.layers.len() == 2 {
            disk.switch(files.next_top(disk.len())).unwrap();
        }
        assert_eq!(disk.pull(1, |_, _| true).unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        true
    });
    let error = error.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy, "{error}");
    guest.work(20);
    pull(&mut guest, 3);
    guest.end();
}

#[test]
fn what_others_have_merged_is_taken_without_a_stop() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Raw, 4 << 20);
    for _ in 0..4 {
        guest.work(40);
        guest.freeze();
    }
    guest.work(20);
    // The daemon merges layer 2 into a copy of layer 3, which takes its place.
    let at = |name: &str| folder.path().join(name);
    fs::copy(at("layer-3.qcow2"), at("new.qcow2")).unwrap();
    let merged = Stack::open(&at("new.qcow2"), Format::Qcow2, false).unwrap();
    merged.pull(1, |_, _| true).unwrap();
    drop(merged);
    fs::rename(at("new.qcow2"), at("layer-3.qcow2")).unwrap();
    fs::remove_file(at("layer-2.qcow2")).unwrap();
    guest.files.layers.remove(1);
    let file = |name: &str| File::open(at(name)).unwrap();
    let error = guest.disk().replace_below(vec![file("layer-4.qcow2"), file("layer-3.qcow2")]).unwrap_err();
    assert!(error.to_string().contains("was not handed over"), "{error}");
    assert_eq!(guest.disk().layers(), 4);
    guest.compare_all();
    let files = ["layer-4.qcow2", "layer-3.qcow2", "layer-1.raw"].map(file).into();
    guest.disk().replace_below(files).unwrap();
    assert_eq!(guest.disk().layers(), 3);
    guest.work(20);
    guest.end();
}
