//! Images of a host.

use api::Task;
use reqwest::Method;
use serde_json::{Value, json};
use storage::images::Source;

use super::{COLUMNS, ImageCommand, ImportArgs, address, import_of, into_new};
use crate::cli::listing::show;
use crate::cli::output::say;
use crate::cli::vm::{change, done};
use crate::cli::waiting::all_at_once;
use crate::client::{Client, segment};
use crate::failure::{Failure, Result};

fn path(name: &str) -> Result<String> {
    Ok(format!("/images/{}", segment(name)?))
}

/// Does what a command says.
pub async fn execute(command: ImageCommand, client: &Client) -> Result<()> {
    match command {
        ImageCommand::Ls { output, watch } => show(client, "/images", &[], &COLUMNS, (output, watch)).await,
        ImageCommand::Show { name, output } => output.one(&client.get(&path(&name)?, &[]).await?),
        ImageCommand::Build(args) => {
            let name = args.name()?;
            let body = json!({
                "name": name, "release": args.release.to_string(), "packages": args.packages, "size": args.size,
                "mirror": args.mirror, "replace": args.force,
            });
            let task = change(client, Method::POST, "/images", &[], Some(&body), args.wait).await?;
            ready(name.as_str(), &task);
            Ok(())
        }
        ImageCommand::Import(args) => import(client, &args).await,
        ImageCommand::Export { name, file } => {
            let path = format!("{}/data", path(&name)?);
            into_new(&file, async |to| client.download(&path, &[], to).await).await?;
            say(&format!("{name} has been exported"));
            Ok(())
        }
        ImageCommand::Edit(args) => {
            let body = args.change()?;
            let body = serde_json::to_value(body).map_err(|error| Failure::internal(error.to_string()))?;
            let _: Value = client.change(Method::PATCH, &path(&args.image)?, &[], Some(&body)).await?;
            say(&format!("{} has changed", args.image));
            Ok(())
        }
        ImageCommand::Delete { names, wait } => {
            let begin = async |name: &str| client.change(Method::DELETE, &path(name)?, &[], None).await;
            all_at_once(client, &names, begin, |_| "has been deleted".to_owned(), wait).await
        }
    }
}

fn ready(name: &str, task: &Task) {
    done(name, &format!("is ready: tessera vm create … --image {name}"), task);
}

async fn import(client: &Client, args: &ImportArgs) -> Result<()> {
    // Before anything is sent.
    args.name()?;
    let mut found = Vec::new();
    for (what, from, sha256) in args.files() {
        found.push((what, from, address(from, sha256)?));
    }
    let mut sources = Vec::new();
    for (what, from, source) in found {
        let source = match source {
            Some(source) => source,
            None => Source::Upload { upload: client.upload_file(from.as_ref()).await? },
        };
        sources.push((what, source));
    }
    let find = |wanted| sources.iter().find(|(what, _)| *what == wanted).map(|(_, source)| source.clone());
    let import = import_of(args, find)?;
    let body = serde_json::to_value(&import).map_err(|error| Failure::internal(error.to_string()))?;
    let task = change(client, Method::POST, "/images", &[], Some(&body), args.wait).await?;
    ready(import.name.as_str(), &task);
    Ok(())
}
