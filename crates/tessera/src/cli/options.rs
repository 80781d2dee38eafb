//! The little languages inside options: disks, networks, port forwards.

use std::path::PathBuf;
use std::str::FromStr;

use disk::Format;

/// A disk's format as people write it.
fn format(text: &str) -> Result<Format, String> {
    match text {
        "raw" => Ok(Format::Raw),
        "qcow2" => Ok(Format::Qcow2),
        other => Err(format!("'{other}' is not a disk format: use raw or qcow2")),
    }
}

/// `--disk FILE[,ro][,format=raw|qcow2][,serial=TEXT]`.
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
}

impl FromStr for DiskOption {
    type Err = String;

    fn from_str(text: &str) -> Result<DiskOption, String> {
        let mut parts = text.split(',');
        let file = parts.next().filter(|file| !file.is_empty()).ok_or("the disk's file is missing")?;
        let mut disk = DiskOption { file: file.into(), read_only: false, format: None, serial: None };
        for part in parts {
            match part.split_once('=') {
                None if part == "ro" => disk.read_only = true,
                Some(("format", text)) => disk.format = Some(format(text)?),
                Some(("serial", serial)) => disk.serial = Some(checked_serial(serial)?),
                _ => return Err(format!("'{part}' is not a disk option: use ro, format= or serial=")),
            }
        }
        Ok(disk)
    }
}

/// `--volume [POOL/]NAME[,ro]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeOption {
    /// The volume.
    pub volume: api::VolumeName,
    /// Whether the guest may only read.
    pub read_only: bool,
}

impl FromStr for VolumeOption {
    type Err = String;

    fn from_str(text: &str) -> Result<VolumeOption, String> {
        let (path, read_only) = match text.split_once(',') {
            None => (text, false),
            Some((path, "ro")) => (path, true),
            Some((_, more)) => return Err(format!("'{more}' is not an option of a volume: use ro")),
        };
        let (pool, volume) = path.split_once('/').unwrap_or(("default", path));
        let name = |text: &str| text.parse().map_err(|error: api::NameError| error.to_string());
        let volume = api::VolumeName { pool: name(pool)?, name: name(volume)? };
        Ok(VolumeOption { volume, read_only })
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

/// `--net user[,forward=[ADDRESS:]HOST:GUEST]…`, `--net tap=NAME` or `--net none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetOption {
    /// No card.
    None,
    /// A network of the guest's own behind this user's sockets; needs no privilege.
    User {
        /// TCP ports of the host that lead into the guest.
        forwards: Vec<PortForward>,
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
    },
    /// An existing tap device.
    Tap {
        /// Its name.
        name: String,
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
        let mut parts = text.split(',');
        let kind = parts.next().unwrap_or_default();
        let net = match kind.split_once('=') {
            None if kind == "none" => NetOption::None,
            None if kind == "user" => {
                let mut forwards = Vec::new();
                for part in parts.by_ref() {
                    let forward = part.strip_prefix("forward=").ok_or_else(|| {
                        format!("'{part}' is not an option of the user network: use forward=")
                    })?;
                    forwards.push(forward.parse()?);
                }
                NetOption::User { forwards }
            }
            Some(("network", name)) => named(name, parts.by_ref())?,
            // IFNAMSIZ is 16 with the final NUL.
            Some(("tap", name)) if (1..16).contains(&name.len()) && !name.contains('/') => {
                NetOption::Tap { name: name.to_owned() }
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

fn named<'a>(name: &str, parts: impl Iterator<Item = &'a str>) -> Result<NetOption, String> {
    let (mut mac, mut address, mut vlan) = (None, None, None);
    for part in parts {
        let wrong = |what: &str| format!("'{part}': {what}");
        match part.split_once('=') {
            Some(("mac", text)) => mac = Some(text.to_owned()),
            Some(("ip", text)) => {
                address = Some(text.parse().map_err(|_| wrong("an address is as 10.64.0.5"))?)
            }
            Some(("vlan", text)) => vlan = Some(text.parse().map_err(|_| wrong("a VLAN is 1 to 4094"))?),
            _ => return Err(format!("'{part}' is not an option of a network: use mac=, ip= or vlan=")),
        }
    }
    Ok(NetOption::Named { name: name.to_owned(), mac, address, vlan })
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
        let disk: DiskOption = "/tmp/a.img,ro,format=qcow2,serial=S1".parse().unwrap();
        assert_eq!(disk.file, PathBuf::from("/tmp/a.img"));
        assert!(disk.read_only);
        assert_eq!(disk.format, Some(Format::Qcow2));
        assert_eq!(disk.serial.as_deref(), Some("S1"));
        for text in ["", ",ro", "a,rw", "a,format=vmdk", "a,serial=", "a,serial=123456789012345678901"] {
            assert!(text.parse::<DiskOption>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_user_tap_or_none() {
        assert_eq!("none".parse(), Ok(NetOption::None));
        assert_eq!("tap=tap0".parse(), Ok(NetOption::Tap { name: "tap0".into() }));
        let Ok(NetOption::User { forwards }) = "user,forward=2222:22,forward=0.0.0.0:80:8080".parse() else {
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
            "user,forward=22",
            "user,forward=0:22",
            "user,forward=70000:22",
            "user,x=1",
        ] {
            assert!(text.parse::<NetOption>().is_err(), "{text}");
        }
    }
}
