//! What volumes were before: layers, and what goes on from them.

use std::fs;
use std::path::Path;
use std::process::Command;

use api::{Id, Size};
use serde_json::json;
use storage::{Cause, Deleted, Error, Layer, Resize, Silent, VolumeFormat, VolumeSource};

use crate::{MIB, Place, name};

impl Place {
    fn freeze(&self, volume: &str) -> Id {
        let made = self.pool.freeze(&name(volume), Id::new()).unwrap();
        assert_eq!(made.volumes, [name(volume)]);
        made.id
    }

    fn layers(&self, volume: &str) -> Vec<Layer> {
        self.pool.layers(&name(volume)).unwrap()
    }

    fn delete_layer(&self, volume: &str, layer: Id) -> Deleted {
        self.pool.delete_layer(&name(volume), layer, &Silent).unwrap()
    }

    /// What a layer reads as at an offset, as a volume that begins there.
    fn layer_reads(&self, layer: Id, offset: u64) -> u8 {
        let look = "look";
        self.pool.clone_layer(layer, &name(look), "", None).unwrap();
        let byte = self.read(look, offset, 1)[0];
        self.pool.delete(&name(look), &[]).unwrap();
        byte
    }

    /// Has qemu-img look at the file of a volume and all that it is based on, if it is installed.
    fn check(&self, volume: &str, files: usize) {
        let path = self.pool.folder().join(volume).join("disk.qcow2");
        let run = |args: &[&str], path: &Path| {
            Command::new("qemu-img").args(args).arg(path).output().ok().map(|output| {
                assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
                String::from_utf8(output.stdout).unwrap()
            })
        };
        let Some(text) = run(&["info", "--backing-chain", "--output=json", "-U"], &path) else { return };
        let chain: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
        assert_eq!(chain.len(), files, "{text}");
        for file in chain.iter().filter(|file| file["format"] == "qcow2") {
            run(&["check", "-q", "-U"], Path::new(file["filename"].as_str().unwrap()));
        }
    }
}

#[test]
fn a_volume_goes_back_to_what_it_was_along_the_branches_of_a_tree() {
    let place = Place::new();
    for format in ["raw", "qcow2"] {
        place.create(json!({"name": format, "size": "8MiB", "format": format})).unwrap();
        let id = place.get(format).id;
        place.write(format, 0, &[1; 512]);
        let first = place.freeze(format);
        place.write(format, 0, &[2; 512]);
        place.write(format, 4 * MIB, &[9; 512]);
        let second = place.freeze(format);
        place.write(format, 0, &[3; 512]);
        assert_eq!(place.read(format, 0, 1), [3]);
        place.check(format, 3);
        // To the first one, and on from there.
        let volume = place.pool.revert(&name(format), first).unwrap();
        assert_eq!((volume.id, volume.format), (id, VolumeFormat::Qcow2));
        assert_eq!((place.read(format, 0, 1), place.read(format, 4 * MIB, 1)), (vec![1], vec![0]));
        place.write(format, 0, &[4; 512]);
        let third = place.freeze(format);
        place.write(format, 0, &[5; 512]);
        let layers = place.layers(format);
        assert_eq!(layers.iter().map(|layer| layer.id).collect::<Vec<_>>(), [first, second, third]);
        assert_eq!(
            layers.iter().map(|layer| layer.based_on).collect::<Vec<_>>(),
            [None, Some(first), Some(first)]
        );
        assert_eq!((layers[0].layers.len(), layers[1].volumes.len()), (2, 0));
        assert_eq!(layers[2].volumes, [name(format)]);
        assert_eq!([first, second, third].map(|layer| place.layer_reads(layer, 0)), [1, 2, 4]);
        place.pool.revert(&name(format), second).unwrap();
        assert_eq!((place.read(format, 0, 1), place.read(format, 4 * MIB, 1)), (vec![2], vec![9]));
        place.check(format, 3);
        // They go with their volume.
        place.pool.delete(&name(format), &[]).unwrap();
        assert!(place.rest().is_empty(), "{:?}", place.rest());
    }
}

