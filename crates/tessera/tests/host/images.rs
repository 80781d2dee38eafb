//! Images: from addresses, files and other hosts, to files, and who uses them.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::agent::{tessera, tiny, told};
use crate::server::{Answer, Server};
use crate::{Daemon, http, waits};

const MIB: usize = 1 << 20;

/// A disk of 3 MiB with something on it.
fn contents() -> Vec<u8> {
    let mut bytes = vec![0; 3 * MIB];
    for (n, byte) in bytes.iter_mut().enumerate().skip(MIB).take(900_000) {
        *byte = ((n * n) >> 9) as u8;
    }
    bytes
}

fn sum(bytes: &[u8]) -> String {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    storage::sha256(&file, bytes.len() as u64, &storage::Silent).unwrap().unwrap()
}

/// What is wrong, with its line.
struct Refused {
    status: Option<i32>,
    line: String,
}

impl Daemon {
    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// `tessera image import` with the tiny guest's kernel.
    fn import(&self, words: &[&str]) -> Result<String, Refused> {
        let (kernel, initrd) = (tiny("vmlinuz"), tiny("initramfs"));
        let kernel = ["--kernel", kernel.to_str().unwrap(), "--initrd", initrd.to_str().unwrap()];
        let rest = ["--append", "console=ttyS0 quiet do=disk", "--name", "tiny"];
        let output = tessera(self, &[&["image", "import"], words, &kernel, &rest].concat(), "");
        let (status, said, line) = told(&output);
        if output.status.success() { Ok(said) } else { Err(Refused { status, line }) }
    }

    /// What lies in the folder of images that is no image.
    fn half_done(&self) -> Vec<String> {
        let entries = fs::read_dir(self.state().join("images")).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with('.')).collect()
    }

    /// The bytes of a fetch that has begun.
    fn fetched(&self, sum: &str) -> u64 {
        fs::metadata(self.state().join("images").join(format!(".fetch-{sum}"))).map_or(0, |meta| meta.len())
    }

    fn images(&self) -> Vec<String> {
        let list = self.json("image ls");
        list.as_array().unwrap().iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    }

    fn task(&self, action: &str) -> Value {
        self.json(&format!("task ls -f action={action}"))[0].clone()
    }

    /// Sends `bytes` as the body of a PUT that announces `length` of them; gives the answer if it says all.
    fn put(&self, path: &str, length: usize, bytes: &[u8]) -> (UnixStream, Option<Value>) {
        let mut stream = UnixStream::connect(self.state().join("host.sock")).unwrap();
        let head = format!(
            "PUT /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        // In one piece: the host may answer and close before the last of several.
        stream.write_all(&[head.as_bytes(), bytes].concat()).unwrap();
        if bytes.len() < length {
            return (stream, None);
        }
        let mut answer = Vec::new();
        // One who does not want all of the body closes before it has come.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8(answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (stream, serde_json::from_str(body).ok())
    }
}

#[test]
fn an_image_comes_from_an_address_although_the_server_breaks_off_and_boots() {
    let daemon = Daemon::start();
    let bytes = contents();
    let server = Server::start(bytes.clone(), vec![Answer::Cut(MIB), Answer::Status(503)]);
    let url = server.url("/tiny.raw?key=secret");
    let said = daemon.import(&[&url, "--sha256", &sum(&bytes)]).ok().unwrap();
    assert!(said.contains("tessera vm create … --image tiny"), "{said}");
    assert_eq!(server.ranges(), [None, Some(MIB), Some(MIB)]);
    assert_eq!(daemon.half_done(), Vec::<String>::new());
    let image = daemon.json("image show tiny");
    assert_eq!((&image["size"], &image["format"]), (&json!(3 * MIB), &json!("raw")));
    assert_eq!(image["origin"], json!(server.url("/tiny.raw")), "without what may be a key");
    let task = daemon.task("image.import");
    assert_eq!((&task["state"], &task["result"]["name"]), (&json!("done"), &json!("tiny")));
    assert!(daemon.run("event ls -f kind=image.created").contains("was taken in"));
    daemon.run("vm create a --image tiny --memory 128M --engine soft --start --no-restart");
    daemon.eventually("it has written and powered off", |daemon| daemon.state_of("a") == "stopped");
    assert!(daemon.run("vm log a").contains("disk keeps what is written"));
}

