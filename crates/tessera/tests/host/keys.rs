//! Keys that are typed on guests' consoles: the real Linux reads them.

use crate::agent::{tessera, tiny, told};
use crate::{Daemon, waits};

#[test]
fn a_shell_reads_what_is_typed_and_the_kernel_what_comes_with_sysrq() {
    let daemon = Daemon::start();
    let (kernel, initrd) = (tiny("vmlinuz"), tiny("initramfs"));
    let words =
        ["vm", "create", "a", "--kernel", kernel.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()];
    let rest =
        ["--append", "console=ttyS0 quiet do=shell", "--memory", "128M", "--engine", "soft", "--start"];
    let made = tessera(&daemon, &[&words[..], &rest].concat(), "");
    assert!(made.status.success(), "{made:?}");
    let says = |words: &str| daemon.eventually(words, |daemon| daemon.run("vm log a").contains(words));
    says("# ");
    let send = |keys: &[&str]| {
        let sent = told(&tessera(&daemon, &[&["vm", "send-key", "a"], keys].concat(), ""));
        assert_eq!(sent, (Some(0), String::new(), String::new()));
    };
    send(&["text:echo $((6 * 7))y", "backspace", "x", "enter"]);
    says("\n42x");
    send(&["text:cat -v", "enter", "up", "f1", "alt-q", "enter"]);
    says("^[[A^[OP^[q");
    send(&["ctrl-d", "text:echo $((5 * 5))y", "enter"]);
    says("\n25y");
    assert_eq!(daemon.run("event ls -f kind=vm.break -o json"), "[]\n", "what is typed is nobody's business");
    send(&["sysrq:h"]);
    says("sysrq: HELP");
    assert!(daemon.run("event ls -f kind=vm.break").contains("was sent a break on its console"));
    send(&["sysrq:b"]);
    daemon.eventually("it has reset itself", |daemon| {
        daemon.run("event ls -f kind=vm.reset").contains("reset itself")
    });
}

#[test]
fn keys_are_for_a_guest_that_runs_and_for_who_may_use_it() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let [viewer, operator] = ["viewer", "operator"]
        .map(|role| daemon.run(&format!("token create {role} --role {role}")).trim().to_owned());
    assert_eq!(daemon.fails(&format!("--token {viewer} vm send-key a enter")).0, Some(6));
    daemon.run(&format!("--token {operator} vm send-keys a enter - ctrl-c"));
    // It reads nothing: at some time there is no more room.
    let text = format!("text:{}", "x".repeat(4000));
    let more = |daemon: &Daemon| daemon.tessera(&format!("vm send-key a {text}")).status.success();
    let mut sent = 0;
    while more(&daemon) {
        sent += 1;
        assert!(sent < 10);
    }
    let (status, line) = daemon.fails(&format!("vm send-key a {text}"));
    assert!(status == Some(5) && line.contains("has not read what was typed before"), "{line}");
    daemon.run("vm pause a");
    let (status, line) = daemon.fails("vm send-key a enter");
    assert!(status == Some(5) && line.contains("a is paused: nobody reads what is typed"), "{line}");
    daemon.run("vm stop a");
    assert_eq!(daemon.fails("vm send-key a enter").0, Some(5));
}
