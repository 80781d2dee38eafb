use std::fs;

use disk::{Disk, Overlay, Raw};

use crate::tools::{Random, bytes, open, read, write};

#[test]
fn an_overlay_does_what_a_disk_does_and_leaves_its_base_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base");
    // The last cluster is short.
    let original = bytes(1, (300 << 10) + 512);
    fs::write(&path, &original).unwrap();
    let mut want = original.clone();
    let base = Raw::open(&path, true).unwrap();
    let disk = Overlay::new(Box::new(base), tempfile::tempfile().unwrap()).unwrap();
    let mut random = Random(5);
    for round in 0..2000 {
        let sectors = want.len() as u64 / 512;
        let first = random.below(sectors);
        let count = 1 + random.below((sectors - first).min(40));
        let (at, len) = (first * 512, count as usize * 512);
        let part = first as usize * 512..first as usize * 512 + len;
        match random.below(6) {
            0 | 1 => {
                let data = bytes(round, len);
                write(&disk, at, &data).unwrap();
                want[part].copy_from_slice(&data);
            }
            2 if count < 9 => {
                disk.write_zeroes(at, len as u64, round % 2 == 0).unwrap();
                want[part].fill(0);
            }
            3 if count < 9 => {
                disk.discard(at, len as u64).unwrap();
                let now = read(&disk, at, len).unwrap();
                assert!(now.iter().zip(&want[part.clone()]).all(|(now, old)| *now == 0 || now == old));
                want[part].copy_from_slice(&now);
            }
            _ => assert!(read(&disk, at, len).unwrap() == want[part], "round {round}"),
        }
    }
    disk.flush().unwrap();
    assert!(read(&disk, 0, want.len()).unwrap() == want);
    assert!(write(&disk, want.len() as u64, &[0; 512]).is_err());
    assert!(fs::read(&path).unwrap() == original);
}

#[test]
fn many_machines_share_a_base_and_see_only_their_own_changes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base.qcow2");
    disk::qcow2::create(&path, 1 << 30).unwrap();
    let (a, b) = (Overlay::over(&path).unwrap(), Overlay::over(&path).unwrap());
    write(&a, 4096, &[1; 512]).unwrap();
    write(&b, 4608, &[2; 512]).unwrap();
    assert_eq!(read(&a, 4096, 1024).unwrap(), [[1; 512], [0; 512]].concat());
    assert_eq!(read(&b, 4096, 1024).unwrap(), [[0; 512], [2; 512]].concat());
    assert!(open(&path, false).is_err(), "nobody writes a base that is in use");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "the layers have no names");
}

#[test]
fn threads_that_write_sectors_of_one_cluster_lose_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("base");
    fs::write(&path, vec![9; 1 << 20]).unwrap();
    let base = Raw::open(&path, true).unwrap();
    let disk = Overlay::new(Box::new(base), tempfile::tempfile().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4u64 {
            let disk = &disk;
            scope.spawn(move || {
                for sector in (thread..2048).step_by(4).filter(|s| s % 8 != 7) {
                    write(disk, sector * 512, &[thread as u8; 512]).unwrap();
                }
            });
        }
    });
    for sector in 0..2048u64 {
        let want = if sector % 8 == 7 { 9 } else { (sector % 4) as u8 };
        assert_eq!(read(&disk, sector * 512, 512).unwrap(), [want; 512], "sector {sector}");
    }
}
