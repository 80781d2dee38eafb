//! Requests that come twice.

use serde_json::json;

use crate::http::ask;
use crate::{Daemon, waits};

#[test]
fn what_is_asked_for_twice_with_a_key_is_done_once_even_if_the_daemon_was_killed_between() {
    let mut daemon = Daemon::start();
    let key = "Idempotency-Key: \"8e03978e-40d5-43dd-bc93-6894a57f9324\"\r\n";
    let kernel = daemon.kernel("k", &waits());
    let named = |name: &str| json!({ "name": name, "memory": "32M", "boot": { "kernel": kernel } });
    let guest = named("a");
    let first = ask(&daemon, "POST", "/vms?wait=10s", key, &guest);
    assert!(first.status == 200 && !first.head.contains("idempotency-replayed"), "{}", first.text);
    let again = ask(&daemon, "POST", "/vms?wait=10s", key, &guest);
    assert_eq!((again.status, &again.text), (200, &first.text));
    assert!(again.head.contains("idempotency-replayed: true") && again.head.contains("application/json"));
    daemon.kill();
    daemon.start_again();
    let later = ask(&daemon, "POST", "/vms?wait=10s", key, &guest);
    assert_eq!((later.status, &later.text), (200, &first.text));
    assert_eq!(daemon.run("vm ls -o name"), "a\n");
    assert_eq!(daemon.json("task ls").as_array().unwrap().len(), 1);

    let other = ask(&daemon, "POST", "/vms?wait=10s", key, &named("b"));
    assert!(other.status == 422 && other.text.contains("key of its own"), "{}", other.text);
    let conditional = ask(&daemon, "POST", "/vms?wait=10s", &format!("{key}If-Match: \"1\"\r\n"), &guest);
    assert!(conditional.status == 422 && conditional.text.contains("key of its own"), "{}", conditional.text);
    let bad = ask(&daemon, "POST", "/vms", "Idempotency-Key: a b\r\n", &guest);
    assert!(bad.status == 400 && bad.text.contains("Idempotency-Key"), "{}", bad.text);

    // What was refused may be asked for again once it is right; a secret is told once.
    let key = "Idempotency-Key: two\r\n";
    assert_eq!(ask(&daemon, "POST", "/vms", key, &named("a b")).status, 422);
    assert_eq!(ask(&daemon, "POST", "/vms?wait=10s", key, &named("c")).status, 200);
    let token = json!({ "name": "ci", "role": "viewer" });
    assert_eq!(ask(&daemon, "POST", "/tokens", key, &token).status, 201);
    let again = ask(&daemon, "POST", "/tokens", key, &token);
    assert!(again.status == 409 && again.text.contains("told once"), "{}", again.text);
}
