//! Says whenever the processor that it is bound to stood still: sleeps for 2 ms over and over, and writes by how much it was late, µs, if that is much. It is to be started with a priority of real time, before
//! which no other thread comes (bench/share does), so only a machine that does not run at all makes it late.

use std::time::{Duration, Instant};

const PERIOD: Duration = Duration::from_millis(2);
const MUCH: Duration = Duration::from_micros(700);

fn main() {
    loop {
        let begun = Instant::now();
        std::thread::sleep(PERIOD);
        let late = begun.elapsed().saturating_sub(PERIOD);
        if late > MUCH {
            println!("{}", late.as_micros());
        }
    }
}