#[test]
fn a_clone_begins_with_a_layer_and_keeps_it_when_its_volume_goes() {
    let place = Place::new();
    place.image("debian:13", b"contents");
    let image = json!({"image": "debian:13"});
    place.create(json!({"name": "a", "linked": true, "source": image})).unwrap();
    place.write("a", 4096, &[1; 512]);
    let layer = place.freeze("a");
    place.write("a", 4096, &[2; 512]);
    let clone = place.pool.clone_layer(layer, &name("b"), "mine", Some(Size(16 * MIB))).unwrap();
    assert_eq!((clone.size, clone.description.as_str()), (Size(16 * MIB), "mine"));
    assert_eq!(clone.based_on, Some(VolumeSource::Image("debian:13".parse().unwrap())));
    assert!(clone.allocated.0 < MIB);
    assert_eq!(place.layers("a")[0].volumes, [name("a"), name("b")]);
    assert!(place.layers("b").is_empty(), "it is the other one's");
    place.write("b", 8192, &[3; 512]);
    let of_clone = place.freeze("b");
    assert_eq!(place.layers("b")[0].based_on, Some(layer));
    assert!(matches!(place.pool.revert(&name("b"), layer), Err(Error::NoLayer(_))), "it is the other one's");
    // Names change, and what is based on them stays.
    let held = place.pool.hold(&name("a")).unwrap();
    place.pool.rename(&held, &name("c"), "").unwrap();
    drop(held);
    place.pool.delete(&name("c"), &[]).unwrap();
    assert_eq!(place.rest().len(), 3, "two layers and the image's disk: {:?}", place.rest());
    assert_eq!((place.read("b", 0, 8), place.read("b", 4096, 1)), (b"contents".to_vec(), vec![1]));
    place.check("b", 4);
    assert_eq!(place.layers("b")[0].based_on, None, "nobody wants that one but for what is based on it");
    place.pool.revert(&name("b"), of_clone).unwrap();
    place.pool.convert(&name("b"), VolumeFormat::Raw, &Silent).unwrap();
    assert_eq!(place.layer_reads(of_clone, 8192), 3);
    place.pool.delete(&name("b"), &[]).unwrap();
    assert!(place.rest().is_empty(), "{:?}", place.rest());
}

#[test]
fn a_volume_that_a_guest_has_is_frozen_under_it_and_back_again() {
    let place = Place::new();
    for format in ["raw", "qcow2"] {
        place.create(json!({"name": format, "size": "8MiB", "format": format})).unwrap();
        place.write(format, 0, &[1; 512]);
        let opened = place.pool.open_volume(&name(format), false).unwrap();
        let guest =
            disk::Stack::from_files(opened.file, opened.backing, opened.format.into(), false).unwrap();
        let (never, layer) = (Id::new(), Id::new());
        // Its machine does not take the first one.
        drop(place.pool.freeze_running(&name(format), never).unwrap());
        disk::write(&guest, &[2; 512], 0).unwrap();
        place.pool.unfreeze(&name(format), never).unwrap();
        assert!(place.layers(format).is_empty() && place.rest().is_empty(), "{:?}", place.rest());
        let top = place.pool.freeze_running(&name(format), layer).unwrap();
        guest.switch(top).unwrap();
        disk::write(&guest, &[3; 512], 512).unwrap();
        disk::Disk::flush(&guest).unwrap();
        assert!(matches!(place.pool.unfreeze(&name(format), layer), Err(Error::InUse(_))));
        assert!(matches!(place.open(format, false).err(), Some(Error::InUse(_))));
        assert_eq!((place.layer_reads(layer, 0), place.layer_reads(layer, 512)), (2, 0));
        drop(guest);
        let error = place.pool.unfreeze(&name(format), layer).unwrap_err();
        assert!(error.to_string().contains("was written over the layer"), "{error}");
        assert_eq!((place.read(format, 0, 1), place.read(format, 512, 1)), (vec![2], vec![3]));
        place.check(format, 2);
        place.pool.delete(&name(format), &[]).unwrap();
    }
}

