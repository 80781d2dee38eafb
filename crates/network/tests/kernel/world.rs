//! A host in a network namespace of its own, an outside, and guests.

use std::fs::{File, Permissions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use network::definition::{Port, Site, read};
use network::{Config, Networks, Owner, Report};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long anything may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// The header before each frame (virtio 1.3, 5.1.6), as long as a tap has it at first.
const HEADER: usize = 10;

/// Runs a test in a network namespace of its own, if this user may make one.
pub fn in_own_namespace(test: impl FnOnce() + Send + 'static) {
    let mut needed = vec!["nft", "dnsmasq", "ip", "busybox"];
    needed.retain(|program| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
        !folders.any(|folder| folder.join(program).is_file())
    });
    if !needed.is_empty() {
        eprintln!("skipped: not installed: {}", needed.join(", "));
        return;
    }
    let run = move || {
        // SAFETY: only this thread's network namespace changes.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
            eprintln!("skipped: needs root: {}", std::io::Error::last_os_error());
            return;
        }
        run("ip", &["link", "set", "lo", "up"]);
        test();
    };
    if let Err(panic) = std::thread::spawn(run).join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a program, which must succeed; what it printed.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    let [said, wrong] =
        [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    assert!(output.status.success(), "{program} {arguments:?}: {said}{wrong}");
    said
}

/// Does something in a process's network namespace.
pub fn within<T: Send + 'static>(pid: u32, what: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::spawn(move || {
        enter(pid);
        what()
    })
    .join()
    .unwrap()
}

fn enter(pid: u32) {
    let namespace = File::open(format!("/proc/{pid}/ns/net")).unwrap();
    // SAFETY: only this thread's network namespace changes.
    assert_eq!(unsafe { libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET) }, 0);
}

/// A network namespace.
pub struct Namespace {
    keeper: Child,
}

impl Namespace {
    pub fn new() -> Self {
        let mut command = Command::new("unshare");
        let keeper = command.args(["--net", "sleep", "1000"]).stdin(Stdio::null()).spawn().unwrap();
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let path = format!("/proc/{}/ns/net", keeper.id());
        wait_until("the namespace is there", || std::fs::read_link(&path).is_ok_and(|other| other != own));
        let namespace = Self { keeper };
        namespace.run("ip", &["link", "set", "lo", "up"]);
        namespace
    }

    pub fn pid(&self) -> u32 {
        self.keeper.id()
    }

    /// Whether a program in it succeeds, and what it printed.
    pub fn try_run(&self, program: &str, arguments: &[&str]) -> (bool, String) {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid())).arg(program).args(arguments);
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    }

    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let (good, said) = self.try_run(program, arguments);
        assert!(good, "{program} {arguments:?}: {said}");
        said
    }

    /// Answers each client with its own address.
    pub fn serve(&self, address: &str) {
        let address: SocketAddr = address.parse().unwrap();
        let listener = within(self.pid(), move || TcpListener::bind(address).unwrap());
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let mut client: TcpStream = client;
                let text = client.peer_addr().map(|peer| peer.to_string()).unwrap_or_default();
                let _ = client.write_all(text.as_bytes());
            }
        });
    }

    /// Who a server says that one is; none if it cannot be reached.
    pub fn ask(&self, address: &str) -> Option<SocketAddr> {
        let address: SocketAddr = address.parse().unwrap();
        within(self.pid(), move || ask(address))
    }
}

/// Who a server says that one is.
pub fn ask(address: SocketAddr) -> Option<SocketAddr> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.parse().ok()
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

/// A guest: a namespace whose `eth0` is wired to a port's tap.
pub struct Guest {
    pub namespace: Namespace,
    stop: Arc<AtomicBool>,
    wires: Vec<JoinHandle<()>>,
}

