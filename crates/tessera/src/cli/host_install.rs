//! `tessera host install` and `tessera host uninstall`: what has a machine start its host by itself, by systemd.

use std::fs::{self, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::cli::host_config::{self, TEMPLATE};
use crate::cli::output::say;
use crate::cli::shell::{self, Shell};
use crate::failure::{Failure, Result, chain};

/// The unit's name.
const UNIT: &str = "tessera.service";

/// The unit (systemd.service(5)).
const TEXT: &str = include_str!("tessera.service");

/// Where things are put.
#[derive(Debug, Args)]
pub struct PlaceArgs {
    /// The folder that programs, manual pages and completions are below
    #[arg(long, value_name = "DIR", default_value = "/usr/local")]
    prefix: PathBuf,
    /// Take this folder for the machine's root: for packages and images of machines
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

/// Arguments of `tessera host install`.
#[derive(Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
    /// Start it now, and whenever the machine starts
    #[arg(long)]
    enable: bool,
}

/// Arguments of `tessera host uninstall`.
#[derive(Debug, Args)]
pub struct UninstallArgs {
    #[command(flatten)]
    place: PlaceArgs,
}

impl InstallArgs {
    /// Puts everything there. A configuration that is there stays as it is.
    ///
    /// # Errors
    /// If something cannot be written, or systemd refuses.
    pub fn execute(self) -> Result<()> {
        self.place.check()?;
        let program = self.place.program();
        self.place.put_program(&program)?;
        let text = TEXT.replace("@PROGRAM@", &program.display().to_string());
        self.place.put(&self.place.unit(), text.as_bytes())?;
        for (path, shell) in self.place.completions() {
            let script = shell.script().map_err(|error| Failure::internal(error.to_string()))?;
            self.place.put(&path, &script)?;
        }
        for (name, page) in shell::manual_pages()? {
            self.place.put(&self.place.manuals().join(name), &page)?;
        }
        let config = Path::new(host_config::USUAL);
        if self.place.below_root(config).exists() {
            say(&format!("{} stays as it is", config.display()));
        } else {
            self.place.put(config, TEMPLATE.as_bytes())?;
        }
        say(&format!("{} is installed: {}", UNIT, self.place.unit().display()));
        if self.enable {
            self.place.enable()?;
        } else if self.place.is_this_machine() {
            say(&format!("systemctl daemon-reload && systemctl enable --now {UNIT} starts it"));
        }
        Ok(())
    }
}

impl UninstallArgs {
    /// Takes away what was put there. The configuration, the host's state and guests that run stay.
    ///
    /// # Errors
    /// If something cannot be removed, or systemd refuses.
    pub fn execute(self) -> Result<()> {
        self.place.check()?;
        let unit = self.place.unit();
        if !self.place.below_root(&unit).exists() {
            return Err(Failure::input(format!("{} is not there: nothing is installed", unit.display())));
        }
        self.place.disable()?;
        let mut files = vec![unit, self.place.program()];
        files.extend(self.place.completions().into_iter().map(|(path, _)| path));
        files.extend(shell::manual_pages()?.into_iter().map(|(name, _)| self.place.manuals().join(name)));
        for file in files.iter().map(|path| self.place.below_root(path)) {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&file, &error)),
                _ => {}
            }
        }
        say(&format!(
            "{UNIT} is gone; {} and what the host keeps stay, and so do guests that run",
            host_config::USUAL
        ));
        Ok(())
    }
}

impl PlaceArgs {
    fn check(&self) -> Result<()> {
        let plain = |path: &Path| {
            path.to_str()
                .is_some_and(|text| !text.contains(|c: char| c.is_whitespace() || "%\"'\\$".contains(c)))
        };
        match self.prefix.is_absolute() && plain(&self.prefix) {
            true => Ok(()),
            false => Err(Failure::input(format!(
                "--prefix {}: it has to be an absolute path without spaces, quotes, $ and %",
                self.prefix.display()
            ))),
        }
    }

    fn is_this_machine(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Where something is that is at `path` on the machine.
    fn below_root(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    fn program(&self) -> PathBuf {
        self.prefix.join("bin/tessera")
    }

    fn manuals(&self) -> PathBuf {
        self.prefix.join("share/man/man1")
    }

    /// Where systemd looks: below `/usr` and `/usr/local`, or else in `/etc` (systemd.unit(5)).
    fn unit(&self) -> PathBuf {
        match self.prefix.to_str() {
            Some("/usr" | "/usr/local") => self.prefix.join("lib/systemd/system").join(UNIT),
            _ => Path::new("/etc/systemd/system").join(UNIT),
        }
    }

    /// Where shells look.
    fn completions(&self) -> Vec<(PathBuf, Shell)> {
        let share = self.prefix.join("share");
        vec![
            (share.join("bash-completion/completions/tessera"), Shell::Bash),
            (share.join("zsh/site-functions/_tessera"), Shell::Zsh),
            (share.join("fish/vendor_completions.d/tessera.fish"), Shell::Fish),
        ]
    }

    /// Puts this program there, if it is not that one.
    fn put_program(&self, path: &Path) -> Result<()> {
        let own =
            std::env::current_exe().map_err(|error| Failure::internal(format!("this program: {error}")))?;
        let place = self.below_root(path);
        if place.canonicalize().ok() == own.canonicalize().ok() {
            return Ok(());
        }
        let copy = |file: &mut fs::File| io::copy(&mut fs::File::open(&own)?, file).map(drop);
        write(&place, 0o755, copy).map_err(|error| failed(&place, &error))
    }

    fn put(&self, path: &Path, content: &[u8]) -> Result<()> {
        let place = self.below_root(path);
        write(&place, 0o644, |file| file.write_all(content)).map_err(|error| failed(&place, &error))
    }

    fn enable(&self) -> Result<()> {
        if self.is_this_machine() {
            self.systemctl(&["daemon-reload"])?;
            return self.systemctl(&["enable", "--now", UNIT]);
        }
        self.systemctl(&["enable", UNIT])
    }

    /// Has systemd start it no more. Where nobody runs systemd, links are all there is to remove.
    fn disable(&self) -> Result<()> {
        let runs = self.is_this_machine() && Path::new("/run/systemd/system").exists();
        if runs {
            return self.systemctl(&["disable", "--now", UNIT]);
        }
        let link = self.below_root(Path::new("/etc/systemd/system/multi-user.target.wants")).join(UNIT);
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&link, &error)),
            _ => Ok(()),
        }
    }

    fn systemctl(&self, words: &[&str]) -> Result<()> {
        let mut command = Command::new("systemctl");
        if !self.is_this_machine() {
            command.arg("--root").arg(&self.root);
        }
        let told = |what: &str| Failure::internal(format!("systemctl {}: {what}", words.join(" ")));
        let output = command.args(words).output().map_err(|error| told(&chain(&error)))?;
        match output.status.success() {
            true => Ok(()),
            false => Err(told(String::from_utf8_lossy(&output.stderr).trim())),
        }
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::input(format!("{}: {error}", path.display()))
}

/// Writes a file whole or not at all. A program that runs can be replaced so.
fn write(path: &Path, mode: u32, fill: impl FnOnce(&mut fs::File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    fill(file.as_file_mut())?;
    file.as_file().set_permissions(Permissions::from_mode(mode))?;
    file.persist(path)?;
    Ok(())
}
