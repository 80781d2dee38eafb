//! Backups of what was on volumes, in another pool.

use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};

use api::{Id, Name, Size, Time, VmDefinition, VmState};
use serde_json::json;
use storage::backups::{BackupSource, BackupWanted};
use storage::{Error, Pool, Progress, Resize, Silent};

use crate::{MIB, Place, name, open_pool};

/// A volume that was backed up three times, each time with what differed, and what was on it then.
struct Chain {
    place: Place,
    target: Pool,
    layers: Vec<Id>,
    backups: Vec<Id>,
    contents: Vec<Vec<u8>>,
}

fn wanted(number: usize, parent: Option<Id>) -> BackupWanted {
    let definition: VmDefinition = serde_json::from_value(json!({"name": "web", "memory": "64MiB"})).unwrap();
    BackupWanted {
        id: Id::new(),
        name: name(&format!("web-{number}")),
        description: String::new(),
        created: Time::now(),
        host: "here".into(),
        vm: Id::new(),
        state: VmState::Running,
        quiesced: false,
        schedule: None,
        definition,
        parent,
    }
}

impl Chain {
    fn empty(format: &str) -> Chain {
        let place = Place::new();
        let target = open_pool(&place.folder.path().join("backups"));
        place.create(json!({"name": "a", "size": "8MiB", "format": format})).unwrap();
        Chain { place, target, layers: Vec::new(), backups: Vec::new(), contents: Vec::new() }
    }

    fn pool_name(&self) -> Name {
        name("backups")
    }

    fn make(&self, layer: Id, progress: &dyn Progress) -> storage::Result<api::Backup> {
        let volume = name("a");
        let since = self.layers.last().copied();
        let source = BackupSource { unit: 0, pool: &self.place.pool, volume: &volume, layer, since };
        let wanted = wanted(self.backups.len(), self.backups.last().copied());
        self.target.make_backup(&self.pool_name(), &wanted, &[source], progress)
    }

    /// Backs up what is on the volume now.
    fn back_up(&mut self) -> api::Backup {
        let layer = self.place.pool.freeze(&name("a"), Id::new()).unwrap().id;
        let made = self.make(layer, &Silent).unwrap();
        let size = self.place.get("a").size.0 as usize;
        self.contents.push(self.place.read("a", 0, size));
        self.backups.push(made.id);
        if let Some(old) = self.layers.last() {
            self.place.pool.delete_layer(&name("a"), *old, &Silent).unwrap();
        }
        self.layers.push(layer);
        made
    }

    fn of_three(format: &str) -> Chain {
        let mut chain = Chain::empty(format);
        chain.place.write("a", 0, &vec![1; 3 << 20]);
        let first = chain.back_up();
        assert_eq!(
            (first.parent, first.disks[0].incremental, first.disks[0].size),
            (None, false, Size(8 * MIB))
        );
        chain.place.write("a", MIB, &[2; 512]);
        chain.place.pool.resize(&name("a"), &Resize { size: Size(16 * MIB), shrink: false }).unwrap();
        chain.place.write("a", 15 * MIB, &[2; 4096]);
        // A snapshot between them that goes again.
        let between = chain.place.pool.freeze(&name("a"), Id::new()).unwrap().id;
        chain.place.write("a", 2 * MIB, &[3; 512]);
        let second = chain.back_up();
        assert_eq!((second.parent, second.disks[0].incremental), (Some(first.id), true));
        assert!(second.stored.0 < MIB, "{second:?}");
        chain.place.pool.delete_layer(&name("a"), between, &Silent).unwrap();
        let disk = chain.place.open("a", false).unwrap();
        disk.write_zeroes(64 << 10, MIB, true).unwrap();
        disk::write(&*disk, &[4; 512], 4 * MIB).unwrap();
        disk.flush().unwrap();
        drop(disk);
        let third = chain.back_up();
        assert_eq!((third.parent, third.disks[0].incremental), (Some(second.id), true));
        chain.place.write("a", 0, &vec![9; 16 << 20]);
        chain
    }

    fn file(&self, number: usize, file: &str) -> PathBuf {
        self.target.folder().join(format!(".backups/{}/{file}", self.backups[number]))
    }

    fn restores(&self, number: usize) {
        let opened = self.target.open_backup(self.backups[number], &Silent).unwrap();
        assert_eq!(opened.verified.backups.len(), number + 1);
        let volume = format!("restored-{number}");
        self.place.pool.restore_disk(&name(&volume), &opened, 0, &Silent).unwrap();
        let size = self.place.get(&volume).size.0 as usize;
        assert!(self.place.read(&volume, 0, size) == self.contents[number], "backup {number}");
    }

