//! The console device, driven as Linux drives it: the driver says that it is ready, hears of the ports, opens one, and bytes flow.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use vm_memory::{Bytes, GuestAddress};
use vmm::virtio::console::{Cable, Console, PortConfig};

use crate::driver::Driver;
use crate::rig::Rig;

const MULTIPORT: u64 = 1 << 1;
const CONTROL_IN: usize = 2;
const CONTROL_OUT: usize = 3;
/// Queues of port 1.
const IN: usize = 4;
const OUT: usize = 5;
/// Where the test's buffers lie.
const BUFFER: u64 = 0x10_0000;

const AGENT: &str = "org.qemu.guest_agent.0";

/// A machine with two ports, the second one behind a socket that programs connect to.
struct Ports {
    rig: Rig,
    folder: tempfile::TempDir,
    console: UnixStream,
}

impl Ports {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(folder.path().join("agent")).unwrap();
        let (console, far) = UnixStream::pair().unwrap();
        let ports = vec![
            PortConfig { name: "console".into(), console: true, cable: Cable::Stream(far) },
            PortConfig { name: AGENT.into(), console: false, cable: Cable::Listener(listener) },
        ];
        Self { rig: Rig::new(vec![Box::new(Console::new(ports).unwrap())]), folder, console }
    }

    fn connect(&self) -> UnixStream {
        let stream = UnixStream::connect(self.folder.path().join("agent")).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }
}

/// The driver's side of the ports.
struct Guest<'a>(Driver<'a>);

impl<'a> Guest<'a> {
    fn start(ports: &'a Ports) -> Self {
        Guest(Driver::start(&ports.rig, 1, MULTIPORT))
    }

    /// Says something on the control queue.
    fn say(&mut self, port: u32, event: u16, value: u16) {
        let mut message = port.to_le_bytes().to_vec();
        message.extend(event.to_le_bytes());
        message.extend(value.to_le_bytes());
        self.write(CONTROL_OUT, &message);
    }

    fn write(&mut self, queue: usize, bytes: &[u8]) {
        self.0.memory().write_slice(bytes, GuestAddress(BUFFER)).unwrap();
        self.0.add(queue, &[(BUFFER, bytes.len() as u32, false)]);
        self.0.kick(queue);
        self.0.used(queue);
    }

    /// Gives the device a buffer, and waits until there is something in it.
    fn read(&mut self, queue: usize) -> Vec<u8> {
        self.offer(queue);
        self.filled(queue)
    }

    fn offer(&mut self, queue: usize) {
        self.0.add(queue, &[(BUFFER + 0x1000 * queue as u64, 64, true)]);
        self.0.kick(queue);
    }

    fn filled(&mut self, queue: usize) -> Vec<u8> {
        let (_, len) = self.0.used(queue);
        let mut bytes = vec![0; len as usize];
        self.0.memory().read_slice(&mut bytes, GuestAddress(BUFFER + 0x1000 * queue as u64)).unwrap();
        bytes
    }

    /// The next control message: port, event, value, and the name that follows.
    fn heard(&mut self) -> (u8, u8, u8, String) {
        let message = self.read(CONTROL_IN);
        (message[0], message[4], message[6], String::from_utf8(message[8..].to_vec()).unwrap())
    }

    fn opens_the_agents_port(&mut self) {
        self.say(0, 0, 1);
        assert_eq!(self.heard(), (0, 1, 0, String::new()));
        assert_eq!(self.heard(), (1, 1, 0, String::new()));
        self.say(1, 3, 1);
        assert_eq!(self.heard(), (1, 7, 1, AGENT.into()));
        self.say(1, 6, 1);
    }
}

#[test]
fn a_driver_hears_of_the_ports_their_names_and_who_is_there() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    assert_eq!(guest.0.config(4, 4), 2, "so many ports");
    guest.opens_the_agents_port();
    guest.say(0, 3, 1);
    assert_eq!(guest.heard(), (0, 4, 1, String::new()), "it is a console");
    assert_eq!(guest.heard(), (0, 7, 1, "console".into()));
    assert_eq!(guest.heard(), (0, 6, 1, String::new()), "somebody is there");
    let first = ports.connect();
    assert_eq!(guest.heard(), (1, 6, 1, String::new()));
    drop(first);
    assert_eq!(guest.heard(), (1, 6, 0, String::new()));
    let _second = ports.connect();
    assert_eq!(guest.heard(), (1, 6, 1, String::new()));
}

#[test]
fn bytes_go_both_ways_and_wait_for_who_is_not_ready() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    let mut host = ports.connect();
    // Written before the guest is there.
    host.write_all(b"early").unwrap();
    guest.say(0, 0, 1);
    assert_eq!((guest.heard().1, guest.heard().1), (1, 1));
    guest.say(1, 3, 1);
    assert_eq!((guest.heard().1, guest.heard().1), (7, 6));
    guest.say(1, 6, 1);
    assert_eq!(guest.read(IN), b"early");
    guest.write(OUT, b"answer");
    let mut answer = [0; 6];
    host.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    // More than a buffer holds.
    guest.offer(IN);
    host.write_all(&[7; 100]).unwrap();
    let first = guest.filled(IN);
    assert_eq!([first, guest.read(IN)].concat(), [7; 100]);
}

