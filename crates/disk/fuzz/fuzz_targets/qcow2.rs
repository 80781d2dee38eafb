//! A qcow2 image with any damage: it is refused, or used with errors (`cargo fuzz run qcow2`).

#![no_main]

#[path = "../../tests/images/damage.rs"]
mod damage;
#[path = "../../tests/images/tools.rs"]
#[allow(dead_code)]
mod tools;

use std::path::PathBuf;
use std::sync::OnceLock;

/// The folder of this process, and a good image.
fn good() -> &'static (PathBuf, Vec<u8>) {
    static GOOD: OnceLock<(PathBuf, Vec<u8>)> = OnceLock::new();
    GOOD.get_or_init(|| {
        let folder = tempfile::tempdir().unwrap().keep();
        let path = folder.join("good.qcow2");
        disk::qcow2::create(&path, 8 << 20).unwrap();
        let disk = tools::open(&path, false).unwrap();
        for n in 0..4 {
            tools::write(&disk, n << 20, &tools::bytes(n, 100 << 10)).unwrap();
        }
        drop(disk);
        let image = std::fs::read(path).unwrap();
        (folder, image)
    })
}

libfuzzer_sys::fuzz_target!(|input: &[u8]| {
    let (folder, image) = good();
    damage::use_damaged(image, input, &folder.join("bad.qcow2"));
});
