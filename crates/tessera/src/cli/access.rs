//! `tessera user`, `tessera token` and `tessera audit`: who may do what, and who did.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Read};
use std::path::PathBuf;

use api::{Account, AuditEntry, Bound, MadeToken, Name, Token};
use clap::{Args, Subcommand, ValueEnum};
use reqwest::Method;
use serde_json::{Value, json};

use super::listing::{WatchOption, log, show};
use super::output::{Column, OutputOption, age, say};
use super::vm::query;
use crate::client::{HostOption, segment};
use crate::failure::{self, Failure, Result};

/// A role.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleOption {
    /// May look
    Viewer,
    /// May start, stop and use guests
    Operator,
    /// May do everything
    Admin,
}

impl RoleOption {
    fn word(self) -> &'static str {
        match self {
            RoleOption::Viewer => "viewer",
            RoleOption::Operator => "operator",
            RoleOption::Admin => "admin",
        }
    }
}

/// Which guests somebody is bound to.
#[derive(Debug, Args)]
pub struct BoundOption {
    /// Only guests that carry this label (may be repeated), and nothing else of the host; all of them if nothing is said
    #[arg(long = "label", value_name = "KEY=VALUE")]
    label: Vec<String>,
}

impl BoundOption {
    fn labels(&self) -> Result<BTreeMap<String, String>> {
        let parse = |text: &String| {
            let pair = text.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
            pair.ok_or_else(|| Failure::input(format!("--label {text}: write it as KEY=VALUE")))
        };
        self.label.iter().map(parse).collect()
    }
}

/// The guests that somebody is bound to, for a table.
fn guests(labels: &Bound) -> String {
    if labels.is_empty() {
        return "all".into();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// What can be done with tokens.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum TokenCommand {
    /// Show the tokens there are, without their secrets
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Make a token, and print its secret: it is told this once
    Create {
        /// What it is for
        name: Name,
        /// What it may do
        #[arg(long)]
        role: RoleOption,
        #[command(flatten)]
        bound: BoundOption,
        /// For how many days it is taken; for ever if nothing is said
        #[arg(long, value_name = "N")]
        days: Option<u32>,
    },
    /// Take tokens away
    Delete {
        /// Their names or ids
        #[arg(required = true)]
        tokens: Vec<String>,
    },
}

const TOKENS: [Column<Token>; 5] = [
    Column::text("NAME", |token| token.name.to_string()),
    Column::text("ROLE", |token| token.role.word().to_owned()),
    Column::text("GUESTS", |token| guests(&token.labels)),
    Column::text("AGE", |token: &Token| age(token.created)).passing(),
    Column::text("EXPIRES", |token| token.expires.map_or_else(|| "-".to_owned(), |time| time.to_string())),
];

impl TokenCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            TokenCommand::Ls { output, watch } => {
                show(&client, "/tokens", &[], &TOKENS, (output, watch)).await
            }
            TokenCommand::Create { name, role, bound, days } => {
                let body =
                    json!({ "name": name, "role": role.word(), "labels": bound.labels()?, "days": days });
                let made: MadeToken = client.change(Method::POST, "/tokens", &[], Some(&body)).await?;
                say(&made.secret);
                Ok(())
            }
            TokenCommand::Delete { tokens } => {
                for token in &tokens {
                    let path = format!("/tokens/{}", segment(token)?);
                    let () = client.change(Method::DELETE, &path, &[], None).await?;
                    say(&format!("{token} is not taken any more"));
                }
                Ok(())
            }
        }
    }
}

/// What can be done with users.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum UserCommand {
    /// Show the users there are
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Make a user known: they log in with a password
    Create {
        /// The name they log in with
        name: Name,
        /// What they may do
        #[arg(long)]
        role: RoleOption,
        #[command(flatten)]
        bound: BoundOption,
        /// Read the password from this file, in place of the terminal; `-` for stdin
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Change a user; the rest stays
    Edit {
        /// Their name
        name: Name,
        /// What they may do from now on
        #[arg(long)]
        role: Option<RoleOption>,
        #[command(flatten)]
        bound: BoundOption,
        /// Bind them to no label any more
        #[arg(long, conflicts_with = "label")]
        all_guests: bool,
        /// Keep them out; what they have open ends
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Let them in again
        #[arg(long)]
        enable: bool,
    },
    /// Give a user another password; what they have open ends
    Passwd {
        /// Their name
        name: Name,
        /// Read the password from this file, in place of the terminal; `-` for stdin
        #[arg(long, value_name = "FILE")]
        password_file: Option<PathBuf>,
    },
    /// Forget users; what they have open ends
    Delete {
        /// Their names
        #[arg(required = true)]
        users: Vec<Name>,
    },
}

