//! Who is let in, what they see, and what is written down of it: over a TCP connection of a user whom the host does not know by where they are.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::http::{Answer, ask};
use crate::{Daemon, waits};

/// Makes a user with this password, read from a file.
fn make_user(daemon: &Daemon, name: &str, more: &str, password: &str) {
    let file = daemon.folder.path().join("password");
    std::fs::write(&file, format!("{password}\n")).unwrap();
    daemon.run(&format!("user create {name} {more} --password-file {}", file.display()));
}

fn log_in(daemon: &Daemon, user: &str, password: &str) -> Answer {
    ask(daemon, "POST", "/session", "", &json!({ "user": user, "password": password }))
}

/// The header that shows a session.
fn shown(answer: &Answer) -> String {
    let cookie = answer.cookie.as_deref().expect("a cookie");
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"), "{cookie}");
    format!("Cookie: theme=dark; {}\r\n", cookie.split(';').next().unwrap())
}

#[test]
fn a_user_logs_in_changes_their_password_and_is_kept_out() {
    let daemon = Daemon::start();
    make_user(&daemon, "ann", "--role operator", "correct horse");
    assert_eq!(log_in(&daemon, "ann", "wrong horse").status, 401);
    let session = log_in(&daemon, "ann", "correct horse");
    assert_eq!((session.status, &session.body["role"]), (200, &json!("operator")));
    let header = shown(&session);
    let who = ask(&daemon, "GET", "/session", &header, &Value::Null);
    assert_eq!(who.body["actor"], "ann");
    assert_eq!(ask(&daemon, "GET", "/users", &header, &Value::Null).status, 403);
    let change = |old: &str, new: &str| {
        ask(&daemon, "POST", "/session/password", &header, &json!({ "old": old, "new": new })).status
    };
    assert_eq!(change("wrong horse", "battery staple"), 401);
    assert_eq!(change("correct horse", "short"), 422);
    assert_eq!(change("correct horse", "battery staple"), 204);
    // The cookie is of no use any more; this user of the machine is known without one.
    assert_ne!(ask(&daemon, "GET", "/session", &header, &Value::Null).body["actor"], "ann");
    let header = shown(&log_in(&daemon, "ann", "battery staple"));
    assert_eq!(ask(&daemon, "GET", "/session", &header, &Value::Null).body["actor"], "ann");
    daemon.run("user edit ann --disable");
    assert_ne!(ask(&daemon, "GET", "/session", &header, &Value::Null).body["actor"], "ann");
    assert_eq!(log_in(&daemon, "ann", "battery staple").status, 401);
    daemon.run("user delete ann");
    let (status, told) = daemon.fails("user edit ann --enable");
    assert!(status == Some(4) || told.contains("there is no user ann"), "{told}");
}

#[test]
fn passwords_cannot_be_guessed_by_trying() {
    let daemon = Daemon::start();
    make_user(&daemon, "ann", "--role viewer", "correct horse");
    let tries = (0..8).map(|n| log_in(&daemon, "ann", &format!("guess number {n}")).status);
    assert!(tries.collect::<Vec<_>>().contains(&429));
}

