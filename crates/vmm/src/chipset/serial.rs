//! The serial line: a 16550A (National Semiconductor PC16550D data sheet) between the guest and a console.
//!
//! What the guest sends leaves at once, so the transmitter is always empty. What is typed waits in the receiver's FIFO; the
//! console is told how much of it there was room for and offers the rest again. A break comes as a zero that is marked as one.

use std::collections::VecDeque;
use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::bus::Device;
use crate::interrupt::Pin;

/// Ports it answers at.
pub const SIZE: u64 = 8;

/// Where what the guest writes goes. It is called on a vCPU's thread: if it blocks, that processor waits.
pub type Output = Box<dyn Write + Send>;

/// How many bytes the receiver holds with its FIFO on, and off.
const FIFO: usize = 16;
const NO_FIFO: usize = 1;

/// Registers, by port. The first two are the divisor's while LCR.DLAB is set.
mod register {
    pub const DATA: u64 = 0;
    pub const IER: u64 = 1;
    pub const IIR_FCR: u64 = 2;
    pub const LCR: u64 = 3;
    pub const MCR: u64 = 4;
    pub const LSR: u64 = 5;
    pub const MSR: u64 = 6;
    pub const SCRATCH: u64 = 7;
}

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
    struct Enable: u8 {
        const RECEIVED = 1;
        const TRANSMITTER_EMPTY = 1 << 1;
        const LINE_STATUS = 1 << 2;
        const MODEM_STATUS = 1 << 3;
    }
}

/// Interrupt identification register: what to say, in order of priority.
mod iir {
    pub const NONE: u8 = 0b0001;
    pub const LINE_STATUS: u8 = 0b0110;
    pub const RECEIVED: u8 = 0b0100;
    pub const TIMEOUT: u8 = 0b1100;
    pub const TRANSMITTER_EMPTY: u8 = 0b0010;
    pub const MODEM_STATUS: u8 = 0b0000;
    pub const FIFO_ON: u8 = 0xc0;
}

/// FIFO control register.
mod fcr {
    pub const ENABLE: u8 = 1;
    pub const CLEAR_RECEIVER: u8 = 1 << 1;
    /// How many bytes make a "received" interrupt, by the top two bits.
    pub const TRIGGER: [usize; 4] = [1, 4, 8, 14];
}

const LCR_DLAB: u8 = 1 << 7;

/// Modem control register.
mod mcr {
    pub const DTR: u8 = 1;
    pub const RTS: u8 = 1 << 1;
    pub const OUT1: u8 = 1 << 2;
    pub const OUT2: u8 = 1 << 3;
    pub const LOOPBACK: u8 = 1 << 4;
    pub const WRITABLE: u8 = 0x1f;
}

/// Line status register.
mod lsr {
    pub const DATA_READY: u8 = 1;
    pub const OVERRUN: u8 = 1 << 1;
    /// The byte that is read next is a break.
    pub const BREAK: u8 = 1 << 4;
    pub const TRANSMITTER_EMPTY: u8 = 1 << 5 | 1 << 6;
    /// There is a break somewhere in the receiver's FIFO.
    pub const ERROR_IN_FIFO: u8 = 1 << 7;
}

/// Modem status register: the lines, and below them what changed.
mod msr {
    pub const CTS: u8 = 1 << 4;
    pub const DSR: u8 = 1 << 5;
    pub const RI: u8 = 1 << 6;
    pub const DCD: u8 = 1 << 7;
    pub const CONNECTED: u8 = CTS | DSR | DCD;
}

/// What is saved of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SerialState {
    enable: Enable,
    fifo_control: u8,
    line_control: u8,
    modem_control: u8,
    scratch: u8,
    divisor: u16,
    received: VecDeque<u8>,
    /// Which of the received bytes are breaks that LSR has not told of yet: bit n for the byte that is the n-th to be read.
    #[serde(default)]
    breaks: u32,
    overrun: bool,
    /// "Transmitter empty" has not been told since it last became so.
    transmitter_emptied: bool,
    /// Modem lines that changed since MSR was last read.
    modem_changes: u8,
}

