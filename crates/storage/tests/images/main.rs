//! Images from elsewhere, and to elsewhere.

mod server;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use api::{ImageName, Name, Size};
use server::{Answer, Server};
use sha2::{Digest, Sha256};
use storage::images::{self, FileUpload, Import, Source, Store};
use storage::{Cause, Error, Progress, Silent};

fn name() -> ImageName {
    "image".parse().unwrap()
}

/// A disk of 3 MiB with something on it.
fn contents() -> Vec<u8> {
    let mut bytes = vec![0; 3 << 20];
    for (n, byte) in bytes.iter_mut().enumerate().skip(1 << 20).take(900_000) {
        *byte = ((n * n) >> 9) as u8;
    }
    bytes
}

fn sum(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Place {
    folder: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("kernel"), "kernel").unwrap();
        let store = Store::new(folder.path().join("images"));
        Self { folder, store }
    }

    fn import(&self, disk: Source, progress: &dyn Progress) -> storage::Result<()> {
        let kernel = Some(Source::File { file: self.folder.path().join("kernel") });
        let import = Import { kernel, command_line: Some("quiet".into()), ..Import::new(name(), disk) };
        images::import(&self.store, &import, progress)
    }

    /// Uploads bytes in one piece.
    fn upload(&self, name: &str, bytes: &[u8], sha256: Option<String>) -> Source {
        let upload: Name = name.parse().unwrap();
        let wanted = FileUpload { name: upload.clone(), length: Size(bytes.len() as u64), sha256 };
        self.store.begin_upload(wanted).unwrap();
        self.store.upload_part(&upload, 0, &mut &bytes[..], &Silent).unwrap();
        Source::Upload { upload }
    }

    /// What lies in the store that is no image.
    fn rest(&self) -> Vec<String> {
        let entries = fs::read_dir(self.store.folder()).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with('.')).collect()
    }
}

fn url(server: &Server, bytes: &[u8]) -> Source {
    Source::Url { url: server.url("/disk.raw"), sha256: sum(bytes) }
}

#[test]
fn an_image_is_fetched_and_has_the_bytes_and_the_holes() {
    let (place, bytes) = (Place::new(), contents());
    let server = Server::start(bytes.clone(), vec![]);
    let heard = Mutex::new(Vec::new());
    struct Heard<'a>(&'a Mutex<Vec<(u64, u64)>>);
    impl Progress for Heard<'_> {
        fn step(&self, _: &str) {}
        fn amount(&self, done: u64, total: u64) {
            self.0.lock().unwrap().push((done, total));
        }
    }
    place.import(url(&server, &bytes), &Heard(&heard)).unwrap();
    let image = place.store.get(&name()).unwrap();
    assert!(fs::read(image.disk()).unwrap() == bytes);
    assert!(image.disk_sizes().1 < 2 << 20, "zeroes take no room");
    assert!(image.about.origin.starts_with("http://127.0.0.1:"));
    assert!(heard.lock().unwrap().contains(&(3 << 20, 3 << 20)));
    assert!(place.rest().is_empty());
}

#[test]
fn a_fetch_that_breaks_off_goes_on_where_it_was() {
    let (place, bytes) = (Place::new(), contents());
    let server =
        Server::start(bytes.clone(), vec![Answer::Cut(1_000_000), Answer::Status(503), Answer::Cut(500_000)]);
    place.import(url(&server, &bytes), &Silent).unwrap();
    assert!(fs::read(place.store.get(&name()).unwrap().disk()).unwrap() == bytes);
    let asked = server.ranges();
    assert_eq!(asked.len(), 4, "{asked:?}");
    assert_eq!((asked[0], asked[1], asked[3]), (None, Some(1_000_000), Some(1_500_000)));
}

#[test]
fn what_came_before_is_kept_for_the_next_time() {
    let (place, bytes) = (Place::new(), contents());
    let failing = std::iter::once(Answer::Cut(2_000_000)).chain((0..9).map(|_| Answer::Cut(0))).collect();
    let server = Server::start(bytes.clone(), failing);
    let error = place.import(url(&server, &bytes), &Silent).unwrap_err();
    assert!(error.to_string().contains("cannot be fetched: "), "{error}");
    assert_eq!(place.rest(), [format!(".fetch-{}", sum(&bytes))]);
    let server = Server::start(bytes.clone(), vec![]);
    place.import(url(&server, &bytes), &Silent).unwrap();
    assert_eq!(server.ranges(), [Some(2_000_000)]);
    assert!(place.rest().is_empty());
}

#[test]
fn a_server_that_knows_no_ranges_is_asked_for_all_of_it() {
    let (place, bytes) = (Place::new(), contents());
    let server = Server::start(bytes.clone(), vec![Answer::Cut(1_000_000), Answer::Whole]);
    place.import(url(&server, &bytes), &Silent).unwrap();
    assert!(fs::read(place.store.get(&name()).unwrap().disk()).unwrap() == bytes);
}