#[test]
fn who_is_bound_to_labels_sees_and_uses_guests_that_carry_them_only() {
    let daemon = Daemon::start();
    daemon.guest("mine", &waits(), "--label team=a");
    daemon.guest("other", &waits(), "--label team=b");
    let secret = |role: &str| daemon.run(&format!("token create {role} --role {role} --label team=a"));
    let header = |role: &str| format!("Authorization: Bearer {}\r\n", secret(role).trim());
    let (admin, operator) = (header("admin"), header("operator"));
    let get = |path: &str| ask(&daemon, "GET", path, &operator, &Value::Null);
    let names = |list: &Value, key: &str| -> Vec<String> {
        let mut names: Vec<String> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|item| item[key].as_str())
            .map(str::to_owned)
            .collect();
        names.dedup();
        names
    };
    assert_eq!(names(&get("/vms").body, "name"), ["mine"]);
    assert_eq!(names(&get("/events").body, "name"), ["mine"]);
    assert_eq!(names(&get("/tasks").body, "name"), ["mine"]);
    let other = daemon.vm("other")["id"].as_str().unwrap().to_owned();
    for path in [
        "/vms/other",
        "/vms/none",
        &format!("/vms/{other}"),
        "/vms/other/stats",
        "/vms/other/history",
        "/vms/other/console",
    ] {
        let answer = get(path);
        assert_eq!((answer.status, answer.body["title"].as_str()), (404, Some("Not found")), "{path}");
    }
    for path in ["/users", "/tokens", "/audit", "/pools/default/volumes"] {
        assert_eq!(ask(&daemon, "GET", path, &admin, &Value::Null).status, 403, "{path}");
    }
    let do_it =
        |header: &str, method: &str, path: &str, body: Value| ask(&daemon, method, path, header, &body);
    assert_eq!(do_it(&operator, "POST", "/vms/other/stop", json!({})).status, 404);
    assert_eq!(do_it(&operator, "POST", "/vms/mine/pause?wait=20s", json!({})).status, 200);
    // They back theirs up and have that done, and see those of theirs; what is in the pools besides is not theirs, nor is making guests of it.
    let pool = json!({"pool": "default"});
    assert_eq!(do_it(&operator, "POST", "/vms/other/backups", pool.clone()).status, 404);
    assert_eq!(do_it(&operator, "POST", "/vms/mine/backups?wait=20s", pool).body["state"], "done");
    let kept = &get("/vms/mine/backups").body["items"][0]["name"];
    daemon.run("backup create other others --pool default");
    assert_eq!(get("/vms/mine/backups").body["items"].as_array().unwrap().len(), 1);
    for path in ["/backups".into(), "/backups/others".into(), format!("/backups/{}", kept.as_str().unwrap())]
    {
        assert_eq!(get(&path).status, 403, "{path}");
    }
    let restore = json!({"name": "thief"});
    assert_eq!(do_it(&admin, "POST", "/backups/others/restore", restore).status, 403);
    let daily = json!({"name": "daily", "action": "snapshot", "every": 86400, "keep": {"last": 2}});
    assert_eq!(do_it(&operator, "POST", "/vms/other/schedules", daily.clone()).status, 404);
    assert_eq!(do_it(&operator, "POST", "/vms/mine/schedules", daily).status, 201);
    // What is theirs they may change, but not give away, and not take what is the host's.
    assert_eq!(do_it(&admin, "PATCH", "/vms/mine?wait=20s", json!({"description": "x"})).status, 200);
    assert_eq!(do_it(&admin, "PATCH", "/vms/mine", json!({"labels": {"team": "b"}})).status, 403);
    // Who has dedicated processors would have more of the host with more of its own.
    if daemon.json("host info")["cpus"].as_u64() > Some(1) {
        daemon.run("vm edit mine --cpu-dedicated --next-boot");
        let refused = do_it(&admin, "PATCH", "/vms/mine", json!({"cpus": 2}));
        assert!(refused.status == 403 && refused.text.contains("/cpu_share"), "{}", refused.text);
        daemon.run("vm edit mine --cpu-shared --next-boot");
    }
    let shadow = json!({"name": "thief", "disks": [{"file": "/etc/shadow"}]});
    assert_eq!(do_it(&admin, "POST", "/vms", shadow).status, 403);
    assert_eq!(do_it(&admin, "PATCH", "/vms/mine", json!({"boot": {"kernel": "/etc/shadow"}})).status, 403);
    assert_eq!(do_it(&admin, "POST", "/vms", json!({"name": "thief", "labels": {"team": "b"}})).status, 403);
    daemon.run("template create small --from mine");
    let new = json!({"name": "new", "labels": {"team": null}, "disks": [{"size": "1MiB"}]});
    assert_eq!(do_it(&admin, "POST", "/vms?template=small&wait=20s", new).status, 200);
    assert_eq!(daemon.vm("new")["labels"]["team"], "a", "it carries the label");
}

/// A stream of what `path` tells from now on.
fn watch(daemon: &Daemon, path: &str, token: Option<&str>) -> UnixStream {
    let mut stream = UnixStream::connect(daemon.state().join("host.sock")).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    let token = token.map_or(String::new(), |token| format!("Authorization: Bearer {token}\r\n"));
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\n{token}Accept: text/event-stream\r\n\r\n")
        .unwrap();
    stream
}

/// What a stream tells until it has told `end`.
fn until(stream: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    while !text.contains(end) {
        let mut bytes = [0; 4096];
        let count = stream.read(&mut bytes).unwrap();
        text += &String::from_utf8_lossy(&bytes[..count]);
    }
    text
}

/// What a watcher of `path` who is bound to team a hears until `end`, while guests of others come and go, and their own leaves them.
fn heard(path: &str, end: &str) -> String {
    let daemon = Daemon::start();
    daemon.guest("mine", &waits(), "--label team=a");
    let secret = daemon.run("token create watcher --role viewer --label team=a");
    let mut stream = watch(&daemon, path, Some(secret.trim()));
    daemon.guest("other", &waits(), "--label team=b");
    daemon.run("vm delete --force other");
    daemon.run("vm edit mine --label team=b");
    let text = until(&mut stream, end);
    assert!(text.contains("\"name\":\"mine\""), "{text}");
    assert!(!text.contains("other"), "{text}");
    text
}

#[test]
fn a_watcher_who_is_bound_hears_of_no_others() {
    heard("/api/v1/vms", "event: delete");
}

