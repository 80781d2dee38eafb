//! A process that is killed at any moment leaves what was there before, or what was to be after.
//!
//! In a program of its own: a process that is being started has the locks of its parent for a moment.

mod layers;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use api::Name;
use serde_json::json;
use storage::images::{self, Import, Source, Store};
use storage::{Host, Pool, PoolDefinition, PoolKind, Silent, VolumeFormat};

const FOLDER: &str = "TESSERA_TEST_CRASH";
const CONTENTS: &[u8] = b"contents";
const LENGTH: usize = 1 << 20;

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn open_pool(folder: &Path) -> Pool {
    let definition = PoolDefinition {
        name: name("pool"),
        description: String::new(),
        kind: PoolKind::Directory,
        path: folder.join("pool"),
        bandwidth: None,
        operations: None,
    };
    let id = "01a209b8-7977-746c-9401-2c2ba35c403c".parse().unwrap();
    Pool::open(&definition, &Host { id, name: "here".into() }).unwrap()
}

/// Puts an image into the folder's store.
fn import(folder: &Path) {
    let (disk, kernel) = (folder.join("disk"), folder.join("kernel"));
    fs::write(&disk, CONTENTS.repeat(LENGTH / CONTENTS.len())).unwrap();
    fs::write(&kernel, "kernel").unwrap();
    let file = |file| Source::File { file };
    let import = Import { kernel: Some(file(kernel)), ..Import::new("image".parse().unwrap(), file(disk)) };
    images::import(&Store::new(folder.join("images")), &import, &Silent).unwrap();
}

/// What the process does that is killed: all that changes a pool, over and over.
#[test]
fn child() {
    let Some(folder) = std::env::var_os(FOLDER).map(std::path::PathBuf::from) else { return };
    let pool = open_pool(&folder);
    let images = Store::new(folder.join("images"));
    let create = |json| pool.create(&serde_json::from_value(json).unwrap(), &images, &Silent).unwrap();
    for volume in pool.list(|_| Vec::new()).unwrap() {
        pool.delete(&volume.name, &[]).unwrap();
    }
    loop {
        create(json!({"name": "linked", "linked": true, "source": {"image": "image"}}));
        create(json!({"name": "copy", "format": "raw", "source": {"image": "image"}}));
        for format in [VolumeFormat::Raw, VolumeFormat::Qcow2] {
            pool.convert(&name("linked"), format, &Silent).unwrap();
            pool.convert(&name("copy"), format, &Silent).unwrap();
        }
        pool.delete(&name("linked"), &[]).unwrap();
        pool.delete(&name("copy"), &[]).unwrap();
    }
}

/// Lets the process `child` work for a while, and kills it.
fn work_and_die(child: &str, folder: &Path, time: Duration) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", child, "--quiet"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(time);
    assert_eq!(child.try_wait().unwrap(), None, "the child failed");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// What lies in a folder under names with a dot, but for what always does.
fn hidden(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.filter(|name| name.starts_with('.') && name != ".hosts" && name != ".bases").collect()
}

#[test]
fn a_process_that_is_killed_leaves_whole_volumes_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    import(folder.path());
    let want = CONTENTS.repeat(LENGTH / CONTENTS.len());
    let mut seen = 0;
    for round in 0..40u64 {
        work_and_die("child", folder.path(), Duration::from_micros(20_000 + round * 7_919 % 90_000));
        // As the next daemon: it has no need to know what the last one was doing.
        let pool = open_pool(folder.path());
        let volumes = pool.list(|_| Vec::new()).unwrap();
        for volume in &volumes {
            assert_eq!(volume.problem, "");
            let mut bytes = Vec::new();
            let mut download = pool.download(&volume.name, VolumeFormat::Raw).unwrap();
            std::io::Read::read_to_end(&mut download, &mut bytes).unwrap();
            assert!(bytes == want, "{volume:?} in round {round}");
            seen += 1;
        }
        let linked = volumes.iter().any(|volume| volume.based_on.is_some());
        let bases = fs::read_dir(folder.path().join("pool/.bases")).map_or(0, Iterator::count);
        assert_eq!((hidden(&folder.path().join("pool")).len(), bases), (0, usize::from(linked)));
    }
    assert!(seen > 10, "only {seen} volumes were there when it was killed");
}
