//! What has systemd start a host, and the Debian package.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::{Daemon, PATIENCE};

fn tessera(program: &Path, words: &[&str]) -> Output {
    Command::new(program).args(words).stdin(Stdio::null()).output().unwrap()
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Whether a program is here.
fn is_here(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|folder| folder.join(program).exists())
}

/// Has systemd read the unit of what lies in `root`, where it has such a tool.
fn check_unit(root: &Path, unit: &str, program: &str) {
    let unit = root.join(unit);
    let text = std::fs::read_to_string(&unit).unwrap();
    assert!(text.contains(&format!("ExecStart={program} host\n")), "{text}");
    assert!(text.contains(&format!("ExecStopPost=-{program} host make-way\n")), "{text}");
    for line in [
        "Type=notify",
        "Slice=tessera.slice",
        "KillMode=process",
        "Restart=on-failure",
        "Delegate=yes",
        "DelegateSubgroup=daemon",
    ] {
        assert!(text.lines().any(|other| other == line), "{line}: {text}");
    }
    if is_here("systemd-analyze") {
        // The program is not where it will be.
        let here = root.join(&program[1..]);
        let elsewhere = tempfile::tempdir().unwrap();
        let copy = elsewhere.path().join("tessera.service");
        let mut text = text.replace(program, here.to_str().unwrap());
        let version = Command::new("systemd-analyze").arg("--version").output().unwrap().stdout;
        let version = String::from_utf8(version).unwrap();
        if version
            .split_whitespace()
            .nth(1)
            .and_then(|number| number.parse().ok())
            .is_some_and(|number: u32| number < 254)
        {
            // It passes over what it does not know, and says so.
            text = text.replace("DelegateSubgroup=daemon\n", "");
        }
        std::fs::write(&copy, text).unwrap();
        let mut command = Command::new("systemd-analyze");
        let output =
            command.args(["verify", "--man=no", "--recursive-errors=no"]).arg(&copy).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("tessera.service"), "{said}");
    }
}

#[test]
fn what_install_puts_there_uninstall_takes_away_but_not_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().to_str().unwrap();
    let own = Path::new(env!("CARGO_BIN_EXE_tessera"));
    succeeds(&tessera(own, &["host", "install", "--root", root]));
    check_unit(folder.path(), "usr/local/lib/systemd/system/tessera.service", "/usr/local/bin/tessera");
    let program = folder.path().join("usr/local/bin/tessera");
    assert!(succeeds(&tessera(&program, &["--version"])).starts_with("tessera "));
    for file in
        ["bash-completion/completions/tessera", "zsh/site-functions/_tessera", "man/man1/tessera-vm.1"]
    {
        assert!(folder.path().join("usr/local/share").join(file).exists(), "{file}");
    }
    let config = folder.path().join("etc/tessera/host.toml");
    std::fs::write(&config, "listen = [\"none\"]\n").unwrap();
    // Once more, with itself: what somebody has written stays.
    succeeds(&tessera(&program, &["host", "install", "--root", root]));
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "listen = [\"none\"]\n");
    if is_here("systemctl") {
        succeeds(&tessera(&program, &["host", "install", "--root", root, "--enable"]));
        assert!(
            folder.path().join("etc/systemd/system/multi-user.target.wants/tessera.service").is_symlink()
        );
    }
    succeeds(&tessera(&program, &["host", "uninstall", "--root", root]));
    let mut left = Vec::new();
    files(folder.path(), &mut left);
    assert_eq!(left, [config.display().to_string()]);
    let output = tessera(own, &["host", "uninstall", "--root", root]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("nothing is installed"));
    let output = tessera(own, &["host", "install", "--root", root, "--prefix", "opt"]);
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("--prefix opt: it has to be an absolute path")
    );
}

/// The files and links in a folder.
fn files(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap().is_dir() {
            true => files(&entry.path(), found),
            false => found.push(entry.path().display().to_string()),
        }
    }
}

#[test]
fn the_daemon_tells_systemd_when_it_is_there() {
    let mut daemon = Daemon::start();
    daemon.terminate();
    let path = daemon.folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
    command.env("NOTIFY_SOCKET", &path);
    daemon.start_with(command);
    let mut said = [0; 64];
    let length = socket.recv(&mut said).unwrap();
    assert_eq!(&said[..length], b"READY=1\n");
}

#[test]
fn the_debian_package_holds_what_a_machine_needs() {
    if !is_here("dpkg-deb") || !is_here("strip") {
        eprintln!("not tried: this machine has no dpkg-deb or no strip");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/deb");
    let mut command = Command::new(script);
    command.arg(env!("CARGO_BIN_EXE_tessera")).arg(folder.path()).env("DEB_COMPRESSION", "gzip");
    let package = succeeds(&command.output().unwrap());
    let package = package.trim();
    let fields = succeeds(&Command::new("dpkg-deb").args(["--field", package]).output().unwrap());
    assert!(fields.contains(&format!("Version: {}", env!("CARGO_PKG_VERSION"))), "{fields}");
    assert!(fields.contains("nftables") && fields.contains("libc6 (>= 2."), "{fields}");
    let control = folder.path().join("control");
    succeeds(&Command::new("dpkg-deb").args(["--control", package]).arg(&control).output().unwrap());
    assert_eq!(std::fs::read_to_string(control.join("conffiles")).unwrap(), "/etc/tessera/host.toml\n");
    for script in ["postinst", "prerm", "postrm"] {
        assert!(control.join(script).metadata().unwrap().permissions().mode() & 0o111 == 0o111, "{script}");
        succeeds(&Command::new("sh").arg("-n").arg(control.join(script)).output().unwrap());
    }
    let root = folder.path().join("root");
    succeeds(&Command::new("dpkg-deb").args(["--extract", package]).arg(&root).output().unwrap());
    assert!(succeeds(&tessera(&root.join("usr/bin/tessera"), &["--version"])).starts_with("tessera "));
    check_unit(&root, "usr/lib/systemd/system/tessera.service", "/usr/bin/tessera");
    for file in [
        "etc/tessera/host.toml",
        "usr/share/bash-completion/completions/tessera",
        "usr/share/zsh/vendor-completions/_tessera",
        "usr/share/fish/vendor_completions.d/tessera.fish",
        "usr/share/man/man1/tessera.1.gz",
        "usr/share/doc/tessera/changelog.gz",
    ] {
        assert!(root.join(file).exists(), "{file}");
    }
    let copyright = std::fs::read_to_string(root.join("usr/share/doc/tessera/copyright")).unwrap();
    assert!(
        copyright.contains("\n tokio v1") && !copyright.contains(env!("CARGO_MANIFEST_DIR")),
        "{copyright}"
    );
}
