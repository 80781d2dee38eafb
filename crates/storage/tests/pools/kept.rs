//! What can be done with volumes that are there.

use api::Size;
use serde_json::json;
use storage::{Cause, Error, Progress, Resize, Silent, VolumeFormat};

use crate::{MIB, Place, name};

#[test]
fn one_writer_or_many_readers_have_a_volume_and_nobody_changes_it_meanwhile() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    let resize = Resize { size: Size(16 * MIB), shrink: false };
    for read_only in [false, true] {
        let guest = place.open("a", read_only).unwrap();
        for refused in [
            place.open("a", false).err(),
            place.pool.delete(&name("a"), &[]).err(),
            place.pool.resize(&name("a"), &resize).err(),
            place.pool.convert(&name("a"), VolumeFormat::Raw, &Silent).err(),
            place.pool.wipe(&name("a"), &Silent).err(),
        ] {
            let error = refused.expect("it was changed under a guest");
            assert_eq!((error.to_string().as_str(), error.cause()), ("volume a is in use", Cause::State));
        }
        assert_eq!(place.open("a", true).is_ok(), read_only);
        drop(guest);
    }
    let error = place.pool.delete(&name("a"), &["web-1".into(), "web-2".into()]).unwrap_err();
    assert_eq!(error.to_string(), "volume a is used by web-1, web-2");
    place.pool.delete(&name("a"), &[]).unwrap();
    assert!(matches!(place.pool.delete(&name("a"), &[]), Err(Error::NoVolume(_))));
}

#[test]
fn a_volume_grows_and_shrinks_only_if_that_is_said() {
    let place = Place::new();
    for format in ["raw", "qcow2"] {
        place.create(json!({"name": format, "size": "8MiB", "format": format})).unwrap();
        place.write(format, 0, &[5; 512]);
        place.write(format, 6 * MIB, &[6; 512]);
        let resize =
            |mib: u64, shrink| place.pool.resize(&name(format), &Resize { size: Size(mib * MIB), shrink });
        assert_eq!(resize(64, false).unwrap().size, Size(64 * MIB));
        let error = resize(4, false).unwrap_err();
        assert!(error.to_string().starts_with("/size: it has 67108864 bytes"), "{error}");
        assert_eq!(resize(4, true).unwrap().size, Size(4 * MIB));
        assert_eq!(resize(8, false).unwrap().size, Size(8 * MIB));
        assert_eq!(place.read(format, 0, 512), [5; 512]);
        assert_eq!(place.read(format, 6 * MIB, 512), [0; 512]);
        assert!(matches!(resize(0, true), Err(Error::Invalid(_))));
    }
}

#[test]
fn what_is_cut_off_a_linked_volume_does_not_come_back_from_below() {
    let place = Place::new();
    place.create(json!({"name": "base", "size": "8MiB"})).unwrap();
    place.write("base", 6 * MIB, &[6; 512]);
    place.create(json!({"name": "top", "linked": true, "source": {"volume": "base"}})).unwrap();
    for mib in [4, 8] {
        place.pool.resize(&name("top"), &Resize { size: Size(mib * MIB), shrink: true }).unwrap();
    }
    assert_eq!(place.read("top", 6 * MIB, 512), [0; 512]);
}

#[test]
fn a_conversion_keeps_what_is_on_a_volume_and_its_holes() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "64MiB", "description": "mine"})).unwrap();
    place.write("a", 32 * MIB, &[3; 100 * 512]);
    let id = place.get("a").id;
    for format in [VolumeFormat::Raw, VolumeFormat::Qcow2, VolumeFormat::Qcow2] {
        let volume = place.pool.convert(&name("a"), format, &Silent).unwrap();
        assert_eq!((volume.format, volume.size, volume.id), (format, Size(64 * MIB), id));
        assert_eq!(volume.description, "mine");
        assert!(volume.allocated.0 < MIB, "{volume:?}");
        assert_eq!(place.read("a", 32 * MIB, 100 * 512), [3; 100 * 512]);
        assert!(place.rest().is_empty());
    }
}

#[test]
fn a_wiped_volume_is_empty_and_its_old_blocks_are_overwritten() {
    let place = Place::new();
    for format in ["raw", "qcow2"] {
        place.create(json!({"name": format, "size": "8MiB", "format": format})).unwrap();
        place.write(format, 0, &[9; 4096]);
        let path = place.pool.folder().join(format).join(format!("disk.{format}"));
        let old = std::fs::File::open(path).unwrap();
        let volume = place.pool.wipe(&name(format), &Silent).unwrap();
        assert_eq!(volume.size, Size(8 * MIB));
        assert_eq!(place.read(format, 0, 4096), [0; 4096]);
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut &old, &mut bytes).unwrap();
        assert!(bytes.iter().all(|byte| *byte == 0));
    }
    assert!(place.rest().is_empty());
}

#[test]
fn a_wipe_that_was_cut_off_is_finished_later() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB", "format": "raw"})).unwrap();
    place.write("a", 0, &[9; 512]);
    let (old, volume) = (place.pool.folder().join(".wipe-x"), place.pool.folder().join("a/disk.raw"));
    std::fs::create_dir(&old).unwrap();
    std::fs::hard_link(&volume, old.join("disk")).unwrap();
    place.pool.finish_wipes(&Silent).unwrap();
    assert_eq!(place.read("a", 0, 1), [9], "it had not begun");
    std::fs::create_dir(&old).unwrap();
    std::fs::rename(&volume, old.join("disk")).unwrap();
    let disk = std::fs::File::open(old.join("disk")).unwrap();
    place.pool.finish_wipes(&Silent).unwrap();
    let mut byte = [1];
    std::io::Read::read_exact(&mut &disk, &mut byte).unwrap();
    assert_eq!((byte, place.rest().len()), ([0], 0));
}

#[test]
fn what_is_called_off_leaves_what_was_there() {
    struct Off;
    impl Progress for Off {
        fn step(&self, _: &str) {}
        fn amount(&self, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            true
        }
    }
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    place.write("a", 0, &[4; 512]);
    let error = place.pool.convert(&name("a"), VolumeFormat::Raw, &Off).unwrap_err();
    assert_eq!(error.cause(), Cause::Cancelled);
    let copy =
        serde_json::from_value(json!({"name": "b", "format": "raw", "source": {"volume": "a"}})).unwrap();
    assert!(matches!(place.pool.create(&copy, &place.images, &Off), Err(Error::Cancelled)));
    assert_eq!((place.get("a").format, place.read("a", 0, 512)), (VolumeFormat::Qcow2, vec![4; 512]));
    assert!(place.rest().is_empty() && !place.pool.folder().join("b").exists());
}

#[test]
fn a_renamed_volume_is_the_same_under_another_name() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    place.create(json!({"name": "b", "size": "8MiB"})).unwrap();
    let id = place.get("a").id;
    let held = place.pool.hold(&name("a")).unwrap();
    assert!(matches!(place.open("a", true), Err(Error::InUse(_))), "nobody uses it meanwhile");
    assert!(matches!(place.pool.rename(&held, &name("b"), ""), Err(Error::VolumeExists(_))));
    let volume = place.pool.rename(&held, &name("c"), "it was a").unwrap();
    assert_eq!((volume.id, volume.description.as_str()), (id, "it was a"));
    drop(held);
    place.open("c", false).unwrap();
    assert!(matches!(place.pool.get(&name("a"), Vec::new()), Err(Error::NoVolume(_))));
}
