//! The measurements.

use std::collections::BTreeMap;
use std::io::{BufRead, Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use crate::vmm::{Engine, Guest, Vmm};

/// Memory of the guest that stays idle, MiB.
const IDLE_MIB: u32 = 128;

const BOTH: [Vmm; 2] = [Vmm::Tessera, Vmm::Qemu];

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn tell(name: &str, unit: &str, tessera: f64, qemu: f64, ratio: f64) {
    println!("{name:24} tessera {tessera:>14.2} {unit:3} qemu {qemu:>14.2} {unit:3} ratio {ratio:.2}");
}

/// Seconds from the start of the process to the guest's first program.
pub fn boot(engine: Engine, rounds: usize) {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        for (vmm, times) in BOTH.into_iter().zip(&mut times) {
            let start = Instant::now();
            let (mut child, console) =
                vmm.start(&Guest { engine, words: "", memory: 256, disk: None, network: false });
            let first =
                console.split(b'\n').map_while(Result::ok).find(|l| l.starts_with(b"first user program"));
            times.push(start.elapsed().as_secs_f64());
            assert!(first.is_some(), "{vmm:?} did not boot");
            // It powers itself off.
            child.wait().expect("the end of the guest");
        }
    }
    let [tessera, qemu] = times.map(|mut t| median(&mut t));
    tell("boot", "s", tessera, qemu, qemu / tessera);
}

/// Rates that a program in the guest measures.
pub fn rates(engine: Engine, rounds: usize, what: &str) {
    let disk = tempfile::NamedTempFile::new_in(crate::vmm::build()).expect("a disk for the guest");
    // Written, not a hole: both read and write the same blocks.
    std::fs::write(disk.path(), vec![1u8; 256 << 20]).expect("a disk for the guest");
    let port = if what == "net" { serve() } else { 0 };
    let words = format!("do=bench={what}:{port}");
    let guest = Guest {
        engine,
        words: &words,
        memory: 256,
        disk: (what == "disk").then_some(disk.path()),
        network: what == "net",
    };
    let mut order = Vec::new();
    let mut all: BTreeMap<String, [Vec<f64>; 2]> = BTreeMap::new();
    for _ in 0..rounds {
        for (i, vmm) in BOTH.into_iter().enumerate() {
            for line in vmm.lines(&guest) {
                let mut words = line.split_whitespace();
                if let (Some("bench"), Some(name), Some(rate)) = (words.next(), words.next(), words.next()) {
                    if !all.contains_key(name) {
                        order.push(name.to_owned());
                    }
                    all.entry(name.to_owned()).or_default()[i].push(rate.parse().expect("a rate"));
                }
            }
        }
    }
    assert!(!order.is_empty(), "the guest measured nothing");
    for name in order {
        let Some([tessera, qemu]) = all.remove(&name) else { continue };
        let [tessera, qemu] = [tessera, qemu].map(|mut rates| median(&mut rates));
        tell(&name, "/s", tessera, qemu, tessera / qemu);
    }
}

/// A server that takes what a client sends, or sends without end, as its first byte asks.
fn serve() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("its address").port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut buffer = vec![0; 256 << 10];
                if client.read_exact(&mut buffer[..1]).is_ok() && buffer[0] == b'r' {
                    while client.write_all(&buffer).is_ok() {}
                } else {
                    while client.read(&mut buffer).is_ok_and(|n| n > 0) {}
                }
            });
        }
    });
    port
}

/// The host's memory that an idle guest takes beyond what it touched itself: of its process's own, and of the program's file,
/// which all guests of a host share.
pub fn memory(engine: Engine) {
    for vmm in BOTH {
        let guest = Guest { engine, words: "do=idle", memory: IDLE_MIB, disk: None, network: false };
        let (mut child, console) = vmm.start(&guest);
        let idle = console.split(b'\n').map_while(Result::ok).any(|l| l.starts_with(b"idle"));
        assert!(idle, "{vmm:?} did not boot");
        std::thread::sleep(Duration::from_secs(8));
        let [touched, own, file] = resident_mib(child.id());
        child.kill().expect("the guest's process");
        child.wait().expect("the end of the guest");
        println!(
            "memory {vmm:?}: guest {touched:.1} MiB; beyond it {own:.1} MiB of its own, {file:.1} MiB of files"
        );
    }
}

/// Resident memory of a process, MiB: the mapping that has the size of the guest's RAM, other memory of its own, and files
/// (proc_pid_smaps(5)).
fn resident_mib(process: u32) -> [f64; 3] {
    let text = std::fs::read_to_string(format!("/proc/{process}/smaps")).expect("smaps");
    let (mut touched, mut own, mut file) = (0, 0, 0);
    let (mut size, mut all) = (0, 0);
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next().unwrap_or(""), words.next().and_then(|v| v.parse::<u64>().ok()));
        match (name, value) {
            ("Size:", Some(kib)) => size = kib,
            ("Rss:", Some(kib)) => all = kib,
            ("Anonymous:", Some(kib)) if size == u64::from(IDLE_MIB) << 10 => touched += kib,
            ("Anonymous:", Some(kib)) => {
                own += kib;
                file += all - kib;
            }
            _ => {}
        }
    }
    [touched, own, file].map(|kib| kib as f64 / 1024.0)
}
