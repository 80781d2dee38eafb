//! Namespaces of one's own (namespaces(7)), with an empty folder for a root.

use std::fs;
use std::io;

use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, unmount};
use rustix::process::{chdir, getegid, geteuid, pivot_root};
use rustix::thread::{UnshareFlags, unshare_unsafe};

use crate::{Error, failed};

/// Where the empty folder is mounted before it becomes the root: a folder that every system has.
const PLACE: &str = "/dev";

/// Leaves the host's namespaces. Whoever is not `root` needs a user namespace to be allowed to.
pub fn leave(root: bool) -> Result<(), Error> {
    let (user, group) = (geteuid(), getegid());
    let mut spaces = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    if !root {
        spaces |= UnshareFlags::NEWUSER;
    }
    // SAFETY: file descriptors and their table stay shared as they are; no other thread relies on this one's namespaces.
    unsafe { unshare_unsafe(spaces) }.map_err(failed("unshare"))?;
    if !root {
        map("/proc/self/setgroups", "deny")?;
        map("/proc/self/uid_map", &format!("{user} {user} 1"))?;
        map("/proc/self/gid_map", &format!("{group} {group} 1"))?;
    }
    empty_root().map_err(failed("an empty root folder"))
}

fn map(path: &'static str, line: &str) -> Result<(), Error> {
    fs::write(path, line).map_err(failed(path))
}

fn empty_root() -> io::Result<()> {
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RDONLY;
    // One inode is its root: nothing can ever be made there.
    mount("tmpfs", PLACE, "tmpfs", flags, Some(c"size=4k,nr_inodes=1,mode=0555"))?;
    chdir(PLACE)?;
    // The old root comes to lie over the new one, and is taken away (pivot_root(2), "pivot_root(".", ".")").
    pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
    chdir("/")?;
    Ok(())
}
