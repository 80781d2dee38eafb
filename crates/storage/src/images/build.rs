//! Makes bootable images from Debian's packages, with mmdebstrap and mkfs.ext4.
//!
//! Both run as they are for root. For anybody else they run in a user namespace in which this user is root and the
//! user's subordinate ids are the rest, so that the files of the image get their right owners without privilege.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::str::FromStr;

use api::{ImageName, Invalid, Size, Time};

use super::store::{About, Draft, Store};
use crate::{Error, Progress, Result, tool};

/// The last step inside the image, run by mmdebstrap.
const CUSTOMIZE: &str = include_str!("../../../../guest/debian/customize.sh");

/// What every image has: systemd, a network, sshd, cloud-init, the guest agent, and the kernel made for clouds.
const PACKAGES: &[&str] = &[
    "systemd",
    "systemd-sysv",
    "systemd-resolved",
    "udev",
    "dbus",
    "kmod",
    "login",
    "iproute2",
    "iputils-ping",
    "ca-certificates",
    "e2fsprogs",
    "openssh-server",
    "sudo",
    "cloud-init",
    "qemu-guest-agent",
    "initramfs-tools",
    "util-linux-extra",
    "zstd",
    "linux-image-cloud-amd64",
];

/// Manuals and translations stay out; licences do not.
const LEFT_OUT: &[&str] = &[
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
];

/// The kernel's command line: the disk is one file system, and the console is the serial line.
/// Memory that a guest is given while it runs is put to use at once, and can be taken away again.
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0 memhp_default_state=online_movable";

/// The smallest disk that holds the packages above with some room to work.
const SMALLEST_DISK: Size = Size(1 << 30);

/// A release of Debian.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Release {
    /// Debian 12.
    Bookworm,
    /// Debian 13.
    Trixie,
}

impl Release {
    fn suite(self) -> &'static str {
        match self {
            Release::Bookworm => "bookworm",
            Release::Trixie => "trixie",
        }
    }
}

impl FromStr for Release {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Release, String> {
        match text {
            "debian:12" => Ok(Release::Bookworm),
            "debian:13" => Ok(Release::Trixie),
            other => Err(format!("'{other}' cannot be built: use debian:12 or debian:13")),
        }
    }
}

impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Release::Bookworm => "debian:12",
            Release::Trixie => "debian:13",
        })
    }
}

/// Checks the name of a Debian package (Debian policy 5.6.7), so that it cannot be taken for an option of a tool.
pub fn package_name(text: &str) -> std::result::Result<String, String> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if text.starts_with(plain) && text.chars().all(|c| plain(c) || matches!(c, '+' | '-' | '.')) {
        Ok(text.to_owned())
    } else {
        Err("not the name of a Debian package".into())
    }
}

/// What to build.
#[derive(Debug)]
pub struct Recipe {
    /// The release.
    pub release: Release,
    /// Packages beyond those that every image has.
    pub packages: Vec<String>,
    /// The disk's size.
    pub size: Size,
    /// Where to take packages from, if not from where Debian has them.
    pub mirror: Option<String>,
}

impl Recipe {
    /// Whether it can be built.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<()> {
        let mut wrong = Vec::new();
        if self.size < SMALLEST_DISK {
            let detail = "the disk is too small for Debian: give it 1G or more";
            wrong.push(Invalid::new("/size", self.size.0, detail));
        }
        for (n, package) in self.packages.iter().enumerate() {
            if let Err(why) = package_name(package) {
                wrong.push(Invalid::new(format!("/packages/{n}"), package.as_str(), why));
            }
        }
        if wrong.is_empty() { Ok(()) } else { Err(Error::Invalid(wrong)) }
    }
}

