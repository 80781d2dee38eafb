//! People who mean no good, or whose programs do not: the daemon keeps answering others.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{AddressFamily, SocketType, socket};

use crate::{Daemon, waits};

/// Sends bytes as they are; gives what comes back, so many bytes at most.
fn exchange(daemon: &Daemon, request: &[u8], most: u64) -> Vec<u8> {
    let mut stream = UnixStream::connect(daemon.state().join("host.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may close before it has read all.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.take(most).read_to_end(&mut answer);
    answer
}

/// Sends bytes as they are; gives the answer's status, 0 if there is none.
fn send(daemon: &Daemon, request: &[u8]) -> u16 {
    let answer = exchange(daemon, request, 12);
    std::str::from_utf8(answer.get(9..12).unwrap_or_default())
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn request(method: &str, path: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    let kind = "Content-Type: application/json";
    format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{kind}\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
        .into_bytes()
}

/// What a request begins with that never ends.
const BEGINNING: &[u8] = b"GET /api/v1/vms HTTP/1.1\r\nHost: localhost\r\nX-Slow: ";

/// Lets this process have `files` files open, or as many as it may.
fn more_files(files: u64) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    // Root may have more than the limit says.
    let wanted = [files.max(maximum), maximum];
    let set = |most: &u64| {
        setrlimit(Resource::Nofile, Rlimit { current: Some(*most), maximum: Some(*most) }).is_ok()
    };
    let most = wanted.into_iter().find(set).unwrap_or(1024);
    usize::try_from(most).unwrap_or(usize::MAX)
}

/// Whether the other side has not closed.
fn is_open(mut stream: &UnixStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 16]);
    read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[test]
fn ten_thousand_who_say_nothing_keep_nobody_out() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let socket = daemon.state().join("host.sock");
    let most = more_files(10_500) - 500;
    assert!(most > 3000, "the limit of open files is too low for this test: {most}");
    let mut idle = Vec::new();
    for number in 0..most.min(10_000) {
        let mut stream = UnixStream::connect(&socket).unwrap();
        // Half of a request; a connection may have been given up already.
        let _ = stream.write_all(BEGINNING);
        idle.push(stream);
        if number % 1000 == 0 {
            let begun = Instant::now();
            assert_eq!(daemon.state_of("a"), "running");
            assert!(begun.elapsed() < Duration::from_secs(20), "{number}: {:?}", begun.elapsed());
        }
    }
    assert_eq!(daemon.state_of("a"), "running");
    daemon.run("vm stop a");
}

#[test]
fn a_daemon_that_can_open_no_more_files_gives_up_who_says_nothing_and_serves_others() {
    let daemon = Daemon::start();
    let socket = daemon.state().join("host.sock");
    let idle: Vec<_> = (0..300)
        .map(|_| {
            let mut stream = UnixStream::connect(&socket).unwrap();
            stream.write_all(BEGINNING).unwrap();
            stream
        })
        .collect();
    let pid = daemon.child.as_ref().unwrap().id();
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    daemon.eventually("all have been taken in", |_| open() > idle.len());
    // No more than there are.
    let limit = open().to_string();
    let mut prlimit = Command::new("prlimit");
    prlimit.args(["--pid", &pid.to_string()]).arg(format!("--nofile={limit}:{limit}"));
    assert!(prlimit.status().unwrap().success());
    for _ in 0..50 {
        assert_eq!(send(&daemon, &request("GET", "/api/v1/vms", "", "")), 200);
    }
    // They were answered before all were given up for their silence.
    let left = idle.iter().filter(|stream| is_open(stream)).count();
    assert!((100..300).contains(&left), "{left}");
    daemon.guest("a", &waits(), "");
    assert_eq!(daemon.state_of("a"), "running");
    daemon.run("vm stop a");
}

#[test]
fn clients_that_send_or_read_slowly_keep_nobody_else_out() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let daemon = Daemon::start_at(false, &address.to_string());
    let mut slow = Vec::new();
    for _ in 0..300 {
        // A body that comes byte by byte.
        let mut sender = TcpStream::connect(address).unwrap();
        let head = "Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100";
        let _ = write!(sender, "POST /api/v1/session HTTP/1.1\r\n{head}\r\n\r\n{{");
        // An answer that nobody reads, and that nothing keeps for them.
        let mut reader = TcpStream::from(socket(AddressFamily::INET, SocketType::STREAM, None).unwrap());
        set_socket_recv_buffer_size(&reader, 4096).unwrap();
        rustix::net::connect(&reader, &address).unwrap();
        let _ = reader.write_all(b"GET /api/v1/openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n");
        slow.extend([sender, reader]);
    }
    for stream in &mut slow {
        let _ = stream.write(b" ");
    }
    daemon.guest("a", &waits(), "");
    assert_eq!(daemon.state_of("a"), "running");
    daemon.run("vm stop a");
}

