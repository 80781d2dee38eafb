//! `tessera vm exec` and `tessera vm passwd`: what is done inside a guest, by its agent.

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

use api::{Encoding, Exec, ExecResult};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, segment};
use crate::failure::{Failure, Result, Status};

/// What a shell's status for a program that a signal ended begins at.
const SIGNALLED: i32 = 128;

/// Arguments of `tessera vm exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// The guest's name or id
    vm: String,
    /// How long to wait for the program's end
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
    /// Set a variable of its environment, in place of the agent's whole environment
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    environment: Vec<String>,
    /// Give it our standard input, which is read to its end first
    #[arg(short, long)]
    input: bool,
    /// The program and its arguments; no shell reads them
    #[arg(required = true, last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl ExecArgs {
    /// Runs it; the status is the program's own.
    pub async fn execute(&self, client: &Client) -> Result<ExitCode> {
        let exec = self.exec()?;
        let body = serde_json::to_value(&exec).map_err(|error| Failure::internal(error.to_string()))?;
        let path = format!("/vms/{}/agent/exec", segment(&self.vm)?);
        let result: ExecResult = client.change(Method::POST, &path, &[], Some(&body)).await?;
        // Whoever reads us may have read enough.
        let _ = std::io::stdout().write_all(&bytes(&result.stdout)?);
        let _ = std::io::stderr().write_all(&bytes(&result.stderr)?);
        if result.truncated {
            eprintln!("tessera: the program wrote more than the guest's agent keeps: the rest is lost");
        }
        let status = result.exit_status.or(result.signal.map(|signal| SIGNALLED + signal));
        Ok(status.map_or(Status::Internal.into(), |status| ExitCode::from(status as u8)))
    }

    fn exec(&self) -> Result<Exec> {
        let mut input = Vec::new();
        if self.input {
            let read = std::io::stdin().read_to_end(&mut input);
            read.map_err(|error| Failure::input(format!("the standard input: {error}")))?;
        }
        let variable = |text: &String| {
            let (name, value) = text
                .split_once('=')
                .ok_or_else(|| Failure::input(format!("--env {text}: write it as NAME=VALUE")))?;
            Ok((name.to_owned(), value.to_owned()))
        };
        Ok(Exec {
            command: self.command.clone(),
            environment: self.environment.iter().map(variable).collect::<Result<_>>()?,
            input: STANDARD.encode(input),
            encoding: Encoding::Base64,
            timeout: self.timeout,
        })
    }
}

fn bytes(text: &str) -> Result<Vec<u8>> {
    STANDARD.decode(text).map_err(|error| Failure::internal(format!("the host's answer: {error}")))
}

/// Sets a password, which nobody sees while it is typed.
pub async fn set_password(client: &Client, vm: &str, user: &str) -> Result<()> {
    let path = format!("/vms/{}/agent/password", segment(vm)?);
    let body = json!({ "user": user, "password": read_password(user)? });
    let _: Value = client.change(Method::POST, &path, &[], Some(&body)).await?;
    Ok(())
}

fn read_password(user: &str) -> Result<String> {
    let told = |error: std::io::Error| Failure::input(format!("the password: {error}"));
    if !std::io::stdin().is_terminal() {
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).map_err(told)?;
        return Ok(line.trim_end_matches(['\n', '\r']).to_owned());
    }
    let password = rpassword::prompt_password(format!("New password of {user}: ")).map_err(told)?;
    let again = rpassword::prompt_password("Once more: ").map_err(told)?;
    if password != again {
        return Err(Failure::input("the two are not the same: nothing has changed"));
    }
    Ok(password)
}
