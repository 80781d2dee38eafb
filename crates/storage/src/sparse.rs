//! Copies of files that keep their holes.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use rustix::io::Errno;

use crate::{Error, Progress, Result};

/// How much is copied before somebody is asked whether to go on.
const STEP: u64 = 16 << 20;

/// Copies the file `from`, which lies at `path`, into the empty file `to`; shares its blocks where the file system can.
pub fn copy(from: &File, path: &Path, mut to: &File, progress: &dyn Progress) -> Result<()> {
    let failed = Error::host(path);
    if rustix::fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    let length = (&*from).seek(SeekFrom::End(0)).map_err(&failed)?;
    to.set_len(length).map_err(&failed)?;
    let mut at = 0;
    while let Some((data, end)) = next_data(from, at, length).map_err(&failed)? {
        (&*from).seek(SeekFrom::Start(data)).map_err(&failed)?;
        to.seek(SeekFrom::Start(data)).map_err(&failed)?;
        at = data;
        while at < end {
            progress.go_on()?;
            let step = &mut io::Read::take(from, STEP.min(end - at));
            match io::copy(step, &mut to).map_err(&failed)? {
                0 => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                copied => at += copied,
            }
            progress.amount(at, length);
        }
    }
    to.flush().map_err(failed)
}

/// Where the next data of a file of `length` bytes begins, from `at`, and where it ends.
pub fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    let data = match rustix::fs::seek(file, rustix::fs::SeekFrom::Data(at)) {
        Err(Errno::NXIO) => return Ok(None),
        // A block device has no holes.
        Err(Errno::INVAL) => return Ok((at < length).then_some((at, length))),
        result => result?,
    };
    let end = rustix::fs::seek(file, rustix::fs::SeekFrom::Hole(data))?;
    Ok(Some((data, end)))
}

/// How much of a file of `length` bytes is data.
pub fn data(file: &File, length: u64) -> io::Result<u64> {
    let (mut at, mut sum) = (0, 0);
    while let Some((data, end)) = next_data(file, at, length)? {
        sum += end - data;
        at = end;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt, MetadataExt};

    use super::*;
    use crate::Silent;

    #[test]
    fn a_copy_keeps_the_holes_and_the_data() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        let file = File::options().read(true).write(true).create_new(true).open(&from).unwrap();
        file.set_len(64 << 20).unwrap();
        file.write_all_at(b"middle", 32 << 20).unwrap();
        file.write_all_at(b"end", (64 << 20) - 3).unwrap();
        copy(&file, &from, &File::create_new(&to).unwrap(), &Silent).unwrap();
        assert!(fs::read(&from).unwrap() == fs::read(&to).unwrap());
        assert!(fs::metadata(&to).unwrap().blocks() * 512 < 1 << 20);
    }
}
