//! The little languages inside options: disks, networks, port forwards.

use std::fmt::Display;
use std::path::PathBuf;
use std::str::FromStr;

use api::Size;
use disk::Format;
use serde_json::{Map, Value, json};

use crate::cli::limits::{CardWords, DiskWords};

/// Something as it is said, or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OrNone<T>(pub Option<T>);

impl<T: FromStr<Err: Display>> FromStr for OrNone<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            other => other.parse().map(|one| Self(Some(one))).map_err(|error| format!("{error}, or none")),
        }
    }
}

/// A JSON merge patch of a guest's share in bytes, if anything is said of it.
pub fn share_patch(
    reserve: Option<Size>,
    weight: Option<u32>,
    limit: Option<&OrNone<Size>>,
) -> Option<Value> {
    let mut fields = Map::new();
    fields.extend(reserve.map(|reserve| ("reserve".to_owned(), json!(reserve))));
    fields.extend(weight.map(|weight| ("weight".to_owned(), json!(weight))));
    fields.extend(limit.map(|OrNone(limit)| ("limit".to_owned(), json!(limit))));
    (!fields.is_empty()).then_some(Value::Object(fields))
}

/// A disk's format as people write it.
fn format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        other => Err(format!("'{other}' is not a disk format: use raw or qcow2")),
    }
}

/// `--disk FILE[,ro][,format=raw|qcow2][,serial=TEXT][,LIMIT]…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskOption {
    /// The disk's file, or a block device.
    pub file: PathBuf,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// The format, or `None` to find it out from the file's first bytes.
    pub format: Option<Format>,
    /// The serial number that the guest sees; at most 20 characters.
    pub serial: Option<String>,
    /// How much it may do.
    pub limits: DiskWords,
}

impl FromStr for DiskOption {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskOption, String> {
        let mut parts = text.split(',');
        let file = parts.next().filter(|file| !file.is_empty()).ok_or("the disk's file is missing")?;
        let limits = DiskWords::default();
        let mut disk = DiskOption { file: file.into(), read_only: false, format: None, serial: None, limits };
        for part in parts {
            if disk.limits.take(part)? {
                continue;
            }
            match part.split_once('=') {
                None if part == "ro" => disk.read_only = true,
                Some(("format", text)) => disk.format = Some(format(text)?),
                Some(("serial", serial)) => disk.serial = Some(checked_serial(serial)?),
                _ => {
                    return Err(format!(
                        "'{part}' is not a disk option: use ro, format=, serial=, bps= or iops="
                    ));
                }
            }
        }
        Ok(disk)
    }
}

/// `--volume [POOL/]NAME[,ro][,LIMIT]…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeOption {
    /// The volume.
    pub volume: api::VolumeName,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// How much it may do.
    pub limits: DiskWords,
}

impl FromStr for VolumeOption {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeOption, String> {
        let mut parts = text.split(',');
        let path = parts.next().unwrap_or_default();
        let (mut read_only, mut limits) = (false, DiskWords::default());
        for part in parts {
            if part == "ro" {
                read_only = true;
            } else if !limits.take(part)? {
                return Err(format!("'{part}' is not an option of a volume: use ro, bps= or iops="));
            }
        }
        let (pool, volume) = path.split_once('/').unwrap_or(("default", path));
        let name = |text: &str| text.parse().map_err(|error: api::NameError| error.to_string());
        let volume = api::VolumeName { pool: name(pool)?, name: name(volume)? };
        Ok(VolumeOption { volume, read_only, limits })
    }
}

/// `--new-disk SIZE[,LIMIT]…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDiskOption {
    /// How large it is.
    pub size: api::Size,
    /// How much it may do.
    pub limits: DiskWords,
}

impl FromStr for NewDiskOption {
    type Err = String;

    fn from_str(text: &str) -> Result<NewDiskOption, String> {
        let (size, limits) = match text.split_once(',') {
            None => (text, DiskWords::default()),
            Some((size, limits)) => (size, limits.parse()?),
        };
        let size = size.parse().map_err(|error: api::SizeError| error.to_string())?;
        Ok(NewDiskOption { size, limits })
    }
}

/// Virtio hands a serial number over in 20 bytes (virtio 1.2, 5.2.6.1).
fn checked_serial(serial: &str) -> Result<String, String> {
    let printable = serial.bytes().all(|byte| byte.is_ascii_graphic());
    if serial.is_empty() || serial.len() > 20 || !printable {
        return Err("a serial number has 1 to 20 printable characters, without spaces".into());
    }
    Ok(serial.to_owned())
}

/// `--net user[,forward=[ADDRESS:]HOST:GUEST]…`, `--net network=NAME…`, `--net tap=NAME` – each with limits – or `--net none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetOption {
    /// No card.
    None,
    /// A network of the guest's own behind this user's sockets; needs no privilege.
    User {
        /// TCP ports of the host that lead into the guest.
        forwards: Vec<PortForward>,
        /// How much it may carry.
        limits: CardWords,
    },
    /// A network of the host that is asked.
    Named {
        /// Its name.
        name: String,
        /// The card's hardware address.
        mac: Option<String>,
        /// Its IPv4 address.
        address: Option<std::net::Ipv4Addr>,
        /// The one VLAN that it is in.
        vlan: Option<u16>,
        /// How much it may carry.
        limits: CardWords,
    },
    /// An existing tap device.
    Tap {
        /// Its name.
        name: String,
        /// How much it may carry.
        limits: CardWords,
    },
}

/// One TCP port of the host that leads to one of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortForward {
    /// Where the host listens: this machine only, unless an address is given.
    pub address: std::net::IpAddr,
    /// The host's port.
    pub host: u16,
    /// The guest's port.
    pub guest: u16,
}

