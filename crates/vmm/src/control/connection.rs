//! One client: lines with open files in, lines out.

use std::io::{self, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};

/// The longest message, bytes.
const LONGEST: usize = 1 << 20;
/// The most files with one message: what the kernel passes at once (SCM_MAX_FD).
const MOST_FILES: usize = 253;
/// How much a client may leave unread before it is dropped, bytes.
const MOST_UNREAD: usize = 4 << 20;

/// A message and the files that came with it.
pub(super) struct Message {
    pub line: Vec<u8>,
    pub files: Vec<OwnedFd>,
}

/// A client's connection.
pub(super) struct Connection {
    stream: UnixStream,
    received: Vec<u8>,
    files: Vec<OwnedFd>,
    unsent: Vec<u8>,
}

impl Connection {
    pub fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self { stream, received: Vec::new(), files: Vec::new(), unsent: Vec::new() })
    }

    /// Whether there is something to send that the client has not had room for.
    pub fn has_unsent(&self) -> bool {
        !self.unsent.is_empty()
    }

    /// Reads what is there; gives whole messages.
    ///
    /// # Errors
    /// If the client is gone or sends what no client may.
    pub fn receive(&mut self) -> io::Result<Vec<Message>> {
        let mut buffer = [0; 16384];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FILES))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let result = match recvmsg(&self.stream, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(Vec::new()),
            result => result?,
        };
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(files) = message {
                self.files.extend(files);
            }
        }
        if result.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.received.extend(&buffer[..result.bytes]);
        let messages = self.take_lines();
        let cut = result.flags.contains(ReturnFlags::CTRUNC);
        if cut || self.received.len() > LONGEST || self.files.len() > MOST_FILES {
            return Err(io::Error::other("a message is too long or has too many files"));
        }
        Ok(messages)
    }

    /// Takes the whole lines out of what was received. The files that have come belong to the first.
    fn take_lines(&mut self) -> Vec<Message> {
        let mut messages = Vec::new();
        while let Some(end) = self.received.iter().position(|&b| b == b'\n') {
            let mut line: Vec<u8> = self.received.drain(..=end).collect();
            line.pop();
            messages.push(Message { line, files: std::mem::take(&mut self.files) });
        }
        messages
    }

    /// Sends `text`, now or when the client has room.
    ///
    /// # Errors
    /// If the client does not read.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.unsent.extend(text.as_bytes());
        self.flush()?;
        if self.unsent.len() > MOST_UNREAD {
            return Err(io::Error::other("the client does not read"));
        }
        Ok(())
    }

    /// Sends what there was no room for. A client that has hung up gets nothing more, but what it said before is still to be
    /// read: [`receive`](Self::receive) comes to its end.
    ///
    /// # Errors
    /// If it cannot be sent for another reason.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match self.stream.write(&self.unsent) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => {
                    self.unsent.clear();
                }
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