#[test]
fn what_was_left_between_is_no_layer_and_goes() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    place.write("a", 0, &[1; 512]);
    let layer = place.freeze("a");
    let folder = place.pool.folder().to_owned();
    // As one who died before the volume went on over it.
    place.pool.unfreeze(&name("a"), layer).unwrap();
    let left = folder.join(format!(".layer-{layer}"));
    fs::create_dir(&left).unwrap();
    fs::hard_link(folder.join("a/disk.qcow2"), left.join(format!("{layer}.qcow2"))).unwrap();
    let about = json!({"id": layer, "volume": place.get("a").id, "format": "qcow2", "created": place.get("a").created});
    fs::write(left.join("layer.json"), about.to_string()).unwrap();
    assert!(place.layers("a").is_empty());
    let guest = place.open("a", false).unwrap();
    let Place { folder: kept, pool, images } = place;
    drop(pool);
    let place = Place { folder: kept, pool: crate::open_pool(&folder), images };
    assert!(left.exists(), "a guest has it: it is not touched");
    drop(guest);
    let other = place.freeze("a");
    assert!(!left.exists());
    assert_eq!(place.layers("a").iter().map(|layer| layer.id).collect::<Vec<_>>(), [other]);
    assert_eq!(place.read("a", 0, 1), [1]);
}

#[test]
fn what_cannot_be_done_with_layers_is_refused_and_changes_nothing() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    place.write("a", 0, &[1; 512]);
    let layer = place.freeze("a");
    let (a, b) = (name("a"), name("b"));
    for (error, wanted, cause) in [
        (place.pool.freeze(&a, layer).err(), format!("a layer {layer} exists already"), Cause::State),
        (place.pool.freeze(&b, Id::new()).err(), "there is no volume b".into(), Cause::Missing),
        (place.pool.clone_layer(layer, &a, "", None).err(), "a volume a exists already".into(), Cause::State),
        (
            place.pool.clone_layer(layer, &b, "", Some(Size(MIB))).err(),
            "/size: its source has 8388608 bytes: a volume has as many or more".into(),
            Cause::Asked,
        ),
        (
            place.pool.wipe(&a, &Silent).err(),
            "volume a has 1 layers of what was on it before: delete them first".into(),
            Cause::State,
        ),
    ] {
        let error = error.expect(&wanted);
        assert_eq!((error.to_string(), error.cause()), (wanted, cause));
    }
    let none = Id::new();
    assert!(matches!(place.pool.revert(&a, none), Err(Error::NoLayer(id)) if id == none));
    assert!(matches!(place.pool.clone_layer(none, &b, "", None), Err(Error::NoLayer(_))));
    let guest = place.open("a", false).unwrap();
    assert!(matches!(place.pool.freeze(&a, Id::new()), Err(Error::InUse(_))));
    assert!(matches!(place.pool.revert(&a, layer), Err(Error::InUse(_))));
    drop(guest);
    place.create(json!({"name": "b", "linked": true, "source": {"volume": "a"}})).unwrap();
    assert!(matches!(place.pool.freeze(&a, Id::new()), Err(Error::BaseOf { .. })));
    // Also a layer that is based on a volume holds it, whatever its own volume is based on.
    place.freeze("b");
    place.pool.convert(&b, VolumeFormat::Raw, &Silent).unwrap();
    assert!(matches!(place.pool.revert(&a, layer), Err(Error::BaseOf { others, .. }) if others == [b]));
    assert_eq!((place.layers("a").len(), place.rest().len()), (1, 2));
}

#[test]
fn a_volume_has_its_size_of_then_when_it_is_reverted() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    let layer = place.freeze("a");
    place.pool.resize(&name("a"), &Resize { size: Size(16 * MIB), shrink: false }).unwrap();
    let longer = place.freeze("a");
    assert_eq!(place.pool.revert(&name("a"), layer).unwrap().size, Size(8 * MIB));
    assert_eq!(place.pool.revert(&name("a"), longer).unwrap().size, Size(16 * MIB));
    assert_eq!(
        place.layers("a").iter().map(|layer| layer.size).collect::<Vec<_>>(),
        [8 * MIB, 16 * MIB].map(Size)
    );
}

/// A volume with layers that have more and more: each writes its number to a place of its own and to one that all have, and the ones
/// that `large` names some more.
fn grown(place: &Place, volume: &str, format: &str, large: &[u8]) -> Vec<Id> {
    place.create(json!({"name": volume, "size": "64MiB", "format": format})).unwrap();
    let layers = (1..=4).map(|number| {
        place.write(volume, 0, &[number; 512]);
        place.write(volume, u64::from(number) * MIB + 512, &[number; 512]);
        if large.contains(&number) {
            place.write(volume, 32 * MIB, &vec![number; 8 << 20]);
        }
        place.freeze(volume)
    });
    layers.collect()
}