#[test]
fn what_makes_no_sense_is_refused_and_does_nothing() {
    let daemon = Daemon::start();
    let long = "x".repeat(1 << 20);
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("a name of 1 MiB", request("POST", "/api/v1/vms", "", &format!("{{\"name\":\"{long}\"}}")), &[413, 422]),
        ("a body of 2 MiB", request("POST", "/api/v1/vms", "", &long.repeat(2)), &[413]),
        ("a path of 1 MiB", request("GET", &format!("/api/v1/vms/{long}"), "", ""), &[0, 414, 431]),
        ("a header of 1 MiB", request("GET", "/api/v1/vms", &format!("X: {long}\r\n"), ""), &[0, 431]),
        ("a path that climbs", request("GET", "/api/v1/vms/..%2f..%2fetc%2fpasswd", "", ""), &[404]),
        ("a volume that climbs", request("GET", "/api/v1/pools/default/volumes/..%2f..%2fx/data", "", ""), &[404]),
        ("an upload that climbs", request("PUT", "/api/v1/pools/default/volumes/..%2fx/data?format=raw&length=1", "", "x"), &[422]),
        ("no JSON", request("POST", "/api/v1/vms", "", "{"), &[400]),
        ("a list", request("POST", "/api/v1/vms", "", "[\"a\"]"), &[422]),
        ("a name with a NUL", request("POST", "/api/v1/vms", "", "{\"name\":\"a\\u0000\"}"), &[422]),
        ("a path with a NUL", request("GET", "/api/v1/vms/a%00b", "", ""), &[404]),
        ("a path that is no UTF-8", request("GET", "/api/v1/vms/%ff", "", ""), &[400]),
        ("deep JSON", request("POST", "/api/v1/vms", "", &"[".repeat(100_000)), &[400]),
        ("no UTF-8", b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec(), &[400]),
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        ("a length that lies", b"POST /api/v1/vms HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".to_vec(), &[0, 400]),
        ("a method nobody has", request("BREW", "/api/v1/vms", "", ""), &[405]),
        ("numbers too large", request("POST", "/api/v1/vms", "", "{\"name\":\"a\",\"cpus\":1e99}"), &[422]),
        ("a limit too large", request("GET", "/api/v1/vms?limit=99999999999", "", ""), &[400, 422]),
        ("a cursor that is none", request("GET", "/api/v1/vms?cursor=x", "", ""), &[422]),
    ];
    for (what, request, wanted) in cases {
        let status = send(&daemon, &request);
        assert!(wanted.contains(&status), "{what}: {status}");
        assert_eq!(daemon.run("vm ls -o name"), "", "{what}");
    }
}

#[test]
fn paths_lead_to_no_file_of_the_machine() {
    let daemon = Daemon::start();
    let secret = daemon.state().join("secret");
    std::fs::write(&secret, "not for you").unwrap();
    let secret = secret.to_str().unwrap();
    let up = ["../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..%252f", "....//", "..;/"]
        .map(|up| up.repeat(12));
    let places = [
        "/",
        "//",
        "/assets/",
        "/api/v1/",
        "/api/v1/images/",
        "/api/v1/uploads/",
        "/api/v1/pools/default/volumes/",
        "/api/v1/vms/",
    ];
    for place in places {
        for up in up.iter().map(String::as_str).chain(["", "/", "%2f", "file://", "%00"]) {
            for end in ["", "/data", "%00.html", "?x=/"] {
                let path = format!("{place}{up}{}{end}", secret.trim_start_matches('/'));
                let answer = exchange(&daemon, &request("GET", &path, "", ""), 1 << 20);
                let text = String::from_utf8_lossy(&answer);
                assert!(text.starts_with("HTTP/1.1 ") && !text.contains("not for you"), "{path}: {text}");
                assert!(!text.starts_with("HTTP/1.1 5"), "{path}: {text}");
            }
        }
    }
}

/// A body that has been damaged in some places: always the same, for the same seed.
fn damaged(body: &[u8], mut seed: u64) -> Vec<u8> {
    let mut random = |most: usize| {
        // Marsaglia, "Xorshift RNGs" (2003).
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        usize::try_from(seed % most as u64).unwrap()
    };
    let mut body = body.to_vec();
    for _ in 0..=random(4) {
        let at = random(body.len());
        match random(4) {
            0 => body[at] = b"\"{}[],:0-.e\\ntu\x00\xff"[random(17)],
            1 if body.len() > 1 => drop(body.remove(at)),
            2 => body.truncate(at + 1),
            _ => {
                let end = at + random(body.len() - at) + 1;
                let again = body[at..end].to_vec();
                body.splice(at..at, again);
            }
        }
    }
    body
}

#[test]
fn damaged_bodies_are_read_or_refused_and_never_a_failure_of_the_host() {
    let daemon = Daemon::start();
    let disk = r#"{"size":1048576,"unit":1,"read_only":false}"#;
    let bodies = [
        ("POST", "/api/v1/vms", format!(r#"{{"name":"a","cpus":1,"memory":67108864,"boot":{{"kernel":"/x","command_line":"y"}},"disks":[{disk}],"labels":{{"a":"b"}}}}"#)),
        ("POST", "/api/v1/alarms", r#"{"name":"a","severity":"info","trigger":{"metric":{"of":"host.cpu","above":90.5,"for":60}},"actions":[]}"#.into()),
        ("PATCH", "/api/v1/vms/a", r#"{"description":"x","labels":{"a":null},"cpus":2}"#.into()),
        ("PUT", "/api/v1/sites/a", r#"{"members":[]}"#.into()),
        ("POST", "/api/v1/session", r#"{"user":"a","password":"b"}"#.into()),
    ];
    let mut refused = 0;
    for seed in 1..=400 {
        for (method, path, body) in &bodies {
            let body = damaged(body.as_bytes(), seed);
            let mut sent = request(method, path, "", &" ".repeat(body.len()));
            let start = sent.len() - body.len();
            sent.splice(start.., body.iter().copied());
            let status = send(&daemon, &sent);
            assert!((200..500).contains(&status), "{method} {path} {}: {status}", body.escape_ascii());
            refused += usize::from(status >= 400);
        }
    }
    assert!(refused > 1000, "{refused}");
}