    /// What is wrong with a backup.
    fn damage(&self, number: usize) -> String {
        let error = self.target.open_backup(self.backups[number], &Silent).unwrap_err();
        assert!(matches!(error, Error::BackupDamaged { .. }), "{error}");
        error.to_string()
    }

    fn left(&self) -> usize {
        fs::read_dir(self.target.folder().join(".backups")).unwrap().count()
    }
}

#[test]
fn each_backup_of_a_chain_restores_what_was_there_byte_for_byte() {
    for format in ["raw", "qcow2"] {
        let chain = Chain::of_three(format);
        (0..3).for_each(|number| chain.restores(number));
        let listed = chain.target.backups(&chain.pool_name()).unwrap();
        assert_eq!(listed.iter().map(|backup| backup.id).collect::<Vec<_>>(), chain.backups);
        assert_eq!(listed[0].children, [chain.backups[1]]);
        assert_eq!(fs::metadata(chain.file(0, "disk0.qcow2")).unwrap().permissions().mode() & 0o777, 0o600);
        // The usual tools can read them.
        for number in 0..3 {
            let mut check = std::process::Command::new("sha256sum");
            check.args(["-c", "--quiet", "SHA256SUMS"]).current_dir(chain.file(number, ""));
            assert!(check.status().unwrap().success());
            qemu_img(&chain.file(number, "disk0.qcow2"));
        }
        // Also elsewhere.
        let moved = chain.place.folder.path().join("moved");
        fs::create_dir(&moved).unwrap();
        fs::rename(chain.target.folder().join(".backups"), moved.join(".backups")).unwrap();
        open_pool(&moved).open_backup(chain.backups[2], &Silent).unwrap();
    }
}