/// Looks at all that must be in a layer made by [`grown`].
fn look(place: &Place, layer: Id, number: u8, large: &[u8]) {
    place.pool.clone_layer(layer, &name("look"), "", None).unwrap();
    assert_eq!(place.read("look", 0, 1), [number]);
    for other in 1..=4u8 {
        let wanted = if other <= number { other } else { 0 };
        assert_eq!(place.read("look", u64::from(other) * MIB + 512, 1), [wanted], "{other} in {number}");
    }
    let last = large.iter().filter(|large| **large <= number).max().copied().unwrap_or(0);
    for at in [32 * MIB, 40 * MIB - 512] {
        assert_eq!(place.read("look", at, 1), [last], "large in {number}");
    }
    place.pool.delete(&name("look"), &[]).unwrap();
}

#[test]
fn any_layer_goes_and_all_others_stay_as_they_are() {
    let large = [2, 4];
    for format in ["raw", "qcow2"] {
        for gone in 0..4 {
            let place = Place::new();
            let layers = grown(&place, "a", format, &large);
            place.write("a", 0, &[5; 512]);
            assert_eq!(place.delete_layer("a", layers[gone]), Deleted::Gone);
            assert!(matches!(
                place.pool.delete_layer(&name("a"), layers[gone], &Silent),
                Err(Error::NoLayer(_))
            ));
            assert_eq!((place.read("a", 0, 1), place.read("a", 40 * MIB - 1, 1)), (vec![5], vec![4]));
            for (number, layer) in layers.iter().enumerate().filter(|(number, _)| *number != gone) {
                look(&place, *layer, number as u8 + 1, &large);
            }
            assert_eq!((place.layers("a").len(), place.rest().len()), (3, 3));
            place.check("a", 4);
            // And all of them, in some order.
            for number in [2, 0, 3, 1].into_iter().filter(|number| *number != gone) {
                assert_eq!(place.delete_layer("a", layers[number]), Deleted::Gone);
            }
            assert!(place.rest().is_empty(), "{:?}", place.rest());
            assert_eq!((place.read("a", 0, 1), place.read("a", 3 * MIB + 512, 1)), (vec![5], vec![3]));
            place.check("a", 1);
        }
    }
}

#[test]
fn what_is_large_is_not_copied_when_a_layer_goes() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "64MiB"})).unwrap();
    place.write("a", 0, &vec![1; 16 << 20]);
    let layer = place.freeze("a");
    place.write("a", 4 * MIB, &[2; 512]);
    let file = fs::metadata(place.pool.folder().join(format!(".layer-{layer}/{layer}.qcow2"))).unwrap();
    assert_eq!(place.delete_layer("a", layer), Deleted::Gone);
    let now = fs::metadata(place.pool.folder().join("a/disk.qcow2")).unwrap();
    use std::os::unix::fs::MetadataExt;
    assert_eq!(now.ino(), file.ino(), "the large file is the volume's again");
    assert_eq!((place.read("a", 4 * MIB, 1), place.read("a", 4 * MIB + 512, 1)), (vec![2], vec![1]));
    // Also one that is longer now, and one where zeroes hide what was there.
    let layer = place.freeze("a");
    place.pool.resize(&name("a"), &Resize { size: Size(96 * MIB), shrink: false }).unwrap();
    place.write("a", 95 * MIB, &[3; 512]);
    let disk = place.open("a", false).unwrap();
    disk.write_zeroes(MIB, 2 * MIB, true).unwrap();
    disk.flush().unwrap();
    drop(disk);
    assert_eq!(place.delete_layer("a", layer), Deleted::Gone);
    assert_eq!(place.get("a").size, Size(96 * MIB));
    let reads = [0, MIB, 3 * MIB - 512, 3 * MIB, 95 * MIB].map(|at| place.read("a", at, 1)[0]);
    assert_eq!(reads, [1, 0, 0, 1, 3]);
    place.check("a", 1);
}

