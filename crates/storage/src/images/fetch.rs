//! Files from elsewhere, by HTTP.
//!
//! What has come of a file lies in the store under the checksum that it must have, so that a fetch which breaks off goes on where it
//! was, in this process or in a later one. Only a file with that checksum is used.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use ureq::config::Config;
use ureq::http::Response;
use ureq::tls::{RootCerts, TlsConfig};
use ureq::{Agent, Body};

use crate::{Error, Progress, Result, sum};

/// How the names of what is being fetched begin.
const PARTIAL: &str = ".fetch-";
/// What nobody has gone on with for so long is removed.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How often a fetch that breaks off is tried again before somebody is told, and how long it waits before.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);
/// How long a server may say nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// How often somebody is asked whether to go on.
const TURN: Duration = Duration::from_millis(100);
const PIECE: usize = 256 << 10;

/// A file that was fetched and has the right checksum.
pub struct Fetched {
    /// The file, locked.
    pub file: File,
    /// Where it lies.
    pub path: PathBuf,
}

/// Why a try did not bring all.
enum Failure {
    /// Another one may.
    Passing(String),
    /// Another one would not.
    Final(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Final(error)
    }
}

/// Fetches a file into a folder.
pub fn fetch(url: &str, sha256: &str, folder: &Path, progress: &dyn Progress) -> Result<Fetched> {
    fs::create_dir_all(folder).map_err(Error::host(folder))?;
    expire(folder);
    let path = folder.join(format!("{PARTIAL}{}", sha256.to_ascii_lowercase()));
    let failed = |error| Error::host(&path)(error);
    let file =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(&failed)?;
    disk::lock(&file, false).map_err(|_| refused(url, "it is being fetched already"))?;
    let fetched = try_often(url, &file, &path, progress);
    // There is nothing to go on with, or no room to.
    let full =
        matches!(&fetched, Err(Error::Host { error, .. }) if error.kind() == io::ErrorKind::StorageFull);
    if full || fetched.is_err() && file.metadata().is_ok_and(|meta| meta.len() == 0) {
        let _ = fs::remove_file(&path);
    }
    fetched?;
    progress.step("checking the checksum");
    let length = file.metadata().map_err(&failed)?.len();
    let got = sum::sha256(&file, length, progress).map_err(&failed)?.ok_or(Error::Cancelled)?;
    if !got.eq_ignore_ascii_case(sha256) {
        // What has come is of no use to anybody.
        fs::remove_file(&path).map_err(&failed)?;
        return Err(Error::Checksum { expected: sha256.into(), got });
    }
    Ok(Fetched { file, path })
}

/// Goes on until all is there, or it has failed too often.
fn try_often(url: &str, file: &File, path: &Path, progress: &dyn Progress) -> Result<()> {
    let mut tries = 0;
    while let Err(failure) = go_on(url, file, path, progress) {
        tries += 1;
        match failure {
            Failure::Final(error) => return Err(error),
            Failure::Passing(why) if tries >= TRIES => return Err(refused(url, &why)),
            Failure::Passing(_) => pause(PAUSE * tries, progress)?,
        }
    }
    Ok(())
}

fn pause(time: Duration, progress: &dyn Progress) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        progress.go_on()?;
        std::thread::sleep(TURN.min(time));
    }
    Ok(())
}

