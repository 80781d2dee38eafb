//! A stream socket as a cable: each frame follows its length, 32 bits in network order. This is how `passt` and QEMU's
//! stream networks talk. No offloads: the stream has no place for the header.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::{Backend, HEADER, LARGEST_FRAME};

const LENGTH: usize = 4;
/// How much is read from the socket at once, bytes.
const CHUNK: usize = 256 << 10;
/// How much is kept for a guest that has no buffers, bytes: more than a TCP window, because passt throws away frames that
/// the socket has no room for.
const BACKLOG: usize = 8 << 20;

/// A connected socket.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    descriptor: Arc<OwnedFd>,
    mtu: u16,
    /// Read and not yet given on, from `taken`.
    received: Vec<u8>,
    taken: usize,
    unsent: VecDeque<u8>,
}

impl Stream {
    /// The socket as a cable for packets of up to `mtu` bytes.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn new(socket: UnixStream, mtu: u16) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        let descriptor = Arc::new(socket.try_clone()?.into());
        Ok(Self { socket, descriptor, mtu, received: Vec::new(), taken: 0, unsent: VecDeque::new() })
    }

    /// The next whole frame among what was received.
    fn next_frame(&self) -> io::Result<Option<&[u8]>> {
        let left = &self.received[self.taken..];
        let Some((length, rest)) = left.split_first_chunk::<LENGTH>() else { return Ok(None) };
        let len = u32::from_be_bytes(*length) as usize;
        if len > LARGEST_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a frame of {len} bytes")));
        }
        Ok(rest.get(..len))
    }

    fn fill(&mut self) -> io::Result<()> {
        if self.taken > self.received.len() / 2 {
            self.received.drain(..self.taken);
            self.taken = 0;
        }
        let start = self.received.len();
        self.received.resize(start + CHUNK, 0);
        let result = loop {
            match self.socket.read(&mut self.received[start..]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                result => break result,
            }
        };
        self.received.truncate(start + result.as_ref().copied().unwrap_or(0));
        match result? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Backend for Stream {
    fn offloads(&self) -> u64 {
        0
    }

    fn mtu(&self) -> Option<u16> {
        Some(self.mtu)
    }

    fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.descriptor)
    }

    fn use_offloads(&mut self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(frame) = self.next_frame()? {
                let len = frame.len();
                let total = HEADER + len;
                buffer[..HEADER].fill(0);
                buffer[HEADER..total].copy_from_slice(frame);
                self.taken += LENGTH + len;
                return Ok(total);
            }
            self.fill()?;
        }
    }

    fn absorb(&mut self) -> io::Result<bool> {
        while self.received.len() - self.taken < BACKLOG {
            match self.fill() {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    fn send(&mut self, frame: &[u8]) -> io::Result<()> {
        if !self.flush()? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let Some(frame) = frame.get(HEADER..) else { return Ok(()) };
        self.unsent.extend((frame.len() as u32).to_be_bytes());
        self.unsent.extend(frame);
        // What does not go now goes before the next frame.
        self.flush()?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<bool> {
        while !self.unsent.is_empty() {
            match self.socket.write(self.unsent.as_slices().0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => drop(self.unsent.drain(..n)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Stream, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Stream::new(near, 1500).unwrap(), far)
    }

    fn framed(frame: &[u8]) -> Vec<u8> {
        [&(frame.len() as u32).to_be_bytes()[..], frame].concat()
    }

    #[test]
    fn frames_come_whole_however_they_are_cut() {
        let (mut stream, mut far) = pair();
        let bytes = [framed(&[1; 60]), framed(&[2; 1514]), framed(&[3; 65000])].concat();
        let mut frames = Vec::new();
        let mut buffer = vec![0; HEADER + LARGEST_FRAME];
        for piece in bytes.chunks(7) {
            far.write_all(piece).unwrap();
            match stream.receive(&mut buffer) {
                Ok(len) => frames.push(buffer[..len].to_vec()),
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert_eq!(frames.iter().map(Vec::len).collect::<Vec<_>>(), [72, 1526, 65012]);
        assert!(
            frames
                .iter()
                .zip(1..)
                .all(|(f, n)| f[..HEADER] == [0; HEADER] && f[HEADER..].iter().all(|&b| b == n))
        );
    }

    #[test]
    fn what_the_socket_has_no_room_for_goes_later_and_whole() {
        let (mut stream, mut far) = pair();
        let frame = [vec![0; HEADER], vec![7; 60000]].concat();
        let mut sent = 0;
        while stream.send(&frame).is_ok() {
            sent += 1;
        }
        let reader = std::thread::spawn(move || {
            let mut all = Vec::new();
            far.read_to_end(&mut all).unwrap();
            all
        });
        while !stream.flush().unwrap() {
            std::thread::yield_now();
        }
        drop(stream);
        assert_eq!(reader.join().unwrap(), framed(&frame[HEADER..]).repeat(sent));
    }

    #[test]
    fn an_impossible_length_and_an_end_cut_the_cable() {
        let (mut stream, mut far) = pair();
        far.write_all(&u32::MAX.to_be_bytes()).unwrap();
        let mut buffer = vec![0; HEADER + LARGEST_FRAME];
        assert_eq!(stream.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut stream, far) = pair();
        drop(far);
        assert_eq!(stream.receive(&mut buffer).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
