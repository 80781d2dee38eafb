//! Any bytes on the control socket, with open files that some of them may mean. Shared with the fuzz target.

use std::fs::File;
use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use crate::guest::{Code, elf_file};

/// Serves one client that says `bytes` and leaves, and then one that asks for the end.
pub fn say(bytes: &[u8]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control");
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || vmm::control::serve(&listener).unwrap());
    let rude = UnixStream::connect(&path).unwrap();
    rude.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    // Kernel, disk, console.
    let disk = tempfile::tempfile().unwrap();
    disk.set_len(1 << 20).unwrap();
    let (console, _far) = UnixStream::pair().unwrap();
    let kernel: File = elf_file(&Code::default().print("x").out(0x600, 0x34).spin());
    let fds = [kernel.as_fd(), disk.as_fd(), console.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    // The server may have ended, or hung up; what it answers is read to its end.
    let _ = sendmsg(&rude, &[IoSlice::new(&bytes[..bytes.len().min(1)])], &mut control, SendFlags::NOSIGNAL);
    let _ = (&rude).write_all(bytes.get(1..).unwrap_or_default());
    let _ = rude.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    let _ = (&rude).read_to_end(&mut answers);
    for line in answers.split(|b| *b == b'\n').filter(|line| !line.is_empty()) {
        let answer: serde_json::Value = serde_json::from_slice(line).expect("an answer is JSON");
        assert_eq!(answer["jsonrpc"], "2.0");
    }
    if let Ok(mut polite) = UnixStream::connect(&path) {
        let _ = polite.write_all(b"{\"jsonrpc\":\"2.0\",\"method\":\"stop\"}\n");
    }
    server.join().unwrap();
}
