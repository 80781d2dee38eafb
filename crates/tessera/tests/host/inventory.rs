//! What the machine has.

use std::process::Command;

use serde_json::{Value, json};

use crate::Daemon;

#[test]
fn the_host_tells_of_its_nodes_disks_and_cards() {
    let daemon = Daemon::start_in(true);
    let ip = |words: &str| {
        let pid = daemon.child.as_ref().unwrap().id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net")).arg("ip").args(words.split(' '));
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    assert_eq!(daemon.json("host nics"), json!([]), "the loopback card is none");
    ip("link add lan type bridge");
    ip("link add uplink type veth peer name far");
    ip("link set uplink master lan address 02:00:00:00:00:01");
    ip("address add 192.0.2.1/24 dev lan");
    let nics = daemon.json("host nics");
    let nic = |name: &str| nics.as_array().unwrap().iter().find(|nic| nic["name"] == name).unwrap().clone();
    assert_eq!((&nic("lan")["kind"], &nic("lan")["addresses"]), (&json!("bridge"), &json!(["192.0.2.1/24"])));
    let uplink = nic("uplink");
    assert_eq!((&uplink["bridge"], &uplink["mac"]), (&json!("lan"), &json!("02:00:00:00:00:01")));
    assert_eq!(uplink["state"], "down");
    let table = daemon.run("host nics");
    assert!(table.starts_with("NAME") && table.contains("192.0.2.1/24"), "{table}");

    let info = daemon.json("host info");
    let numa = info["numa"].as_array().unwrap();
    assert_eq!(info["nodes"], numa.len());
    assert!(
        numa.iter()
            .any(|node| !node["cpus"].as_array().unwrap().is_empty() && node["memory"].as_u64() > Some(0))
    );
    for disk in daemon.json("host disks").as_array().unwrap() {
        assert!(disk["size"].as_u64() > Some(0) && disk["rotational"].is_boolean(), "{disk}");
    }
    assert!(daemon.run("host disks").starts_with("NAME"));

    // Whoever is bound to labels has no use for it.
    let secret = daemon.run("token create t --role viewer --label team=a").trim().to_owned();
    let seen: Value =
        serde_json::from_str(&daemon.run(&format!("--token {secret} host info -o json"))).unwrap();
    assert_eq!((&seen["disks"], &seen["nics"]), (&json!([]), &json!([])));
    assert_eq!(seen["name"], info["name"]);
}
