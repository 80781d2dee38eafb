//! How volumes come to be, and what they are.

use std::fs::{self, File};

use api::Size;
use serde_json::json;
use storage::{Cause, Error, VolumeFormat, VolumeSource};

use crate::{MIB, Place, name};

#[test]
fn a_new_volume_reads_as_zeroes_and_takes_room_as_it_is_asked_to() {
    let place = Place::new();
    for format in ["raw", "qcow2"] {
        for allocation in ["thin", "full"] {
            let volume = format!("{format}-{allocation}");
            let made = place
                .create(json!({"name": volume, "format": format, "allocation": allocation, "size": "8MiB"}))
                .unwrap();
            assert_eq!(made.size, Size(8 * MIB));
            assert_eq!(made.allocated.0 >= 8 * MIB, allocation == "full", "{made:?}");
            let growth = place.pool.growth(&made.name).unwrap();
            assert_eq!(growth, made.size.0.saturating_sub(made.allocated.0), "{made:?}");
            assert!(made.used.0 < MIB, "{made:?}");
            assert!(place.read(&volume, 0, 8 << 20).iter().all(|byte| *byte == 0));
            place.write(&volume, 5 * MIB, &[7; 4096]);
            assert_eq!(place.read(&volume, 5 * MIB, 4096), [7; 4096]);
        }
    }
    let list = place.pool.list(|name| vec![format!("guest of {name}")]).unwrap();
    let names: Vec<&str> = list.iter().map(|volume| volume.name.as_str()).collect();
    assert_eq!(names, ["qcow2-full", "qcow2-thin", "raw-full", "raw-thin"]);
    assert_eq!(list[0].used_by, ["guest of qcow2-full"]);
    assert_eq!(place.pool.status().unwrap().volumes, 4);
}

#[test]
fn a_copy_of_an_image_is_its_own_and_can_be_larger() {
    let place = Place::new();
    place.image("debian:13", b"contents");
    for format in ["raw", "qcow2"] {
        let made = place.create(json!({
            "name": format, "format": format, "size": "16MiB", "source": {"image": "debian:13"},
        }));
        let made = made.unwrap();
        assert_eq!((made.size, made.based_on), (Size(16 * MIB), None));
        assert_eq!(place.read(format, 0, 8), b"contents");
        place.write(format, 0, &[1; 512]);
        assert!(place.read(format, 8 * MIB, 8 << 20).iter().all(|byte| *byte == 0));
    }
    let image = place.images.get(&"debian:13".parse().unwrap()).unwrap();
    assert_eq!(&fs::read(image.disk()).unwrap()[..8], b"contents");
    assert!(place.rest().is_empty());
}

#[test]
fn linked_volumes_share_an_image_that_stays_as_long_as_they_do() {
    let place = Place::new();
    place.image("debian:13", b"contents");
    let linked =
        |name: &str| json!({"name": name, "linked": true, "size": "1GiB", "source": {"image": "debian:13"}});
    let one = place.create(linked("one")).unwrap();
    place.create(linked("two")).unwrap();
    assert_eq!(one.based_on, Some(VolumeSource::Image("debian:13".parse().unwrap())));
    assert!(one.allocated.0 < MIB && one.size == Size(1 << 30));
    place.write("one", 0, &[1; 512]);
    // The image can change and go under them, and the pool can be moved.
    place.image("debian:13", b"replaced");
    place.images.remove(&"debian:13".parse().unwrap()).unwrap();
    let Place { folder, pool, images } = place;
    drop(pool);
    fs::rename(folder.path().join("pool"), folder.path().join("moved")).unwrap();
    let pool = crate::open_pool(&folder.path().join("moved"));
    let place = Place { folder, pool, images };
    assert_eq!(place.read("one", 0, 8), [1; 8]);
    assert_eq!(place.read("two", 0, 8), b"contents");
    place.pool.delete(&name("one"), &[]).unwrap();
    assert_eq!(place.rest().len(), 1, "the image's disk is still needed");
    place.pool.convert(&name("two"), VolumeFormat::Qcow2, &storage::Silent).unwrap();
    assert_eq!((place.get("two").based_on, place.read("two", 0, 8)), (None, b"contents".to_vec()));
    assert!(place.rest().is_empty(), "{:?}", place.rest());
}