impl Default for SerialState {
    fn default() -> Self {
        Self {
            enable: Enable::empty(),
            fifo_control: 0,
            line_control: 0,
            modem_control: 0,
            scratch: 0,
            divisor: 12,
            received: VecDeque::new(),
            breaks: 0,
            overrun: false,
            transmitter_emptied: false,
            modem_changes: 0,
        }
    }
}

impl SerialState {
    fn fifo_on(&self) -> bool {
        self.fifo_control & fcr::ENABLE != 0
    }

    fn capacity(&self) -> usize {
        if self.fifo_on() { FIFO } else { NO_FIFO }
    }

    fn loops_back(&self) -> bool {
        self.modem_control & mcr::LOOPBACK != 0
    }

    fn receive(&mut self, byte: u8) {
        if self.received.len() < self.capacity() {
            self.received.push_back(byte);
        } else {
            self.overrun = true;
        }
    }

    /// The next byte to be read.
    fn take(&mut self) -> u8 {
        self.breaks >>= 1;
        self.received.pop_front().unwrap_or(0)
    }

    /// Whether the byte that is read next is a break. That is told only then (section 8.6.4).
    fn is_break_next(&self) -> bool {
        self.breaks & 1 != 0
    }

    /// The most urgent reason to interrupt.
    fn reason(&self) -> u8 {
        let trigger = fcr::TRIGGER[usize::from(self.fifo_control >> 6)];
        if self.enable.contains(Enable::LINE_STATUS) && (self.overrun || self.is_break_next()) {
            iir::LINE_STATUS
        } else if self.enable.contains(Enable::RECEIVED) && !self.received.is_empty() {
            // Bytes below the trigger level are told as soon as the line falls silent, which it is between any two.
            if !self.fifo_on() || self.received.len() >= trigger { iir::RECEIVED } else { iir::TIMEOUT }
        } else if self.enable.contains(Enable::TRANSMITTER_EMPTY) && self.transmitter_emptied {
            iir::TRANSMITTER_EMPTY
        } else if self.enable.contains(Enable::MODEM_STATUS) && self.modem_changes != 0 {
            iir::MODEM_STATUS
        } else {
            iir::NONE
        }
    }