#[test]
fn what_a_server_gives_is_used_only_if_it_is_what_was_meant() {
    let daemon = Daemon::start();
    let bytes = contents();
    let wrong = "0".repeat(64);
    let refused =
        |server: &Server, sum: &str| daemon.import(&[&server.url("/x"), "--sha256", sum]).err().unwrap();
    let server = Server::start(bytes.clone(), vec![]);
    let told = refused(&server, &wrong);
    let wanted = format!("the SHA-256 checksum is {}, and should be {wrong}", sum(&bytes));
    assert!(told.status == Some(2) && told.line.contains(&wanted), "{}", told.line);
    let server = Server::start(bytes.clone(), vec![Answer::Says(MIB)]);
    let told = refused(&server, &sum(&bytes));
    assert!(told.status == Some(2) && told.line.contains("checksum is"), "{}", told.line);
    let server = Server::start(bytes.clone(), vec![Answer::Status(404)]);
    let told = refused(&server, &sum(&bytes));
    assert!(told.status == Some(2) && told.line.contains("answers with status 404"), "{}", told.line);
    assert!(daemon.images().is_empty());
    assert_eq!(daemon.json("task ls -f state=failed,action=image.import").as_array().unwrap().len(), 3);
    // The kernel was sent each time and is used by none; what comes again is not sent again.
    assert_eq!(daemon.half_done().iter().filter(|name| !name.starts_with(".upload-")).count(), 0);
    // A server that promises more than it has gives all that there is.
    let server = Server::start(bytes.clone(), vec![Answer::Says(bytes.len() + 512)]);
    daemon.import(&[&server.url("/x"), "--sha256", &sum(&bytes)]).ok().unwrap();
    assert_eq!(daemon.half_done(), Vec::<String>::new());
}

#[test]
fn a_fetch_goes_on_where_a_killed_daemon_left_it_and_is_called_off() {
    let mut daemon = Daemon::start();
    let bytes = contents();
    let sum = sum(&bytes);
    let server =
        Server::start(bytes.clone(), vec![Answer::Stall(MIB), Answer::Stall(MIB / 2), Answer::Cut(0)]);
    let url = server.url("/tiny.raw");
    let words = [url.as_str(), "--sha256", &sum];
    assert!(daemon.import(&[&words[..], &["--no-wait"]].concat()).ok().unwrap().starts_with("task "));
    daemon.eventually("a part has come", |daemon| daemon.fetched(&sum) == MIB as u64);
    assert!(daemon.task("image.import")["progress"].as_f64().unwrap() > 0.3);
    daemon.kill();
    daemon.start_again();
    let task = daemon.task("image.import");
    assert_eq!((&task["state"], &task["error"]["status"]), (&json!("failed"), &json!(503)));
    assert!(daemon.images().is_empty());

    daemon.import(&[&words[..], &["--no-wait"]].concat()).ok().unwrap();
    daemon.eventually("more has come", |daemon| daemon.fetched(&sum) == 3 * MIB as u64 / 2);
    let id = daemon.task("image.import")["id"].as_str().unwrap().to_owned();
    daemon.run(&format!("task cancel {id}"));
    assert_eq!(daemon.fails(&format!("task wait {id}")).0, Some(5));
    assert_eq!(daemon.json(&format!("task show {id}"))["state"], "cancelled");
    assert!(daemon.images().is_empty());

    daemon.import(&words).ok().unwrap();
    assert_eq!(server.ranges(), [None, Some(MIB), Some(3 * MIB / 2), Some(3 * MIB / 2)]);
    assert_eq!(daemon.half_done(), Vec::<String>::new());
}