/// Asks for what is missing of a file, and takes it.
fn go_on(url: &str, file: &File, path: &Path, progress: &dyn Progress) -> std::result::Result<(), Failure> {
    let there = file.metadata().map_err(Error::host(path))?.len();
    let agent = Agent::new_with_config(config());
    let request = agent.get(url).header("Accept-Encoding", "identity");
    let request = if there > 0 { request.header("Range", format!("bytes={there}-")) } else { request };
    let response = request.call().map_err(|error| told(url, error))?;
    let (mut at, total) = match response.status().as_u16() {
        206 if range_start(&response) == Some(there) => (there, length(&response).map(|rest| there + rest)),
        // All that there is was there already.
        416 if there > 0 => return Ok(()),
        200 => (0, length(&response)),
        status => {
            let why = format!("the server answers with status {status}");
            return match status {
                408 | 429 | 500..=599 => Err(Failure::Passing(why)),
                _ => Err(Failure::Final(refused(url, &why))),
            };
        }
    };
    let room = room(file).map_err(Error::host(path))?;
    if let Some(missing) = total.map(|total| total.saturating_sub(at)).filter(|missing| *missing > room) {
        let why = format!("{missing} bytes are to come, and there is room for {room}");
        return Err(Failure::Final(refused(url, &why)));
    }
    if at == 0 {
        file.set_len(0).map_err(Error::host(path))?;
    }
    let pieces = read_apart(response.into_body());
    let mut heard = Instant::now();
    loop {
        progress.go_on()?;
        match pieces.recv_timeout(TURN) {
            Ok(Ok(piece)) => {
                file.write_all_at(&piece, at).map_err(Error::host(path))?;
                at += piece.len() as u64;
                heard = Instant::now();
                if let Some(total) = total {
                    progress.amount(at, total);
                }
            }
            Ok(Err(error)) => return Err(Failure::Passing(error.to_string())),
            Err(RecvTimeoutError::Timeout) if heard.elapsed() > SILENCE => {
                return Err(Failure::Passing("the server says nothing any more".into()));
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    match total {
        Some(total) if at < total => {
            Err(Failure::Passing(format!("it broke off after {at} of {total} bytes")))
        }
        _ => Ok(()),
    }
}

fn config() -> Config {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = TlsConfig::builder()
        // Those that the host trusts, its own authority included.
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(provider)
        .build();
    Config::builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .timeout_connect(Some(SILENCE))
        .timeout_recv_response(Some(SILENCE))
        .user_agent(concat!("tessera/", env!("CARGO_PKG_VERSION")))
        .build()
}

/// What an error of the connection means.
fn told(url: &str, error: ureq::Error) -> Failure {
    use ureq::Error as E;
    let why = error.to_string();
    match error {
        E::Io(_) | E::Timeout(_) | E::ConnectionFailed => Failure::Passing(why),
        _ => Failure::Final(refused(url, &why)),
    }
}

/// The file at an address cannot be fetched.
fn refused(url: &str, why: &str) -> Error {
    let shown = public(url);
    Error::Fetch { why: why.replace(url, &shown), url: shown }
}

/// An address as everybody may see it: without a name and a password, and without a query, which may be a key.
pub fn public(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let (place, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let place = place.rsplit_once('@').map_or(place, |(_, place)| place);
    format!("{scheme}://{place}{path}")
}

/// Bytes that the file system of a file has room for.
fn room(file: &File) -> io::Result<u64> {
    let room = rustix::fs::fstatvfs(file)?;
    Ok(room.f_bavail * room.f_frsize)
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// Bytes that are to come.
fn length(response: &Response<Body>) -> Option<u64> {
    header(response, "Content-Length")?.parse().ok()
}

/// From which byte on a part is (RFC 9110, section 14.4).
fn range_start(response: &Response<Body>) -> Option<u64> {
    header(response, "Content-Range")?.strip_prefix("bytes ")?.split('-').next()?.parse().ok()
}

/// Reads on a thread of its own: a server that says nothing must not keep anybody from calling the fetch off.
fn read_apart(body: Body) -> Receiver<io::Result<Vec<u8>>> {
    let (give, take) = sync_channel(4);
    std::thread::spawn(move || {
        let mut body = body.into_reader();
        loop {
            let mut piece = vec![0; PIECE];
            let read = body.read(&mut piece);
            let message = match read {
                Ok(0) => break,
                Ok(n) => {
                    piece.truncate(n);
                    Ok(piece)
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => Err(error),
            };
            let last = message.is_err();
            // Nobody may want it any more.
            if give.send(message).is_err() || last {
                break;
            }
        }
    });
    take
}

/// Removes what nobody goes on with.
fn expire(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let ours = entry.file_name().to_string_lossy().starts_with(PARTIAL);
        let changed = entry.metadata().and_then(|meta| meta.modified()).ok();
        if ours && changed.and_then(|changed| changed.elapsed().ok()).is_some_and(|age| age > KEPT) {
            // What cannot be removed now is tried again at the next fetch.
            let _ = fs::remove_file(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_sees_the_secrets_of_an_address() {
        for (url, shown) in [
            ("https://example.org/a/b.qcow2", "https://example.org/a/b.qcow2"),
            ("http://me:secret@example.org:81/a@b?key=1#x", "http://example.org:81/a@b"),
            ("https://example.org?sig=abc", "https://example.org"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(public(url), shown);
        }
    }
}
