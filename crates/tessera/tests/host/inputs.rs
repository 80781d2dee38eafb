//! Wrong input: one clear line, the status that the help tells of, and nothing changed.

use crate::{Daemon, waits};

#[test]
fn wrong_input_gets_one_clear_line_and_changes_nothing() {
    let daemon = Daemon::start();
    daemon.guest("a", &waits(), "");
    let kernel = daemon.kernel("kernel", &waits());
    let text = daemon.folder.path().join("text");
    std::fs::write(&text, "no kernel at all").unwrap();
    let text = text.display();
    let before = daemon.vm("a");
    for (words, status, wanted) in [
        ("vm start nobody", 4, "there is no guest nobody"),
        ("vm start ../a", 2, "'../a' is no name or id"),
        ("vm create a --kernel /k", 5, "a guest called a already"),
        ("vm create b", 2, "nothing to boot"),
        ("vm create b --image nothing:1", 2, "there is no image nothing:1"),
        ("vm create B --kernel /k", 2, "'B' cannot be a name"),
        ("vm create b --kernel /k --memory 1M", 2, "at least 32 MiB"),
        ("vm create b --kernel /k --cpus 300", 2, "1 to 254 processors"),
        ("vm create b --kernel /k --new-disk 5", 2, "whole MiB"),
        ("vm create b --kernel /k --disk /does/not/exist", 2, "No such file"),
        ("vm create b --kernel /k --user Root", 2, "an account's name"),
        ("vm edit a --patch {\"cpu\":2}", 2, "unknown field `cpu`"),
        ("vm edit a --patch nonsense", 2, "--patch"),
        ("vm resume a", 5, "only one that is paused"),
        ("vm send-key a dance", 2, "/keys/0: a key is one character"),
        ("vm send-key nobody enter", 4, "there is no guest nobody"),
        ("vm ls -f nonsense", 2, "state=running"),
        ("task show 12", 4, "there is no such task"),
        ("--host ftp://x vm ls", 2, "https://ADDRESS:PORT"),
        ("--host /does/not/exist vm ls", 7, "no host answers"),
        ("--token wrong vm ls", 6, "not one of this host's"),
    ] {
        let (got, said) = daemon.fails(words);
        assert_eq!(got, Some(status), "{words}: {said}");
        assert!(said.contains(wanted), "{words}: {said}");
    }
    let (status, said) = daemon.fails(&format!("vm create b --kernel {text} --start --memory 32M"));
    assert_eq!(status, Some(5), "{said}");
    assert!(said.contains("is no kernel"), "{said}");
    // It was made and does not run: what was wrong can be mended.
    assert_eq!(daemon.state_of("b"), "stopped");
    daemon.run(&format!("vm edit b --patch {{\"boot\":{{\"kernel\":\"{kernel}\"}}}}"));
    daemon.run("vm start b");
    daemon.run("vm delete b --force");
    assert_eq!(daemon.vm("a"), before);
}
