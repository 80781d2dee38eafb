//! Guests made from templates.

use serde_json::json;

use crate::{Daemon, waits};

#[test]
fn a_template_says_what_its_guests_have_in_common() {
    let daemon = Daemon::start();
    let kernel = daemon.kernel("k", &waits());
    let base = format!(
        "vm create a --kernel {kernel} --memory 64M --cpus 2 --engine soft --new-disk 1M --net user --label tier=web"
    );
    daemon.run(&base);
    daemon.run("template create small --from a --description small+ones");
    let template = daemon.json("template show small");
    assert_eq!(template["definition"]["memory"], 64 << 20);
    assert!(template["definition"]["nics"][0]["mac"].is_null(), "{template}");

    daemon.run("vm create b --template small --start");
    let (a, b) = (daemon.vm("a"), daemon.vm("b"));
    assert_eq!(b["template"], "small");
    for field in ["cpus", "memory", "labels", "boot", "disks"] {
        assert_eq!(a[field], b[field], "{field}");
    }
    assert_ne!(a["nics"][0]["mac"], b["nics"][0]["mac"]);
    daemon.run("vm create c --template small --cpus 1 --memory 32M --label tier=db");
    let c = daemon.vm("c");
    assert_eq!(
        (&c["cpus"], &c["memory"], &c["labels"]),
        (&json!(1), &json!(32 << 20), &json!({ "tier": "db" }))
    );
    daemon.run("template delete small");
    assert_eq!(daemon.state_of("b"), "running", "guests stay");
    assert_eq!(daemon.json("template ls"), json!([]));
    daemon.run("vm delete a b c --force");
}

#[test]
fn wrong_templates_are_refused_with_the_field() {
    let daemon = Daemon::start();
    let refused = |definition: &str, part: &str| {
        let (status, line) = daemon.fails(&format!("template create t --definition {definition}"));
        assert!(status == Some(2) && line.contains(part), "{definition}: {line}");
    };
    refused("[]", "JSON object");
    refused("{\"cpus\":0}", "/definition/cpus");
    refused("{\"cpu\":1}", "unknown field `cpu`");
    refused("{\"name\":\"x\"}", "/definition/name");
    refused("{\"nics\":[{\"mac\":\"52:54:00:00:00:01\"}]}", "/definition/nics/0/mac");
    assert_eq!(daemon.fails("vm create a --template nothing").0, Some(4));
    daemon.run("template create t --definition {\"cpus\":2}");
    assert_eq!(daemon.fails("template create t --definition {}").0, Some(5));
    let (status, line) = daemon.fails("vm create a --template t");
    assert!(status == Some(2) && line.contains("nothing to boot"), "{line}");
}
