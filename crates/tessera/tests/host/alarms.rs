//! Alarms: what fills up, dies or falls silent for real, and who hears of it: real programs, and a web server that waits for it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use crate::agent::{start, tessera, told};
use crate::guest::Code;
use crate::http::ask;
use crate::{Daemon, PANIC, PATIENCE, kill, waits};

/// Its kernel says that it cannot go on.
fn panics() -> Code {
    Code::default().print("oh no\n").out(PANIC.0, PANIC.1).spin()
}

/// A request that a web server has received.
#[derive(Debug)]
struct Heard {
    key: String,
    body: Value,
}

/// A web server that gives these answers, one after the other and the last one again and again; where it is, and what it hears.
fn server(answers: Vec<&'static str>) -> (String, Receiver<Heard>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/hook?secret=word", listener.local_addr().unwrap());
    let (tell, heard) = channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let Ok(mut stream) = stream else { return };
            let one = request(&mut stream);
            let answer = answers.get(number).or(answers.last()).unwrap();
            let _ = stream.write_all(answer.as_bytes());
            if tell.send(one).is_err() {
                return;
            }
        }
    });
    (url, heard)
}

fn request(stream: &mut TcpStream) -> Heard {
    let mut reader = BufReader::new(stream);
    let (mut key, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
        match name.to_lowercase().as_str() {
            "idempotency-key" => key = value.into(),
            "content-length" => length = value.parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    Heard { key, body: serde_json::from_slice(&body).unwrap() }
}

const GOOD: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 6\r\n\r\nthanks";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

/// A small file system of its own.
pub struct Small(pub PathBuf);

impl Small {
    pub fn mount(place: &Path) -> Self {
        std::fs::create_dir(place).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=16m", "none"]).arg(place).status();
        assert!(mounted.unwrap().success());
        Self(place.to_owned())
    }

    pub fn fill(&self, mebibytes: usize) {
        std::fs::write(self.0.join("filler"), vec![1; mebibytes << 20]).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // The daemon may have it open yet.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn alarm(daemon: &Daemon, name: &str) -> Value {
    daemon.json(&format!("alarm show {name}"))
}

fn state(daemon: &Daemon, name: &str) -> String {
    alarm(daemon, name)["status"]["state"].as_str().unwrap().to_owned()
}

fn becomes(daemon: &Daemon, name: &str, wanted: &str) {
    daemon.eventually(&format!("{name} is {wanted}"), |daemon| state(daemon, name) == wanted);
}

pub fn events(daemon: &Daemon, kind: &str) -> Vec<Value> {
    daemon.json(&format!("event ls --filter kind={kind}")).as_array().unwrap().clone()
}

#[test]
fn a_pool_that_fills_up_is_told_by_a_program_and_a_web_server_once_also_when_the_daemon_is_killed() {
    let mut daemon = Daemon::start();
    let small = Small::mount(&daemon.folder.path().join("small"));
    daemon.run(&format!("pool create small {}", small.0.display()));
    let (url, heard) = server(vec![BUSY, GOOD]);
    let lines = daemon.folder.path().join("lines");
    let script = format!(
        "echo \"$TESSERA_ALARM $TESSERA_ALARM_STATE $TESSERA_ALARM_SEVERITY $TESSERA_ALARM_NAME\" >>{}; echo said; echo $0 >&2",
        lines.display()
    );
    let words =
        "alarm create filling --metric pool.used --above 60 --clear 40 --pool small --severity critical";
    let words: Vec<_> =
        words.split(' ').chain(["--webhook", &url, "--", "/bin/sh", "-c", &script, "a b"]).collect();
    let made = tessera(&daemon, &words, "");
    assert_eq!(told(&made), (Some(0), "filling has been made\n".into(), String::new()));
    assert_eq!(state(&daemon, "filling"), "ok");

    small.fill(12);
    becomes(&daemon, "filling", "raised");
    let active = &alarm(&daemon, "filling")["status"]["active"][0];
    assert_eq!((&active["target"], &active["name"]), (&json!("/api/v1/pools/small"), &json!("small")));
    assert!(active["value"].as_f64().unwrap() > 70.0, "{active}");
    // A server that is busy is told again, and can see that it is the same.
    let [first, second] = [(); 2].map(|()| heard.recv_timeout(PATIENCE).unwrap());
    assert_eq!((&first.key, &first.body), (&second.key, &second.body));
    let body = &second.body;
    assert_eq!(
        (&body["alarm"], &body["state"], &body["name"]),
        (&json!("filling"), &json!("raised"), &json!("small"))
    );
    assert_eq!((&body["threshold"], &body["unit"]), (&json!(60.0), &json!("%")));
    assert_eq!(first.key, format!("\"{}\"", body["id"].as_str().unwrap()));
    daemon.eventually("both actions are told of", |daemon| events(daemon, "alarm.action").len() == 2);
    let actions = events(&daemon, "alarm.action");
    let output = |start: &str| {
        let of = |event: &&Value| event["message"].as_str().unwrap().starts_with(start);
        actions.iter().find(of).unwrap()["details"]["output"].clone()
    };
    assert_eq!(
        (output("command /bin/sh: ended with status 0"), output("webhook 127.0.0.1")),
        (json!("said\na b"), json!("thanks"))
    );
    assert!(!daemon.run("event ls -o json").contains("secret=word"), "an address is in no event");
    let raised = events(&daemon, "alarm.raised");
    assert_eq!((raised.len(), &raised[0]["target"]), (1, &json!("/api/v1/pools/small")));
    let metrics = ask(&daemon, "GET", "/metrics", "", &Value::Null).text;
    let line = "tessera_alarms{alarm=\"filling\",severity=\"critical\",state=\"raised\"} 1";
    assert!(metrics.contains(line), "{metrics}");

    daemon.run("alarm ack filling");
    assert_eq!(daemon.fails("alarm ack filling").0, Some(5));
    daemon.kill();
    daemon.start_again();
    let after = alarm(&daemon, "filling");
    assert_eq!(after["status"]["state"], "acknowledged");
    assert_eq!(after["status"]["active"][0]["acknowledged"]["actor"], "root");
    // It is looked at again.
    small.fill(11);
    daemon.eventually("the number is another one", |daemon| {
        alarm(daemon, "filling")["status"]["active"][0]["value"].as_f64().unwrap() < 75.0
    });
    assert_eq!(std::fs::read_to_string(&lines).unwrap(), "filling raised critical small\n");
    assert!(heard.try_recv().is_err(), "nothing is told twice");

    small.fill(1);
    becomes(&daemon, "filling", "ok");
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap().body["state"], "cleared");
    daemon.eventually("the program has heard of it", |_| {
        std::fs::read_to_string(&lines).unwrap()
            == "filling raised critical small\nfilling cleared critical small\n"
    });
    assert_eq!(events(&daemon, "alarm.cleared").len(), 1);
    daemon.run("pool delete small");
}

#[test]
fn guests_whose_processes_die_again_and_again_or_panic_raise_alarms_that_their_own_people_see() {
    let daemon = Daemon::start();
    daemon.guest("mine", &waits(), "--label team=a");
    daemon.guest("other", &waits(), "--label team=b");
    daemon.run("alarm create dying --event vm.crashed --how killed --count 2 --within 3600");
    daemon.run("alarm create elsewhere --event vm.crashed --label team=b");
    for name in ["mine", "mine", "other", "other"] {
        daemon.eventually("it runs", |daemon| daemon.state_of(name) == "running");
        let pid = daemon.vm(name)["status"]["pid"].as_u64().unwrap() as u32;
        kill(pid, libc::SIGKILL);
        daemon.eventually("its end is seen", |daemon| daemon.vm(name)["status"]["pid"] != pid);
    }
    let raised_for = |name: &str| {
        let mut names: Vec<_> = alarm(&daemon, name)["status"]["active"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["name"].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    daemon.eventually("both are told of", |_| raised_for("dying") == ["mine", "other"]);
    assert_eq!(raised_for("elsewhere"), ["other"]);
    daemon.guest("panics", &panics(), "");
    daemon.eventually("every host has an alarm for that", |_| raised_for("guest-panicked") == ["panics"]);

    let secret = |role: &str| daemon.run(&format!("token create {role} --role {role} --label team=a"));
    let header = |role: &str| format!("Authorization: Bearer {}\r\n", secret(role).trim());
    let (admin, operator) = (header("admin"), header("operator"));
    let as_operator = |method: &str, path: &str| {
        let body = if method == "GET" { Value::Null } else { json!({}) };
        ask(&daemon, method, path, &operator, &body)
    };
    let list = as_operator("GET", "/alarms").body;
    let names: Vec<_> =
        list["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"dying") && names.contains(&"guest-panicked"), "{names:?}");
    assert!(!names.contains(&"elsewhere") && !names.contains(&"pool-full"), "{names:?}");
    assert!(!list.to_string().contains("other") && !list.to_string().contains("\"panics\""), "{list}");
    assert_eq!(as_operator("GET", "/alarms/pool-full").status, 404);
    assert_eq!(as_operator("POST", "/alarms/dying/acknowledge").status, 200);
    assert_eq!(as_operator("POST", "/alarms/guest-panicked/acknowledge").status, 409);
    let states: Vec<_> = alarm(&daemon, "dying")["status"]["active"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| (one["name"].clone(), one["state"].clone()))
        .collect();
    assert!(states.contains(&(json!("mine"), json!("acknowledged"))), "{states:?}");
    assert!(states.contains(&(json!("other"), json!("raised"))), "{states:?}");
    let new = json!({"name": "x", "trigger": {"event": {"kind": "vm.crashed"}}, "actions": [{"command": ["/bin/true"]}]});
    assert_eq!(ask(&daemon, "POST", "/alarms", &admin, &new).status, 403);
    assert_eq!(ask(&daemon, "PATCH", "/alarms/dying", &admin, &json!({"enabled": false})).status, 403);

    // What is gone is not bad any more.
    daemon.run("vm delete --force other");
    daemon.eventually("it is cleared", |_| raised_for("dying") == ["mine"]);
    daemon.run("alarm delete dying elsewhere");
    assert_eq!(daemon.fails("alarm show dying").0, Some(4));
}

#[test]
fn what_every_host_watches_can_be_changed_and_switched_off_and_stays_so() {
    let mut daemon = Daemon::start();
    let names = daemon.run("alarm ls -o name");
    let wanted = "agent-silent disk-room expiring guest-crashing guest-panicked guest-waits-for-room host-cpu host-memory pool-filling pool-full";
    assert_eq!(names.split_whitespace().collect::<Vec<_>>(), wanted.split(' ').collect::<Vec<_>>());
    daemon.run("token create short --role viewer --days 3");
    daemon.run("alarm edit expiring --below 20 --clear 21 --severity info");
    daemon.eventually("the token is told of", |daemon| {
        alarm(daemon, "expiring")["status"]["active"][0]["name"] == "short"
    });
    daemon.run("alarm edit expiring --disable");
    assert_eq!(state(&daemon, "expiring"), "off");
    assert_eq!(events(&daemon, "alarm.cleared").len(), 1);
    assert_eq!(daemon.fails("alarm delete expiring").0, Some(5));
    daemon.kill();
    daemon.start_again();
    let expiring = alarm(&daemon, "expiring");
    assert_eq!((&expiring["status"]["state"], &expiring["built_in"]), (&json!("off"), &json!(true)));
    assert_eq!(expiring["trigger"]["metric"]["below"], 20.0);
    daemon.run("alarm edit expiring --enable");
    becomes(&daemon, "expiring", "raised");
    for (words, status, about) in [
        ("alarm create pool-full --metric pool.used --above 1", 5, "already"),
        ("alarm create a --metric pool.full --above 1", 2, "pool.used"),
        ("alarm create a --metric pool.used", 2, "/trigger/metric/above"),
        ("alarm create a --metric host.cpu --above 1 --vm nobody", 2, "/scope/vm"),
        ("alarm create a --event vm.crashed --vm nobody", 2, "there is no guest nobody"),
        ("alarm create a --event vm.crashed -- reboot", 2, "/actions/0/command/0"),
        ("alarm edit pool-full --count 3", 2, "watches a number"),
        ("alarm test pool-full", 5, "does nothing"),
    ] {
        let (found, line) = daemon.fails(words);
        assert!(found == Some(status) && line.contains(about), "{words}: {found:?} {line}");
    }
}

#[test]
fn an_action_has_its_time_is_read_by_no_shell_and_is_sent_nowhere_else() {
    let daemon = Daemon::start();
    let create = |name: &str, more: &[&str]| {
        let words = ["alarm", "create", name, "--metric", "pool.used", "--above", "100", "--timeout", "1"];
        let made = tessera(&daemon, &[&words[..], more].concat(), "");
        assert!(made.status.success(), "{made:?}");
    };
    create("plain", &["--", "/bin/echo", "$HOME", "; reboot"]);
    let (_, said, _) = told(&tessera(&daemon, &["alarm", "test", "plain"], ""));
    assert_eq!(said, "command /bin/echo: ended with status 0\n");
    let results = daemon.json("task ls --filter action=alarm.test")[0]["result"].clone();
    assert_eq!(results[0]["output"], "$HOME ; reboot");

    let mark = format!("{}", 100_000 + std::process::id());
    create("slow", &["--", "/bin/sh", "-c", &format!("echo begun; sleep {mark} & sleep {mark}")]);
    let (status, line) = daemon.fails("alarm test slow");
    assert!(status == Some(5) && line.contains("did not end within 1 s"), "{line}");
    let left = || {
        let lines = std::fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| std::fs::read(entry.unwrap().path().join("cmdline")).ok());
        lines.filter(|line| line.starts_with(format!("sleep\0{mark}\0").as_bytes())).count()
    };
    daemon.eventually("nothing of it is left", |_| left() == 0);

    let (url, elsewhere) = server(vec![GOOD]);
    let moved =
        format!("HTTP/1.1 307 Moved\r\nLocation: {url}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    let (url, heard) = server(vec![&*moved.leak()]);
    create("moved", &["--webhook", &url]);
    let (status, line) = daemon.fails("alarm test moved");
    assert!(status == Some(5) && line.contains("nobody is sent on"), "{line}");
    assert_eq!(heard.recv_timeout(PATIENCE).unwrap().body["state"], "test");
    assert!(elsewhere.try_recv().is_err());
}

#[test]
fn an_agent_that_answered_and_does_not_any_more_raises_an_alarm() {
    let daemon = Daemon::start();
    start(&daemon, "a", &[]);
    daemon.guest("without", &waits(), "");
    daemon.run("alarm create silent --metric agent.silent --above 4 --clear 2");
    let stop =
        "(sleep 1; kill -STOP $(pidof qemu-ga); sleep 8; kill -CONT $(pidof qemu-ga)) >/dev/null 2>&1 &";
    let begun = tessera(&daemon, &["vm", "exec", "a", "--", "sh", "-c", stop], "");
    assert_eq!(told(&begun), (Some(0), String::new(), String::new()));
    becomes(&daemon, "silent", "raised");
    let active = alarm(&daemon, "silent")["status"]["active"].clone();
    assert_eq!((active.as_array().unwrap().len(), &active[0]["name"]), (1, &json!("a")), "{active}");
    becomes(&daemon, "silent", "ok");
}
