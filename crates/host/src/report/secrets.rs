//! What of a report is nobody else's business.
//!
//! Some fields go because of what they are for: cloud-init's user data and network configuration, keys that log in, what guests wrote on
//! their consoles, what tasks gave and what was in requests that failed, whom alarms call and what they answered. Of all other text what looks like a secret goes: this host's tokens,
//! hashes of passwords (crypt(5) and PHC), private keys, credentials and queries in addresses, and what follows a word like `password`.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;
use serde_json::Value;

/// What stands for what was taken out.
const LEFT_OUT: &str = "(left out)";

/// Fields that are left out wherever they are.
const FIELDS: [&str; 9] =
    ["user_data", "network_config", "ssh_keys", "console", "result", "value", "webhook", "command", "output"];

/// What looks like a secret, and what is put in its place.
static LOOKS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
    [
        (r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----(?s:.*?)(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)", LEFT_OUT),
        (r"\btessera_[0-9A-Za-z]{16,}", LEFT_OUT),
        (r#"\$(?:argon2\w*|scrypt|pbkdf2[\w-]*|gy|y|7|2[abxy]?|6|5|1)\$[^\s"':]+"#, LEFT_OUT),
        (r#"\b([a-z][a-z0-9+.-]*://)[^/\s@"']+@"#, "${1}(left out)@"),
        (r#"\b([a-z][a-z0-9+.-]*://[^\s?"']*)\?[^\s"']*"#, "${1}?(left out)"),
        (r"(?i)\b(bearer )\s*[A-Za-z0-9._~+/=-]+", "${1}(left out)"),
        (
            r#"(?i)((?:password|passwd|passphrase|secret|token|api[_-]?key|private[_-]?key|credentials?)"?\s*[=:]\s*)("[^"]*"|'[^']*'|[^\s"',;&]+)"#,
            "${1}(left out)",
        ),
    ]
    .into_iter()
    // A pattern that is none is found by this file's tests, which use all.
    .filter_map(|(pattern, instead)| Some((Regex::new(pattern).ok()?, instead)))
    .collect()
});

/// A text without what looks like a secret.
pub fn cleaned(text: &str) -> Cow<'_, str> {
    LOOKS.iter().fold(Cow::Borrowed(text), |text, (look, instead)| {
        if look.is_match(&text) { Cow::Owned(look.replace_all(&text, *instead).into_owned()) } else { text }
    })
}

/// Takes out what is secret, or looks like it, at any depth.
pub fn remove(value: &mut Value) {
    match value {
        Value::String(text) => {
            if let Cow::Owned(clean) = cleaned(text) {
                *text = clean;
            }
        }
        Value::Array(values) => values.iter_mut().for_each(remove),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                let known = FIELDS.contains(&name.as_str()) && !value.is_null();
                if known || value.is_string() && is_secret(name) {
                    *value = LEFT_OUT.into();
                } else {
                    remove(value);
                }
            }
        }
        _ => {}
    }
}

/// Whether what has this name is a secret: `name=…` would be taken out of a text.
fn is_secret(name: &str) -> bool {
    cleaned(&format!("{name}=x")) != format!("{name}=x")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_taken_out_of_a_text_and_nothing_else() {
        assert_eq!(LOOKS.len(), 7, "a pattern is none");
        let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNz\n-----END OPENSSH PRIVATE KEY-----";
        for (text, clean) in [
            (format!("before {key} after"), "before (left out) after"),
            ("-----BEGIN PRIVATE KEY-----\nMIIE".into(), "(left out)"),
            ("shows tessera_0123456789abcdef0123: no".into(), "shows (left out): no"),
            ("root:$6$salt$hash/0.:19000".into(), "root:(left out):19000"),
            ("$argon2id$v=19$m=19456,t=2,p=1$c2FsdA$aGFzaA is one".into(), "(left out) is one"),
            (
                "https://ann:pw@example.org/a.raw: refused".into(),
                "https://(left out)@example.org/a.raw: refused",
            ),
            ("from https://example.org/a?sig=x&e=1 now".into(), "from https://example.org/a?(left out) now"),
            ("Authorization: Bearer abc.def".into(), "Authorization: Bearer (left out)"),
            ("db_password=hunter2 quiet".into(), "db_password=(left out) quiet"),
            (r#"{"password": "hunter 2", "n": 1}"#.into(), r#"{"password": (left out), "n": 1}"#),
        ] {
            assert_eq!(cleaned(&text), clean);
        }
        for text in [
            "vm.passwd web by token ci: done",
            "token.create ci by root: done",
            "console=ttyS0 root=/dev/vda1 quiet",
            "https://example.org/debian-13.raw",
            "it costs $5 and $6",
        ] {
            assert_eq!(cleaned(text), text);
        }
    }

    #[test]
    fn fields_that_hold_secrets_are_left_out_at_any_depth() {
        let mut value = json!([{
            "name": "web", "labels": { "team": "a", "api_key": "x" }, "cpus": 2,
            "cloud_init": { "user_data": "#cloud-config", "user": { "name": "ann", "ssh_keys": ["ssh-ed25519 A"] } },
            "status": { "last_end": { "console": ["login: "], "log": ["see http://a:b@c/"] } },
        }]);
        remove(&mut value);
        let clean = json!([{
            "name": "web", "labels": { "team": "a", "api_key": "(left out)" }, "cpus": 2,
            "cloud_init": { "user_data": "(left out)", "user": { "name": "ann", "ssh_keys": "(left out)" } },
            "status": { "last_end": { "console": "(left out)", "log": ["see http://(left out)@c/"] } },
        }]);
        assert_eq!(value, clean);
    }
}
