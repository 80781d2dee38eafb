use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use flate2::read::GzDecoder;

use super::*;
use crate::store::Transaction;
use crate::tls::Certificates;

/// A folder with what a daemon has made in it.
async fn host() -> (tempfile::TempDir, Id) {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::new(folder.path()).unwrap();
    let (store, id) = (Sqlite::open(&paths.database()).unwrap(), Id::new());
    let transaction = crate::daemon::forget_boot(id, Transaction::new()).unwrap();
    store.commit(transaction.put("a", &1).unwrap()).await.unwrap();
    Certificates::open(&paths.tls(), id, "", None).unwrap();
    (folder, id)
}

/// What is under `a` in a folder's store.
async fn value(state: &Path) -> u32 {
    let store = Sqlite::open(&state.join(DATABASE)).unwrap();
    serde_json::from_slice(&store.get("a").await.unwrap().unwrap().value).unwrap()
}

async fn change(state: &Path, to: u32) {
    let store = Sqlite::open(&state.join(DATABASE)).unwrap();
    store.commit(Transaction::new().put("a", &to).unwrap()).await.unwrap();
}

/// An archive of these files.
fn archive(files: &[(&str, tar::EntryType, &[u8])]) -> File {
    let mut tar = tar::Builder::new(GzEncoder::new(tempfile::tempfile().unwrap(), Compression::fast()));
    for (name, kind, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_entry_type(*kind);
        // Names that the builder itself would refuse.
        header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_cksum();
        tar.append(&header, *content).unwrap();
    }
    let mut file = tar.into_inner().unwrap().finish().unwrap();
    file.rewind().unwrap();
    file
}

#[tokio::test]
async fn a_host_is_what_it_was_in_another_folder() {
    let (from, id) = host().await;
    let backup = make_without_daemon(from.path()).await.unwrap();
    let parent = tempfile::tempdir().unwrap();
    let to = parent.path().join("new");
    assert_eq!(restore(backup, &to, false).await.unwrap().host, id);
    assert_eq!(value(&to).await, 1);
    for (name, mode) in [(DATABASE, 0o600)].into_iter().chain(FILES) {
        assert_eq!(fs::metadata(to.join(name)).unwrap().permissions().mode() & 0o777, mode, "{name}");
    }
    for (name, _) in FILES {
        assert_eq!(fs::read(to.join(name)).unwrap(), fs::read(from.path().join(name)).unwrap(), "{name}");
    }
    let left: Vec<_> = fs::read_dir(&to).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with("restore")), "{left:?}");
}

#[tokio::test]
async fn what_is_in_the_folder_is_replaced_only_by_force_and_never_under_a_daemon() {
    let (state, _) = host().await;
    let backup = || async { make_without_daemon(state.path()).await.unwrap() };
    let (first, second, third) = (backup().await, backup().await, backup().await);
    change(state.path(), 2).await;
    fs::write(state.path().join("images/kept"), "kept").unwrap();
    assert!(matches!(restore(first, state.path(), false).await, Err(RestoreError::NotEmpty(_))));
    let store = Sqlite::open(&state.path().join(DATABASE)).unwrap();
    assert!(matches!(restore(second, state.path(), true).await, Err(RestoreError::InUse(_))));
    assert!(matches!(make_without_daemon(state.path()).await, Err(BackupError::InUse(_))));
    drop(store);
    assert_eq!(value(state.path()).await, 2);
    restore(third, state.path(), true).await.unwrap();
    assert_eq!(value(state.path()).await, 1);
    assert!(state.path().join("images/kept").exists());
}

#[tokio::test]
async fn disks_that_the_backup_does_not_know_are_not_risked() {
    let (state, _) = host().await;
    let backup = make_without_daemon(state.path()).await.unwrap();
    let disk = format!("vm-{}-0", Id::new());
    fs::create_dir_all(state.path().join("pools/default").join(&disk)).unwrap();
    let error = restore(backup, state.path(), true).await.err().unwrap();
    assert!(error.to_string().contains(&disk), "{error}");
}