#[test]
fn an_upload_goes_on_where_a_killed_daemon_left_it_and_nothing_half_done_is_seen() {
    let mut daemon = Daemon::start();
    let bytes = contents();
    let (file, sum) = (daemon.write("tiny.raw", &bytes), sum(&bytes));
    let upload = format!("/uploads/sha256-{}", &sum[..40]);
    let announced = format!("{upload}?length={}&sha256={sum}", bytes.len());
    let (stream, _) = daemon.put(&announced, bytes.len(), &bytes[..2 * MIB]);
    let there =
        |daemon: &Daemon| http::ask(daemon, "GET", &upload, "", &Value::Null).body["uploaded"].clone();
    let body = json!({ "name": "tiny", "disk": { "upload": &upload[9..] } });
    daemon.eventually("a part has come", |daemon| there(daemon).as_u64().is_some_and(|at| at >= MIB as u64));
    let answer = http::ask(&daemon, "POST", "/images?wait=30s", "", &body);
    let told = answer.body["error"]["detail"].as_str().unwrap().to_owned();
    assert!(told.contains("is in use at this moment"), "{told}");
    daemon.kill();
    drop(stream);
    daemon.start_again();
    let at = there(&daemon).as_u64().unwrap();
    assert!((MIB as u64..=2 * MIB as u64).contains(&at), "{at}");
    let answer = http::ask(&daemon, "POST", "/images?wait=30s", "", &body);
    let told = answer.body["error"]["detail"].as_str().unwrap().to_owned();
    assert!(told.contains(&format!("only {at} of its {} bytes have come", bytes.len())), "{told}");
    assert!(daemon.images().is_empty());
    let (_, answer) = daemon.put(&format!("{announced}&offset=5"), 1, b"x");
    assert_eq!(answer.unwrap()["status"], 409, "it goes on where it was, nowhere else");

    daemon.import(&[file.to_str().unwrap(), "--description", "from a file", "--label", "a=b"]).ok().unwrap();
    let image = daemon.json("image show tiny");
    assert_eq!((&image["description"], &image["labels"]), (&json!("from a file"), &json!({ "a": "b" })));
    assert_eq!(image["used_by"], json!({ "vms": [], "templates": [], "volumes": [] }));
    assert!(fs::read(daemon.state().join("images/tiny/disk.raw")).unwrap() == bytes);
    assert_eq!(daemon.half_done(), Vec::<String>::new());
    assert_eq!(http::ask(&daemon, "GET", "/uploads", "", &Value::Null).body["items"], json!([]));

    let (_, answer) = daemon.put("/uploads/other?length=10", 4, b"abcd");
    assert_eq!(answer.unwrap()["uploaded"], 4);
    let (_, answer) = daemon.put("/uploads/other?length=11&offset=4", 1, b"x");
    assert!(
        answer.unwrap()["detail"].as_str().unwrap().contains("something else is being uploaded as other")
    );
    let (_, answer) = daemon.put("/uploads/other?length=10&offset=4", 7, b"too long");
    assert!(answer.unwrap()["detail"].as_str().unwrap().contains("more bytes came than were announced"));
    assert_eq!(http::ask(&daemon, "DELETE", "/uploads/other", "", &Value::Null).status, 204);
    assert_eq!(http::ask(&daemon, "GET", "/uploads/other", "", &Value::Null).status, 404);
}

