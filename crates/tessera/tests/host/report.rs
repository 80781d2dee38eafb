//! What is needed to find out what is wrong, in one file that has no secrets.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::{Daemon, PANIC, guest, http};

/// What a report holds, as its names and all of its text.
fn read(archive: &Path, folder: &Path) -> (Vec<String>, String) {
    fs::create_dir(folder).unwrap();
    let output = Command::new("tar").arg("xvzf").arg(archive).arg("-C").arg(folder).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let names: Vec<_> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    let text = names.iter().map(|name| fs::read_to_string(folder.join(name)).unwrap() + "\n").collect();
    (names, text)
}

#[test]
fn a_report_tells_what_is_wrong_and_no_secret() {
    let daemon = Daemon::start();
    let file = |name: &str, text: &str| {
        let path = daemon.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    // Each of these is known to the host, and none of them may be in the report.
    let private =
        "-----BEGIN OPENSSH PRIVATE KEY-----\n  cHJpdmF0ZQprZXk\n  -----END OPENSSH PRIVATE KEY-----";
    let user_data =
        format!("#cloud-config\npassword: cloud-secret\nssh_keys:\n  rsa_private: |\n  {private}\n");
    let user_data = file("user-data", &user_data);
    let says = guest::Code::default().print("your password is console-secret\n").out(PANIC.0, PANIC.1).spin();
    daemon.guest(
        "web",
        &says,
        &format!("--user-data {user_data} --no-restart --append password=kernel-secret --label team=a"),
    );
    daemon.eventually("it crashes", |daemon| daemon.state_of("web") == "crashed");
    daemon.run("template create small --from web");
    let password = file("password", "user-secret\n");
    daemon.run(&format!("user create ann --role viewer --password-file {password}"));
    let token = daemon.run("token create ci --role operator").trim().to_owned();
    let login = json!({ "user": "ann", "password": "user-secret" });
    let cookie = http::ask(&daemon, "POST", "/session", "", &login).cookie.unwrap();
    let session = cookie.split_once('=').unwrap().1.split(';').next().unwrap().to_owned();
    let address =
        format!("http://me:address-secret@127.0.0.1:1/x?signature=query-secret --sha256 {}", "0".repeat(64));
    daemon.fails(&format!("image import {address} --kernel {password} --name x"));
    let authority = fs::read_to_string(daemon.state().join("tls/ca.key")).unwrap();
    let authority = authority.lines().nth(1).unwrap();
    // They are there to be found, where they are not taken out.
    let known = daemon.run("vm show web -o json") + &daemon.run("template show small -o json");
    for secret in ["cloud-secret", "cHJpdmF0ZQprZXk", "kernel-secret", "console-secret"] {
        assert!(known.contains(secret), "{secret}: {known}");
    }

    let archive = daemon.folder.path().join("report.tar.gz");
    let report = format!("host report {}", archive.display());
    let said = daemon.tessera(&report);
    assert!(said.status.success(), "{said:?}");
    let (names, text) = read(&archive, &daemon.folder.path().join("report"));
    for secret in [
        "cloud-secret",
        "cHJpdmF0ZQprZXk",
        "kernel-secret",
        "console-secret",
        "user-secret",
        "address-secret",
        "query-secret",
        "$argon2",
        "PRIVATE KEY",
        "tessera_",
        &token,
        &session,
        authority,
    ] {
        assert!(!text.contains(secret), "{secret} is in the report");
    }

    let vm = daemon.vm("web");
    let log = format!("log/vms/web-{}.log", vm["id"].as_str().unwrap());
    for name in ["report.json", "host.json", "kernel.json", "tasks.json", "events.json", "log/host.log", &log]
    {
        assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
    }
    let part = |name: &str| -> Value {
        let text = fs::read_to_string(daemon.folder.path().join("report").join(name)).unwrap();
        serde_json::from_str(&text).unwrap()
    };
    assert_eq!(part("report.json")["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(part("host.json")["cpus"], daemon.json("host info")["cpus"]);
    assert!(part("kernel.json")["/proc/version"].as_str().unwrap().starts_with("Linux version"));
    let told = &part("vms.json")[0];
    assert_eq!((&told["id"], &told["labels"], &told["cpus"]), (&vm["id"], &vm["labels"], &vm["cpus"]));
    assert_eq!(told["boot"]["command_line"], "password=(left out)");
    assert_eq!(told["status"]["last_end"]["kind"], "panic");
    assert_eq!(part("templates.json")[0]["name"], "small");
    let has = |name: &str, field: &str, value: &str| {
        part(name).as_array().unwrap().iter().any(|entry| entry[field] == value)
    };
    assert!(has("tasks.json", "action", "vm.create") && has("events.json", "kind", "vm.crashed"));
    assert!(text.contains("vm.create web by root: done"), "what the daemon said is there");

    let (status, line) = daemon.fails(&report);
    assert!(status == Some(2) && line.contains("--force"), "{line}");
    let (status, _) = daemon.fails(&format!("--token {token} {report} --force"));
    assert_eq!(status, Some(6), "it is for administrators");
}
