//! Makes bootable images from Debian's packages, with mmdebstrap and mkfs.ext4.
//!
//! Both run as they are for root. For anybody else they run in a user namespace in which this user is root and the
//! user's subordinate ids are the rest, so that the files of the image get their right owners without privilege.

use std::fmt;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::Duration;

use api::ImageName;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Failure, Result};
use crate::images::store::{About, Draft, Store};

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
    "cloud-init",
    "qemu-guest-agent",
    "initramfs-tools",
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
const CMDLINE: &str = "root=/dev/vda rw console=ttyS0";

/// The smallest disk that holds the packages above with some room to work.
const SMALLEST_DISK: u64 = 1 << 30;

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
    /// The disk's size in bytes.
    pub size: u64,
    /// Where to take packages from, if not from where Debian has them.
    pub mirror: Option<String>,
}

/// Builds an image and puts it into the store.
pub fn build(store: &Store, name: &ImageName, recipe: &Recipe, replace: bool) -> Result<()> {
    if recipe.size < SMALLEST_DISK {
        return Err(Failure::input("the disk is too small for Debian: give it 1G or more"));
    }
    let draft = store.draft(name, replace)?;
    let progress = Progress::start(format!("building {name}"));
    make_root(&draft, recipe, &progress)?;
    progress.step("making the file system");
    make_disk(&draft, recipe.size)?;
    progress.done();
    draft.keep(&About {
        origin: recipe.release.to_string(),
        disk: "disk.raw".into(),
        kernel: "vmlinuz".into(),
        initrd: Some("initrd".into()),
        cmdline: CMDLINE.into(),
    })
}

/// Fills the draft's folder `root` with the release's files, and puts its kernel and initial RAM disk beside it.
fn make_root(draft: &Draft, recipe: &Recipe, progress: &Progress) -> Result<()> {
    let folder = draft.folder();
    let customize = folder.join("customize");
    write_script(&customize)?;
    let mut command = as_root("mmdebstrap");
    command.arg("--mode=root").arg("--variant=minbase").arg("--format=directory");
    command.arg(format!("--include={}", [PACKAGES, &strs(&recipe.packages)].concat().join(",")));
    command.args(LEFT_OUT.iter().map(|option| format!("--dpkgopt={option}")));
    command.arg(format!("--customize-hook={}", customize.display()));
    command.arg(recipe.release.suite()).arg(folder.join("root"));
    command.args(&recipe.mirror);
    command.env("TESSERA_OUT", folder);
    watch(command, "mmdebstrap", progress)?;
    remove(&customize)
}

/// Makes the file system of the draft's folder `root`, and removes that folder.
fn make_disk(draft: &Draft, size: u64) -> Result<()> {
    let (root, disk) = (draft.folder().join("root"), draft.folder().join("disk.raw"));
    File::create_new(&disk).and_then(|file| file.set_len(size)).map_err(Failure::internal)?;
    let mut command = as_root("mkfs.ext4");
    command.args(["-q", "-F", "-L", "tessera-root", "-E", "lazy_itable_init=0,lazy_journal_init=0", "-d"]);
    command.arg(&root).arg(&disk);
    watch(command, "e2fsprogs", &Progress::silent())?;
    // The files may belong to subordinate ids, which only the namespace's root may remove.
    let mut command = as_root("rm");
    command.arg("-rf").arg(&root);
    watch(command, "coreutils", &Progress::silent())
}

fn strs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

fn write_script(path: &Path) -> Result<()> {
    fs::write(path, CUSTOMIZE)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
        .map_err(|error| Failure::internal(format!("{}: {error}", path.display())))
}

fn remove(path: &Path) -> Result<()> {
    fs::remove_file(path).map_err(|error| Failure::internal(format!("{}: {error}", path.display())))
}

/// A command that runs as root, or as the root of a user namespace of this user's own.
fn as_root(program: &str) -> Command {
    // SAFETY: geteuid has no preconditions and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        return Command::new(program);
    }
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--map-auto", "--mount", "--pid", "--fork", "--", program]);
    command
}

/// Runs a command to its end, shows its steps, and on failure tells the last lines it said.
fn watch(mut command: Command, package: &str, progress: &Progress) -> Result<()> {
    // The tools that make file systems live in the folders of system programs, which a user's PATH may lack.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).env("LC_ALL", "C");
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(
            |error| match error.kind() {
                std::io::ErrorKind::NotFound => {
                    Failure::internal(format!("{name} is not installed: apt install {package}"))
                }
                _ => Failure::internal(format!("{name}: {error}")),
            },
        )?;
    let mut last = std::collections::VecDeque::new();
    for line in
        child.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n')).flatten()
    {
        let line = String::from_utf8_lossy(&line).into_owned();
        progress.heard(&line);
        if last.len() == 12 {
            last.pop_front();
        }
        last.push_back(line);
    }
    let status = child.wait().map_err(|error| Failure::internal(format!("{name}: {error}")))?;
    if status.success() {
        return Ok(());
    }
    progress.done();
    for line in &last {
        let _ = writeln!(std::io::stderr(), "  {line}");
    }
    Err(Failure::internal(format!("{name} failed ({status}); its last words are above")))
}

/// What a person sees while an image is built.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn start(what: String) -> Progress {
        let bar = ProgressBar::new_spinner().with_message("starting").with_prefix(what);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(120));
        if bar.is_hidden() {
            eprintln!("{} (this takes a minute or two)", bar.prefix());
        }
        Progress { bar }
    }

    fn silent() -> Progress {
        Progress { bar: ProgressBar::hidden() }
    }

    fn step(&self, what: &str) {
        self.bar.set_message(what.to_owned());
    }

    /// mmdebstrap announces its steps on lines that start with `I: `.
    fn heard(&self, line: &str) {
        if let Some(step) = line.strip_prefix("I: ") {
            self.step(step.trim_end_matches('.'));
        } else if line.starts_with("update-initramfs") {
            self.step("making the initial RAM disk");
        }
    }

    fn done(&self) {
        self.bar.finish_and_clear();
    }
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
    fn a_release_is_read_as_it_is_shown() {
        for release in [Release::Bookworm, Release::Trixie] {
            assert_eq!(release.to_string().parse(), Ok(release));
        }
        assert!("debian:11".parse::<Release>().is_err());
    }
}