    fn modem_lines(&self) -> u8 {
        if !self.loops_back() {
            return msr::CONNECTED;
        }
        [(mcr::DTR, msr::DSR), (mcr::RTS, msr::CTS), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)]
            .into_iter()
            .filter(|(out, _)| self.modem_control & out != 0)
            .map(|(_, line)| line)
            .sum()
    }

    fn read(&mut self, offset: u64) -> u8 {
        let divisor = self.line_control & LCR_DLAB != 0;
        match offset {
            register::DATA if divisor => self.divisor as u8,
            register::IER if divisor => (self.divisor >> 8) as u8,
            register::DATA => self.take(),
            register::IER => self.enable.bits(),
            register::IIR_FCR => {
                let reason = self.reason();
                if reason == iir::TRANSMITTER_EMPTY {
                    self.transmitter_emptied = false;
                }
                reason | if self.fifo_on() { iir::FIFO_ON } else { 0 }
            }
            register::LCR => self.line_control,
            register::MCR => self.modem_control,
            register::LSR => {
                let ready = if self.received.is_empty() { 0 } else { lsr::DATA_READY };
                let overrun = if std::mem::take(&mut self.overrun) { lsr::OVERRUN } else { 0 };
                let in_fifo = if self.fifo_on() && self.breaks != 0 { lsr::ERROR_IN_FIFO } else { 0 };
                let next = if self.is_break_next() { lsr::BREAK } else { 0 };
                self.breaks &= !1;
                ready | overrun | in_fifo | next | lsr::TRANSMITTER_EMPTY
            }
            register::MSR => self.modem_lines() | std::mem::take(&mut self.modem_changes),
            register::SCRATCH => self.scratch,
            _ => 0xff,
        }
    }

    /// Gives the byte that goes out, if that is what was written.
    fn write(&mut self, offset: u64, value: u8) -> Option<u8> {
        let divisor = self.line_control & LCR_DLAB != 0;
        match offset {
            register::DATA if divisor => self.divisor = self.divisor & 0xff00 | u16::from(value),
            register::IER if divisor => self.divisor = self.divisor & 0xff | u16::from(value) << 8,
            register::DATA => {
                self.transmitter_emptied = true;
                if !self.loops_back() {
                    return Some(value);
                }
                self.receive(value);
            }
            register::IER => {
                let new = Enable::from_bits_truncate(value);
                // Enabling it while the transmitter is empty tells so at once; drivers test for that.
                self.transmitter_emptied |= new.difference(self.enable).contains(Enable::TRANSMITTER_EMPTY);
                self.enable = new;
            }
            register::IIR_FCR => {
                if (value ^ self.fifo_control) & fcr::ENABLE != 0 || value & fcr::CLEAR_RECEIVER != 0 {
                    self.received.clear();
                    self.breaks = 0;
                }
                self.fifo_control = if value & fcr::ENABLE != 0 { value } else { 0 };
            }
            register::LCR => self.line_control = value,
            register::MCR => {
                let before = self.modem_lines();
                self.modem_control = value & mcr::WRITABLE;
                let after = self.modem_lines();
                // The ring indicator counts when it ends, the others whenever they change.
                let changed = (before ^ after) & !msr::RI | before & !after & msr::RI;
                self.modem_changes |= changed >> 4;
            }
            register::SCRATCH => self.scratch = value,
            _ => {}
        }
        None
    }
}

struct Line {
    state: SerialState,
    output: Output,
}

/// A serial port.
pub struct Serial {
    line: Mutex<Line>,
    pin: Pin,
}

