//! A disk in use, what must be on it, and the files that it is made of, called as pools call them.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use disk::qcow2::create_layer;
use disk::{Disk, Format, Stack};

use crate::tools::{Random, bytes, check, contents, read, write};

/// The files of a disk.
pub struct Files {
    folder: PathBuf,
    /// The layers, the bottom first.
    pub layers: Vec<String>,
    made: u32,
}

impl Files {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// The file that is written to.
    pub fn top(&self) -> (String, Format) {
        let raw = self.path("disk.raw").exists();
        if raw { ("disk.raw".into(), Format::Raw) } else { ("disk.qcow2".into(), Format::Qcow2) }
    }

    /// Gives the top another name, and makes a new one of `len` bytes over it.
    pub fn next_top(&mut self, len: u64) -> File {
        let (old, format) = self.top();
        self.made += 1;
        let name = old.replace("disk", &format!("layer-{}", self.made));
        fs::rename(self.path(&old), self.path(&name)).unwrap();
        let new = self.path("disk.qcow2");
        create_layer(&new, &name, format, len).unwrap();
        self.layers.push(name);
        File::options().read(true).write(true).open(new).unwrap()
    }

    /// Removes the uppermost layers' files.
    pub fn remove(&mut self, count: usize) {
        for name in self.layers.split_off(self.layers.len() - count) {
            fs::remove_file(self.path(&name)).unwrap();
        }
    }

    pub fn open(&self) -> Stack {
        let (name, format) = self.top();
        let disk = Stack::open(&self.path(&name), format, false).unwrap();
        assert_eq!(disk.layers(), self.layers.len());
        disk
    }
}

pub struct Guest {
    pub files: Files,
    disk: Option<Stack>,
    pub want: Vec<u8>,
    pub random: Random,
}

impl Guest {
    /// A new raw or qcow2 disk in a folder.
    pub fn new(folder: &Path, format: Format, len: u64) -> Self {
        match format {
            Format::Raw => File::create_new(folder.join("disk.raw")).unwrap().set_len(len).unwrap(),
            Format::Qcow2 => disk::qcow2::create(&folder.join("disk.qcow2"), len).unwrap(),
        }
        Self::of_file(folder, len)
    }

    /// The empty disk that is in a folder.
    pub fn of_file(folder: &Path, len: u64) -> Self {
        let files = Files { folder: folder.to_owned(), layers: Vec::new(), made: 0 };
        Self { disk: Some(files.open()), files, want: vec![0; len as usize], random: Random(len) }
    }

    pub fn disk(&self) -> &Stack {
        self.disk.as_ref().unwrap()
    }

    /// Its files, and its disk.
    pub fn parts(&mut self) -> (&mut Files, &Stack) {
        (&mut self.files, self.disk.as_ref().unwrap())
    }

    pub fn close(&mut self) {
        self.disk = None;
    }

    /// Closes the disk and opens it again.
    pub fn reopen(&mut self) {
        self.close();
        self.disk = Some(self.files.open());
    }

    /// Keeps what is on the disk in a layer.
    pub fn freeze(&mut self) {
        let new = self.files.next_top(self.disk().len());
        self.disk().switch(new).unwrap();
        assert_eq!(self.disk().layers(), self.files.layers.len());
    }

    /// A range of sectors.
    pub fn range(&mut self) -> (u64, usize) {
        let sectors = self.want.len() as u64 / 512;
        let at = self.random.below(sectors);
        let most = (sectors - at).min(if self.random.below(4) == 0 { 700 } else { 16 });
        (at * 512, (1 + self.random.below(most)) as usize * 512)
    }

    pub fn write(&mut self) {
        let (at, len) = self.range();
        let data = bytes(self.random.next(), len);
        write(self.disk(), at, &data).unwrap();
        self.want[at as usize..at as usize + len].copy_from_slice(&data);
    }

    pub fn write_zeroes(&mut self) {
        let (at, len) = self.range();
        let unmap = self.random.below(2) == 0;
        self.disk().write_zeroes(at, len as u64, unmap).unwrap();
        self.want[at as usize..at as usize + len].fill(0);
    }

    pub fn discard(&mut self) {
        let (at, len) = self.range();
        self.disk().discard(at, len as u64).unwrap();
        let now = read(self.disk(), at, len).unwrap();
        let old = &mut self.want[at as usize..at as usize + len];
        assert!(now.iter().zip(&*old).all(|(now, old)| now == old || *now == 0));
        old.copy_from_slice(&now);
    }

    pub fn compare(&mut self) {
        let (at, len) = self.range();
        let got = read(self.disk(), at, len).unwrap();
        assert!(got == self.want[at as usize..at as usize + len], "at {at:#x}+{len:#x}");
    }

    /// Some of everything that guests do.
    pub fn work(&mut self, rounds: u64) {
        for _ in 0..rounds {
            match self.random.below(8) {
                0..=2 => self.write(),
                3 => self.write_zeroes(),
                4 => self.discard(),
                5 => self.disk().flush().unwrap(),
                _ => self.compare(),
            }
        }
    }

    /// All of it is as it must be.
    pub fn compare_all(&self) {
        assert!(read(self.disk(), 0, self.want.len()).unwrap() == self.want);
    }

    /// Closes the disk; QEMU must find no fault, and the same contents.
    pub fn end(mut self) {
        self.compare_all();
        self.close();
        let top = self.files.top().0;
        for name in self.files.layers.iter().chain([&top]).filter(|name| name.ends_with("qcow2")) {
            check(&self.files.folder, name);
        }
        assert!(contents(&self.files.folder, &top) == self.want);
    }
}
