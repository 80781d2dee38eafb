//! Kernels of a few instructions: ELF files with a PVH entry note, and a machine to run them.

use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vmm::boot::{Kernel, Source};
use vmm::engine::soft::Soft;
use vmm::machine::{Event, Machine, MachineConfig};

/// Where the code lies and starts, in 32-bit protected mode.
const ENTRY: u32 = 0x20_0000;
const SOON: Duration = Duration::from_secs(20);

/// XEN_ELFNOTE_PHYS32_ENTRY (Xen, public/elfnote.h).
const PHYS32_ENTRY: u32 = 18;

fn put(image: &mut Vec<u8>, words: &[u32]) {
    words.iter().for_each(|w| image.extend(w.to_le_bytes()));
}

/// An ELF file of 64 bits that loads `code` and says where to start it.
pub fn elf(code: &[u8]) -> Vec<u8> {
    let (headers, note) = (64 + 2 * 56, 20u32);
    let mut image = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    put(&mut image, &[62 << 16 | 2, 1, ENTRY, 0, 64, 0, 0, 0, 0, 56 << 16 | 64, 2, 0]);
    let segment = |kind, flags, at, to, len| [kind, flags, at, 0, to, 0, to, 0, len, 0, len, 0, 4, 0];
    put(&mut image, &segment(4, 4, headers, 0, note));
    put(&mut image, &segment(1, 5, headers + note, ENTRY, code.len() as u32));
    put(&mut image, &[4, 4, PHYS32_ENTRY]);
    image.extend(b"Xen\0");
    put(&mut image, &[ENTRY]);
    image.extend(code);
    image
}

/// Machine code, put together from a few words.
#[derive(Clone, Default)]
pub struct Code(Vec<u8>);

impl Code {
    /// `mov dx, port; mov al, value; out dx, al`.
    pub fn out(mut self, port: u16, value: u8) -> Self {
        let [low, high] = port.to_le_bytes();
        self.0.extend([0x66, 0xba, low, high, 0xb0, value, 0xee]);
        self
    }

    /// Writes text to the serial line.
    pub fn print(self, text: &str) -> Self {
        text.bytes().fold(self, |code, byte| code.out(0x3f8, byte))
    }

    /// Any bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    /// `jmp` to itself.
    pub fn spin(self) -> Self {
        self.bytes(&[0xeb, 0xfe])
    }
}

/// A file with a kernel that runs `code`.
pub fn elf_file(code: &Code) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&elf(&code.0)).unwrap();
    file
}

/// What came out of the serial line.
#[derive(Clone, Default)]
pub struct Screen(Arc<Mutex<Vec<u8>>>);

impl Screen {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    /// Waits until `text` has been written.
    pub fn wait_for(&self, text: &str) {
        let start = std::time::Instant::now();
        while !self.text().contains(text) {
            assert!(start.elapsed() < SOON, "no {text:?} on the console, only {:?}", self.text());
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

impl Write for Screen {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A machine with a kernel of a few instructions.
pub struct Guest {
    pub machine: Machine,
    pub screen: Screen,
}

impl Guest {
    /// A machine that will run `code`; it is paused.
    pub fn new(code: Code) -> Self {
        let image = elf_file(&code);
        let screen = Screen::default();
        let config = MachineConfig {
            figures: None,
            processors: 1,
            most_processors: None,
            memory: 16 << 20,
            most_memory: None,
            tsc_khz: None,
            kernel: Kernel { image: Source::new("test", image), initrd: None, command_line: String::new() },
            console: Box::new(screen.clone()),
            devices: Vec::new(),
        };
        Self { machine: Machine::new(&Soft, config).unwrap(), screen }
    }

    /// The same, running.
    pub fn start(code: Code) -> Self {
        let guest = Self::new(code);
        guest.machine.resume();
        guest
    }

    /// The next event.
    pub fn event(&self) -> Event {
        self.machine.wait(SOON).unwrap_or_else(|| panic!("no event; the console: {:?}", self.screen.text()))
    }
}
