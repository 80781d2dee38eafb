//! Images of this user's own.

use std::path::PathBuf;

use api::ImageName;
use serde_json::Value;
use storage::images::{self, Image, Recipe, Source};

use super::{COLUMNS, ImageCommand, ImportArgs, Store, address, import_of, into_new};
use crate::cli::output::say;
use crate::failure::{Failure, Result};
use crate::progress::Bar;

fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Whether somebody has said where this user's own images are.
pub fn is_named() -> bool {
    set("TESSERA_HOME").is_some()
}

/// The store of this user, under `$TESSERA_HOME` or `~/.local/share/tessera`.
pub fn open_store() -> Result<Store> {
    let home = set("TESSERA_HOME")
        .or_else(|| set("XDG_DATA_HOME").map(|data| data.join("tessera")))
        .or_else(|| set("HOME").map(|home| home.join(".local/share/tessera")))
        .ok_or_else(|| Failure::input("no place for images: set TESSERA_HOME to a folder"))?;
    Ok(Store::new(home.join("images")))
}

fn named(name: &str) -> Result<ImageName> {
    name.parse().map_err(Failure::input)
}

fn value(image: &Image) -> Result<Value> {
    serde_json::to_value(image.info()).map_err(|error| Failure::internal(error.to_string()))
}

/// Does what a command says.
pub async fn execute(command: ImageCommand) -> Result<()> {
    let store = open_store()?;
    match command {
        ImageCommand::Ls { output, watch } => {
            if watch.is_wanted() {
                return Err(Failure::input(
                    "--watch: nobody tells what changes in this user's own images; a host does",
                ));
            }
            let images = store.list()?.iter().map(value).collect::<Result<Vec<_>>>()?;
            output.list(&images, &COLUMNS)
        }
        ImageCommand::Show { name, output } => output.one(&value(&store.get(&named(&name)?)?)?),
        ImageCommand::Build(args) => {
            let name = args.name()?;
            let recipe = Recipe {
                release: args.release,
                packages: args.packages,
                size: args.size,
                mirror: args.mirror,
            };
            recipe.check()?;
            let bar = Bar::steps(&format!("building {name}"), "this takes a minute or two");
            bar.watch(|told| images::build(&store, &name, &recipe, args.force, told))?;
            say(&format!("{name} is ready: tessera run --image {name}"));
            Ok(())
        }
        ImageCommand::Import(args) => import(&store, &args),
        ImageCommand::Export { name, file } => {
            let name = named(&name)?;
            let export = async |mut file| {
                let bar = Bar::bytes("exporting");
                Ok(bar.watch(|told| images::export(&store, &name, &mut file, told))?)
            };
            into_new(&file, export).await
        }
        ImageCommand::Edit(args) => {
            store.change(&named(&args.image)?, &args.change()?)?;
            say(&format!("{} has changed", args.image));
            Ok(())
        }
        ImageCommand::Delete { names, .. } => {
            for name in &names {
                store.remove(&named(name)?)?;
                say(&format!("{name} has been deleted"));
            }
            Ok(())
        }
    }
}

fn import(store: &Store, args: &ImportArgs) -> Result<()> {
    let mut found = Vec::new();
    for (what, from, sha256) in args.files() {
        found.push((what, address(from, sha256)?.unwrap_or_else(|| Source::File { file: from.into() })));
    }
    let find = |wanted| found.iter().find(|(what, _)| *what == wanted).map(|(_, source)| source.clone());
    let import = import_of(args, find)?;
    let bar = Bar::bytes("importing");
    bar.watch(|told| images::import(store, &import, told))?;
    say(&format!("{0} is ready: tessera run --image {0}", import.name));
    Ok(())
}
