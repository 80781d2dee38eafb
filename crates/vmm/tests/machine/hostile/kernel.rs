//! Any bytes as a kernel. Shared with the fuzz target.

use std::io::Write;
use std::sync::OnceLock;

use vmm::boot::{self, Kernel, Source};
use vmm::memory::Ram;

fn file(bytes: &[u8]) -> std::fs::File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

/// Loads a kernel as a machine does that starts; true if it would start. Why not is told in one line.
pub fn load(image: &[u8]) -> bool {
    static RAM: OnceLock<Ram> = OnceLock::new();
    let ram = RAM.get_or_init(|| Ram::new(16 << 20).unwrap());
    let kernel = Kernel {
        image: Source::new("image", file(image)),
        initrd: Some(Source::new("initrd", file(&image[..image.len().min(5000)]))),
        command_line: "console=ttyS0".into(),
    };
    match boot::load(ram, &kernel) {
        Ok(_) => true,
        Err(error) => {
            let told = error.to_string();
            assert!(!told.contains('\n') && told.len() < 300, "{told:?}");
            false
        }
    }
}