#[test]
fn what_has_another_checksum_is_refused_and_forgotten() {
    let (place, bytes) = (Place::new(), contents());
    let server = Server::start(bytes.clone(), vec![]);
    let error = place.import(url(&server, b"other"), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Checksum { got, .. } if *got == sum(&bytes)), "{error}");
    assert!(place.rest().is_empty() && place.store.list().unwrap().is_empty());
}

#[test]
fn a_server_that_lies_about_a_files_length_is_not_believed() {
    let (place, bytes) = (Place::new(), contents());
    let server = Server::start(bytes.clone(), vec![Answer::Says(bytes.len() - 512)]);
    let error = place.import(url(&server, &bytes), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Checksum { .. }), "{error}");
    assert!(place.rest().is_empty() && place.store.list().unwrap().is_empty());
    let server = Server::start(bytes.clone(), vec![Answer::Says(usize::MAX >> 1)]);
    let error = place.import(url(&server, &bytes), &Silent).unwrap_err();
    assert!(error.to_string().contains("there is room for"), "{error}");
    assert!(place.rest().is_empty(), "{:?}", place.rest());
    let server = Server::start(bytes.clone(), vec![Answer::Says(bytes.len() + 512)]);
    place.import(url(&server, &bytes), &Silent).unwrap();
    assert!(fs::read(place.store.get(&name()).unwrap().disk()).unwrap() == bytes);
}

#[test]
fn what_cannot_be_fetched_is_said_at_once() {
    let place = Place::new();
    let server = Server::start(Vec::new(), vec![Answer::Status(404)]);
    let error = place.import(url(&server, b""), &Silent).unwrap_err();
    assert!(error.to_string().ends_with("the server answers with status 404"), "{error}");
    assert!(place.rest().is_empty(), "{:?}", place.rest());
    for (url, sha256, pointer) in [
        ("file:///etc/passwd", "0".repeat(64), "/disk/url"),
        ("http://127.0.0.1/", "12".into(), "/disk/sha256"),
    ] {
        let error = place.import(Source::Url { url: url.into(), sha256 }, &Silent).unwrap_err();
        assert!(matches!(&error, Error::Invalid(wrong) if wrong[0].pointer == pointer), "{error}");
    }
}

#[test]
fn a_silent_server_does_not_keep_anybody_from_calling_it_off() {
    struct Off(std::time::Instant);
    impl Progress for Off {
        fn step(&self, _: &str) {}
        fn amount(&self, _: u64, _: u64) {}
        fn cancelled(&self) -> bool {
            self.0.elapsed() > std::time::Duration::from_millis(300)
        }
    }
    let (place, bytes) = (Place::new(), contents());
    let server = Server::start(bytes.clone(), vec![Answer::Stall(1000)]);
    let start = std::time::Instant::now();
    let error = place.import(url(&server, &bytes), &Off(start)).unwrap_err();
    assert_eq!(error.cause(), Cause::Cancelled);
    assert!(start.elapsed().as_secs() < 5);
}

#[test]
fn a_compressed_disk_is_taken_in_as_what_it_is() {
    let (place, bytes) = (Place::new(), contents());
    let path = place.folder.path().join("disk.gz");
    let mut packer =
        flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
    packer.write_all(&bytes).unwrap();
    packer.finish().unwrap();
    place.import(Source::File { file: path }, &Silent).unwrap();
    assert!(fs::read(place.store.get(&name()).unwrap().disk()).unwrap() == bytes);
}

/// Makes an archive of files.
fn archive(path: &Path, files: &[(&str, &[u8])]) {
    let mut archive = tar::Builder::new(fs::File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        // As it is, with what a careful tool would leave out.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        archive.append(&header, *bytes).unwrap();
    }
    archive.finish().unwrap();
}

#[test]
fn an_exported_image_is_the_same_where_it_is_taken_in() {
    let (place, bytes) = (Place::new(), contents());
    let disk = place.folder.path().join("disk");
    fs::write(&disk, &bytes).unwrap();
    place.import(Source::File { file: disk }, &Silent).unwrap();
    let path = place.folder.path().join("image.tar");
    let packed = images::Packed::new(&place.store, &name(), &Silent).unwrap();
    let length = packed.length().unwrap();
    packed.write(&mut fs::File::create(&path).unwrap(), &Silent).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), length, "it is known before");
    assert!(length < 3 << 20, "holes take no room");
    assert!(place.rest().is_empty());
    let other = Place::new();
    let import = Import::new(name(), Source::File { file: path.clone() });
    images::import(&other.store, &import, &Silent).unwrap();
    let image = other.store.get(&name()).unwrap();
    assert_eq!(
        (fs::read(image.kernel()).unwrap(), image.about.cmdline.as_str()),
        (b"kernel".to_vec(), "quiet")
    );
    let disk = disk::open(&image.disk(), None, true).unwrap();
    let mut got = vec![1; bytes.len()];
    disk::read(&*disk, &mut got, 0).unwrap();
    assert!(got == bytes);
    // Its disk is packed already: it is exported as it is.
    let again = other.folder.path().join("again.tar");
    images::export(&other.store, &name(), &mut fs::File::create(&again).unwrap(), &Silent).unwrap();
    assert!(fs::read(again).unwrap() == fs::read(path).unwrap());
}

