//! Changing what an image is based on, in one step whatever happens.
//!
//! The new name is put down where nothing is, and made durable. Then a single write changes what says where the name is, and how
//! the file of that name is laid out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use super::header::{Backing, Extension, Header};
use crate::{Format, OpenError, file};

/// A new name of what an image is based on, put down in the image but not yet used.
#[derive(Debug)]
pub struct Name {
    /// Where it is, and its length; zeroes if the image is to be based on nothing.
    place: (u64, u32),
    format: Option<Format>,
}

impl Name {
    /// Puts a name down in the image in `file`, durably.
    ///
    /// # Errors
    /// If there is no room for it in the image's first cluster, or the host cannot write.
    pub fn put_down(file: &File, to: Option<&Backing>) -> Result<Name, OpenError> {
        let Some(to) = to else { return Ok(Name { place: (0, 0), format: None }) };
        let format = to.format.ok_or(OpenError::Unrecorded)?;
        let header = Header::read(file)?;
        let layout = Header::layout(file)?;
        let (old, len) = (layout.name, to.name.len() as u64);
        if !layout.extensions.iter().any(|old| old.kind == Extension::of_format(format).kind) {
            return Err(OpenError::Unrecorded);
        }
        let behind = (old.0 + old.1).max(layout.end).next_multiple_of(8);
        let at = match old {
            (0, _) => layout.end,
            (old, _) if layout.end + len <= old => layout.end,
            _ => behind,
        };
        // imago has it that a name does not reach the end of the cluster.
        if at + len >= header.cluster() || len > 1023 {
            let what = format!("has no room for the name {:?} of what it is to be based on", to.name);
            return Err(OpenError::Unsupported(what));
        }
        file::write_all(file, to.name.as_bytes(), at)?;
        file::sync(file)?;
        Ok(Name { place: (at, len as u32), format: Some(format) })
    }

    /// Has the image use the name, by one write. Nobody else may change the image's header meanwhile.
    ///
    /// # Errors
    /// If the host cannot write.
    pub fn enter(&self, file: &File) -> Result<(), OpenError> {
        let layout = Header::layout(file)?;
        let mut bytes = vec![0; layout.end as usize];
        file.read_exact_at(&mut bytes, 0)?;
        bytes[8..16].copy_from_slice(&self.place.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.place.1.to_be_bytes());
        if let Some(format) = self.format {
            let mut extensions = Vec::new();
            let new = Extension::of_format(format);
            for old in &layout.extensions {
                let taken = if old.kind == new.kind { &new } else { old };
                taken.append_to(&mut extensions);
            }
            extensions.resize((layout.end - layout.extensions_at) as usize, 0);
            bytes[layout.extensions_at as usize..].copy_from_slice(&extensions);
        }
        file::write_all(file, &bytes[8..], 8)?;
        Ok(())
    }
}

/// What is called `name` in the header of the file `of`, as seen from where that one is called so.
pub fn beside(of: &str, name: &str) -> String {
    let folder = Path::new(of).parent().unwrap_or(Path::new(""));
    let mut path = PathBuf::new();
    for part in folder.join(name).components() {
        match part {
            // Out of a folder that the name leads into.
            Component::ParentDir if matches!(path.components().next_back(), Some(Component::Normal(_))) => {
                path.pop();
            }
            Component::CurDir => {}
            part => path.push(part),
        }
    }
    let text = path.to_string_lossy().into_owned();
    // What has a colon before any slash would be taken for a protocol.
    let colon = text.split('/').next().is_some_and(|first| first.contains(':'));
    if colon { format!("./{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_seen_from_elsewhere() {
        for (of, name, seen) in [
            ("layer-2.qcow2", "layer-1.raw", "layer-1.raw"),
            ("../other/layer-2.qcow2", "layer-1.raw", "../other/layer-1.raw"),
            ("../other/layer-2.qcow2", "../.bases/x/disk.raw", "../.bases/x/disk.raw"),
            ("../../a/b", "../c", "../../c"),
            ("/a/b", "c", "/a/c"),
            ("a/b", "/c/d", "/c/d"),
            ("../a", "../../b", "../../../b"),
            ("a", "./b:c", "./b:c"),
        ] {
            assert_eq!(beside(of, name), seen, "{name} of {of}");
        }
    }

    fn rebase(file: &File, name: &str, format: Format) {
        let to = Backing { name: name.to_owned(), format: Some(format) };
        Name::put_down(file, Some(&to)).unwrap().enter(file).unwrap();
        assert_eq!(Header::read(file).unwrap().backing, Some(to));
    }

    #[test]
    fn an_image_gets_one_base_after_another_and_then_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        super::super::create_layer(&path, "first.raw", Format::Raw, 1 << 20).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let before = Header::read(&file).unwrap();
        for round in 0..20 {
            let name = format!("../{}/layer.qcow2", "x".repeat(round * 40));
            rebase(&file, &name, if round % 2 == 0 { Format::Qcow2 } else { Format::Raw });
        }
        Name::put_down(&file, None).unwrap().enter(&file).unwrap();
        assert_eq!(Header::read(&file).unwrap(), Header { backing: None, ..before });
        crate::open(&path, None, false).unwrap();
        let long = Backing { name: "x".repeat(1024), format: Some(Format::Raw) };
        assert!(Name::put_down(&file, Some(&long)).is_err());
    }

    #[test]
    fn one_sector_says_it_all_in_images_that_we_make() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.qcow2");
        super::super::create_layer(&path, "first.raw", Format::Raw, 1 << 20).unwrap();
        let file = File::open(&path).unwrap();
        let layout = Header::layout(&file).unwrap();
        let last = layout.extensions.last().unwrap();
        assert_eq!(last.kind, Extension::of_format(Format::Raw).kind);
        assert!(layout.end - 8 <= 512, "{layout:?}");
    }
}
