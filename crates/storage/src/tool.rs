//! Programs of the host that do a part of the work.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};

use crate::{Error, Progress, Result, Silent};

/// How many of a program's last lines are kept.
const LAST_WORDS: usize = 12;
/// How often somebody is asked whether the program is to go on.
const TURN: Duration = Duration::from_millis(200);
/// How long a program may take to undo what it has begun.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command that runs as root, or as the root of a user namespace of this user's own, in which the user's subordinate ids are
/// the other users: so files of an image get their right owners without privilege.
///
/// What it mounts only it sees: mounts of a program that was killed would stay in the folder of a draft, and who then removes that
/// folder would reach through them into the host's own /proc, /sys and /dev.
pub fn as_root(program: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("--mount");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user", "--map-auto", "--pid", "--fork", "--kill-child"]);
    }
    command.arg("--").arg(program);
    command
}

/// Runs a command of this Debian package to its end.
pub fn run(command: Command, package: &str) -> Result<()> {
    watch(command, package, &Silent, |_| ())
}

/// Runs a command to its end, passes on the lines that it says on stderr, and ends it when that is asked for.
pub fn watch(
    mut command: Command,
    package: &str,
    progress: &dyn Progress,
    mut heard: impl FnMut(&str),
) -> Result<()> {
    // The tools that make file systems live in the folders of system programs, which a user's PATH may lack.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin")).env("LC_ALL", "C");
    let program = command.get_program().to_string_lossy().into_owned();
    let named = Path::new(&program).to_owned();
    let failed = Error::host(&named);
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoTool { program: program.clone(), package: package.to_owned() },
        _ => failed(error),
    })?;
    let mut words = VecDeque::new();
    let listened = listen(&mut child, progress, |line| {
        heard(line);
        if words.len() == LAST_WORDS {
            words.pop_front();
        }
        words.push_back(line.to_owned());
    });
    if !listened.map_err(&failed)? {
        end(&mut child).map_err(&failed)?;
        return Err(Error::Cancelled);
    }
    let status = child.wait().map_err(&failed)?;
    if status.success() { Ok(()) } else { Err(Error::Tool { program, status, words: words.into() }) }
}

/// Passes on what the child says until it has nothing more to say, or until it is to stop: then the answer is `false`.
fn listen(child: &mut Child, progress: &dyn Progress, mut heard: impl FnMut(&str)) -> io::Result<bool> {
    let Some(mut stderr) = child.stderr.take() else { return Ok(true) };
    let turn = Timespec { tv_sec: 0, tv_nsec: TURN.as_nanos() as i64 };
    let (mut line, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        if progress.cancelled() {
            return Ok(false);
        }
        match poll(&mut [PollFd::new(&stderr, PollFlags::IN)], Some(&turn)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            result => result?,
        };
        let n = stderr.read(&mut buffer)?;
        for byte in &buffer[..n] {
            if *byte == b'\n' {
                heard(&String::from_utf8_lossy(&line));
                line.clear();
            } else {
                line.push(*byte);
            }
        }
        if n == 0 {
            if !line.is_empty() {
                heard(&String::from_utf8_lossy(&line));
            }
            return Ok(true);
        }
    }
}

/// Asks a child and all that it has started to end, and makes them after a while.
fn end(child: &mut Child) -> io::Result<()> {
    let mut family = vec![child.id()];
    let mut at = 0;
    while at < family.len() {
        family.extend(children(family[at]));
        at += 1;
    }
    let signal = |signal| {
        for pid in family.iter().filter_map(|pid| Pid::from_raw(*pid as i32)) {
            // Some have ended meanwhile.
            let _ = kill_process(pid, signal);
        }
    };
    signal(Signal::TERM);
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() >= deadline {
            signal(Signal::KILL);
            child.wait()?;
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The processes that a process has started (proc_tid_children(5)).
fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    texts
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn nobody_else_sees_what_a_program_mounts() {
        let folder = tempfile::tempdir().unwrap();
        let mut command = as_root("sh");
        command
            .arg("-c")
            .arg(format!("mount -t tmpfs none {0} && touch {0}/inside", folder.path().display()));
        run(command, "util-linux").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_a_program_said_last_comes_with_its_failure() {
        let mut heard = Vec::new();
        let script = "for n in $(seq 20); do echo line $n >&2; done; exit 3";
        let error = watch(shell(script), "dash", &Silent, |line| heard.push(line.to_owned())).unwrap_err();
        let Error::Tool { status, words, .. } = error else { panic!("{error}") };
        assert_eq!((status.code(), heard.len()), (Some(3), 20));
        assert_eq!((words.len(), words.last().unwrap().as_str()), (LAST_WORDS, "line 20"));
    }

    #[test]
    fn a_program_that_is_not_there_is_named_with_its_package() {
        let error = run(Command::new("no-such-program"), "nothing").unwrap_err();
        assert_eq!(error.to_string(), "no-such-program is not installed: apt install nothing");
    }

    #[test]
    fn a_cancelled_program_ends_with_all_that_it_started() {
        struct Cancel(AtomicBool);
        impl Progress for Cancel {
            fn step(&self, _: &str) {}
            fn amount(&self, _: u64, _: u64) {}
            fn cancelled(&self) -> bool {
                self.0.load(Ordering::Relaxed)
            }
        }
        let cancel = Cancel(AtomicBool::new(false));
        let mut pid = 0;
        let script = "sh -c 'echo $$ >&2; sleep 100' & wait";
        let result = watch(shell(script), "dash", &cancel, |line| {
            pid = line.parse().unwrap();
            cancel.0.store(true, Ordering::Relaxed);
        });
        assert!(matches!(result, Err(Error::Cancelled)));
        let gone = |pid: u32| {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
            stat.map_or(true, |stat| stat.contains(") Z "))
        };
        let deadline = Instant::now() + Duration::from_secs(5);
        while !gone(pid) {
            assert!(Instant::now() < deadline, "process {pid} goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