impl FromStr for NetOption {
    type Err = String;

    fn from_str(text: &str) -> Result<NetOption, String> {
        let mut limits = CardWords::default();
        let mut others = Vec::new();
        for part in text.split(',') {
            if !limits.take(part)? {
                others.push(part);
            }
        }
        let mut parts = others.into_iter();
        let kind = parts.next().unwrap_or_default();
        let net = match kind.split_once('=') {
            None if kind == "none" && limits == CardWords::default() => NetOption::None,
            None if kind == "user" => {
                let mut forwards = Vec::new();
                for part in parts.by_ref() {
                    let forward = part.strip_prefix("forward=").ok_or_else(|| {
                        format!("'{part}' is not an option of the user network: use forward=, rx= or tx=")
                    })?;
                    forwards.push(forward.parse()?);
                }
                NetOption::User { forwards, limits }
            }
            Some(("network", name)) => named(name, parts.by_ref(), limits)?,
            // IFNAMSIZ is 16 with the final NUL.
            Some(("tap", name)) if (1..16).contains(&name.len()) && !name.contains('/') => {
                NetOption::Tap { name: name.to_owned(), limits }
            }
            Some(("tap", name)) => return Err(format!("'{name}' cannot be the name of a tap device")),
            _ => return Err(format!("'{kind}' is not a network: use user, network=NAME, tap=NAME or none")),
        };
        match parts.next() {
            Some(extra) => Err(format!("'{extra}' is not an option of this network")),
            None => Ok(net),
        }
    }
}

fn named<'a>(
    name: &str,
    parts: impl Iterator<Item = &'a str>,
    limits: CardWords,
) -> Result<NetOption, String> {
    let (mut mac, mut address, mut vlan) = (None, None, None);
    for part in parts {
        let wrong = |what: &str| format!("'{part}': {what}");
        match part.split_once('=') {
            Some(("mac", text)) => mac = Some(text.to_owned()),
            Some(("ip", text)) => {
                address = Some(text.parse().map_err(|_| wrong("an address is as 10.64.0.5"))?)
            }
            Some(("vlan", text)) => vlan = Some(text.parse().map_err(|_| wrong("a VLAN is 1 to 4094"))?),
            _ => {
                return Err(format!(
                    "'{part}' is not an option of a network: use mac=, ip=, vlan=, rx= or tx="
                ));
            }
        }
    }
    Ok(NetOption::Named { name: name.to_owned(), mac, address, vlan, limits })
}

impl FromStr for PortForward {
    type Err = String;

    fn from_str(text: &str) -> Result<PortForward, String> {
        let wrong = || format!("'{text}' is not a port forward: write it as HOST:GUEST, for example 2222:22");
        let (host, guest) = text.rsplit_once(':').ok_or_else(wrong)?;
        let (address, host) = match host.rsplit_once(':') {
            Some((address, host)) => (address.trim_matches(['[', ']']).parse().map_err(|_| wrong())?, host),
            None => (std::net::Ipv4Addr::LOCALHOST.into(), host),
        };
        let port = |port: &str| port.parse().ok().filter(|port: &u16| *port != 0).ok_or_else(wrong);
        Ok(PortForward { address, host: port(host)?, guest: port(guest)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_has_a_file_and_may_have_options() {
        let disk: DiskOption = "/tmp/a.img,ro,bps=1M,format=qcow2,serial=S1".parse().unwrap();
        assert_eq!(disk.file, PathBuf::from("/tmp/a.img"));
        assert!(disk.read_only);
        assert_eq!(disk.limits, "bps=1M".parse().unwrap());
        let new: NewDiskOption = "1G,iops=5".parse().unwrap();
        assert_eq!((new.size.0, new.limits), (1 << 30, "iops=5".parse().unwrap()));
        let volume: VolumeOption = "p/v,bps_rd=1M,ro".parse().unwrap();
        assert!(volume.read_only && volume.limits == "bps_rd=1M".parse().unwrap());
        assert!("v,rw".parse::<VolumeOption>().is_err());
        assert_eq!(disk.format, Some(Format::Qcow2));
        assert_eq!(disk.serial.as_deref(), Some("S1"));
        for text in ["", ",ro", "a,rw", "a,format=vmdk", "a,serial=", "a,serial=123456789012345678901"] {
            assert!(text.parse::<DiskOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_user_tap_or_none() {
        assert_eq!("none".parse(), Ok(NetOption::None));
        let limits: CardWords = "rx=1M,tx_pps=10".parse().unwrap();
        assert_eq!("tap=tap0,rx=1M,tx_pps=10".parse(), Ok(NetOption::Tap { name: "tap0".into(), limits }));
        let Ok(NetOption::User { forwards, .. }) = "user,forward=2222:22,forward=0.0.0.0:80:8080".parse()
        else {
            panic!("not a user network")
        };
        assert_eq!(
            (forwards[0].host, forwards[0].guest, forwards[0].address.is_loopback()),
            (2222, 22, true)
        );
        assert_eq!(
            (forwards[1].host, forwards[1].guest, forwards[1].address.is_loopback()),
            (80, 8080, false)
        );
        for text in [
            "",
            "bridge",
            "tap=",
            "tap=a/b",
            "tap=0123456789abcdef",
            "none,x",
            "none,rx=1M",
            "user,rx=fast",
            "user,forward=22",
            "user,forward=0:22",
            "user,forward=70000:22",
            "user,x=1",
        ] {
            assert!(text.parse::<NetOption>().is_err(), "{text}");
        }
    }
}