#[test]
fn a_watcher_of_everything_hears_of_guests_tasks_and_events_of_their_own() {
    let text = heard("/api/v1/watch?stats=1", "event: vm-gone");
    for kind in ["vm", "task", "event", "ready", "stats"] {
        assert!(text.contains(&format!("event: {kind}\n")), "{kind}: {text}");
    }
    let text = heard("/api/v1/watch?stats=1&sums=true", "event: vm-gone");
    assert!(text.contains("\"vms\":[],\"sums\":[{\"id\":"), "{text}");
    let daemon = Daemon::start();
    assert_eq!(
        ask(&daemon, "GET", "/watch?stats=0", "Accept: text/event-stream\r\n", &Value::Null).status,
        422
    );
    assert_eq!(ask(&daemon, "GET", "/watch", "", &Value::Null).status, 406);
}

#[test]
fn a_guest_that_does_not_answer_keeps_no_watcher_from_hearing_of_others() {
    let daemon = Daemon::start();
    daemon.guest("hangs", &waits(), "");
    daemon.guest("b", &waits(), "");
    let pid = daemon.vm("hangs")["status"]["pid"].as_i64().unwrap();
    let signal = |signal| kill_process(Pid::from_raw(pid as i32).unwrap(), signal).unwrap();
    signal(Signal::STOP);
    // What is used is told when the host has waited for it long enough; what happens until then is told before.
    let heard_before = (0..5).any(|n| {
        let mut stream = watch(&daemon, "/api/v1/watch?stats=60", None);
        until(&mut stream, "event: ready\n");
        let labels = json!({ "labels": { "turn": n.to_string() } });
        assert_eq!(ask(&daemon, "PATCH", "/vms/b?wait=10s", "", &labels).status, 200);
        until(&mut stream, "event: stats\n").contains("event: vm\n")
    });
    signal(Signal::CONT);
    assert!(heard_before);
}

#[test]
fn what_is_done_and_refused_is_written_down() {
    let daemon = Daemon::start();
    daemon.guest("web", &waits(), "");
    make_user(&daemon, "ann", "--role viewer", "correct horse");
    let header = shown(&log_in(&daemon, "ann", "correct horse"));
    ask(&daemon, "DELETE", "/vms/web?secret=1", &header, &Value::Null);
    let entries = daemon.json("audit ls");
    let told: Vec<_> = entries
        .as_array()
        .unwrap()
        .iter()
        .map(|e| {
            format!(
                "{} {} {} {}",
                e["actor"].as_str().unwrap_or("-"),
                e["method"].as_str().unwrap(),
                e["path"].as_str().unwrap(),
                e["status"]
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            "ann DELETE /api/v1/vms/web 403",
            "ann POST /api/v1/session 200",
            "root POST /api/v1/users 201",
            "root POST /api/v1/vms 202"
        ]
    );
    assert!(!entries.to_string().contains("secret") && !entries.to_string().contains("horse"));
    assert_eq!(entries[0]["from"], "local user 0");
}

#[test]
fn a_link_logs_in_once() {
    let daemon = Daemon::start_at(true, "127.0.0.1:7117");
    let link = daemon.run("host link");
    let path = link.trim().strip_prefix("http://127.0.0.1:7117").unwrap().to_owned();
    let open = || {
        let mut stream = UnixStream::connect(daemon.state().join("host.sock")).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let first = open();
    assert!(first.starts_with("HTTP/1.1 303") && first.contains("set-cookie: tessera-session-"), "{first}");
    assert!(open().starts_with("HTTP/1.1 401"));
}

#[test]
fn elsewhere_the_host_is_reached_encrypted_and_with_a_token_only() {
    // An address of a namespace of its own that is no loopback one.
    let mut daemon = Daemon::start_at(true, "0.0.0.0:7443");
    let pid = daemon.child.as_ref().unwrap().id();
    let inside = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).args(words).stdin(Stdio::null());
        command.output().unwrap()
    };
    for words in
        ["link set lo up", "link add d0 type bridge", "addr add 192.0.2.9/24 dev d0", "link set d0 up"]
    {
        let words: Vec<_> = std::iter::once("ip").chain(words.split(' ')).collect();
        assert!(inside(&words).status.success(), "{words:?}");
    }
    daemon.guest("web", &waits(), "");
    let (program, ca) = (env!("CARGO_BIN_EXE_tessera"), daemon.state().join("tls/ca.pem"));
    let secret = daemon.run("token create far --role operator").trim().to_owned();
    let ask = |words: &str| {
        // A console goes on until somebody ends it.
        let mut all = vec!["timeout", "5", program, "--host", "https://192.0.2.9:7443"];
        all.extend(words.split_whitespace());
        let output = inside(&all);
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let ca = ca.display();
    assert!(ask(&format!("--ca {ca} --token {secret} vm ls")).contains("web"));
    assert!(ask(&format!("--ca {ca} --token {secret} vm console web")).contains("it runs"));
    let refused = ask(&format!("--ca {ca} vm ls"));
    assert!(refused.contains("show a token"), "{refused}");
    let unknown = ask(&format!("--token {secret} vm ls"));
    assert!(unknown.contains("no host answers") && !unknown.contains("web"), "{unknown}");
    daemon.terminate();
}
