//! What the agent in a guest tells and does (QEMU's guest agent).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Invalid;

/// The longest that a command may be waited for, seconds.
const LONGEST_WAIT: u32 = 3600;
/// The most bytes that a command gets to read.
const MOST_INPUT: usize = 256 << 10;

/// What a guest's agent says of the guest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: String,
    /// The guest's own host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Its operating system, as a person calls it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    /// Its kernel's release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Its network interfaces.
    #[serde(default)]
    pub interfaces: Vec<GuestInterface>,
}

/// A network interface as a guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestInterface {
    /// Its name in the guest.
    pub name: String,
    /// Its hardware address, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its addresses with the lengths of their prefixes: `10.0.2.15/24`.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// A program to run in a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The program, looked for in the agent's PATH if there is no / in it, and its arguments. No shell reads them.
    #[schema(min_items = 1)]
    pub command: Vec<String>,
    /// Its environment, in place of the agent's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub environment: BTreeMap<String, String>,
    /// What it reads.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schema(max_length = 262144)]
    pub input: String,
    /// How `input` and the output are written here.
    #[serde(default)]
    pub encoding: Encoding,
    /// How long to wait for its end, seconds. It runs on when they have passed.
    #[serde(default = "minute")]
    #[schema(minimum = 1, maximum = 3600)]
    pub timeout: u32,
}

fn minute() -> u32 {
    60
}

/// How bytes are written in JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// As text: what is no UTF-8 is lost.
    #[default]
    Text,
    /// In base 64 (RFC 4648).
    Base64,
}

/// How a program in a guest ended, and what it wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecResult {
    /// Its exit status, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_status: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// What it wrote.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
    /// Whether it wrote more than the agent keeps.
    #[serde(default)]
    pub truncated: bool,
}

/// A new password of an account in a guest.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestPassword {
    /// The account.
    pub user: String,
    /// Its password from now on.
    #[schema(write_only)]
    pub password: String,
}

impl std::fmt::Debug for GuestPassword {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestPassword").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Exec {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if self.command.first().is_none_or(String::is_empty) {
            wrong.push(Invalid::new("/command", self.command.clone(), "the program, then its arguments"));
        }
        if self.command.iter().any(|word| word.contains('\0')) {
            wrong.push(Invalid::new(
                "/command",
                self.command.clone(),
                "a program cannot be given a zero byte",
            ));
        }
        if !(1..=LONGEST_WAIT).contains(&self.timeout) {
            wrong.push(Invalid::new("/timeout", self.timeout, "1 to 3600 seconds"));
        }
        if self.input.len() > MOST_INPUT {
            wrong.push(Invalid::new("/input", self.input.len(), "at most 262144 bytes"));
        }
        let name = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        if self.environment.iter().any(|(key, value)| name(key) || value.contains('\0')) {
            let detail = "names have no = and are not empty; there are no zero bytes";
            wrong.push(Invalid::new("/environment", serde_json::Value::Null, detail));
        }
        wrong
    }
}

impl GuestPassword {
    /// What is wrong with it. The password is not repeated.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = Vec::new();
        if self.user.is_empty() || self.user.len() > 256 || self.user.contains([':', '\n', '\0']) {
            wrong.push(Invalid::new("/user", self.user.clone(), "the name of an account"));
        }
        if self.password.is_empty() || self.password.len() > 1024 || self.password.contains(['\n', '\0']) {
            let detail = "1 to 1024 bytes in one line";
            wrong.push(Invalid::new("/password", serde_json::Value::Null, detail));
        }
        wrong
    }
}