impl Guest {
    fn new(tap: OwnedFd, mac: &str) -> Self {
        let namespace = Namespace::new();
        let near = within(namespace.pid(), || open_tap("eth0"));
        namespace.run("ip", &["link", "set", "eth0", "address", mac, "up"]);
        let stop = Arc::new(AtomicBool::new(false));
        let ends = [(near.try_clone().unwrap(), tap.try_clone().unwrap()), (tap, near)];
        let wires = ends.map(|(from, to)| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || wire(from.into(), to.into(), &stop))
        });
        Self { namespace, stop, wires: wires.into() }
    }

    /// Takes an address by DHCP; what it was told.
    pub fn dhcp(&self, folder: &std::path::Path) -> Result<String, String> {
        let script = folder.join("udhcpc");
        if !script.exists() {
            let text = "#!/bin/sh\n[ \"$1\" = bound ] || exit 0\n\
                        ip addr add $ip/$mask dev eth0\n\
                        [ -z \"$router\" ] || ip route add default via $router\n\
                        echo \"ip=$ip mask=$mask router=$router dns=$dns domain=$domain\"\n";
            std::fs::write(&script, text).unwrap();
            std::fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
        }
        let script = script.to_str().unwrap();
        let arguments = ["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "5", "-T", "1", "-s", script];
        let (good, said) = self.namespace.try_run("busybox", &arguments);
        let told = said.lines().find(|line| line.starts_with("ip=")).map(ToOwned::to_owned);
        if good { told.ok_or(said) } else { Err(said) }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for wire in self.wires.drain(..) {
            let _ = wire.join();
        }
    }
}

fn wire(mut from: File, mut to: File, stop: &AtomicBool) {
    let mut frame = vec![0; 70_000];
    while !stop.load(Ordering::Relaxed) {
        if !is_readable(&from, Duration::from_millis(50)) {
            continue;
        }
        let Ok(len) = from.read(&mut frame) else { return };
        // A frame that does not go through is lost, as on any wire.
        let _ = to.write(&frame[..len]);
    }
}