fn qemu_img(path: &Path) {
    let Ok(output) = std::process::Command::new("qemu-img").args(["check", "-q"]).arg(path).output() else {
        return;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_is_damaged_or_missing_is_found_and_not_restored() {
    let chain = Chain::of_three("qcow2");
    let path = chain.file(1, "disk0.qcow2");
    let good = fs::read(&path).unwrap();
    let file = fs::File::options().write(true).open(&path).unwrap();
    file.write_all_at(&[good[good.len() / 2] ^ 1], good.len() as u64 / 2).unwrap();
    let wrong = "disk0.qcow2 of web-1 is not what was written: its checksum is another one";
    for (number, of) in [(1, "web-1"), (2, "web-2")] {
        assert_eq!(chain.damage(number), format!("the backup {of} cannot be used: {wrong}"));
    }
    chain.restores(0);
    file.set_len(1000).unwrap();
    assert!(
        chain.damage(2).contains("disk0.qcow2 of web-1 has 1000 bytes and should have"),
        "{}",
        chain.damage(2)
    );
    fs::remove_file(&path).unwrap();
    assert!(chain.damage(2).ends_with("disk0.qcow2 of web-1 is missing"));
    fs::write(&path, good).unwrap();
    chain.restores(2);
    // Its description.
    let manifest = chain.file(0, "manifest.json");
    let text = fs::read_to_string(&manifest).unwrap();
    fs::write(&manifest, text.replace("64", "65")).unwrap();
    assert!(chain.damage(2).contains("its manifest.json is not what was written"), "{}", chain.damage(2));
    let listed = chain.target.backups(&chain.pool_name()).unwrap();
    assert!(listed.iter().any(|backup| backup.problem.is_some() && backup.vm.is_none()));
    fs::write(&manifest, text).unwrap();
    // A link.
    fs::rename(chain.file(0, ""), chain.place.folder.path().join("away")).unwrap();
    let missing = format!("the backup {}, which web-1 needs, is missing", chain.backups[0]);
    assert_eq!(chain.damage(2), format!("the backup web-2 cannot be used: {missing}"));
    assert!(matches!(chain.target.open_backup(chain.backups[0], &Silent), Err(Error::NoBackup(_))));
}

#[test]
fn a_backup_that_others_need_or_use_stays() {
    let chain = Chain::of_three("qcow2");
    let [first, second, third] = chain.backups[..] else { panic!() };
    let error = chain.target.delete_backup(first).unwrap_err();
    assert_eq!(error.to_string(), "the backup web-0 must stay: web-1 has only what differs from it");
    let opened = chain.target.open_backup(third, &Silent).unwrap();
    assert!(matches!(chain.target.delete_backup(third), Err(Error::BackupInUse(_))));
    drop(opened);
    chain.target.delete_backup(third).unwrap();
    chain.restores(1);
    chain.target.delete_backup(second).unwrap();
    chain.target.delete_backup(first).unwrap();
    assert_eq!(chain.left(), 0);
    assert!(matches!(chain.target.delete_backup(first), Err(Error::NoBackup(_))));
}

#[test]
fn it_is_a_full_one_where_it_cannot_have_only_what_differs() {
    // The backup before is gone.
    let mut chain = Chain::of_three("qcow2");
    chain.target.delete_backup(chain.backups[2]).unwrap();
    let made = chain.back_up();
    assert_eq!((made.parent, made.disks[0].incremental), (None, false));
    // It needs one that is gone.
    let mut chain = Chain::of_three("qcow2");
    fs::remove_dir_all(chain.file(0, "")).unwrap();
    assert_eq!(chain.back_up().parent, None);
    // The volume went back to before that.
    let mut chain = Chain::of_three("qcow2");
    let other = chain.place.pool.freeze(&name("a"), Id::new()).unwrap().id;
    chain.back_up();
    chain.place.pool.revert(&name("a"), other).unwrap();
    chain.place.write("a", 0, &[7; 512]);
    let made = chain.back_up();
    assert_eq!((made.parent, made.disks[0].incremental), (None, false));
    let opened = chain.target.open_backup(made.id, &Silent).unwrap();
    chain.place.pool.restore_disk(&name("again"), &opened, 0, &Silent).unwrap();
    assert!(chain.place.read("again", 0, 16 << 20) == *chain.contents.last().unwrap());
}

struct CalledOff;

impl Progress for CalledOff {
    fn step(&self, _: &str) {}
    fn amount(&self, _: u64, _: u64) {}
    fn cancelled(&self) -> bool {
        true
    }
}

#[test]
fn one_that_is_called_off_leaves_nothing() {
    let mut chain = Chain::of_three("qcow2");
    let layer = chain.place.pool.freeze(&name("a"), Id::new()).unwrap().id;
    assert!(matches!(chain.make(layer, &CalledOff), Err(Error::Cancelled)));
    assert_eq!(chain.left(), 3);
    chain.place.pool.delete_layer(&name("a"), layer, &Silent).unwrap();
    chain.back_up();
    assert_eq!(chain.left(), 4);
    assert_eq!(chain.target.open_backup(chain.backups[3], &Silent).unwrap().verified.backups.len(), 4);
}

#[test]
fn what_is_of_an_image_is_in_the_backup_too() {
    let mut chain = Chain::empty("qcow2");
    chain.place.image("debian:13", &[5; 100_000]);
    chain.place.pool.delete(&name("a"), &[]).unwrap();
    let image = json!({"image": "debian:13"});
    chain.place.create(json!({"name": "a", "linked": true, "source": image, "size": "12MiB"})).unwrap();
    chain.place.write("a", 50_000 / 512 * 512, &[6; 512]);
    chain.back_up();
    chain.place.write("a", 11 * MIB, &[7; 512]);
    chain.back_up();
    (0..2).for_each(|number| chain.restores(number));
}

/// Deletes a layer, and has all merged that can be, while it is being copied.
struct Deletes<'a> {
    pool: &'a Pool,
    layer: Id,
}

impl Progress for Deletes<'_> {
    fn step(&self, what: &str) {
        if what.starts_with("copying") {
            self.pool.delete_layer(&name("a"), self.layer, &Silent).unwrap();
            assert!(self.pool.merge_in_use(&Silent).unwrap().is_empty(), "it is being copied");
        }
    }

    fn amount(&self, _: u64, _: u64) {}
}

#[test]
fn what_is_being_copied_stays_as_it_is_whatever_is_deleted_and_merged() {
    let chain = Chain::empty("qcow2");
    let pool = &chain.place.pool;
    chain.place.write("a", 0, &vec![1; 1 << 20]);
    let layer = pool.freeze(&name("a"), Id::new()).unwrap().id;
    chain.place.write("a", 0, &vec![2; 1 << 20]);
    let over = pool.freeze(&name("a"), Id::new()).unwrap().id;
    let guest = chain.place.open("a", false).unwrap();
    let made = chain.make(layer, &Deletes { pool, layer }).unwrap();
    let opened = chain.target.open_backup(made.id, &Silent).unwrap();
    pool.restore_disk(&name("r"), &opened, 0, &Silent).unwrap();
    assert!(chain.place.read("r", 0, 1 << 20) == vec![1; 1 << 20]);
    assert_eq!(pool.merge_in_use(&Silent).unwrap(), [over]);
    drop(guest);
    assert!(chain.place.read("a", 0, 1 << 20) == vec![2; 1 << 20]);
}

