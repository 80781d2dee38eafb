use std::fs::{self, File};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use disk::qcow2::create_layer;
use disk::{Disk, Format, OpenError, Stack, Switch};

use crate::guest::Guest;
use crate::tools::{bytes, have_qemu_img, read, write};

#[test]
fn a_disk_goes_on_over_what_it_was_and_each_layer_stays_as_it_is() {
    if !have_qemu_img() {
        return;
    }
    for format in [Format::Raw, Format::Qcow2] {
        let folder = tempfile::tempdir().unwrap();
        let mut guest = Guest::new(folder.path(), format, (3 << 20) + 512);
        let mut kept = Vec::new();
        for _ in 0..6 {
            guest.work(40);
            guest.freeze();
            let path = guest.files.path(guest.files.layers.last().unwrap());
            kept.push((fs::read(&path).unwrap(), guest.want.clone(), path));
            guest.compare_all();
        }
        guest.work(40);
        guest.disk().flush().unwrap();
        for (bytes, want, path) in &kept {
            assert!(fs::read(path).unwrap() == *bytes, "{} was written to", path.display());
            let layer = disk::open(path, None, true).expect("others may read it");
            assert!(read(&*layer, 0, want.len()).unwrap() == *want);
        }
        guest.reopen();
        guest.work(40);
        guest.end();
    }
}

#[test]
fn a_new_top_is_refused_unless_it_is_an_empty_one_over_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Raw, 1 << 20);
    guest.work(20);
    guest.freeze();
    guest.work(20);
    let at = |name: &str| folder.path().join(name);
    let file = |name: &str| File::options().read(true).write(true).open(at(name)).unwrap();
    let refusal = |name: &str| guest.disk().switch(file(name)).unwrap_err().to_string();
    disk::qcow2::create(&at("a"), 1 << 20).unwrap();
    assert_eq!(refusal("a"), "it is based on nothing");
    create_layer(&at("b"), "other.qcow2", Format::Qcow2, 1 << 20).unwrap();
    assert!(refusal("b").starts_with("it is based on \"other.qcow2\", and /"));
    create_layer(&at("c"), "disk.qcow2", Format::Qcow2, 2 << 20).unwrap();
    assert_eq!(refusal("c"), "it has 2097152 bytes, and the disk 1048576");
    create_layer(&at("d"), "disk.qcow2", Format::Raw, 1 << 20).unwrap();
    assert!(refusal("d").contains("which format"));
    create_layer(&at("e"), "disk.qcow2", Format::Qcow2, 1 << 20).unwrap();
    let taken = file("e");
    disk::lock(&taken, false).unwrap();
    assert!(matches!(guest.disk().switch(file("e")), Err(OpenError::InUse)));
    fs::write(at("text"), "text").unwrap();
    assert_eq!(refusal("text"), "it is not a qcow2 image");
    // All goes on as before.
    guest.compare_all();
    guest.work(20);
    guest.freeze();
    guest.work(20);
    guest.compare_all();
}

#[test]
fn a_new_top_that_has_something_is_refused_and_so_is_one_over_what_is_only_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Qcow2, 1 << 20);
    guest.work(20);
    guest.close();
    let new = folder.path().join("new");
    create_layer(&new, "disk.qcow2", Format::Qcow2, 1 << 20).unwrap();
    write(&Stack::open(&new, Format::Qcow2, false).unwrap(), 0, &[1; 512]).unwrap();
    let file = || File::options().read(true).write(true).open(&new).unwrap();
    guest.reopen();
    assert!(matches!(guest.disk().switch(file()), Err(OpenError::NotEmpty)));
    guest.close();
    let reader = Stack::open(&folder.path().join("disk.qcow2"), Format::Qcow2, true).unwrap();
    assert!(matches!(reader.switch(file()), Err(OpenError::ReadOnly)));
}

/// Writes to sectors of its own, every third from `first` on, and reads them, until it is done; gives what must be in them.
fn work(disk: &dyn Disk, first: u64, done: &AtomicBool) -> Vec<u8> {
    let mut want = vec![0; disk.len() as usize / 512 / 3 * 512];
    let mut round = first;
    while !done.load(Ordering::Relaxed) {
        round = round.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let own = (round >> 33) as usize % (want.len() / 512);
        let (at, part) = ((own as u64 * 3 + first) * 512, own * 512..own * 512 + 512);
        assert!(read(disk, at, 512).unwrap() == want[part.clone()]);
        let data = bytes(round, 512);
        write(disk, at, &data).unwrap();
        want[part].copy_from_slice(&data);
    }
    want
}

#[test]
fn threads_read_and_write_while_tops_come_and_go() {
    if !have_qemu_img() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut guest = Guest::new(folder.path(), Format::Raw, 8 << 20);
    let done = AtomicBool::new(false);
    let (files, disk) = guest.parts();
    let wants = std::thread::scope(|scope| {
        let threads = [0, 1, 2].map(|first| {
            let (disk, done) = (disk, &done);
            scope.spawn(move || work(disk, first, done))
        });
        for _ in 0..12 {
            std::thread::sleep(Duration::from_millis(20));
            disk.switch(files.next_top(disk.len())).unwrap();
        }
        done.store(true, Ordering::Relaxed);
        threads.map(|thread| thread.join().unwrap())
    });
    for (first, want) in wants.iter().enumerate() {
        for (own, sector) in want.chunks(512).enumerate() {
            guest.want[(own * 3 + first) * 512..][..512].copy_from_slice(sector);
        }
    }
    guest.end();
}

#[test]
fn several_disks_go_on_over_what_they_were_at_once_or_none_does() {
    let folders = [(), ()].map(|()| tempfile::tempdir().unwrap());
    let mut guests = [0, 1].map(|n| Guest::new(folders[n].path(), [Format::Raw, Format::Qcow2][n], 1 << 20));
    for _ in 0..3 {
        guests.iter_mut().for_each(|guest| guest.work(20));
        let [one, two] = &mut guests;
        let ((first, a), (second, b)) = (one.parts(), two.parts());
        // The second one is no image.
        let text = folders[1].path().join("text");
        fs::write(&text, "text").unwrap();
        let (a_before, b_before) = (a.layers(), b.layers());
        let new = first.next_top(a.len());
        let wrong = File::options().read(true).write(true).open(&text).unwrap();
        let refused = Switch::prepare(vec![(a, new.try_clone().unwrap()), (b, wrong)]).unwrap_err();
        assert_eq!(refused.0, 1, "{refused:?}");
        let other = second.next_top(b.len());
        let twice = vec![(a, new.try_clone().unwrap()), (a, other.try_clone().unwrap())];
        assert!(matches!(Switch::prepare(twice), Err((1, OpenError::InUse))));
        let pair = || vec![(a, new.try_clone().unwrap()), (b, other.try_clone().unwrap())];
        // Ready, and not taken.
        Switch::prepare(pair()).unwrap().flush().unwrap();
        assert_eq!((a.layers(), b.layers()), (a_before, b_before));
        write(a, 0, &[7; 512]).unwrap();
        let lower = |files: &crate::guest::Files| files.path(files.layers.last().unwrap());
        assert!(matches!(disk::open(&lower(first), None, true), Err(OpenError::InUse)), "it is written to");
        Switch::prepare(pair()).unwrap().take();
        assert_eq!((a.layers(), b.layers()), (a_before + 1, b_before + 1));
        disk::open(&lower(first), None, true).expect("others may read it");
        one.want[..512].fill(7);
        guests.iter_mut().for_each(|guest| guest.work(20));
    }
    guests.into_iter().for_each(Guest::end);
}
