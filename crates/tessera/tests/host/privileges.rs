//! Every method of the API names the role that it needs, and lets nobody do it who has a lesser one.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::{Daemon, http};

/// The roles, the least first.
const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

fn description() -> (String, Value) {
    let output = Command::new(env!("CARGO_BIN_EXE_tessera")).args(["host", "openapi"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&text).unwrap();
    (text, value)
}

#[test]
fn the_description_of_the_api_is_the_one_that_was_reviewed() {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json");
    let reviewed = std::fs::read_to_string(&golden).unwrap_or_default();
    let (now, _) = description();
    assert!(
        reviewed == now,
        "the API has changed; if that is meant: tessera host openapi >docs/openapi.json"
    );
}

/// The status with which the host answers.
fn ask(daemon: &Daemon, method: &str, path: &str, secret: &str) -> u16 {
    let body = if method == "GET" { Value::Null } else { serde_json::json!({}) };
    http::ask(daemon, method, path, &format!("Authorization: Bearer {secret}\r\n"), &body).status
}

#[test]
fn nobody_does_what_their_role_does_not_allow() {
    let daemon = Daemon::start();
    let secret = |role: &str| daemon.run(&format!("token create {role} --role {role}")).trim().to_owned();
    let secrets = ROLES.map(secret);
    let (_, description) = description();
    let mut walked = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            if (path.as_str(), method.as_str()) == ("/api/v1/session", "post") {
                // Who logs in is nobody yet.
                assert_eq!(operation["security"], serde_json::json!([{}]));
                continue;
            }
            let role = operation["security"][0]["token"][0].as_str();
            let role = role.unwrap_or_else(|| panic!("{method} {path} names no role"));
            let needed = ROLES.iter().position(|known| *known == role).unwrap();
            // No such thing is there, so that what is allowed does nothing.
            let real: String = path
                .split('/')
                .map(|part| if part.starts_with('{') { "none" } else { part })
                .collect::<Vec<_>>()
                .join("/");
            let method = method.to_uppercase();
            assert_eq!(ask(&daemon, &method, &real, "tessera_wrong"), 401, "{method} {path}");
            for (have, secret) in secrets.iter().enumerate() {
                let status = ask(&daemon, &method, &real, secret);
                let told = format!("{method} {path} as {}: {status}", ROLES[have]);
                assert_eq!(status == 403, have < needed, "{told}");
                assert!(status != 401 && status < 500, "{told}");
            }
            walked += 1;
        }
    }
    assert!(walked > 40, "{walked}");
    assert_eq!(daemon.json("vm ls").as_array().unwrap().len(), 0);
}
