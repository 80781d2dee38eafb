//! What is on volumes, on its way to and from a host.

use std::fs::File;
use std::io::Write;

use indicatif::{ProgressBar, ProgressStyle};
use reqwest::{Body, Method, header};
use serde::de::DeserializeOwned;
use tokio_util::io::ReaderStream;

use super::{Client, encoded};
use crate::failure::{self, Failure, Result};

/// How much is read at once.
const PIECE: usize = 1 << 18;

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
        let reader = bar.wrap_async_read(tokio::fs::File::from_std(file));
        let body = Body::wrap_stream(ReaderStream::with_capacity(reader, PIECE));
        let request = self.request(Method::PUT, &format!("/api/v1{path}{}", encoded(query)));
        let request = request.header(header::CONTENT_TYPE, "application/octet-stream");
        let answer = self.read(request.header(header::CONTENT_LENGTH, length).body(body)).await;
        bar.finish_and_clear();
        answer
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
