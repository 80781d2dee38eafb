//! What is on volumes and in images, on its way to and from a host.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::time::Duration;

use api::Name;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method, header};
use serde::de::DeserializeOwned;
use storage::images::UploadStatus;
use tokio_util::io::ReaderStream;

use super::{Client, encoded};
use crate::failure::{self, Failure, Result, Status};
use crate::progress::Bar;

/// How much is read at once.
const PIECE: usize = 1 << 18;
/// How often an upload that breaks off is gone on with before somebody is told, and how much longer it waits before each time.
const TRIES: u32 = 6;
const PAUSE: Duration = Duration::from_millis(500);

fn bar(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {bytes}/{total_bytes} {eta}") {
        bar.set_style(style);
    }
    bar
}

impl Client {
    /// Sends a file of `length` bytes.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses, or the file cannot be read.
    pub async fn upload<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        file: File,
        length: u64,
    ) -> Result<T> {
        let bar = bar(length);
        let answer = self.put(path, query, file, length, &bar).await;
        bar.finish_and_clear();
        answer
    }

    async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        file: File,
        length: u64,
        bar: &ProgressBar,
    ) -> Result<T> {
        let reader = bar.wrap_async_read(tokio::fs::File::from_std(file));
        let body = Body::wrap_stream(ReaderStream::with_capacity(reader, PIECE));
        let request = self.request(Method::PUT, &format!("/api/v1{path}{}", encoded(query)));
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        self.read(request.header(header::CONTENT_LENGTH, length).body(body)).await
    }

    /// Uploads a file for an image; gives what it is called until that is made. It is called by its checksum, so that one that broke off is
    /// gone on with, in this process or in a later one.
    ///
    /// # Errors
    /// If the file cannot be read, or the host refuses or cannot be reached for a while.
    pub async fn upload_file(&self, path: &Path) -> Result<Name> {
        let told = |error: std::io::Error| Failure::input(format!("{}: {error}", path.display()));
        let meta = std::fs::metadata(path).map_err(told)?;
        if !meta.is_file() {
            return Err(Failure::input(format!("{} is no file", path.display())));
        }
        let (file, length) = (File::open(path).map_err(told)?, meta.len());
        let summing = Bar::bytes("checksum");
        let sum = summing.watch(|progress| storage::sha256(&file, length, progress)).map_err(told)?;
        let sum = sum.ok_or_else(|| Failure::internal("the checksum was called off"))?;
        let name: Name = format!("sha256-{}", &sum[..40]).parse().map_err(Failure::internal)?;
        let place = format!("/uploads/{name}");
        let bar = bar(length);
        for attempt in 1.. {
            let sent = self.upload_rest(&place, path, length, &sum, &bar).await;
            match sent {
                Err(failure) if attempt < TRIES && failure.may_pass() => {
                    tokio::time::sleep(PAUSE * attempt).await;
                }
                Err(failure) if failure.may_pass() => {
                    let kept = "what has come is kept for a day: the same command goes on with it";
                    return Err(Failure::new(failure.status, format!("{failure}; {kept}")));
                }
                result => {
                    bar.finish_and_clear();
                    return result.map(|()| name);
                }
            }
        }
        Ok(name)
    }

    /// Sends what is not there yet of a file.
    async fn upload_rest(
        &self,
        place: &str,
        path: &Path,
        length: u64,
        sum: &str,
        bar: &ProgressBar,
    ) -> Result<()> {
        let there = match self.get::<UploadStatus>(place, &[]).await {
            Ok(upload) => upload.uploaded.0,
            Err(failure) if failure.status == Status::NotFound => 0,
            Err(failure) => return Err(failure),
        };
        bar.set_position(there);
        let told = |error: std::io::Error| Failure::input(format!("{}: {error}", path.display()));
        let mut rest = File::open(path).map_err(told)?;
        rest.seek(SeekFrom::Start(there)).map_err(told)?;
        let query =
            [("length", length.to_string()), ("offset", there.to_string()), ("sha256", sum.to_owned())];
        let _: UploadStatus = self.put(place, &query, rest, length - there, bar).await?;
        Ok(())
    }

    /// Writes what is at a path into a file.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses, the bytes end too early, or the file cannot be written.
    pub async fn download(&self, path: &str, query: &[(&str, String)], file: File) -> Result<()> {
        self.fetch(Method::GET, path, query, file).await
    }

    /// Writes what a method makes of a path into a file.
    ///
    /// # Errors
    /// As [`Client::download`].
    pub async fn fetch(
        &self,
        method: Method,
        path: &str,
        query: &[(&str, String)],
        mut file: File,
    ) -> Result<()> {
        let request = self.request(method, &format!("/api/v1{path}{}", encoded(query)));
        let mut response = self.send(request).await?;
        let bar = bar(response.content_length().unwrap_or_default());
        let broken = |error: &dyn std::error::Error| Failure::internal(failure::chain(error));
        while let Some(chunk) = response.chunk().await.map_err(|error| broken(&error))? {
            file.write_all(&chunk).map_err(|error| broken(&error))?;
            bar.inc(chunk.len() as u64);
        }
        bar.finish_and_clear();
        file.sync_all().map_err(|error| broken(&error))
    }
}