/// Builds an image and puts it into the store. `replace` allows the name to be taken.
///
/// # Errors
/// If the disk is too small, the name is taken, or mmdebstrap or mkfs.ext4 is missing or fails.
pub fn build(
    store: &Store,
    name: &ImageName,
    recipe: &Recipe,
    replace: bool,
    progress: &dyn Progress,
) -> Result<()> {
    recipe.check()?;
    let draft = store.draft(name, replace)?;
    make_root(&draft, recipe, progress)?;
    progress.step("making the file system");
    make_disk(&draft, recipe.size)?;
    draft.keep(&About {
        description: String::new(),
        labels: BTreeMap::new(),
        created: Some(Time::now()),
        origin: recipe.release.to_string(),
        disk: "disk.raw".into(),
        kernel: "vmlinuz".into(),
        initrd: Some("initrd".into()),
        cmdline: CMDLINE.into(),
    })
}

/// Fills the draft's folder `root` with the release's files, and puts its kernel and initial RAM disk beside it.
fn make_root(draft: &Draft, recipe: &Recipe, progress: &dyn Progress) -> Result<()> {
    let folder = draft.folder();
    let customize = folder.join("customize");
    write_script(&customize)?;
    let mut command = tool::as_root("mmdebstrap");
    command.arg("--mode=root").arg("--variant=minbase").arg("--format=directory");
    command.arg(format!("--include={}", [PACKAGES, &strs(&recipe.packages)].concat().join(",")));
    command.args(LEFT_OUT.iter().map(|option| format!("--dpkgopt={option}")));
    command.arg(format!("--customize-hook={}", customize.display()));
    command.arg(recipe.release.suite()).arg(folder.join("root"));
    command.args(&recipe.mirror);
    command.env("TESSERA_OUT", folder);
    let made = tool::watch(command, "mmdebstrap", progress, |line| {
        if let Some(step) = step(line) {
            progress.step(step);
        }
    });
    if made.is_err() {
        // The namespace's root made files that only it may remove.
        let _ = remove_root(&folder.join("root"));
    }
    made?;
    fs::remove_file(&customize).map_err(Error::host(&customize))
}

/// The step that a line of mmdebstrap's announces: such lines start with `I: `.
fn step(line: &str) -> Option<&str> {
    if line.starts_with("update-initramfs") {
        return Some("making the initial RAM disk");
    }
    line.strip_prefix("I: ").map(|step| step.trim_end_matches('.'))
}

/// Makes the file system of the draft's folder `root`, and removes that folder.
fn make_disk(draft: &Draft, size: Size) -> Result<()> {
    let (root, disk) = (draft.folder().join("root"), draft.folder().join("disk.raw"));
    File::create_new(&disk).and_then(|file| file.set_len(size.0)).map_err(Error::host(&disk))?;
    let mut command = tool::as_root("mkfs.ext4");
    command.args(["-q", "-F", "-L", "tessera-root", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]);
    command.arg(&root).arg(&disk);
    tool::run(command, "e2fsprogs")?;
    remove_root(&root)
}

/// The files may belong to subordinate ids, which only the namespace's root may remove.
fn remove_root(root: &Path) -> Result<()> {
    let mut command = tool::as_root("rm");
    command.arg("-rf").arg(root);
    tool::run(command, "coreutils")
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn write_script(path: &Path) -> Result<()> {
    fs::write(path, CUSTOMIZE)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(Error::host(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_cannot_pass_for_an_option() {
        assert!(package_name("g++").is_ok());
        assert!(package_name("libc6.1-dev").is_ok());
        for text in ["", "--simulate", "a b", "a,b", "A"] {
            assert!(package_name(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_steps_are_what_mmdebstrap_announces() {
        assert_eq!(step("I: installing essential packages..."), Some("installing essential packages"));
        assert_eq!(step("update-initramfs: Generating /boot/x"), Some("making the initial RAM disk"));
        assert_eq!(step("Setting up dbus"), None);
    }

    #[test]
    fn a_release_is_read_as_it_is_shown() {
        for release in [Release::Bookworm, Release::Trixie] {
            assert_eq!(release.to_string().parse(), Ok(release));
        }
        assert!("debian:11".parse::<Release>().is_err());
    }
}
