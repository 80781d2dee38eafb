//! What the guest runs: measures itself and says so on the console, a line a measurement: `bench NAME RATE`.

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::time::{Duration, Instant};

/// How long each measurement takes.
const LENGTH: Duration = Duration::from_millis(700);

fn main() {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (Some("disk"), _) => disk(),
        (Some("net"), Some(address)) => net(&address),
        _ => cpu(),
    }
}

/// Calls `work`, which says how much it did, for a while; tells how much a second.
fn rate(name: &str, mut work: impl FnMut() -> u64) {
    work();
    let (start, mut done) = (Instant::now(), 0);
    while start.elapsed() < LENGTH {
        done += work();
    }
    println!("bench {name} {:.1}", done as f64 / start.elapsed().as_secs_f64());
}

fn cpu() {
    rate("integer-calls", || {
        black_box(fib(black_box(18)));
        8361
    });
    rate("sse2-multiply-add", sse2);
    rate("x87-divide-add", x87);
    let (from, mut to) = (vec![1u8; 64 << 10], vec![0u8; 64 << 10]);
    rate("memcpy-bytes", || {
        to.copy_from_slice(black_box(&from));
        black_box(&to);
        from.len() as u64
    });
    rate("rep-movsb-bytes", || rep_movsb(&from, &mut to));
    // SAFETY: no memory is involved.
    rate("syscalls", || (0..1000).map(|_| u64::from(unsafe { libc::getppid() } >= 0)).sum());
    rate("page-faults", page_faults);
    rate("forks", fork);
    rate("pipe-round-trips", pipe_round_trips());
}

#[inline(never)]
fn fib(n: u64) -> u64 {
    if n < 2 { n } else { fib(n - 1) + fib(n - 2) }
}

fn sse2() -> u64 {
    let mut values = [1.000_001f64; 256];
    for _ in 0..16 {
        for v in &mut values {
            *v = *v * 1.000_000_1 + 0.000_001;
        }
        black_box(&mut values);
    }
    16 * 256
}

fn x87() -> u64 {
    let mut value = 1.0f64;
    // SAFETY: loads and stores `value`, and leaves the x87 stack as it was.
    unsafe {
        std::arch::asm!(
            "fld qword ptr [{v}]",
            "mov ecx, 1000",
            "2: fld1", "fdiv st, st(1)", "fld1", "faddp st(1), st", "fstp st(1)",
            "dec ecx", "jnz 2b",
            "fstp qword ptr [{v}]",
            v = in(reg) &raw mut value, out("ecx") _,
            out("st(0)") _, out("st(1)") _, out("st(2)") _, out("st(3)") _,
            out("st(4)") _, out("st(5)") _, out("st(6)") _, out("st(7)") _,
        );
    }
    black_box(value);
    1000
}

fn rep_movsb(from: &[u8], to: &mut [u8]) -> u64 {
    // SAFETY: both are as long as is copied, and do not overlap.
    unsafe {
        std::arch::asm!("rep movsb", inout("rsi") from.as_ptr() => _, inout("rdi") to.as_mut_ptr() => _,
            inout("rcx") from.len() => _);
    }
    from.len() as u64
}

fn page_faults() -> u64 {
    const LEN: usize = 4 << 20;
    // SAFETY: a mapping of our own, touched within its length, and unmapped.
    unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let at = libc::mmap(std::ptr::null_mut(), LEN, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0);
        assert_ne!(at, libc::MAP_FAILED);
        libc::madvise(at, LEN, libc::MADV_NOHUGEPAGE);
        for page in 0..LEN / 4096 {
            at.cast::<u8>().add(page * 4096).write_volatile(1);
        }
        libc::munmap(at, LEN);
    }
    (LEN / 4096) as u64
}

fn fork() -> u64 {
    // SAFETY: the child does nothing but exit.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            child => libc::waitpid(child, std::ptr::null_mut(), 0),
        };
    }
    1
}

/// A child that answers every byte with a byte.
fn pipe_round_trips() -> impl FnMut() -> u64 {
    let pipe = || {
        let mut ends = [0; 2];
        // SAFETY: the call writes two descriptors.
        assert_eq!(unsafe { libc::pipe(ends.as_mut_ptr()) }, 0);
        ends
    };
    let (there, back) = (pipe(), pipe());
    let mut byte = 0u8;
    // SAFETY: the child uses only its stack and these descriptors, until its input ends.
    unsafe {
        if libc::fork() == 0 {
            libc::close(there[1]);
            while libc::read(there[0], (&raw mut byte).cast(), 1) == 1 {
                libc::write(back[1], (&raw const byte).cast(), 1);
            }
            libc::_exit(0);
        }
    }
    move || {
        // SAFETY: one byte each way.
        unsafe {
            libc::write(there[1], (&raw const byte).cast(), 1);
            libc::read(back[0], (&raw mut byte).cast(), 1);
        }
        1
    }
}

/// A buffer as O_DIRECT wants it.
#[repr(align(4096))]
struct Aligned([u8; 1 << 20]);

fn disk() {
    let direct = |write| {
        let mut options = OpenOptions::new();
        options.read(true).write(write).custom_flags(libc::O_DIRECT).open("/dev/vda").expect("/dev/vda")
    };
    let disk = direct(true);
    let blocks = size(&disk) / 4096;
    let mut buffer = Box::new(Aligned([7; 1 << 20]));
    let mut seed = 1u64;
    let mut place = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 20) % blocks * 4096
    };
    rate("random-4k-reads", || {
        disk.read_exact_at(&mut buffer.0[..4096], place()).expect("read");
        1
    });
    rate("random-4k-writes", || {
        disk.write_all_at(&buffer.0[..4096], place()).expect("write");
        1
    });
    let (mut at, end) = (0, blocks * 4096 - (1 << 20));
    let mut next = move || {
        at = if at >= end { 0 } else { at + (1 << 20) };
        at.min(end)
    };
    rate("sequential-read-bytes", || {
        disk.read_exact_at(&mut buffer.0, next()).expect("read");
        1 << 20
    });
    rate("sequential-write-bytes", || {
        disk.write_all_at(&buffer.0, next()).expect("write");
        1 << 20
    });
}

fn size(disk: &File) -> u64 {
    let mut end = 0u64;
    const BLKGETSIZE64: libc::c_ulong = 0x8008_1272;
    // SAFETY: the request writes eight bytes.
    unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(disk), BLKGETSIZE64 as _, &raw mut end) };
    end
}

/// Sends to the host, then receives from it: the first byte says which.
fn net(address: &str) {
    let mut buffer = vec![0; 256 << 10];
    let mut stream = TcpStream::connect(address).expect("the host's server");
    stream.write_all(b"s").expect("send");
    rate("tcp-send-bytes", || stream.write(&buffer).expect("send") as u64);
    let mut stream = TcpStream::connect(address).expect("the host's server");
    stream.write_all(b"r").expect("send");
    rate("tcp-receive-bytes", || stream.read(&mut buffer).expect("receive") as u64);
}
