//! `tessera completion` and `tessera man`: what shells and manuals know of the command line, made from it.

use std::ffi::OsString;
use std::fs::DirEntry;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::env::{self, EnvCompleter};

use crate::cli::{Cli, complete};
use crate::failure::{Failure, Result};

/// Shells that can be told how command lines go on.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Shell {
    /// bash
    Bash,
    /// zsh
    Zsh,
    /// fish
    Fish,
    /// elvish
    Elvish,
}

impl Shell {
    /// The script that has this shell ask `tessera`, each time a person wants to know.
    ///
    /// # Errors
    /// Never: it is written into memory.
    pub fn script(self) -> io::Result<Vec<u8>> {
        let completer: &dyn EnvCompleter = match self {
            Shell::Bash => &env::Bash,
            Shell::Zsh => &env::Zsh,
            Shell::Fish => &env::Fish,
            Shell::Elvish => &env::Elvish,
        };
        let mut script = Vec::new();
        completer.write_registration(complete::VARIABLE, "tessera", "tessera", "tessera", &mut script)?;
        if matches!(self, Shell::Zsh) {
            // Where it was loaded as a function, it has been called to complete.
            script.extend(
                b"\nif [ \"$funcstack[1]\" = _tessera ]; then _clap_dynamic_completer_tessera \"$@\"; fi\n",
            );
        }
        Ok(script)
    }
}

/// Arguments of `tessera completion`.
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell to make it for
    shell: Shell,
}

impl CompletionArgs {
    /// Prints the completion on stdout.
    pub fn execute(self) -> Result<()> {
        let script = self.shell.script().map_err(|error| Failure::internal(error.to_string()))?;
        // Whoever reads may stop early; that is no failure.
        let _ = io::stdout().write_all(&script);
        Ok(())
    }
}

/// Arguments of `tessera man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The folder; it is made if it does not exist
    folder: PathBuf,
}

impl ManArgs {
    /// Writes one page for each command.
    pub fn execute(self) -> Result<()> {
        write_manual(&self.folder)
            .map_err(|error| Failure::input(format!("{}: {error}", self.folder.display())))
    }
}

fn write_manual(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}

/// The manual pages, with the names of their files.
///
/// # Errors
/// If there is no room for temporary files.
pub fn manual_pages() -> Result<Vec<(OsString, Vec<u8>)>> {
    let pages = || {
        let folder = tempfile::tempdir()?;
        write_manual(folder.path())?;
        let files = std::fs::read_dir(folder.path())?;
        let page = |file: io::Result<DirEntry>| {
            let file = file?;
            Ok((file.file_name(), std::fs::read(file.path())?))
        };
        files.map(page).collect::<io::Result<Vec<_>>>()
    };
    pages().map_err(|error| Failure::internal(format!("the manual pages: {error}")))
}
