//! Volumes in pools, as the host's daemon uses them.

mod backups;
mod kept;
mod layers;
mod made;
mod transfer;

use std::fs;
use std::path::{Path, PathBuf};

use api::Name;
use disk::Disk;
use storage::images::{self, Import, Source, Store};
use storage::{Host, Pool, PoolDefinition, PoolKind, Silent, Volume, VolumeDefinition};

const MIB: u64 = 1 << 20;

/// A pool and a store of images in a folder of their own.
struct Place {
    folder: tempfile::TempDir,
    pool: Pool,
    images: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = open_pool(&folder.path().join("pool"));
        let images = Store::new(folder.path().join("images"));
        Self { folder, pool, images }
    }

    /// An image of 8 MiB that begins with these bytes.
    fn image(&self, name: &str, bytes: &[u8]) {
        let disk = self.folder.path().join("disk");
        fs::write(&disk, bytes).unwrap();
        fs::File::options().write(true).open(&disk).unwrap().set_len(8 * MIB).unwrap();
        self.image_of(name, &disk);
    }

    fn image_of(&self, name: &str, disk: &Path) {
        let kernel = self.folder.path().join("kernel");
        fs::write(&kernel, "kernel").unwrap();
        let file = |file: PathBuf| Source::File { file };
        let import = Import {
            kernel: Some(file(kernel)),
            replace: true,
            ..Import::new(name.parse().unwrap(), file(disk.into()))
        };
        images::import(&self.images, &import, &Silent).unwrap();
    }

    fn create(&self, json: serde_json::Value) -> storage::Result<Volume> {
        let definition: VolumeDefinition = serde_json::from_value(json).unwrap();
        self.pool.create(&definition, &self.images, &Silent)
    }

    fn get(&self, volume: &str) -> Volume {
        self.pool.get(&name(volume), Vec::new()).unwrap()
    }

    fn open(&self, volume: &str, read_only: bool) -> storage::Result<Box<dyn Disk>> {
        let opened = self.pool.open_volume(&name(volume), read_only)?;
        Ok(disk::from_files(opened.file, opened.backing, opened.format.into(), read_only).unwrap())
    }

    fn write(&self, volume: &str, offset: u64, bytes: &[u8]) {
        let disk = self.open(volume, false).unwrap();
        disk::write(&*disk, bytes, offset).unwrap();
        disk.flush().unwrap();
    }

    fn read(&self, volume: &str, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0xee; length];
        disk::read(&*self.open(volume, true).unwrap(), &mut bytes, offset).unwrap();
        bytes
    }

    /// What lies in the pool under names that are no volumes', but for what always does.
    fn rest(&self) -> Vec<PathBuf> {
        let inside =
            |folder: PathBuf| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let pool = self.pool.folder().to_owned();
        let hidden = inside(pool.clone()).filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.starts_with('.') && name != ".hosts" && name != ".bases"
        });
        hidden.chain(inside(pool.join(".bases"))).collect()
    }
}

fn open_pool(path: &Path) -> Pool {
    let definition = PoolDefinition {
        name: name("pool"),
        description: String::new(),
        kind: PoolKind::Directory,
        path: path.into(),
        bandwidth: None,
        operations: None,
    };
    let id = "01a209b8-7977-746c-9401-2c2ba35c403c".parse().unwrap();
    Pool::open(&definition, &Host { id, name: "here".into() }).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}
