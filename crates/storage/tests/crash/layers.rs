//! Volumes with layers: whoever is killed leaves all of them as they were.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use api::{Id, Name};
use disk::Disk;
use serde_json::json;
use storage::images::Store;
use storage::{Layer, Pool, Silent};

use crate::{FOLDER, hidden, name, open_pool, work_and_die};

/// Where a number is written, which is the one of the layer that has it: in clusters that lie apart.
const PLACES: [u64; 3] = [0, 300 << 10, 900 << 10];

/// The id of the layer with this number.
fn id(number: u64) -> Id {
    format!("01a209b8-7977-746c-9401-{number:012x}").parse().unwrap()
}

fn number(id: Id) -> u64 {
    u64::from_str_radix(&id.to_string()[24..], 16).unwrap()
}

fn disk(pool: &Pool, volume: &Name, read_only: bool) -> Box<dyn Disk> {
    let opened = pool.open_volume(volume, read_only).unwrap();
    disk::from_files(opened.file, opened.backing, opened.format.into(), read_only).unwrap()
}

fn write(pool: &Pool, volume: &str, number: u64) {
    let disk = disk(pool, &name(volume), false);
    for place in PLACES {
        disk::write(&*disk, &number.to_le_bytes().repeat(64), place).unwrap();
    }
    disk.flush().unwrap();
}

fn read(pool: &Pool, volume: &Name) -> [u64; 3] {
    let disk = disk(pool, volume, true);
    PLACES.map(|place| {
        let mut bytes = [0; 512];
        disk::read(&*disk, &mut bytes, place).unwrap();
        assert!(bytes.chunks(8).all(|other| *other == bytes[..8]));
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    })
}

/// What the process does that is killed.
#[test]
fn child_of_layers() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else { return };
    let pool = open_pool(&folder);
    let images = Store::new(folder.join("images"));
    let tree = name("tree");
    if pool.list(|_| Vec::new()).unwrap().is_empty() {
        pool.create(
            &serde_json::from_value(json!({"name": "tree", "size": "1MiB"})).unwrap(),
            &images,
            &Silent,
        )
        .unwrap();
    }
    let _ = pool.delete(&name("clone"), &[]);
    let layers = pool.layers(&tree).unwrap();
    let mut next = layers.iter().map(|layer| number(layer.id)).max().unwrap_or(0) + 1;
    loop {
        for _ in 0..2 {
            write(&pool, "tree", next);
            pool.freeze(&tree, id(next)).unwrap();
            next += 1;
        }
        let layers = pool.layers(&tree).unwrap();
        let any = |n: u64| layers[(n * 7919 % layers.len() as u64) as usize].id;
        pool.clone_layer(any(next), &name("clone"), "", None).unwrap();
        write(&pool, "clone", 1 << 40);
        pool.revert(&tree, any(next + 1)).unwrap();
        write(&pool, "tree", next);
        drop(pool.freeze_running(&tree, id(next)).unwrap());
        pool.unfreeze(&tree, id(next)).unwrap();
        pool.delete(&name("clone"), &[]).unwrap();
        // Every other time while somebody runs with it.
        let guest = next.is_multiple_of(2).then(|| pool.open_volume(&tree, false).unwrap());
        for layer in pool.layers(&tree).unwrap().iter().filter(|layer| goes(layer.id)).take(2) {
            pool.delete_layer(&tree, layer.id, &Silent).unwrap();
        }
        pool.merge_in_use(&Silent).unwrap();
        drop(guest);
        pool.tidy_layers(&Silent).unwrap();
    }
}

/// Whether a layer is deleted one day.
fn goes(id: Id) -> bool {
    !number(id).is_multiple_of(3)
}

#[test]
fn a_process_that_is_killed_leaves_all_layers_as_they_were() {
    let folder = tempfile::tempdir().unwrap();
    let (tree, look) = (name("tree"), name("look"));
    let mut before: BTreeMap<Id, Layer> = BTreeMap::new();
    for round in 0..60u64 {
        work_and_die(
            "layers::child_of_layers",
            folder.path(),
            Duration::from_micros(30_000 + round * 7_919 % 90_000),
        );
        let pool = open_pool(folder.path());
        if pool.get(&tree, Vec::new()).is_err() {
            continue;
        }
        read(&pool, &tree);
        let layers = pool.layers(&tree).unwrap();
        for layer in &layers {
            pool.clone_layer(layer.id, &look, "", None).unwrap();
            assert_eq!(read(&pool, &look), [number(layer.id); 3], "{layer:?} in round {round}");
            pool.delete(&look, &[]).unwrap();
        }
        let now: BTreeMap<Id, Layer> = layers.into_iter().map(|layer| (layer.id, layer)).collect();
        assert!(before.keys().all(|id| goes(*id) || now.contains_key(id)), "one is gone in round {round}");
        before = now;
        // What nobody wants any more goes at last, whoever died while it went.
        let _ = pool.delete(&name("clone"), &[]);
        let needed = pool.tidy_layers(&Silent).unwrap();
        let left = hidden(&folder.path().join("pool"));
        assert_eq!(left.len(), before.len() + needed.len(), "in round {round}: {left:?}");
        assert!(needed.values().all(|why| why == "several are based on it"), "{needed:?} in round {round}");
        if before.len() > 20 {
            pool.delete(&tree, &[]).unwrap();
            let _ = pool.delete(&name("clone"), &[]);
            assert!(hidden(&folder.path().join("pool")).is_empty());
            before.clear();
        }
    }
}
