//! People who mean no good, or whose programs do not: the daemon keeps answering others.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use crate::{Daemon, waits};

/// Sends bytes as they are; gives the answer's status, 0 if there is none.
fn send(daemon: &Daemon, request: &[u8]) -> u16 {
    let mut stream = UnixStream::connect(daemon.state().join("host.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    // It may close before it has read all.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.take(12).read_to_end(&mut answer);
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

#[test]
fn thousands_who_say_nothing_keep_nobody_out() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let socket = daemon.state().join("host.sock");
    let mut idle = Vec::new();
    for number in 0..3000 {
        let Ok(mut stream) = UnixStream::connect(&socket) else { break };
        // Half of a request; a connection may have been given up already.
        let _ = stream.write_all(b"GET /api/v1/vms HTTP/1.1\r\nHost: localhost\r\nX-Slow: ");
        idle.push(stream);
        if number % 500 == 0 {
            let begun = Instant::now();
            assert_eq!(daemon.state_of("a"), "running");
            assert!(begun.elapsed() < Duration::from_secs(20), "{number}: {:?}", begun.elapsed());
        }
    }
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
