//! Several guests at once, and how long one waits for them.

use crate::{Daemon, waits};

#[test]
fn a_verb_is_for_guests_that_are_named_carry_a_label_or_for_all_whose_state_it_fits() {
    let daemon = Daemon::start();
    for (name, labels) in
        [("a", "--label team=x --label tier=1"), ("b", "--label team=x"), ("c", "--label team=y")]
    {
        daemon.guest(name, &waits(), labels);
    }
    let states = || ["a", "b", "c"].map(|name| daemon.state_of(name));
    assert_eq!(daemon.run("vm stop a b"), "a does not run\nb does not run\n");
    assert_eq!(daemon.run("vm start --selector team=x"), "a runs\nb runs\n");
    // Those that run already are not meant.
    assert_eq!(daemon.run("vm start --all"), "");
    assert_eq!(daemon.run("vm pause -l team=x -l tier=1"), "a stands still\n");
    assert_eq!(states(), ["paused", "running", "running"]);
    assert_eq!(daemon.run("vm resume --all"), "a goes on\n");
    // All are asked before one is waited for: that takes one deadline, and those that fail do not keep it from others.
    let output = daemon.tessera("vm shutdown --all --deadline 1");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(5));
    for name in ["a", "b", "c"] {
        assert!(
            said.contains(&format!("tessera: {name}: {name} did not power itself off in time")),
            "{said}"
        );
    }
    let output = daemon.tessera("vm reset a nobody");
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), b"a has been reset\n".as_slice()));

    assert_eq!(daemon.run("vm stop --all"), "a does not run\nb does not run\nc does not run\n");
    let (status, said) = daemon.fails("vm delete --all");
    assert_eq!((status, said.as_str()), (Some(2), "tessera: there is no terminal to ask at: give --yes\n"));
    daemon.run("vm delete -l team=x --yes");
    assert_eq!(daemon.run("vm ls -o name"), "c\n");
    for (words, wanted) in [
        ("vm start", "required"),
        ("vm start c --all", "cannot be used with"),
        ("vm start -l team", "write it as LABEL=VALUE"),
        ("vm start -l a=b,c=d", "write it as LABEL=VALUE"),
    ] {
        let (status, said) = daemon.fails(words);
        assert!(status == Some(2) && said.contains(wanted), "{words}: {said}");
    }
}

#[test]
fn one_waits_for_a_change_as_long_as_one_wants_to() {
    let daemon = Daemon::start();
    daemon.guest("deaf", &waits(), "");
    let (status, said) = daemon.fails("vm shutdown deaf --deadline 60 --timeout 1");
    assert_eq!(status, Some(8), "{said}");
    let task = said.trim_end().rsplit(' ').next().unwrap();
    assert_eq!(said, format!("tessera: vm.shutdown of deaf goes on: tessera task wait {task}\n"));
    assert_eq!(daemon.fails(&format!("task wait {task} --timeout 1")).0, Some(8));
    let said = daemon.run("vm stop deaf --no-wait");
    let task = said.strip_prefix("task ").unwrap().trim_end();
    daemon.run(&format!("task wait {task}"));
    assert_eq!(daemon.run("vm start deaf --wait"), "deaf runs\n");
}
