//! Who may do what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Id, Invalid, Name, Time};

/// The labels that somebody is bound to: they see and use guests that carry all of these, and nothing else. Without any they are bound to
/// nothing: all guests, and the host.
pub type Bound = BTreeMap<String, String>;

/// What somebody may do. Each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Start, stop and use guests.
    Operator,
    /// Everything.
    Admin,
}

impl Role {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// A token that programs show instead of a password.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Its id.
    pub id: Id,
    /// What it is for: the actor in tasks and events.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// Which guests it may do that with: those that carry all these labels; all of them, and the host, if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Bound,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
    /// From when on it is not taken any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Time>,
}

/// A token to be made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// What it is for.
    pub name: Name,
    /// What it may do.
    pub role: Role,
    /// Which guests it may do that with: those that carry all these labels; all of them, and the host, if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Bound,
    /// For how many days it is taken; for ever if nothing is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 36500)]
    pub days: Option<u32>,
}

/// A token that has just been made: the only time that its secret is told.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// What is known of it from now on.
    #[serde(flatten)]
    pub token: Token,
    /// What to show: `Authorization: Bearer SECRET`.
    pub secret: String,
}

/// Somebody who shows a password.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Account {
    /// Their id.
    pub id: Id,
    /// The name they log in with, the actor in tasks and events.
    pub name: Name,
    /// What they may do.
    pub role: Role,
    /// Which guests they may do that with: those that carry all these labels; all of them, and the host, if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Bound,
    /// Whether they are kept out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
    /// When they were made known.
    #[schema(value_type = String, format = DateTime)]
    pub created: Time,
}

/// Somebody to be made known.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAccount {
    /// The name they log in with.
    pub name: Name,
    /// What they may do.
    pub role: Role,
    /// Which guests they may do that with: those that carry all these labels; all of them, and the host, if there are none.
    #[serde(default)]
    pub labels: Bound,
    /// What they show: 8 to 256 characters.
    #[schema(min_length = 8, max_length = 256)]
    pub password: String,
}

/// What changes of somebody: what is not said stays.
#[derive(Debug, Clone, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountChange {
    /// What they may do.
    pub role: Option<Role>,
    /// Which guests they may do that with.
    pub labels: Option<Bound>,
    /// A new password; who is logged in has to log in again.
    #[schema(min_length = 8, max_length = 256)]
    pub password: Option<String>,
    /// Whether they are kept out.
    pub disabled: Option<bool>,
}

/// What somebody shows to log in.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// Their name.
    #[schema(max_length = 63)]
    pub user: String,
    /// Their password.
    #[schema(max_length = 256)]
    pub password: String,
}

/// A new password of one's own.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The one it has been.
    #[schema(max_length = 256)]
    pub old: String,
    /// The one it is to be: 8 to 256 characters.
    #[schema(min_length = 8, max_length = 256)]
    pub new: String,
}

/// Who is asking.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Who they are, as tasks and events tell.
    pub actor: String,
    /// What they may do.
    pub role: Role,
    /// Which guests they may do that with; all of them, and the host, if there are none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: Bound,
    /// The user whose password was shown, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<Name>,
    /// When they have to log in again; never for those who are known by where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires: Option<Time>,
}

/// An address that logs in who opens it first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LoginLink {
    /// The path to open at this host: `/login?once=…`.
    pub path: String,
    /// Until when it can be opened.
    #[schema(value_type = String, format = DateTime)]
    pub expires: Time,
}

/// One entry of the record of who did what from where.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub time: Time,
    /// Who; nobody if the host did not know them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// From where: an address, or `local` and the user id.
    pub from: String,
    /// What they asked for: `POST`.
    pub method: String,
    /// Of what: `/api/v1/vms/web-1/start`. Without the query, which may hold what nobody else should know.
    pub path: String,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The answer to those who asked too often without being known stands for so many others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub more: Option<u64>,
}

/// What is wrong with labels at `pointer`.
pub fn check_labels(pointer: &str, labels: &Bound) -> Vec<Invalid> {
    let good = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let fits =
        |key: &str, value: &str| (1..=63).contains(&key.len()) && value.len() <= 255 && key.chars().all(good);
    let wrong = labels.iter().filter(|(key, value)| !fits(key, value));
    let detail = "a label's key has 1 to 63 letters, digits and . _ -, its value at most 255 bytes";
    wrong.map(|(key, _)| Invalid::new(pointer, key.chars().take(80).collect::<String>(), detail)).collect()
}

/// What is wrong with a password at `pointer`.
pub(crate) fn check_password(pointer: &str, password: &str) -> Vec<Invalid> {
    let count = password.chars().count();
    if (8..=256).contains(&count) {
        return Vec::new();
    }
    // What was there is nobody's business.
    vec![Invalid::new(pointer, (), format!("a password has 8 to 256 characters, this one {count}"))]
}

impl NewToken {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = check_labels("/labels", &self.labels);
        if self.days.is_some_and(|days| !(1..=36500).contains(&days)) {
            wrong.push(Invalid::new("/days", self.days, "1 to 36500 days"));
        }
        wrong
    }
}

impl NewAccount {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = check_labels("/labels", &self.labels);
        wrong.extend(check_password("/password", &self.password));
        wrong
    }
}

impl AccountChange {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        let mut wrong = self.labels.as_ref().map_or_else(Vec::new, |labels| check_labels("/labels", labels));
        wrong.extend(self.password.iter().flat_map(|password| check_password("/password", password)));
        wrong
    }
}

impl PasswordChange {
    /// What is wrong with it.
    pub fn check(&self) -> Vec<Invalid> {
        check_password("/new", &self.new)
    }
}
