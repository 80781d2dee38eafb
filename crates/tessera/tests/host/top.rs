//! `tessera top`, at a terminal and for programs.

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use crate::terminal::AtTerminal;
use crate::{Daemon, kill, waits};

impl Daemon {
    fn at_terminal(&self, words: &str) -> AtTerminal {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOST", self.state().join("host.sock")).args(words.split_whitespace());
        AtTerminal::start(command)
    }
}

/// The line of the screen that begins with a text.
fn line(screen: &vt100::Screen, begins: &str) -> Option<String> {
    screen.contents().lines().find(|line| line.starts_with(begins)).map(str::to_owned)
}

#[test]
fn guests_are_watched_sorted_filtered_and_driven_at_a_terminal() {
    let daemon = Daemon::start();
    let spins = crate::guest::Code::default().print("it runs\n").spin();
    daemon.guest("busy", &spins, "--label team=web");
    daemon.guest("idle", &waits(), "--cpus 2");
    let mut top = daemon.at_terminal("top --interval 1");
    // What is busiest comes first, with figures.
    top.sees("the busy guest first, with its load", |screen| {
        let contents = screen.contents();
        let [busy, idle] = ["busy", "idle"].map(|name| contents.find(&format!("\n{name} ")));
        busy.is_some() && busy < idle && line(screen, "busy").is_some_and(|line| !line.contains(" - "))
    });
    let screen = top.screen();
    assert!(screen.alternate_screen(), "it has a screen of its own");
    let contents = screen.contents();
    for text in ["2 of 2 guests run", "cpu     [", "memory  [", "storage [", "3 promised", "CPU%", "q quit"] {
        assert!(contents.contains(text), "{text} is not in\n{contents}");
    }
    let row = contents.lines().position(|line| line.starts_with("busy")).unwrap() as u16;
    let column = contents.lines().nth(row.into()).unwrap().find("running").unwrap() as u16;
    assert_ne!(screen.cell(row, column).unwrap().fgcolor(), vt100::Color::Default, "it has colours");

    // What happens is seen at once.
    daemon.run("vm create third --kernel /dev/null --memory 32M");
    top.reads("2 of 3 guests run");
    top.types("/team=web\r");
    top.sees("only the guest with the label", |screen| {
        line(screen, "idle").is_none() && line(screen, "busy").is_some()
    });
    top.types("p");
    top.reads("pause busy: done");
    assert_eq!(daemon.state_of("busy"), "paused");
    top.types("p");
    top.reads("resume busy: done");
    // A plug is not pulled without a yes.
    top.types("x");
    top.reads("Pull the plug of busy?");
    top.types("n");
    top.sees("no question", |screen| !screen.contents().contains("Pull the plug"));
    top.types("xy");
    top.reads("stop busy: done");
    assert_eq!(daemon.state_of("busy"), "stopped");
    top.types("p");
    top.reads("pause busy: busy is stopped: only one that runs can be paused");
    top.types("s");
    top.reads("start busy: done");

    top.types("\x1b");
    top.reads("\nidle ");
    top.types("?");
    top.reads("RDY%      the part of the time");
    top.types(" ");
    // Another size shows more or less.
    top.resize(24, 50);
    top.sees("fewer columns", |screen| line(screen, "NAME").is_some_and(|line| !line.contains("RX/s")));
    top.resize(30, 120);
    top.sees("all columns", |screen| {
        line(screen, "NAME").is_some_and(|line| line.contains("OPS/s") && line.contains("TX/s"))
    });
    top.types("q");
    assert!(top.ended().success());
    top.is_as_before();
}

#[test]
fn the_terminal_is_left_as_it_was_by_signals_and_while_the_shell_has_it() {
    let daemon = Daemon::start();
    let mut top = daemon.at_terminal("top");
    top.reads("0 of 0 guests run");
    top.types("\x1a");
    top.is_as_before();
    kill(top.pid(), libc::SIGCONT);
    top.sees("its screen again", |screen| {
        screen.alternate_screen() && screen.contents().contains("0 of 0 guests run")
    });
    kill(top.pid(), libc::SIGTERM);
    assert_eq!(top.ended().signal(), Some(libc::SIGTERM));
    top.is_as_before();
}

#[test]
fn a_host_that_goes_away_is_found_again() {
    let mut daemon = Daemon::start();
    let mut top = daemon.at_terminal("top --interval 1");
    top.reads("0 of 0 guests run");
    daemon.kill();
    top.reads("trying again");
    daemon.start_again();
    top.sees("what the host says now", |screen| {
        let contents = screen.contents();
        contents.contains("0 of 0 guests run") && !contents.contains("trying again")
    });
    top.types("\x03");
    assert!(top.ended().success());
    top.is_as_before();
}

#[test]
fn programs_are_told_once_what_guests_use() {
    let daemon = Daemon::start();
    let spins = crate::guest::Code::default().print("it runs\n").spin();
    daemon.guest("busy", &spins, "");
    daemon.run("vm create off --kernel /dev/null --memory 64M");
    let told = daemon.json("top --once --interval 1");
    assert_eq!((&told["host"]["vms"], &told["host"]["vms_running"]), (&2.into(), &1.into()));
    let busy = &told["vms"][0];
    assert_eq!((&busy["name"], &busy["state"]), (&"busy".into(), &"running".into()));
    assert!(busy["cpu_percent"].as_f64().unwrap() > 1.0, "{busy}");
    assert!(busy["resident"].as_u64().unwrap() > 0 && busy["read_bytes"] == 0.0, "{busy}");
    let off = &told["vms"][1];
    assert_eq!((&off["memory"], &off["cpu_percent"]), (&(64u64 << 20).into(), &serde_json::Value::Null));
    let table = daemon.run("top --once --interval 1 --filter off");
    assert!(table.starts_with("cpu ") && table.contains("\nNAME  STATE"), "{table}");
    assert!(table.contains("\noff   stopped") && !table.contains("busy"), "{table}");
    assert!(!table.contains('\x1b'), "no colours where there is no terminal: {table}");
    let (status, said) = daemon.fails("top");
    assert_eq!(
        (status, said.as_str()),
        (Some(2), "tessera: there is no terminal to show it on: give --once\n")
    );
    assert_eq!(daemon.fails("--host /does/not/exist top --once").0, Some(7));
}
