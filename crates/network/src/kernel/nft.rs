//! Rules, by the program `nft`: a script is one transaction, which happens as a whole or not at all.

use std::io;
use std::process::Stdio;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::error::{Error, Result};
use crate::names::{Owner, hash};

/// NFT_MSG_GETGEN of NFNL_SUBSYS_NFTABLES (linux/netfilter/nf_tables.h, nfnetlink.h).
const GET_GENERATION: u16 = 10 << 8 | 16;
/// NFTA_GEN_ID.
const ID: u16 = 1;
const NLM_F_REQUEST: u16 = 1;

/// How often rules of whatever table have been changed in this network namespace: where it is as it was, nobody has changed any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Generation(u32);

impl Generation {
    /// The one after one change more (nf_tables_commit): there is no 0.
    pub(crate) fn next(self) -> Self {
        Self(self.0.wrapping_add(1).max(1))
    }
}

/// The generation that rules are of now; none if the kernel does not tell it. It is told within microseconds, where a program of its own
/// takes milliseconds.
pub(crate) fn generation() -> Option<Generation> {
    let protocol = Some(netlink::NETFILTER);
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol).ok()?;
    // A header (struct nlmsghdr) and the one of netfilter (struct nfgenmsg), for any family.
    let mut request = [0; 20];
    request[..4].copy_from_slice(&20u32.to_ne_bytes());
    request[4..6].copy_from_slice(&GET_GENERATION.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    send(&socket, &request, SendFlags::empty()).ok()?;
    let mut answer = [0; 256];
    // The kernel has answered when what it was sent is gone.
    let (length, _) = recv(&socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
    // After the headers comes the first attribute: its length, its kind, and the number in the network's byte order.
    let attribute = answer.get(..length)?.get(20..28)?;
    let kind = u16::from_ne_bytes(attribute.get(2..4)?.try_into().ok()?);
    let id = u32::from_be_bytes(attribute.get(4..)?.try_into().ok()?);
    (kind == ID).then_some(Generation(id))
}

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