#[test]
fn an_image_is_carried_to_another_host_in_one_file() {
    let (one, two) = (Daemon::start(), Daemon::start());
    let bytes = contents();
    let file = one.write("tiny.raw", &bytes);
    one.import(&[file.to_str().unwrap(), "--sha256", &sum(&bytes), "--description", "carried"]).ok().unwrap();
    let archive = one.folder.path().join("tiny.tar");
    one.run(&format!("image export tiny {}", archive.display()));
    assert!(fs::metadata(&archive).unwrap().len() < 40 * MIB as u64);
    let (status, line) = one.fails(&format!("image export tiny {}", archive.display()));
    assert!(status == Some(2) && line.contains("exists"), "{line}");
    two.run(&format!("image import {} --name same:1", archive.display()));
    let image = two.json("image show same:1");
    assert_eq!((&image["description"], &image["size"]), (&json!("carried"), &json!(bytes.len())));
    assert_eq!(image["command_line"], "console=ttyS0 quiet do=disk");
    two.run("volume create v --image same:1 --format raw --full");
    let there = two.folder.path().join("v");
    two.run(&format!("volume download v {}", there.display()));
    assert!(fs::read(there).unwrap() == bytes);

    // A browser that downloads knows how long it is, and is told what to call it.
    let answer = http::ask(&two, "GET", "/images/same:1/data", "Accept-Encoding: gzip\r\n", &Value::Null);
    assert!(answer.head.contains("content-length: ") && answer.head.contains("filename=\"same-1.tar\""));
    let refused = two.import(&[archive.to_str().unwrap()]).err().unwrap();
    assert!(refused.status == Some(2) && refused.line.contains("/kernel: an exported image has its own"));
    let both = format!("image import {0} --name x --kernel {0}", archive.display());
    let (status, line) = two.fails(&both);
    assert!(status == Some(2) && line.contains("/kernel: it is the same file as the disk"), "{line}");
    assert_eq!(two.images(), ["same:1"]);
}

#[test]
fn an_image_stays_as_long_as_somebody_needs_it() {
    let daemon = Daemon::start();
    let file = daemon.write("tiny.raw", &contents());
    let file = file.to_str().unwrap();
    daemon.import(&[file]).ok().unwrap();
    daemon.run("vm create a --image tiny --memory 128M --label team=a");
    daemon.run("vm create b --image tiny --memory 128M");
    daemon.run("template create small --from a");
    daemon.run("volume create data --image tiny");
    let users = json!({ "vms": ["a", "b"], "templates": ["small"], "volumes": ["default/data"] });
    assert_eq!(daemon.json("image show tiny")["used_by"], users);
    // Whoever sees some guests only hears of those.
    let secret = daemon.run("token create t --role viewer --label team=a").trim().to_owned();
    let seen = http::ask(
        &daemon,
        "GET",
        "/images/tiny",
        &format!("Authorization: Bearer {secret}\r\n"),
        &Value::Null,
    );
    assert_eq!(seen.body["used_by"], json!({ "vms": ["a"], "templates": ["small"], "volumes": [] }));

    for words in ["image delete tiny", "image edit tiny --name other"] {
        let (status, line) = daemon.fails(words);
        assert!(status == Some(5) && line.contains("is used by a, b, the template small: it "), "{line}");
    }
    let refused = daemon.import(&[file, "--force"]).err().unwrap();
    assert!(refused.status == Some(5) && refused.line.contains("is used by a, b"), "{}", refused.line);
    let refused = daemon.import(&[file]).err().unwrap();
    assert!(
        refused.status == Some(5) && refused.line.contains("there is an image tiny already"),
        "{}",
        refused.line
    );
    daemon.run("image edit tiny --description described --label os=tiny --append console=ttyS0");
    let image = daemon.json("image show tiny");
    assert_eq!(
        (&image["description"], &image["command_line"]),
        (&json!("described"), &json!("console=ttyS0"))
    );

    daemon.run("vm delete a b");
    daemon.run("template delete small");
    daemon.run("image edit tiny --name other:2 --label os=");
    assert_eq!(daemon.images(), ["other:2"]);
    assert!(daemon.json("image show other:2")["labels"].is_null());
    assert_eq!(
        daemon.json("image show other:2")["used_by"]["volumes"],
        json!(["default/data"]),
        "whatever it was called"
    );
    daemon.run("image delete other:2");
    assert!(daemon.images().is_empty());
    let there = daemon.folder.path().join("data");
    daemon.run(&format!("volume download data {}", there.display()));
    assert!(fs::read(there).unwrap() == contents(), "its pool holds what the volume needs");
    let kinds = daemon.run("event ls -f kind=image.*");
    for kind in ["image.created", "image.edited", "image.deleted"] {
        assert!(kinds.contains(kind), "{kinds}");
    }
}