#[test]
fn a_volume_that_others_are_based_on_stays_as_it_is() {
    let place = Place::new();
    place.create(json!({"name": "base", "size": "8MiB", "format": "raw"})).unwrap();
    place.write("base", 0, b"base");
    place.create(json!({"name": "top", "linked": true, "source": {"volume": "base"}})).unwrap();
    place.create(json!({"name": "copy", "source": {"volume": "top"}})).unwrap();
    place.write("top", 4096, &[1; 512]);
    assert_eq!(place.get("base").base_of, [name("top")]);
    assert_eq!(place.get("top").based_on, Some(VolumeSource::Volume(name("base"))));
    assert_eq!((place.read("top", 0, 4), place.read("copy", 0, 4)), (b"base".to_vec(), b"base".to_vec()));
    let base = name("base");
    let resize = serde_json::from_value(json!({"size": "16MiB"})).unwrap();
    for refused in [
        place.open("base", false).err(),
        place.pool.delete(&base, &[]).err(),
        place.pool.resize(&base, &resize).err(),
        place.pool.convert(&base, VolumeFormat::Qcow2, &storage::Silent).err(),
        place.pool.wipe(&base, &storage::Silent).err(),
        place.pool.hold(&base).map(drop).err(),
    ] {
        let error = refused.expect("the base was changed");
        assert!(matches!(&error, Error::BaseOf { others, .. } if others == &[name("top")]), "{error}");
        assert_eq!(error.to_string(), "volume base must stay as it is: top is based on it");
    }
    assert!(place.open("base", true).is_ok());
    place.pool.delete(&name("top"), &[]).unwrap();
    place.pool.delete(&base, &[]).unwrap();
    assert_eq!(place.read("copy", 0, 4), b"base");
}

#[test]
fn what_cannot_be_made_is_refused_with_a_reason_and_leaves_nothing() {
    let place = Place::new();
    place.image("small", b"x");
    place.create(json!({"name": "there", "size": "8MiB"})).unwrap();
    for (json, wanted, cause) in [
        (json!({"name": "there", "size": "1MiB"}), "a volume there exists already", Cause::State),
        (json!({"name": "a"}), "/size: ", Cause::Asked),
        (
            json!({"name": "a", "source": {"image": "none"}}),
            "/source/image: there is no image none",
            Cause::Asked,
        ),
        (
            json!({"name": "a", "source": {"volume": "none"}}),
            "/source/volume: there is no volume none",
            Cause::Asked,
        ),
        (
            json!({"name": "a", "size": "4MiB", "source": {"image": "small"}}),
            "/size: its source has 8388608",
            Cause::Asked,
        ),
        (
            json!({"name": "a", "size": "4MiB", "linked": true, "source": {"volume": "there"}}),
            "/size: its source has 8388608",
            Cause::Asked,
        ),
    ] {
        let error = place.create(json.clone()).unwrap_err();
        assert!(error.to_string().starts_with(wanted), "{json}: {error}");
        assert_eq!(error.cause(), cause);
        assert!(!place.pool.folder().join("a").exists() && place.rest().is_empty());
    }
    let _guest = place.open("there", false).unwrap();
    let error =
        place.create(json!({"name": "a", "linked": true, "source": {"volume": "there"}})).unwrap_err();
    assert!(matches!(error, Error::InUse(_)), "{error}");
}

#[test]
fn a_damaged_volume_is_seen_with_its_damage_and_can_be_removed() {
    let place = Place::new();
    place.create(json!({"name": "a", "size": "8MiB"})).unwrap();
    File::create(place.pool.folder().join("a/disk.qcow2")).unwrap().set_len(100).unwrap();
    assert_eq!(place.get("a").problem, "it is not a qcow2 image");
    assert_eq!(place.pool.list(|_| Vec::new()).unwrap().len(), 1);
    place.pool.delete(&name("a"), &[]).unwrap();
    assert!(place.pool.list(|_| Vec::new()).unwrap().is_empty() && place.rest().is_empty());
}
