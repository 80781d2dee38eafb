//! What reading costs with more and more layers, printed for a person:
//! `cargo test --release -p disk --test images -- --ignored speed --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use disk::qcow2::{create, create_layer};
use disk::{Disk, Format, Stack};

use crate::tools::{Random, open};

const SIZE: u64 = 1 << 30;
const CLUSTER: u64 = 64 << 10;
const ROUND: Duration = Duration::from_millis(400);

/// A disk that is full of data, each cluster of which is in one of `layers` layers, below an empty top. Without any layer all is in
/// the top.
fn disk(folder: &Path, layers: usize) -> Stack {
    let mut random = Random(layers as u64);
    let owners: Vec<u64> = (0..SIZE / CLUSTER).map(|_| random.below(layers.max(1) as u64)).collect();
    let data = vec![0x5a; CLUSTER as usize];
    let at = |n: usize| folder.join(format!("{layers}-{n}.qcow2"));
    for n in 0..=layers {
        match n {
            0 => create(&at(0), SIZE).unwrap(),
            n => create_layer(&at(n), &format!("{layers}-{}.qcow2", n - 1), Format::Qcow2, SIZE).unwrap(),
        }
        let disk = open(&at(n), false).unwrap();
        for (cluster, _) in owners.iter().enumerate().filter(|(_, owner)| **owner == n as u64) {
            disk::write(&disk, &data, cluster as u64 * CLUSTER).unwrap();
        }
    }
    let started = Instant::now();
    let disk = open(&at(layers), false).unwrap();
    print!("{layers:>4} layers: opened in {:.1} ms", started.elapsed().as_secs_f64() * 1e3);
    disk
}

/// Reads a second, in `len` bytes at offsets that `next` gives; how long one read takes.
fn time(disk: &dyn Disk, len: usize, mut next: impl FnMut() -> u64) -> Duration {
    let mut bytes = vec![0; len];
    let (started, mut reads) = (Instant::now(), 0);
    while started.elapsed() < ROUND {
        for _ in 0..16 {
            disk::read(disk, &mut bytes, next()).unwrap();
        }
        reads += 16;
    }
    started.elapsed() / reads
}

#[test]
#[ignore = "prints how fast it is, which takes half a minute and 4 GiB"]
fn speed() {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let disks: Vec<(usize, Stack)> = [0, 1, 10, 100]
        .map(|layers| {
            let disk = disk(folder.path(), layers);
            let mut random = Random(1);
            // Once over all of it: the host has it in memory then, and we the map.
            let first = time(&disk, 4096, || random.below(SIZE / 4096) * 4096);
            println!(", first reads of 4 KiB {:.1} µs", first.as_secs_f64() * 1e6);
            for at in 0..SIZE >> 20 {
                disk::read(&disk, &mut vec![0; 1 << 20], at << 20).unwrap();
            }
            (layers, disk)
        })
        .into();
    // In turn, and the best of all: the machine has other things to do.
    let (mut small, mut large) = ([Duration::MAX; 4], [Duration::MAX; 4]);
    for _ in 0..7 {
        for (n, (_, disk)) in disks.iter().enumerate() {
            let mut random = Random(1);
            small[n] = small[n].min(time(disk, 4096, || random.below(SIZE / 4096) * 4096));
            let mut at = 0;
            large[n] = large[n].min(time(disk, 1 << 20, || {
                at = (at + (1 << 20)) % SIZE;
                at
            }));
        }
    }
    for (n, (layers, _)) in disks.iter().enumerate() {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let ratio = |times: &[Duration; 4]| us(times[n]) / us(times[0]);
        println!(
            "{layers:>4} layers: 4 KiB at random {:.2} µs (×{:.2}), 1 MiB in order {:.0} µs (×{:.2})",
            us(small[n]),
            ratio(&small),
            us(large[n]),
            ratio(&large)
        );
    }
}

#[test]
#[ignore = "prints how fast it is, which takes a few seconds and 12 GiB"]
fn speed_of_changes() {
    let folder = tempfile::tempdir_in(std::env::current_dir().unwrap()).unwrap();
    let at = |name: &str| folder.path().join(name);
    let len = 10 << 30;
    disk::qcow2::create_allocated(&at("disk.qcow2"), len).unwrap();
    let disk = open(&at("disk.qcow2"), false).unwrap();
    let mut random = Random(1);
    for round in 0..6 {
        // In use: all tables are in memory, and some of what was written is not in the file yet.
        for _ in 0..3000 {
            disk::write(&disk, &[round as u8; 4096], random.below(len / 4096) * 4096).unwrap();
        }
        let name = format!("layer-{round}.qcow2");
        std::fs::rename(at("disk.qcow2"), at(&name)).unwrap();
        let started = Instant::now();
        create_layer(&at("disk.qcow2"), &name, Format::Qcow2, len).unwrap();
        let made = started.elapsed();
        let new = std::fs::File::options().read(true).write(true).open(at("disk.qcow2")).unwrap();
        let started = Instant::now();
        disk.switch(new).unwrap();
        let switched = started.elapsed();
        let started = Instant::now();
        disk.flush().unwrap();
        println!(
            "a new top of 10 GiB over {} layers: made in {:.2} ms, taken in {:.2} ms, flushed in {:.1} ms",
            round + 1,
            made.as_secs_f64() * 1e3,
            switched.as_secs_f64() * 1e3,
            started.elapsed().as_secs_f64() * 1e3
        );
    }
    let started = Instant::now();
    disk.pull(5, |_, _| true).unwrap();
    let taken = started.elapsed().as_secs_f64();
    println!("5 layers with 15,000 clusters taken up in {taken:.2} s, {:.0} MiB/s", 15_000.0 / 16.0 / taken);
}