fn is_readable(file: &File, patience: Duration) -> bool {
    let mut poll = libc::pollfd { fd: file.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one whole pollfd.
    unsafe { libc::poll(&raw mut poll, 1, patience.as_millis() as i32) > 0 }
}

fn open_tap(name: &str) -> OwnedFd {
    let path = c"/dev/net/tun";
    // SAFETY: the path ends in zero; the ifreq is whole.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC);
        assert!(fd >= 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as i16;
        assert_eq!(libc::ioctl(fd, libc::TUNSETIFF, &raw mut request), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

/// A guest that sends and receives frames itself.
pub struct Raw {
    tap: File,
    pub mac: [u8; 6],
}

impl Raw {
    pub fn send(&mut self, frame: &[u8]) {
        let mut bytes = vec![0; HEADER];
        bytes.extend_from_slice(frame);
        self.tap.write_all(&bytes).unwrap();
    }

    /// The next frame, if one comes in time.
    pub fn receive(&mut self, patience: Duration) -> Option<Vec<u8>> {
        let mut frame = vec![0; 70_000];
        if !is_readable(&self.tap, patience) {
            return None;
        }
        let len = self.tap.read(&mut frame).ok()?;
        Some(frame[HEADER..len].to_vec())
    }

    pub fn tap(&self) -> std::io::Result<File> {
        self.tap.try_clone()
    }
}

/// A network card of the host's, up, and the far end of its line.
pub fn line(name: &str) -> Raw {
    let tap = File::from(open_tap(name));
    run("ip", &["link", "set", name, "up"]);
    Raw { tap, mac: [0x52, 0x54, 0, 0, 0xff, 1] }
}

pub fn wait_until(what: &str, mut good: impl FnMut() -> bool) {
    let start = Instant::now();
    while !good() {
        assert!(start.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A host with its networks.
pub struct Host {
    pub runtime: Runtime,
    pub networks: Networks,
    pub folder: TempDir,
    pub owner: Owner,
    pub site: Site,
}

impl Host {
    pub fn new(networks: Value, ports: Value) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o755)).tempdir().unwrap();
        let owner: Owner = "tst1".parse().unwrap();
        let networks_of = open(&runtime, &folder, owner);
        let site = site(networks, ports);
        Self { runtime, networks: networks_of, folder, owner, site }
    }

    /// As a new process would.
    pub fn restart(&mut self) {
        self.networks = open(&self.runtime, &self.folder, self.owner);
    }

    /// Applies the site, which must go without problems; what was changed.
    pub fn apply(&self) -> Vec<String> {
        let report = self.try_apply();
        assert_eq!(report.problems, []);
        report.changes
    }

    pub fn try_apply(&self) -> Report {
        self.runtime.block_on(self.networks.apply(&self.site)).unwrap()
    }

    pub fn port(&self, id: &str) -> &Port {
        self.site.ports.iter().find(|port| port.id == id).unwrap()
    }

    pub fn guest(&self, id: &str) -> Guest {
        let tap = self.runtime.block_on(self.networks.attach(id)).unwrap();
        Guest::new(tap, &self.port(id).mac.to_string())
    }

    /// A guest that has taken its address.
    pub fn guest_with_address(&self, id: &str) -> Guest {
        let guest = self.guest(id);
        guest.dhcp(self.folder.path()).unwrap();
        guest
    }

    pub fn raw(&self, id: &str) -> Raw {
        let tap = self.runtime.block_on(self.networks.attach(id)).unwrap();
        Raw { tap: tap.into(), mac: self.port(id).mac.0 }
    }

    /// What the kernel has, to compare: a line for each thing.
    pub fn state(&self) -> Vec<String> {
        let questions: [&[&str]; 5] = [
            &["nft", "-j", "list", "ruleset"],
            &["ip", "-j", "-d", "link"],
            &["ip", "-j", "route"],
            &["tc", "-j", "qdisc"],
            &["bridge", "-j", "vlan"],
        ];
        let mut lines = Vec::new();
        for question in questions {
            let said = run(question[0], &question[1..]);
            let value: Value = serde_json::from_str(said.trim()).unwrap_or_default();
            let items = value.get("nftables").unwrap_or(&value).as_array().cloned().unwrap_or_default();
            for mut item in items {
                remove_timers(&mut item);
                lines.push(item.to_string());
            }
        }
        lines
    }
}

/// What the kernel changes by itself: timers, and whether a bridge has found out yet that something is connected.
fn remove_timers(value: &mut Value) {
    if let Value::Object(members) = value {
        members.retain(|name, _| !name.ends_with("_timer") && name != "operstate");
        if let Some(Value::Array(flags)) = members.get_mut("flags") {
            flags.retain(|flag| !["NO-CARRIER", "LOWER_UP", "linkdown"].iter().any(|other| flag == other));
        }
        members.values_mut().for_each(remove_timers);
    }
}

/// Says what differs, if anything does.
pub fn assert_same(now: &[String], before: &[String]) {
    let only = |one: &[String], other: &[String]| -> Vec<String> {
        one.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    let (new, gone) = (only(now, before), only(before, now));
    assert!(new.is_empty() && gone.is_empty(), "new: {new:#?}, gone: {gone:#?}");
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(self.networks.teardown());
    }
}

fn open(runtime: &Runtime, folder: &TempDir, owner: Owner) -> Networks {
    let _entered = runtime.enter();
    Networks::open(Config { owner, state: folder.path().join("state") }).unwrap()
}

pub fn site(networks: Value, ports: Value) -> Site {
    read(&json!({ "networks": networks, "ports": ports })).unwrap()
}

/// A network where the host is known to others, who know nothing of its guests: the host is 192.0.2.1, they 192.0.2.2.
pub fn outside() -> Namespace {
    let outside = Namespace::new();
    let pid = outside.pid().to_string();
    run("ip", &["link", "add", "out0", "type", "veth", "peer", "name", "eth0", "netns", &pid]);
    run("ip", &["addr", "add", "192.0.2.1/30", "dev", "out0"]);
    run("ip", &["link", "set", "out0", "up"]);
    outside.run("ip", &["addr", "add", "192.0.2.2/30", "dev", "eth0"]);
    outside.run("ip", &["link", "set", "eth0", "up"]);
    outside
}