#[tokio::test]
async fn a_guest_that_runs_is_not_pulled_from_under_its_host() {
    let (state, _) = host().await;
    let backup = make_without_daemon(state.path()).await.unwrap();
    let run = state.path().join("run/some-guest");
    fs::create_dir(&run).unwrap();
    let _guest = std::os::unix::net::UnixListener::bind(run.join("control.sock")).unwrap();
    let error = restore(backup, state.path(), true).await.err().unwrap();
    assert!(error.to_string().contains("some-guest"), "{error}");
}

#[tokio::test]
async fn what_is_no_backup_is_refused_and_leaves_nothing() {
    let (from, id) = host().await;
    let mut whole = Vec::new();
    GzDecoder::new(make_without_daemon(from.path()).await.unwrap()).read_to_end(&mut whole).unwrap();
    let mut half = tempfile::tempfile().unwrap();
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(&whole).unwrap();
    let packed = packed.finish().unwrap();
    half.write_all(&packed[..packed.len() / 2]).unwrap();
    half.rewind().unwrap();
    let about = serde_json::to_vec(&About::now(id, String::new())).unwrap();
    let about = (ABOUT, tar::EntryType::Regular, &about[..]);
    let newer = br#"{"format": 2, "version": "9.0"}"#;
    let file = tar::EntryType::Regular;
    for (archive, why) in [
        (half, "no whole backup"),
        (tempfile::tempfile().unwrap(), "no whole backup"),
        (archive(&[]), "empty"),
        (archive(&[("host.db", file, b"")]), "'host.db' in it is not what it begins with"),
        (archive(&[(ABOUT, file, newer)]), "of Tessera 9.0"),
        (archive(&[about]), "no host.db in it"),
        (archive(&[about, ("../../etc/passwd", file, b"x")]), "'../../etc/passwd' in it does not belong"),
        (archive(&[about, ("/etc/passwd", file, b"x")]), "'/etc/passwd' in it does not belong"),
        (archive(&[about, ("host.db", tar::EntryType::Symlink, b"")]), "'host.db' in it is no file"),
        (archive(&[about, ("tls/ca.pem", file, b"x"), ("tls/ca.pem", file, b"y")]), "does not belong"),
        (archive(&[about, ("tls/ca.key", file, &[0; 2 << 20])]), "larger than it can be"),
        (
            archive(&[
                about,
                ("host.db", file, b"no database at all"),
                ("tls/ca.key", file, b""),
                ("tls/ca.pem", file, b""),
                ("tls/ca.name", file, b""),
            ]),
            "the store in the backup",
        ),
    ] {
        let to = tempfile::tempdir().unwrap();
        let error = restore(archive, to.path(), false).await.err().unwrap_or_else(|| panic!("taken: {why}"));
        assert!(error.to_string().contains(why), "{why}: {error}");
        assert_eq!(fs::read_dir(to.path()).unwrap().count(), 0, "{why}");
    }
}

#[tokio::test]
async fn a_restore_that_was_cut_short_is_finished_by_whoever_comes_next() {
    let (from, _) = host().await;
    let (to, _) = host().await;
    change(to.path(), 2).await;
    // As it is right after the renaming that makes it so.
    let restored = to.path().join("restored");
    fs::create_dir_all(restored.join("tls")).unwrap();
    for name in [DATABASE].into_iter().chain(FILES.map(|(name, _)| name)) {
        fs::copy(from.path().join(name), restored.join(name)).unwrap();
    }
    // And one was in its place already.
    fs::rename(restored.join("tls/ca.key"), to.path().join("tls/ca.key")).unwrap();
    finish(to.path()).unwrap();
    assert!(!restored.exists());
    assert_eq!(value(to.path()).await, 1);
    let key = |state: &Path| fs::read(state.join("tls/ca.key")).unwrap();
    assert_eq!(key(from.path()), key(to.path()));
}
