//! Leases, as dnsmasq writes them: a line each, of when it ends, the card, the address, the name and an id. Lines after
//! `duid` are of DHCPv6, and have an interface's id in the place of the card.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::Serialize;
use utoipa::ToSchema;

use crate::definition::Mac;
use crate::error::{Error, Result};

/// More than this is no list of leases, bytes.
const MOST: u64 = 16 << 20;

/// An address that a guest has taken.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Lease {
    /// The network.
    pub network: String,
    /// The address.
    #[schema(value_type = String)]
    pub address: IpAddr,
    /// The card; DHCPv6 does not tell it.
    #[schema(value_type = Option<String>)]
    pub mac: Option<Mac>,
    /// The name that the network knows it by.
    pub hostname: Option<String>,
    /// When it ends, seconds since the epoch; none if never.
    pub expires: Option<u64>,
}

/// Adds the leases of a file. None, if there is no file yet.
pub(super) fn read(network: &str, path: &Path, all: &mut Vec<Lease>) -> Result<()> {
    // The file is another user's, who may have put something else there.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    let file = match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(Error::file("opening", path))?,
    };
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes).map_err(Error::file("reading", path))?;
    all.extend(parse(network, &String::from_utf8_lossy(&bytes)));
    Ok(())
}

/// Leases of a text; lines that are none are passed over.
pub(super) fn parse<'a>(network: &'a str, text: &'a str) -> impl Iterator<Item = Lease> + 'a {
    text.lines().filter_map(move |line| {
        let mut fields = line.split_ascii_whitespace();
        let expires: u64 = fields.next()?.parse().ok()?;
        let card = fields.next()?;
        let address: IpAddr = fields.next()?.parse().ok()?;
        let hostname = fields.next().filter(|name| *name != "*").map(ToOwned::to_owned);
        let mac = card.parse().ok().filter(|_| address.is_ipv4());
        let expires = (expires != 0).then_some(expires);
        Some(Lease { network: network.to_owned(), address, mac, hostname, expires })
    })
}
