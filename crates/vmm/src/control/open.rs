//! Opens what a machine is made of: the files that came with the message that asks for it.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use disk::Stack;

use super::console::Console;
use super::limits::{limit_card, limit_disk};
use super::protocol::{Cable, Descriptor, DiskSpec, NetSpec, PortSpec, Refusal, code};
use crate::virtio::block::Block;
use crate::virtio::console::{Cable as Plug, Console as Ports, PortConfig};
use crate::virtio::net::{Backend, Net, Stream, Tap};

/// The files that came with a message; each can be used once.
pub(super) struct Files(Vec<Option<OwnedFd>>);

impl Files {
    pub fn new(files: Vec<OwnedFd>) -> Self {
        Self(files.into_iter().map(Some).collect())
    }

    pub fn take(&mut self, field: &str, number: Descriptor) -> Result<File, Refusal> {
        let count = self.0.len();
        match self.0.get_mut(number) {
            Some(file) => match file.take() {
                Some(file) => Ok(file.into()),
                None => Err(Refusal::new(code::PARAMS, format!("{field}: file {number} is used twice"))),
            },
            None => {
                let why = format!("{field}: there is no file {number}, {count} came with the message");
                Err(Refusal::new(code::PARAMS, why))
            }
        }
    }
}

/// A disk for the guest, and what it is made of.
pub(super) fn open_disk(
    field: &str,
    spec: DiskSpec,
    queues: u16,
    files: &mut Files,
) -> Result<(Block, Arc<Stack>), Refusal> {
    let file = files.take(&format!("{field}.file"), spec.file)?;
    if spec.serial.len() > 20 {
        return Err(Refusal::new(code::PARAMS, format!("{field}.serial: at most 20 bytes")));
    }
    let name = |n| format!("{field}.backing[{n}]");
    let backing = spec.backing.into_iter().enumerate().map(|(n, file)| files.take(&name(n), file));
    let backing = backing.collect::<Result<Vec<File>, Refusal>>()?;
    let stack = Stack::from_files(file, backing, spec.format, spec.read_only)
        .map_err(|error| Refusal::new(code::MACHINE, format!("{field}: {error}")))?;
    let stack = Arc::new(stack);
    let disk = Block::new(Box::new(Arc::clone(&stack)), &spec.serial, queues);
    limit_disk(&format!("{field}.limits"), &disk, &spec.limits)?;
    Ok((disk, stack))
}

pub(super) fn open_card(field: &str, spec: NetSpec, files: &mut Files) -> Result<Net, Refusal> {
    let refused = |error: io::Error| Refusal::new(code::MACHINE, format!("{field}: {error}"));
    let cable: Box<dyn Backend> = match spec.cable {
        Cable::Tap(file) => {
            let file = files.take(&format!("{field}.tap"), file)?;
            Box::new(Tap::from_file(file).map_err(refused)?)
        }
        Cable::Stream { socket, mtu } => {
            let socket = files.take(&format!("{field}.stream.socket"), socket)?;
            Box::new(Stream::new(OwnedFd::from(socket).into(), mtu).map_err(refused)?)
        }
    };
    let card = Net::new(spec.mac, cable);
    let card = match spec.alias {
        Some(alias) => card.known_as(alias),
        None => card,
    };
    limit_card(&format!("{field}.limits"), &card, &spec.limits)?;
    Ok(card)
}

pub(super) fn open_ports(specs: Vec<PortSpec>, files: &mut Files) -> Result<Ports, Refusal> {
    let mut ports = Vec::new();
    for (number, spec) in specs.into_iter().enumerate() {
        let socket = files.take(&format!("ports[{number}].socket"), spec.socket)?;
        let cable = Plug::Listener(OwnedFd::from(socket).into());
        ports.push(PortConfig { name: spec.name, console: spec.console, cable });
    }
    Ports::new(ports).map_err(|error| Refusal::new(code::MACHINE, format!("ports: {error}")))
}

/// Where what the guest says goes: to the stream `console`, and to those that connect to `socket`, with a `log` of it.
pub(super) fn console_outputs(
    console: &Option<File>,
    socket: Option<File>,
    log: Option<File>,
) -> Result<(crate::chipset::serial::Output, Option<Console>), Refusal> {
    let refused =
        |field: &'static str| move |e: io::Error| Refusal::new(code::MACHINE, format!("{field}: {e}"));
    let stream = console.as_ref().map(Output::new).transpose().map_err(refused("console"))?;
    if socket.is_none() && log.is_none() {
        return Ok((stream.map_or_else(|| Box::new(io::sink()) as _, |stream| Box::new(stream) as _), None));
    }
    let listener = socket.map(|file| UnixListener::from(OwnedFd::from(file)));
    let (consoles, mut output) = Console::new(listener, log).map_err(refused("console_socket"))?;
    let Some(mut stream) = stream else { return Ok((Box::new(output), Some(consoles))) };
    let both = move |bytes: &[u8]| {
        // A stream that nobody reads any more is no reason not to write to the others.
        let _ = stream.write_all(bytes);
        output.write(bytes)
    };
    Ok((Box::new(Both(both)), Some(consoles)))
}

/// Writes with a function.
struct Both<F>(F);

impl<F: FnMut(&[u8]) -> io::Result<usize>> Write for Both<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (self.0)(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The guest's end of a stream. A reader that does not keep up loses what it has no room for: the guest must not wait.
struct Output(File);

impl Output {
    fn new(file: &File) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(file, true)?;
        Ok(Self(file.try_clone()?))
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.0.write(bytes) {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(bytes.len()),
            result => result,
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