#[test]
fn what_no_image_can_be_made_of_is_refused_in_one_line() {
    let daemon = Daemon::start();
    let refused = |words: &[&str], status: i32, wanted: &str| {
        let told = daemon.import(words).err().unwrap_or_else(|| panic!("{words:?}"));
        assert!(told.status == Some(status) && told.line.contains(wanted), "{words:?}: {}", told.line);
        assert_eq!(told.line.lines().count(), 1, "{}", told.line);
    };
    let text = daemon.write("text", b"no disk");
    let text = text.to_str().unwrap();
    refused(&["/does/not/exist"], 2, "No such file");
    refused(&["/dev/null"], 2, "is no file");
    refused(&["http://127.0.0.1:1/x"], 2, "needs its checksum");
    refused(&["http://127.0.0.1:1/x", "--sha256", "12"], 2, "/disk/sha256: a SHA-256 checksum has 64");
    refused(
        &["http://me:secret@127.0.0.1:1/x", "--sha256", &"0".repeat(64)],
        2,
        "http://127.0.0.1:1/x cannot be fetched",
    );
    refused(&[text, "--sha256", &"0".repeat(64)], 2, "has the SHA-256 checksum");
    refused(&[text], 2, "not a positive multiple of 512");
    refused(&[text, "--label", "a"], 2, "KEY=VALUE");
    let disk = daemon.write("disk", &[0; 4096]);
    let (status, line) = daemon.fails(&format!("image import {} --name x", disk.display()));
    assert!(status == Some(2) && line.contains("/kernel: a disk needs the kernel"), "{line}");
    assert_eq!(daemon.fails("image show nothing").0, Some(4));
    assert_eq!(daemon.fails("image delete nothing").0, Some(4));
    assert_eq!(daemon.fails("image delete ../x").0, Some(2));
    for (body, pointer) in [
        (json!({}), "/disk"),
        (json!({ "name": "x", "disk": { "path": "/x" } }), "/disk"),
        (json!({ "name": "X", "disk": { "file": "/x" } }), "/name"),
        (json!({ "name": "x", "disk": { "file": "/x" }, "labels": { "a b": "" } }), "/labels"),
        (json!({ "release": "debian:1" }), "/release"),
        (json!({ "release": "debian:13", "size": "1M" }), "/size"),
    ] {
        let answer = http::ask(&daemon, "POST", "/images", "", &body);
        assert_eq!((answer.status, &answer.body["errors"][0]["pointer"]), (422, &json!(pointer)), "{body}");
    }
    let all = daemon.run("task ls");
    assert!(!all.contains("secret") && !all.contains("me:"), "{all}");
    assert!(daemon.images().is_empty());
}

/// Which images a command is about.
#[test]
fn images_are_the_hosts_where_one_is_named_and_else_ones_own() {
    let daemon = Daemon::start();
    let home = daemon.folder.path().join("home");
    let disk = daemon.write("disk", &[0; 4096]);
    let own = |words: &[&str], host: Option<&Path>| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_tessera"));
        command.env("TESSERA_HOME", &home).env_remove("TESSERA_HOST").args(words);
        host.map(|host| command.env("TESSERA_HOST", host));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let kernel = daemon.kernel("kernel", &waits());
    own(&["image", "import", disk.to_str().unwrap(), "--name", "mine", "--kernel", &kernel], None);
    own(&["image", "edit", "mine", "--description", "my own"], None);
    assert!(own(&["image", "show", "mine"], None).contains("description: my own"));
    let socket = daemon.state().join("host.sock");
    assert_eq!(own(&["image", "ls", "-o", "name"], Some(&socket)), "");
    assert_eq!(own(&["image", "--local", "ls", "-o", "name"], Some(&socket)), "mine\n");
    assert_eq!(own(&["image", "list", "-o", "name"], None), "mine\n");
    own(&["image", "remove", "mine"], None);
    assert_eq!(own(&["image", "ls", "-o", "json"], None), "[]\n");
}