impl Serial {
    /// A port that interrupts on `pin` and writes to `output`.
    pub fn new(pin: Pin, output: Output) -> Self {
        Self { line: Mutex::new(Line { state: SerialState::default(), output }), pin }
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_pin(&self, line: &Line) {
        self.pin.set(line.state.reason() != iir::NONE);
    }

    /// Gives the guest what was typed; says how many bytes it had room for. The rest must come again later.
    pub fn input(&self, bytes: &[u8]) -> usize {
        let mut line = self.lock();
        if line.state.loops_back() {
            return 0;
        }
        let room = line.state.capacity().saturating_sub(line.state.received.len()).min(bytes.len());
        line.state.received.extend(&bytes[..room]);
        self.set_pin(&line);
        room
    }

    /// Holds the line down for longer than a byte takes; says whether there was room for the guest to notice. If not it must be done again
    /// later. Linux takes the letter after a break on its console as one typed with SysRq (Documentation/admin-guide/sysrq.rst).
    pub fn send_break(&self) -> bool {
        let mut line = self.lock();
        let at = line.state.received.len();
        if line.state.loops_back() || at >= line.state.capacity() {
            return false;
        }
        line.state.received.push_back(0);
        line.state.breaks |= 1 << at;
        self.set_pin(&line);
        true
    }

    /// What is saved.
    pub fn save(&self) -> SerialState {
        self.lock().state.clone()
    }

    /// Puts back what was saved. More received bytes than the FIFO holds are dropped.
    pub fn restore(&self, mut state: SerialState) {
        state.received.truncate(state.capacity());
        state.breaks &= (1 << state.received.len()) - 1;
        let mut line = self.lock();
        line.state = state;
        self.set_pin(&line);
    }

    /// As after power-on.
    pub fn reset(&self) {
        self.restore(SerialState::default());
    }
}

impl Device for Serial {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let [byte] = data {
            let mut line = self.lock();
            *byte = line.state.read(offset);
            self.set_pin(&line);
        }
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let &[value] = data else { return };
        let mut line = self.lock();
        if let Some(byte) = line.state.write(offset, value)
            && let Err(error) = line.output.write_all(&[byte]).and_then(|()| line.output.flush())
        {
            // The console is gone: the guest's line stays usable.
            tracing::debug!(%error, "the serial line's output failed");
        }
        self.set_pin(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::chipset::testing::Pins;

    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    struct Bench {
        serial: Serial,
        pins: Arc<Pins>,
        screen: Screen,
    }

    fn bench() -> Bench {
        let (pins, screen) = (Arc::new(Pins::default()), Screen::default());
        let serial = Serial::new(Pin::new(pins.clone(), 4), Box::new(screen.clone()));
        Bench { serial, pins, screen }
    }

    impl Bench {
        fn read(&self, offset: u64) -> u8 {
            let mut byte = [0];
            self.serial.read(offset, &mut byte);
            byte[0]
        }
        fn write(&self, offset: u64, value: u8) {
            self.serial.write(offset, &[value]);
        }
        fn interrupts(&self) -> bool {
            self.pins.level(4)
        }
    }

    #[test]
    fn what_the_guest_writes_comes_out_in_order() {
        let b = bench();
        b"login: ".iter().for_each(|&c| b.write(register::DATA, c));
        assert_eq!(*b.screen.0.lock().unwrap(), b"login: ");
        assert_eq!(b.read(register::LSR), lsr::TRANSMITTER_EMPTY);
    }

    #[test]
    fn typed_bytes_interrupt_until_they_are_read() {
        let b = bench();
        b.write(register::IIR_FCR, fcr::ENABLE);
        b.write(register::IER, Enable::RECEIVED.bits());
        assert!(!b.interrupts());
        assert_eq!(b.serial.input(b"ls"), 2);
        assert!(b.interrupts());
        assert_eq!(b.read(register::IIR_FCR), iir::RECEIVED | iir::FIFO_ON);
        assert_eq!((b.read(register::DATA), b.read(register::DATA)), (b'l', b's'));
        assert!(!b.interrupts());
        assert_eq!(b.read(register::IIR_FCR), iir::NONE | iir::FIFO_ON);
    }

    #[test]
    fn input_beyond_the_fifo_is_left_to_the_console() {
        let b = bench();
        assert_eq!(b.serial.input(b"abc"), 1);
        b.write(register::IIR_FCR, fcr::ENABLE);
        assert_eq!(b.serial.input(&[b'x'; 100]), FIFO);
        assert_eq!(b.serial.input(b"y"), 0);
        b.read(register::DATA);
        assert_eq!(b.serial.input(b"yz"), 1);
        assert_eq!(b.read(register::LSR) & lsr::OVERRUN, 0);
    }

    #[test]
    fn a_break_is_told_when_its_zero_is_the_next_byte_and_once() {
        let b = bench();
        b.write(register::IIR_FCR, fcr::ENABLE);
        b.write(register::IER, (Enable::RECEIVED | Enable::LINE_STATUS).bits());
        assert_eq!(b.serial.input(b"a"), 1);
        assert!(b.serial.send_break());
        assert_eq!(b.serial.input(b"h"), 1);
        let quiet = lsr::TRANSMITTER_EMPTY | lsr::DATA_READY;
        // It is not its turn yet.
        assert_eq!(b.read(register::IIR_FCR), iir::RECEIVED | iir::FIFO_ON);
        assert_eq!(b.read(register::LSR), quiet | lsr::ERROR_IN_FIFO);
        assert_eq!(b.read(register::DATA), b'a');
        assert_eq!(b.read(register::IIR_FCR), iir::LINE_STATUS | iir::FIFO_ON);
        assert_eq!(b.read(register::LSR), quiet | lsr::ERROR_IN_FIFO | lsr::BREAK);
        assert_eq!(b.read(register::LSR), quiet);
        assert_eq!(b.read(register::IIR_FCR), iir::RECEIVED | iir::FIFO_ON);
        assert_eq!((b.read(register::DATA), b.read(register::DATA)), (0, b'h'));
        assert!(!b.interrupts());
    }

    #[test]
    fn a_break_that_nobody_looked_for_goes_with_its_zero() {
        let b = bench();
        assert!(b.serial.send_break());
        assert!(!b.serial.send_break() && b.serial.input(b"x") == 0, "there is no room without the FIFO");
        assert_eq!(b.read(register::DATA), 0);
        assert_eq!(b.read(register::LSR), lsr::TRANSMITTER_EMPTY);
        b.write(register::IIR_FCR, fcr::ENABLE);
        b.serial.input(&[b'x'; FIFO - 1]);
        assert!(b.serial.send_break() && !b.serial.send_break());
        let other = bench();
        other.serial.restore(b.serial.save());
        assert_eq!(other.serial.save(), b.serial.save());
        for _ in 0..FIFO - 1 {
            assert_eq!((other.read(register::LSR) & lsr::BREAK, other.read(register::DATA)), (0, b'x'));
        }
        assert_eq!(other.read(register::LSR) & lsr::BREAK, lsr::BREAK);
        b.write(register::IIR_FCR, fcr::ENABLE | fcr::CLEAR_RECEIVER);
        assert_eq!(b.read(register::LSR), lsr::TRANSMITTER_EMPTY);
    }

    #[test]
    fn enabling_the_transmitter_interrupt_tells_at_once_and_once() {
        let b = bench();
        for _ in 0..2 {
            b.write(register::IER, Enable::TRANSMITTER_EMPTY.bits());
            assert!(b.interrupts());
            assert_eq!(b.read(register::IIR_FCR), iir::TRANSMITTER_EMPTY);
            assert!(!b.interrupts());
            assert_eq!(b.read(register::IIR_FCR), iir::NONE);
            b.write(register::IER, 0);
        }
    }

    #[test]
    fn loopback_gives_back_bytes_and_modem_lines_and_nothing_leaves() {
        let b = bench();
        b.write(register::MCR, mcr::LOOPBACK | mcr::OUT2 | mcr::RTS);
        assert_eq!(b.read(register::MSR) & 0xf0, msr::DCD | msr::CTS);
        b.write(register::DATA, b'!');
        assert_eq!(b.read(register::DATA), b'!');
        assert_eq!(b.serial.input(b"typed"), 0);
        assert!(b.screen.0.lock().unwrap().is_empty());
    }

    #[test]
    fn the_divisor_hides_behind_its_bit() {
        let b = bench();
        b.write(register::LCR, LCR_DLAB | 3);
        b.write(register::DATA, 0x34);
        b.write(register::IER, 0x12);
        assert_eq!((b.read(register::DATA), b.read(register::IER)), (0x34, 0x12));
        b.write(register::LCR, 3);
        assert_eq!(b.read(register::IER), 0);
        assert!(b.screen.0.lock().unwrap().is_empty());
    }

    #[test]
    fn state_goes_out_and_in_with_its_interrupt() {
        let b = bench();
        b.write(register::IIR_FCR, fcr::ENABLE | 0x80);
        b.write(register::IER, 0x0f);
        b.write(register::SCRATCH, 0x77);
        b.serial.input(b"half a line");
        let saved = b.serial.save();
        let other = bench();
        other.serial.restore(saved.clone());
        assert_eq!(other.serial.save(), saved);
        assert!(other.interrupts());
        assert_eq!(other.read(register::DATA), b'h');
    }

    #[test]
    fn odd_accesses_do_nothing() {
        let b = bench();
        b.serial.write(0, &[1, 2]);
        let mut four = [0; 4];
        b.serial.read(0, &mut four);
        assert_eq!(four, [0xff; 4]);
        assert!(b.screen.0.lock().unwrap().is_empty());
    }
}