#[test]
fn a_layer_that_several_need_goes_with_the_last_but_one() {
    let place = Place::new();
    let layers = grown(&place, "a", "qcow2", &[]);
    place.pool.clone_layer(layers[1], &name("b"), "", None).unwrap();
    place.write("b", 0, &[9; 512]);
    assert_eq!(place.delete_layer("a", layers[1]), Deleted::Needed("several are based on it".into()));
    assert_eq!(
        place.layers("a").iter().map(|layer| layer.id).collect::<Vec<_>>(),
        [layers[0], layers[2], layers[3]]
    );
    assert_eq!(place.layers("a")[1].based_on, Some(layers[0]), "nobody sees it any more");
    assert_eq!(place.layers("a")[0].volumes, [name("b")]);
    assert!(matches!(place.pool.revert(&name("a"), layers[1]), Err(Error::NoLayer(_))));
    assert!(matches!(place.pool.clone_layer(layers[1], &name("c"), "", None), Err(Error::NoLayer(_))));
    assert_eq!((place.read("b", 2 * MIB + 512, 1), place.rest().len()), (vec![2], 4));
    place.pool.delete(&name("b"), &[]).unwrap();
    assert!(place.pool.tidy_layers(&Silent).unwrap().is_empty());
    assert_eq!(place.rest().len(), 3);
    for (layer, number) in [(layers[0], 1), (layers[2], 3), (layers[3], 4)] {
        look(&place, layer, number, &[]);
    }
    // One that nobody goes on from simply goes.
    place.pool.revert(&name("a"), layers[0]).unwrap();
    assert_eq!(place.delete_layer("a", layers[3]), Deleted::Gone);
    assert_eq!(place.delete_layer("a", layers[2]), Deleted::Gone);
    assert_eq!((place.rest().len(), place.read("a", 0, 1)), (1, vec![1]));
}

#[test]
fn a_layer_below_a_guest_goes_when_the_guest_lets_it() {
    let place = Place::new();
    let layers = grown(&place, "a", "qcow2", &[]);
    let opened = place.pool.open_volume(&name("a"), false).unwrap();
    let guest = disk::Stack::from_files(opened.file, opened.backing, opened.format.into(), false).unwrap();
    assert_eq!(place.delete_layer("a", layers[3]), Deleted::Needed("volume a is in use".into()));
    assert!(matches!(place.delete_layer("a", layers[1]), Deleted::Needed(_)));
    assert_eq!((place.layers("a").len(), place.rest().len()), (2, 4));
    // Its machine takes the one right below up.
    guest.pull(1, |_, _| true).unwrap();
    assert_eq!(place.pool.tidy_layers(&Silent).unwrap().keys().collect::<Vec<_>>(), [&layers[1]]);
    disk::write(&guest, &[5; 512], 0).unwrap();
    disk::Disk::flush(&guest).unwrap();
    drop(guest);
    assert!(place.pool.tidy_layers(&Silent).unwrap().is_empty());
    assert_eq!(place.rest().len(), 2);
    look(&place, layers[0], 1, &[]);
    look(&place, layers[2], 3, &[]);
    assert_eq!((place.read("a", 0, 1), place.read("a", 4 * MIB + 512, 1)), (vec![5], vec![4]));
    place.check("a", 3);
}

#[test]
fn what_cannot_be_read_keeps_all_that_it_may_need() {
    let place = Place::new();
    let layers = grown(&place, "a", "qcow2", &[]);
    place.create(json!({"name": "b", "size": "8MiB"})).unwrap();
    let header = place.pool.folder().join("b/disk.qcow2");
    let good = fs::read(&header).unwrap();
    fs::write(&header, "damaged").unwrap();
    assert_eq!(place.layers("a").len(), 4);
    let why = "something in the pool that may be based on it cannot be read";
    assert_eq!(place.delete_layer("a", layers[1]), Deleted::Needed(why.into()));
    assert_eq!(place.rest().len(), 4);
    fs::write(&header, good).unwrap();
    assert!(place.pool.tidy_layers(&Silent).unwrap().is_empty());
    assert_eq!(place.rest().len(), 3);
    look(&place, layers[3], 4, &[]);
}

