//! Uploads and downloads.

use std::io::{self, Read, Seek, SeekFrom};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};
use storage::{Error, Silent, UploadDefinition, VolumeFormat};

use crate::{MIB, Place, name};

fn contents() -> Vec<u8> {
    let mut bytes = vec![0; 2 << 20];
    for (n, byte) in bytes.iter_mut().enumerate().skip(1 << 20).take(300_000) {
        *byte = (n / 7) as u8;
    }
    bytes
}

fn upload(format: &str, bytes: &[u8]) -> UploadDefinition {
    let sum: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02X}")).collect();
    serde_json::from_value(json!({"name": "a", "format": format, "length": bytes.len(), "sha256": sum}))
        .unwrap()
}

/// Bytes that break off.
struct Broken<'a>(&'a [u8]);

impl Read for Broken<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        let n = buffer.len().min(1000);
        (&self.0[..n.min(self.0.len())]).read(buffer).inspect(|n| self.0 = &self.0[*n..])
    }
}

#[test]
fn an_upload_goes_on_where_it_broke_off() {
    let place = Place::new();
    let (bytes, a) = (contents(), name("a"));
    let wanted = upload("raw", &bytes);
    assert_eq!(place.pool.begin_upload(&wanted).unwrap(), 0);
    assert!(place.pool.upload_part(&a, 0, &mut Broken(&bytes[..1_200_345]), &Silent).is_err());
    assert!(place.pool.list(|_| Vec::new()).unwrap().is_empty(), "it is not there before it is whole");
    // As after a restart of the daemon.
    let at = place.pool.begin_upload(&wanted).unwrap();
    assert_eq!(at, 1_200_345);
    let error = place.pool.upload_part(&a, 5, &mut &bytes[5..], &Silent).unwrap_err();
    assert!(matches!(error, Error::Offset { expected, got: 5 } if expected == at), "{error}");
    assert!(matches!(place.pool.finish_upload(&a, &Silent), Err(Error::Offset { .. })));
    let end = place.pool.upload_part(&a, at, &mut &bytes[at as usize..], &Silent).unwrap();
    assert_eq!(end, bytes.len() as u64);
    let volume = place.pool.finish_upload(&a, &Silent).unwrap();
    assert!(volume.allocated.0 < MIB, "zeroes take no room: {volume:?}");
    assert!(place.read("a", 0, bytes.len()) == bytes);
    assert!(place.rest().is_empty());
    assert!(matches!(place.pool.begin_upload(&wanted), Err(Error::VolumeExists(_))));
}

#[test]
fn what_is_not_as_announced_does_not_become_a_volume() {
    let place = Place::new();
    let (bytes, a) = (contents(), name("a"));
    let mut wanted = upload("raw", &bytes);
    wanted.sha256 = Some("0".repeat(64));
    place.pool.begin_upload(&wanted).unwrap();
    assert!(matches!(place.pool.begin_upload(&upload("raw", &bytes)), Err(Error::UploadExists(_))));
    let long = [&bytes[..], &[0; 10]].concat();
    let error = place.pool.upload_part(&a, 0, &mut &long[..], &Silent).unwrap_err();
    assert_eq!(error.to_string(), "/length: more bytes came than were announced");
    let at = place.pool.uploaded(&a).unwrap();
    place.pool.upload_part(&a, at, &mut &bytes[at as usize..], &Silent).unwrap();
    assert!(matches!(place.pool.finish_upload(&a, &Silent), Err(Error::Checksum { .. })));
    place.pool.abort_upload(&a).unwrap();
    assert!(matches!(place.pool.uploaded(&a), Err(Error::NoUpload(_))));
    assert!(place.rest().is_empty());
}

#[test]
fn an_image_that_leads_out_of_the_pool_is_not_taken() {
    let place = Place::new();
    let at = |name: &str| place.folder.path().join(name);
    std::fs::write(at("secret"), [7; 4096]).unwrap();
    disk::qcow2::create_overlay(&at("x.qcow2"), &at("secret"), disk::Format::Raw).unwrap();
    for (bytes, wanted) in [
        (std::fs::read(at("x.qcow2")).unwrap(), "/format: it has a backing file"),
        (vec![1; 1000], "/format: it is not a qcow2 image"),
    ] {
        let wanted_upload = upload("qcow2", &bytes);
        place.pool.begin_upload(&wanted_upload).unwrap();
        place.pool.upload_part(&name("a"), 0, &mut &bytes[..], &Silent).unwrap();
        let error = place.pool.finish_upload(&name("a"), &Silent).unwrap_err();
        assert!(error.to_string().starts_with(wanted), "{error}");
        place.pool.abort_upload(&name("a")).unwrap();
    }
}

#[test]
fn an_upload_that_nobody_goes_on_with_is_given_up() {
    let place = Place::new();
    place.pool.begin_upload(&upload("raw", &contents())).unwrap();
    place.pool.expire_uploads(Duration::from_secs(60));
    assert_eq!(place.rest().len(), 1);
    place.pool.expire_uploads(Duration::ZERO);
    assert!(place.rest().is_empty());
}

#[test]
fn a_download_is_the_disk_or_the_file_from_any_byte_on() {
    let place = Place::new();
    place.create(json!({"name": "base", "size": "8MiB"})).unwrap();
    place.write("base", 4096, b"below");
    place.create(json!({"name": "top", "linked": true, "source": {"volume": "base"}})).unwrap();
    let mut raw = place.pool.download(&name("top"), VolumeFormat::Raw).unwrap();
    assert_eq!(raw.length().unwrap(), 8 * MIB);
    raw.seek(SeekFrom::Start(4096)).unwrap();
    let mut text = [0; 5];
    raw.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"below");
    let mut rest = Vec::new();
    raw.read_to_end(&mut rest).unwrap();
    assert_eq!(rest.len() as u64, 8 * MIB - 4101);
    assert!(matches!(place.open("top", false), Err(Error::InUse(_))), "nobody writes to it meanwhile");
    let mut own = Vec::new();
    place.pool.download(&name("base"), VolumeFormat::Qcow2).unwrap().read_to_end(&mut own).unwrap();
    assert!(own == std::fs::read(place.pool.folder().join("base/disk.qcow2")).unwrap());
    let error = place.pool.download(&name("top"), VolumeFormat::Qcow2).err().unwrap();
    assert!(error.to_string().starts_with("/format: it is no qcow2 image of its own"), "{error}");
}
