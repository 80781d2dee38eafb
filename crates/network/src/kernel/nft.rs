//! Rules, by the program `nft`: a script is one transaction, which happens as a whole or not at all.

use std::io;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, Result};
use crate::names::{Owner, hash};

/// Runs a script.
///
/// # Errors
/// If nft is not there or refuses it; then nothing has changed.
pub(crate) async fn run(script: &str) -> Result<()> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(not_there)?;
    if let Some(mut input) = child.stdin.take() {
        // If it fails, nft has ended, and says why below.
        let _ = input.write_all(script.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(Error::io("nft"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Program { program: "nft", said: said.lines().take(4).collect::<Vec<_>>().join(" ") })
}

/// Whether our tables are there, whatever is in them.
pub(crate) async fn are_there(owner: Owner) -> Result<bool> {
    let told = ask(&["list", "tables"]).await?.unwrap_or_default();
    let table = owner.table();
    let wanted = |family: &str| {
        let tables = told["nftables"].as_array().into_iter().flatten();
        tables.map(|item| &item["table"]).any(|it| it["family"] == family && it["name"] == table)
    };
    Ok(wanted("inet") && wanted("bridge"))
}

/// A digest of our tables as they are; none if one is missing. Numbers that the kernel gives rules do not count.
pub(crate) async fn digest(owner: Owner) -> Result<Option<u64>> {
    let table = owner.table();
    // Somebody may wait for a guest to start.
    let list = async |family| ask(&["list", "table", family, &table]).await;
    let tables = tokio::try_join!(list("inet"), list("bridge"))?;
    let (Some(mut inet), Some(mut bridge)) = tables else { return Ok(None) };
    [&mut inet, &mut bridge].into_iter().for_each(strip);
    Ok(Some(hash(&[(inet.to_string() + &bridge.to_string()).as_bytes()])))
}

/// What nft says; none if there is no such thing.
async fn ask(question: &[&str]) -> Result<Option<Value>> {
    let mut command = Command::new("nft");
    command.arg("-j").args(question).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(not_there)?;
    if !output.status.success() {
        return Ok(None);
    }
    Ok(serde_json::from_slice(&output.stdout).ok())
}

fn strip(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(members) => {
            members.remove("handle");
            members.remove("metainfo");
            members.values_mut().for_each(strip);
        }
        _ => {}
    }
}

fn not_there(source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::NotFound => Error::Missing { program: "nft", package: "nftables" },
        _ => Error::Io { doing: "nft".into(), source },
    }
}