#[test]
fn a_layer_in_the_midst_goes_while_guests_run_on_it_and_none_of_them_sees_it() {
    let large = [2, 4];
    for gone in 0..4 {
        let place = Place::new();
        let layers = grown(&place, "a", "qcow2", &large);
        place.pool.clone_layer(layers[3], &name("b"), "", None).unwrap();
        let run = |volume: &str| {
            let opened = place.pool.open_volume(&name(volume), false).unwrap();
            disk::Stack::from_files(opened.file, opened.backing, opened.format.into(), false).unwrap()
        };
        let (guest, other) = (run("a"), run("b"));
        let all = |disk: &disk::Stack| {
            let mut bytes = vec![0; 64 << 20];
            disk::read(disk, &mut bytes, 0).unwrap();
            bytes
        };
        let before = all(&guest);
        disk::Disk::write_zeroes(&guest, 33 * MIB, MIB, true).unwrap();
        assert!(matches!(place.delete_layer("a", layers[gone]), Deleted::Needed(_)));
        let ended = std::sync::atomic::AtomicBool::new(false);
        let replaced = std::thread::scope(|scope| {
            // One has not looked at anything before.
            let reader = scope.spawn(|| {
                while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(all(&run_read_only(&place, layers[3])) == before);
                }
            });
            let replaced = place.pool.merge_in_use(&Silent);
            ended.store(true, std::sync::atomic::Ordering::Relaxed);
            reader.join().unwrap();
            replaced.unwrap()
        });
        // What is right below two volumes stays for them.
        let wanted: &[Id] = if gone == 3 { &[] } else { &layers[gone + 1..gone + 2] };
        assert_eq!((&replaced[..], place.rest().len()), (wanted, if gone == 3 { 4 } else { 3 }), "{gone}");
        assert!(all(&other) == before, "one that is not told");
        let below = place.pool.below(&name("a")).unwrap();
        assert_eq!(below.layers.len(), below.files.len());
        guest.replace_below(below.files).unwrap();
        assert_eq!(guest.layers(), if gone == 3 { 4 } else { 3 });
        disk::write(&guest, &[5; 512], 0).unwrap();
        for (guest, first) in [(&guest, 5), (&other, 4)] {
            let now = all(guest);
            assert!(now[0] == first && now[512..33 << 20] == before[512..33 << 20]);
            assert!(now[34 << 20..] == before[34 << 20..]);
        }
        disk::Disk::flush(&guest).unwrap();
        for (number, layer) in layers.iter().enumerate().filter(|(number, _)| *number != gone) {
            look(&place, *layer, number as u8 + 1, &large);
        }
        drop((guest, other));
        assert_eq!((place.read("a", 0, 1), place.read("a", 33 * MIB, 1)), (vec![5], vec![0]));
        assert_eq!(place.read("b", 33 * MIB, 1), vec![4]);
        place.check("a", if gone == 3 { 5 } else { 4 });
        place.pool.delete(&name("b"), &[]).unwrap();
        place.pool.delete(&name("a"), &[]).unwrap();
        assert!(place.rest().is_empty(), "{:?}", place.rest());
    }
}

/// A disk that reads a layer and all below it, as one who began before something of it was merged.
fn run_read_only(place: &Place, layer: Id) -> disk::Stack {
    let path = place.pool.folder().join(format!(".layer-{layer}/{layer}.qcow2"));
    let opened = disk::Stack::open(&path, disk::Format::Qcow2, true);
    // The name of what is below may go between two steps.
    opened.or_else(|_| disk::Stack::open(&path, disk::Format::Qcow2, true)).unwrap()
}

#[test]
fn what_cannot_be_merged_below_a_guest_goes_when_it_has_ended() {
    let place = Place::new();
    let layers = grown(&place, "a", "raw", &[]);
    let guest = place.open("a", false).unwrap();
    for layer in [layers[0], layers[3]] {
        assert!(matches!(place.delete_layer("a", layer), Deleted::Needed(_)));
    }
    assert!(
        place.pool.merge_in_use(&Silent).unwrap().is_empty(),
        "a raw file, and the one below the guest's"
    );
    assert_eq!((place.rest().len(), place.pool.below(&name("a")).unwrap().layers.len()), (4, 4));
    drop(guest);
    assert!(place.pool.merge_in_use(&Silent).unwrap().is_empty());
    assert_eq!(place.rest().len(), 2);
    look(&place, layers[1], 2, &[]);
    look(&place, layers[2], 3, &[]);
    assert_eq!(place.read("a", 4 * MIB + 512, 1), [4]);
}
