//! Finds the built page in `web/dist` and makes a table of its files for `http::page`. Without one the table is empty.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let root = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from).unwrap_or_default();
    let out = env::var_os("OUT_DIR").map(PathBuf::from).unwrap_or_default();
    let web = root.join("../../web");
    let built = web.join("dist");
    // A folder that is not there would have cargo run this each time.
    let watched = if built.exists() { &built } else { &web };
    if watched.exists() {
        println!("cargo::rerun-if-changed={}", watched.display());
    }
    println!("cargo::rerun-if-changed=build.rs");

    let mut files = Vec::new();
    if built.exists() {
        collect(&built, &mut files)?;
    }
    files.sort();
    let mut table = String::from("&[\n");
    for file in &files {
        let Ok(name) = file.strip_prefix(&built) else { continue };
        let name = name.to_string_lossy();
        let _ = writeln!(table, "    (\"/{}\", include_bytes!({:?}) as &[u8]),", name.escape_default(), file);
    }
    table.push_str("]\n");
    fs::write(out.join("page_files.rs"), table)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), files)?;
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
