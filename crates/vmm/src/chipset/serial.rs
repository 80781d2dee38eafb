//! The serial line: a 16550 (the crate vm-superio) between the guest and a console.

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vm_superio::serial::{NoEvents, SerialState};
use vm_superio::{Serial as Uart, Trigger};

use crate::bus::Device;
use crate::interrupt::Pin;

/// Ports it answers at.
pub const SIZE: u64 = 8;

/// Where what the guest writes goes.
pub type Output = Box<dyn Write + Send>;

struct Line(Pin);

impl Trigger for Line {
    type E = std::convert::Infallible;
    fn trigger(&self) -> Result<(), Self::E> {
        self.0.pulse();
        Ok(())
    }
}

/// A serial port.
pub struct Serial {
    uart: Mutex<Uart<Line, NoEvents, Output>>,
}

impl Serial {
    /// A port that interrupts on `pin` and writes to `output`.
    pub fn new(pin: Pin, output: Output) -> Self {
        Self { uart: Mutex::new(Uart::new(Line(pin), output)) }
    }

    fn lock(&self) -> MutexGuard<'_, Uart<Line, NoEvents, Output>> {
        self.uart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the guest what was typed; says how many bytes it had room for. The rest must come again later.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut uart = self.lock();
        let room = uart.fifo_capacity().min(bytes.len());
        if room == 0 {
            return 0;
        }
        uart.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// The registers, for saving.
    pub fn save(&self) -> SerialState {
        self.lock().state()
    }
}

impl Device for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let ([first], Ok(offset)) = (&mut *data, u8::try_from(offset)) {
            *first = self.lock().read(offset);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        if let ([first], Ok(offset)) = (data, u8::try_from(offset))
            && let Err(error) = self.lock().write(offset, *first)
        {
            // The console is gone or full: the guest's line stays usable.
            tracing::debug!("the serial line's output failed: {error:?}");
        }
    }
}