#[test]
fn an_image_is_made_of_what_was_uploaded_and_nothing_is_left_of_that() {
    let (place, bytes) = (Place::new(), contents());
    let upload: Name = "disk".parse().unwrap();
    let length = Size(bytes.len() as u64);
    let wanted = FileUpload { name: upload.clone(), length, sha256: Some(sum(&bytes)) };
    assert_eq!(place.store.begin_upload(wanted.clone()).unwrap().uploaded, Size(0));
    place.store.upload_part(&upload, 0, &mut &bytes[..1_500_000], &Silent).unwrap();
    let source = Source::Upload { upload: upload.clone() };
    let error = place.import(source.clone(), &Silent).unwrap_err();
    assert!(error.to_string().contains("/disk/upload: only 1500000 of its 3145728 bytes"), "{error}");
    assert!(place.store.list().unwrap().is_empty());
    // As after a restart of the daemon.
    let store = Store::new(place.store.folder());
    assert_eq!(store.begin_upload(wanted).unwrap().uploaded, Size(1_500_000));
    store.upload_part(&upload, 1_500_000, &mut &bytes[1_500_000..], &Silent).unwrap();
    place.import(source, &Silent).unwrap();
    let image = place.store.get(&name()).unwrap();
    assert!(fs::read(image.disk()).unwrap() == bytes);
    assert!(image.disk_sizes().1 < 2 << 20, "zeroes take no room");
    assert!(image.info().created.is_some());
    assert!(place.rest().is_empty(), "{:?}", place.rest());
}

#[test]
fn an_upload_that_is_not_what_was_announced_is_given_up() {
    let (place, bytes) = (Place::new(), contents());
    let source = place.upload("disk", &bytes, Some(sum(b"other")));
    let error = place.import(source.clone(), &Silent).unwrap_err();
    assert!(matches!(&error, Error::Checksum { .. }), "{error}");
    assert!(place.rest().is_empty(), "{:?}", place.rest());
    let error = place.import(source, &Silent).unwrap_err();
    assert_eq!(error.to_string(), "/disk/upload: nothing is being uploaded as disk");
    // What can be mended is kept: here the kernel is missing.
    let disk = place.upload("disk", &bytes, None);
    let error = images::import(&place.store, &Import::new(name(), disk.clone()), &Silent).unwrap_err();
    assert!(error.to_string().starts_with("/kernel: "), "{error}");
    assert_eq!(place.store.uploads().len(), 1);
    place.import(disk, &Silent).unwrap();
    assert!(place.store.uploads().is_empty());
}

#[test]
fn a_disk_that_no_guest_could_use_is_refused_when_it_is_taken_in() {
    let place = Place::new();
    let at = |name: &str| place.folder.path().join(name);
    disk::qcow2::create(&at("whole"), 1 << 20).unwrap();
    let whole = fs::read(at("whole")).unwrap();
    fs::write(at("odd"), [1; 1000]).unwrap();
    fs::write(at("cut"), &whole[..600]).unwrap();
    for (file, wanted) in [("odd", "not a positive multiple of 512"), ("cut", "this qcow2 image")] {
        let error = place.import(Source::File { file: at(file) }, &Silent).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
        let error =
            place.import(place.upload(file, &fs::read(at(file)).unwrap(), None), &Silent).unwrap_err();
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert!(place.store.list().unwrap().is_empty());
    place.import(place.upload("whole", &whole, None), &Silent).unwrap();
    assert_eq!(place.store.get(&name()).unwrap().disk_sizes().0, 1 << 20, "the disk's, not its file's");
}

#[test]
fn an_archive_that_is_no_image_leads_nowhere() {
    let place = Place::new();
    let path = place.folder.path().join("image.tar");
    let about = |disk: &str| {
        format!(r#"{{"origin": "x", "disk": "{disk}", "kernel": "k", "initrd": null, "cmdline": ""}}"#)
    };
    let (good, up, own) = (about("d"), about("../d"), about("image.json"));
    for (files, wanted) in [
        (vec![("d", &b"x"[..])], "image.json does not come first"),
        (vec![("image.json", up.as_bytes())], "it names files outside of the image"),
        (vec![("image.json", own.as_bytes())], "it names files outside of the image"),
        (vec![("image.json", good.as_bytes()), ("d", b"x")], "k is missing in it"),
        (vec![("image.json", good.as_bytes()), ("../d", b"x")], "../d does not belong to an image"),
        (vec![("image.json", good.as_bytes()), ("/etc/x", b"x")], "does not belong to an image"),
    ] {
        archive(&path, &files);
        let import = Import::new(name(), Source::File { file: path.clone() });
        let error = images::import(&place.store, &import, &Silent).unwrap_err();
        assert!(error.to_string().ends_with(wanted), "{error}");
        assert!(place.rest().is_empty());
    }
}
