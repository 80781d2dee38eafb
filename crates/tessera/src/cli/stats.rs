//! `--stats`: what a machine did, told at its end.

use std::mem::MaybeUninit;
use std::time::Duration;

/// Prints the figures on stderr.
pub fn print(elapsed: Duration, instructions: Option<u64>) {
    let usage = Usage::of_this_process();
    let (cpu, elapsed_s) = (usage.user + usage.system, elapsed.as_secs_f64());
    eprintln!("tessera: ran {elapsed_s:.2} s, {:.2} s of host processor", cpu.as_secs_f64());
    if let Some(instructions) = instructions {
        let rate = instructions as f64 / cpu.as_secs_f64().max(1e-9) / 1e6;
        eprintln!("tessera: {instructions} guest instructions, {rate:.0} million a second of host processor");
    }
    eprintln!("tessera: at most {:.1} MiB of host memory", usage.most_memory as f64 / f64::from(1 << 20));
}

/// What this process used so far.
struct Usage {
    user: Duration,
    system: Duration,
    /// The most memory that was resident, in bytes.
    most_memory: u64,
}

impl Usage {
    fn of_this_process() -> Usage {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: getrusage writes a whole rusage, and all-zero is a valid one should it fail.
        let usage = unsafe {
            libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
            usage.assume_init()
        };
        let time = |time: libc::timeval| {
            Duration::from_secs(time.tv_sec as u64) + Duration::from_micros(time.tv_usec as u64)
        };
        Usage {
            user: time(usage.ru_utime),
            system: time(usage.ru_stime),
            most_memory: usage.ru_maxrss as u64 * 1024,
        }
    }
}
