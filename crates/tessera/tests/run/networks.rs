//! The user network, through passt, and a tap.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{PATIENCE, guest, wait};

/// Serves `/greeting` to one client of this machine's loopback, which the guest reaches as its router.
fn serve_greeting() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for client in listener.incoming() {
            let mut client = client.unwrap();
            let mut request = [0; 512];
            let len = client.read(&mut request).unwrap();
            assert!(request[..len].starts_with(b"GET /greeting"));
            client.write_all(b"HTTP/1.0 200 OK\r\nContent-Length: 6\r\n\r\nhello\n").unwrap();
        }
    });
    port
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Asks the guest's server, as soon as it is there.
fn shout(port: u16, text: &str) -> String {
    let start = Instant::now();
    loop {
        assert!(start.elapsed() < PATIENCE, "the guest does not answer");
        let mut answer = String::new();
        if let Ok(mut stream) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
            stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let asked = stream.write_all(text.as_bytes()).and_then(|()| stream.shutdown(Shutdown::Write));
            if asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && !answer.is_empty() {
                return answer;
            }
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_guest_reaches_out_by_the_user_network_and_is_reached_by_a_forward() {
    let (served, forwarded) = (serve_greeting(), free_port());
    let mut command = guest(&format!("do=net={served}"));
    command.arg("--net").arg(format!("user,forward={forwarded}:7"));
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    assert_eq!(shout(forwarded, "shout\n"), "SHOUT\n");
    let output = wait(child);
    let console = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(console.contains("net fetched hello"), "{console} {}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(0));
    // passt is gone with its guest: the port is free again.
    drop(TcpListener::bind((Ipv4Addr::LOCALHOST, forwarded)).unwrap());
}

/// A guest that only brings its card up, on a tap: its first frames come out on the host's side.
#[test]
fn a_guest_on_a_tap_sends_frames_to_the_host() {
    let name = format!("tst{}", std::process::id() % 100_000);
    let ip = |arguments: &[&str]| Command::new("ip").args(arguments).stderr(Stdio::null()).status();
    let added = ip(&["tuntap", "add", "dev", &name, "mode", "tap"]);
    if !added.is_ok_and(|status| status.success()) {
        eprintln!("skipped: this user cannot make a tap device here");
        return;
    }
    assert!(ip(&["link", "set", &name, "up"]).unwrap().success());
    let mut command = guest("do=net=1");
    command.arg("--net").arg(format!("tap={name}"));
    let mut child = command.stdout(Stdio::null()).spawn().unwrap();
    let received = || -> u64 {
        let file = format!("/sys/class/net/{name}/statistics/rx_packets");
        std::fs::read_to_string(file).unwrap().trim().parse().unwrap()
    };
    let start = Instant::now();
    while received() == 0 && start.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(100));
    }
    let frames = received();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(ip(&["link", "del", &name]).unwrap().success());
    assert!(frames > 0, "no frame came out of the tap");
}