#[test]
fn much_data_is_carried_whole_though_the_host_reads_slowly() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    guest.opens_the_agents_port();
    let mut host = ports.connect();
    assert_eq!(guest.heard().1, 6);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::<u8>::new();
        let mut part = vec![0; 3000];
        while got.len() < 64 * 32768 {
            let n = host.read(&mut part).unwrap();
            got.extend(&part[..n]);
        }
        got
    });
    let mut sent = Vec::new();
    for n in 0..64u32 {
        let part: Vec<u8> = (0..32768u32).map(|m| (m * 7 + n) as u8).collect();
        guest.write(OUT, &part);
        sent.extend(part);
    }
    assert!(reader.join().unwrap() == sent);
}

#[test]
fn what_nobody_is_there_for_is_lost_and_a_new_start_of_the_guest_finds_the_ports_again() {
    let mut ports = Ports::new();
    let mut guest = Guest::start(&ports);
    guest.opens_the_agents_port();
    guest.write(OUT, b"nobody hears this");
    guest.0.restart();
    guest.opens_the_agents_port();
    let mut host = ports.connect();
    assert_eq!(guest.heard(), (1, 6, 1, String::new()));
    guest.write(OUT, b"heard");
    let mut answer = [0; 5];
    host.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"heard");
    drop(guest);
    ports.console.set_nonblocking(true).unwrap();
    assert!(ports.console.read(&mut [0; 1]).is_err(), "nothing was written to the other port");
}

#[test]
fn what_the_host_said_before_it_hung_up_is_the_guests() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    guest.opens_the_agents_port();
    let mut host = ports.connect();
    assert_eq!(guest.heard().1, 6);
    let sent: Vec<u8> = (0..50_000u32).map(|n| (n * 7) as u8).collect();
    host.write_all(&sent).unwrap();
    drop(host);
    let mut got = Vec::new();
    while got.len() < sent.len() {
        got.extend(guest.read(IN));
    }
    assert!(got == sent);
    guest.offer(IN);
    assert_eq!(guest.heard(), (1, 6, 0, String::new()), "and then it is gone");
}

#[test]
fn who_has_asked_and_says_no_more_gets_the_answer() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    guest.opens_the_agents_port();
    let mut host = ports.connect();
    assert_eq!(guest.heard().1, 6);
    host.write_all(b"question").unwrap();
    host.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(guest.read(IN), b"question");
    guest.offer(IN);
    guest.write(OUT, b"answer");
    let mut answer = [0; 6];
    host.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"answer");
    drop(host);
    assert_eq!(guest.heard(), (1, 6, 0, String::new()));
}

#[test]
fn buffers_of_odd_sizes_are_filled_as_long_as_there_are_bytes() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    guest.opens_the_agents_port();
    let mut host = ports.connect();
    assert_eq!(guest.heard().1, 6);
    let sent: Vec<u8> = (0..4000u32).map(|n| (n * 7) as u8).collect();
    host.write_all(&sent).unwrap();
    let mut got = Vec::new();
    while got.len() < sent.len() {
        // All there can be, and one kick.
        for n in 0..64 {
            guest.0.add(IN, &[(BUFFER + 0x1_0000 + 64 * n, 3, true)]);
        }
        guest.0.kick(IN);
        for n in 0..64 {
            if got.len() >= sent.len() {
                break;
            }
            let len = guest.0.used(IN).1 as usize;
            let mut bytes = vec![0; len];
            guest.0.memory().read_slice(&mut bytes, GuestAddress(BUFFER + 0x1_0000 + 64 * n)).unwrap();
            got.extend(bytes);
        }
    }
    assert!(got == sent);
}

#[test]
fn a_terminal_that_nobody_reads_does_not_hold_its_guest_up() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    for _ in 0..100 {
        guest.write(1, &[b'x'; 0x8000]);
    }
}

#[test]
fn without_control_messages_the_first_port_is_a_plain_console() {
    let mut ports = Ports::new();
    let rig_queues = {
        let mut driver = Driver::start(&ports.rig, 1, 0);
        driver.memory().write_slice(b"plain", GuestAddress(BUFFER)).unwrap();
        driver.add(1, &[(BUFFER, 5, false)]);
        driver.kick(1);
        driver.used(1);
        driver.queues.len()
    };
    assert!(rig_queues >= 2);
    let mut said = [0; 5];
    ports.console.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    ports.console.read_exact(&mut said).unwrap();
    assert_eq!(&said, b"plain");
}

#[test]
fn a_driver_that_asks_and_never_listens_is_given_up() {
    let ports = Ports::new();
    let mut guest = Guest::start(&ports);
    let broken = |guest: &Guest<'_>| guest.0.read(crate::driver::STATUS, 1) & crate::driver::NEEDS_RESET != 0;
    for _ in 0..1000 {
        guest.0.memory().write_slice(&[0, 0, 0, 0, 0, 0, 1, 0], GuestAddress(BUFFER)).unwrap();
        guest.0.add(CONTROL_OUT, &[(BUFFER, 8, false)]);
        guest.0.kick(CONTROL_OUT);
        if broken(&guest) {
            return;
        }
        ports.rig.eventually("an answer", || guest.0.poll(CONTROL_OUT).is_some() || broken(&guest));
    }
    panic!("a flood goes on");
}