const USERS: [Column<Account>; 5] = [
    Column::text("NAME", |user| user.name.to_string()),
    Column::text("ROLE", |user| user.role.word().to_owned()),
    Column::text("GUESTS", |user| guests(&user.labels)),
    Column::text("STATE", |user| if user.disabled { "disabled" } else { "-" }.to_owned()),
    Column::text("AGE", |user: &Account| age(user.created)).passing(),
];

/// A password from a file, or typed twice.
fn password(file: Option<PathBuf>) -> Result<String> {
    let unread = |path: &std::path::Path, error: std::io::Error| {
        Failure::input(format!("--password-file {}: {error}", path.display()))
    };
    if let Some(path) = file {
        let mut text = String::new();
        let read = if path.as_os_str() == "-" {
            std::io::stdin().read_to_string(&mut text).map(drop)
        } else {
            std::fs::read_to_string(&path).map(|read| text = read)
        };
        read.map_err(|error| unread(&path, error))?;
        return Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned());
    }
    if !std::io::stdin().is_terminal() {
        return Err(Failure::input("no terminal to type a password at: give it with --password-file"));
    }
    let ask = |words: &str| {
        rpassword::prompt_password(words).map_err(|error| Failure::input(format!("the password: {error}")))
    };
    let first = ask("Password: ")?;
    if ask("Again: ")? != first {
        return Err(Failure::input("the two passwords are not the same"));
    }
    Ok(first)
}

impl UserCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        let change = async |name: &Name, body: Value| {
            let path = format!("/users/{name}");
            client.change::<Account>(Method::PATCH, &path, &[], Some(&body)).await
        };
        match self {
            UserCommand::Ls { output, watch } => show(&client, "/users", &[], &USERS, (output, watch)).await,
            UserCommand::Create { name, role, bound, password_file } => {
                let (role, labels) = (role.word(), bound.labels()?);
                let password = password(password_file)?;
                let body = json!({ "name": name, "role": role, "labels": labels, "password": password });
                let _: Account = client.change(Method::POST, "/users", &[], Some(&body)).await?;
                say(&format!("{name} can log in"));
                Ok(())
            }
            UserCommand::Edit { name, role, bound, all_guests, disable, enable } => {
                let mut body = json!({});
                if let Some(role) = role {
                    body["role"] = role.word().into();
                }
                let labels = bound.labels()?;
                if all_guests || !labels.is_empty() {
                    body["labels"] = json!(labels);
                }
                if disable || enable {
                    body["disabled"] = disable.into();
                }
                if body == json!({}) {
                    return Err(Failure::input(
                        "nothing to change: give --role, --label, --all-guests, --disable or --enable",
                    ));
                }
                change(&name, body).await?;
                say(&format!("{name} has been changed"));
                Ok(())
            }
            UserCommand::Passwd { name, password_file } => {
                change(&name, json!({ "password": password(password_file)? })).await?;
                say(&format!("{name} has another password"));
                Ok(())
            }
            UserCommand::Delete { users } => {
                for name in &users {
                    let () = client.change(Method::DELETE, &format!("/users/{name}"), &[], None).await?;
                    say(&format!("{name} cannot log in any more"));
                }
                Ok(())
            }
        }
    }
}

/// What can be done with the record of who did what.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum AuditCommand {
    /// Show who changed what from where, and who was refused, the newest first
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        /// Only those that this fits: actor=ann, path=*/vms/*, status=403, with commas between
        #[arg(short, long, value_name = "TERMS")]
        filter: Option<String>,
        #[command(flatten)]
        watch: WatchOption,
    },
}

const ENTRIES: [Column<AuditEntry>; 6] = [
    Column::text("TIME", |entry| entry.time.strftime("%Y-%m-%d %H:%M:%S").to_string()),
    Column::text("ACTOR", |entry| if entry.actor.is_empty() { "-".into() } else { entry.actor.clone() }),
    Column::text("FROM", |entry| entry.from.clone()),
    Column::text("METHOD", |entry| entry.method.clone()),
    Column::text("PATH", |entry| entry.path.clone()),
    Column::number("STATUS", |entry| entry.status.to_string()),
];

impl AuditCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        let AuditCommand::Ls { output, filter, watch } = self;
        log(&client, "/audit", &query(&[("filter", filter)]), &ENTRIES, (output, watch)).await
    }
}
