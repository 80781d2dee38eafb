//! `reach PROBE`: locks itself in as a guest's process is, and tries one thing. The tests run it; so can whoever wants to see what is
//! left.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::process::Command;

/// A user that nobody else is.
const USER: u32 = 1_900_000_001;

/// What a machine is handed before it is locked in.
struct Opened {
    file: File,
    pair: (UnixStream, UnixStream),
    /// What the kernel says of this process (proc_pid_status(5)).
    status: File,
}

fn main() {
    let name = std::env::args().nth(1).expect("the name of a probe");
    let file = tempfile::tempfile().expect("a file");
    let opened = Opened {
        file,
        pair: UnixStream::pair().expect("two sockets"),
        status: File::open("/proc/self/status").expect("/proc"),
    };
    let weaker = sandbox::lock_in(Some(USER)).expect("to be locked in");
    for weaker in weaker {
        println!("weaker: {weaker}");
    }
    act(&name, opened);
    println!("{name}: it has come through");
}

/// What probes do when they are locked in.
fn act(name: &str, opened: Opened) {
    match name {
        "works" => works(opened),
        "itself" => {
            let mut text = String::new();
            let mut status = opened.status;
            status.read_to_string(&mut text).unwrap();
            println!("{text}");
        }
        "paths" => {
            for path in ["/", "/etc/passwd", "/proc/self/maps", "/dev/null", "."] {
                println!("{path}: {:?}", File::open(path).map(drop).map_err(|error| error.kind()));
            }
            println!("made: {}", File::create("/new").is_ok());
        }
        "socket" => drop(TcpStream::connect("127.0.0.1:1")),
        "local socket" => drop(UnixStream::connect("/run/x")),
        "program" => drop(Command::new("/bin/true").status()),
        other => call(other),
    }
}

/// System calls that a guest that has taken over its process would like.
fn call(name: &str) {
    // SAFETY: the calls take plain numbers, pointers that may be null and texts that end with a zero; a child ends at once.
    let result = unsafe {
        match name {
            "fork" => match libc::fork() {
                0 => libc::_exit(0),
                child => i64::from(child),
            },
            "copy" => match libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) {
                // It is locked in as well.
                0 => libc::kill(1, 0).into(),
                child => {
                    let mut status = 0;
                    libc::waitpid(child as i32, &raw mut status, 0);
                    println!("the copy was ended by signal {}", libc::WTERMSIG(status));
                    child
                }
            },
            "signal" => libc::kill(1, 0).into(),
            "ptrace" => libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0),
            "code" => {
                let how = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
                libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ | libc::PROT_EXEC, how, -1, 0) as i64
            }
            "root again" => libc::setuid(0).into(),
            "mount" => libc::umount(c"/".as_ptr()).into(),
            "terminal" => libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()).into(),
            other => panic!("there is no probe {other}"),
        }
    };
    println!("{name}: {result}");
}

/// What a machine does all day.
fn works(opened: Opened) {
    let Opened { mut file, pair: (mut one, mut other), .. } = opened;
    file.write_all(b"kept").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    file.sync_all().unwrap();
    let thread = std::thread::Builder::new().name("helper".into()).spawn(move || {
        let mut byte = [0];
        other.read_exact(&mut byte).unwrap();
        byte[0]
    });
    one.write_all(b"x").unwrap();
    let got = thread.unwrap().join().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1));
    let memory = vec![1u8; 8 << 20];
    println!("works: {text} {got} {}", memory.iter().map(|&byte| u64::from(byte)).sum::<u64>());
}
