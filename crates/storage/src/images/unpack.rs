//! Compressed files, and files without their holes, as the disks they are.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use flate2::read::MultiGzDecoder;
use lzma_rust2::XzReader;

use crate::{Error, Progress, Result};

/// How much is looked at for zeroes, which are not written.
const PIECE: usize = 64 << 10;

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    Gzip,
    Xz,
    Zstd,
}

impl Compression {
    /// How a file is compressed, by its first bytes.
    pub fn of(file: &File) -> io::Result<Option<Compression>> {
        let mut first = [0; 6];
        let n = file.read_at(&mut first, 0)?;
        Ok(match &first[..n] {
            [0x1f, 0x8b, ..] => Some(Compression::Gzip),
            [0xfd, b'7', b'z', b'X', b'Z', 0] => Some(Compression::Xz),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Some(Compression::Zstd),
            _ => None,
        })
    }
}

/// Writes what is in the file `from`, which lies at `path`, into the empty file `to`, with holes where there are zeroes.
pub fn unpack(
    from: &File,
    path: &Path,
    compression: Option<Compression>,
    to: &File,
    progress: &dyn Progress,
) -> Result<()> {
    let failed = Error::host(path);
    let total = from.metadata().map_err(&failed)?.len();
    (&*from).seek(SeekFrom::Start(0)).map_err(&failed)?;
    let counted = Counted { file: from, read: 0, total, progress };
    let reader: Box<dyn Read> = match compression {
        None => Box::new(counted),
        Some(Compression::Gzip) => Box::new(MultiGzDecoder::new(BufReader::with_capacity(PIECE, counted))),
        Some(Compression::Xz) => Box::new(XzReader::new(BufReader::with_capacity(PIECE, counted), true)),
        Some(Compression::Zstd) => {
            let decoder = ruzstd::decoding::StreamingDecoder::new(BufReader::with_capacity(PIECE, counted));
            Box::new(decoder.map_err(|error| Error::unusable(path, error))?)
        }
    };
    write_sparse(reader, to, progress).map_err(|error| match error.kind() {
        io::ErrorKind::Interrupted => Error::Cancelled,
        _ if compression.is_some() => Error::unusable(path, format!("it cannot be unpacked: {error}")),
        _ => failed(error),
    })
}

/// Writes all that comes, but for zeroes.
fn write_sparse(mut from: impl Read, to: &File, progress: &dyn Progress) -> io::Result<()> {
    let (mut buffer, mut at) = (vec![0; PIECE], 0);
    loop {
        if progress.cancelled() {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let mut filled = 0;
        while filled < PIECE {
            match from.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if filled == 0 {
            return to.set_len(at);
        }
        if buffer[..filled].iter().any(|byte| *byte != 0) {
            to.write_all_at(&buffer[..filled], at)?;
        }
        at += filled as u64;
    }
}

/// A file that tells how much of it has been read.
struct Counted<'a> {
    file: &'a File,
    read: u64,
    total: u64,
    progress: &'a dyn Progress,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.read += n as u64;
        self.progress.amount(self.read, self.total);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::MetadataExt;
    use std::process::{Command, Stdio};

    use super::*;
    use crate::Silent;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    /// What the program makes of bytes; nothing if it is not here.
    fn packed(program: &str, bytes: &[u8]) -> Option<Vec<u8>> {
        let child = Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = child.inspect_err(|_| eprintln!("skipped: there is no {program} here")).ok()?;
        let mut stdin = child.stdin.take().unwrap();
        let bytes = bytes.to_vec();
        let writer = std::thread::spawn(move || stdin.write_all(&bytes).unwrap());
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Some(output.stdout)
    }

    #[test]
    fn what_common_tools_pack_is_unpacked_with_its_holes() {
        let mut want = vec![0; 5 << 20];
        for (n, byte) in want.iter_mut().enumerate().skip(1 << 20).take(200_000) {
            *byte = ((n * n) >> 7) as u8;
        }
        want.truncate((5 << 20) - 3);
        for (program, compression) in
            [("gzip", Compression::Gzip), ("xz", Compression::Xz), ("zstd", Compression::Zstd)]
        {
            let Some(bytes) = packed(program, &want) else { continue };
            let from = file(&bytes);
            assert_eq!(Compression::of(&from).unwrap(), Some(compression));
            let mut to = tempfile::tempfile().unwrap();
            unpack(&from, Path::new("x"), Some(compression), &to, &Silent).unwrap();
            let mut got = Vec::new();
            to.seek(SeekFrom::Start(0)).unwrap();
            to.read_to_end(&mut got).unwrap();
            assert!(got == want, "{program}");
            assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20, "{program}");
            let broken = file(&bytes[..bytes.len() / 2]);
            let error = unpack(&broken, Path::new("x"), Some(compression), &to, &Silent).unwrap_err();
            assert!(error.to_string().starts_with("x: it cannot be unpacked"), "{program}: {error}");
        }
        assert_eq!(Compression::of(&file(b"QFI\xfb")).unwrap(), None);
        assert_eq!(Compression::of(&file(b"")).unwrap(), None);
    }
}