#[test]
fn a_guest_is_carried_elsewhere_as_one_file_without_zeroes_and_what_is_damaged_is_refused() {
    let chain = Chain::empty("qcow2");
    let volume = name("a");
    chain.place.write("a", 0, &vec![7; 1 << 20]);
    chain.place.pool.freeze(&volume, Id::new()).unwrap();
    chain.place.write("a", 1 << 20, &vec![0; 2 << 20]);
    chain.place.write("a", 4 << 20, &vec![9; 1 << 16]);
    let layer = chain.place.pool.freeze(&volume, Id::new()).unwrap().id;
    let was = chain.place.read("a", 0, 8 << 20);
    chain.place.write("a", 0, &vec![1; 1 << 20]);
    let source = BackupSource { unit: 0, pool: &chain.place.pool, volume: &volume, layer, since: None };
    let packed = chain.place.pool.pack_backup(&wanted(0, None), &[source], &Silent).unwrap();
    let (length, mut bytes) = (packed.length().unwrap(), Vec::new());
    packed.write(&mut bytes, &Silent).unwrap();
    assert_eq!(length, bytes.len() as u64);
    assert!(length < 2 << 20, "{length}");
    let left = |pool: &Pool| fs::read_dir(pool.folder().join(".backups")).map_or(0, Iterator::count);
    assert_eq!(left(&chain.place.pool), 0);

    let file = |bytes: &[u8]| {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        file
    };
    let opened = chain.target.unpack_backup(&file(&bytes), &Silent).unwrap();
    assert_eq!(opened.manifest.definition.name, name("web"));
    chain.target.restore_disk(&name("b"), &opened, 0, &Silent).unwrap();
    let mut now = chain.target.download(&name("b"), storage::VolumeFormat::Raw).unwrap();
    let mut read = Vec::new();
    std::io::Read::read_to_end(&mut now, &mut read).unwrap();
    assert!(read == was);
    drop(opened);

    let at = |what: &[u8]| bytes.windows(what.len()).position(|part| part == what).unwrap();
    let changed = |place: usize| {
        let mut other = bytes.clone();
        other[place] ^= 1;
        other
    };
    for (bytes, why) in [
        (Vec::new(), "it ends before manifest.json"),
        (b"not an archive".to_vec(), "cut off"),
        (bytes[..bytes.len() / 2].to_vec(), "cut off in disk0.qcow2"),
        (changed(bytes.len() / 2), "its checksum is another one"),
        (changed(at(b"\"web\"")), "its manifest.json is not what was written"),
        (changed(at(b"SHA256SUMS")), "cut off"),
    ] {
        let error = chain.target.unpack_backup(&file(&bytes), &Silent).unwrap_err();
        assert!(matches!(error, Error::ExportDamaged(_)), "{why}: {error}");
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    assert_eq!(left(&chain.target), 0);
}

#[test]
fn a_disk_from_elsewhere_shows_nobody_a_file_of_the_host() {
    let chain = Chain::empty("qcow2");
    let place = chain.place.folder.path();
    fs::write(place.join("secret"), vec![5; 1 << 20]).unwrap();
    let secret = place.join("secret");
    let bad = place.join("disk0.qcow2");
    let format = disk::Format::Raw;
    disk::qcow2::create_layer(&bad, secret.to_str().unwrap(), format, 1 << 20).unwrap();
    let disk = fs::read(&bad).unwrap();
    let sum = |bytes: &[u8]| {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        storage::sha256(&file, bytes.len() as u64, &Silent).unwrap().unwrap()
    };
    let manifest = serde_json::to_vec(&json!({
        "format": "tessera-backup", "version": 1, "id": Id::new(), "name": "x", "description": "", "host": "there",
        "created": Time::now(), "vm": Id::new(), "state": "stopped", "quiesced": false,
        "definition": { "name": "web" },
        "disks": [{ "unit": 0, "size": 1 << 20, "file": "disk0.qcow2", "length": disk.len(), "sha256": sum(&disk), "incremental": false }],
    }))
    .unwrap();
    let sums = format!("{}  manifest.json\n{}  disk0.qcow2\n", sum(&manifest), sum(&disk));
    let mut archive = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [("manifest.json", &manifest[..]), ("SHA256SUMS", sums.as_bytes()), ("disk0.qcow2", &disk[..])]
    {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        archive.append_data(&mut header, name, bytes).unwrap();
    }
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&archive.into_inner().unwrap(), 0).unwrap();
    let error = chain.target.unpack_backup(&file, &Silent).unwrap_err();
    assert!(error.to_string().contains("disk0.qcow2 is based on another file"), "{error}");
}
