//! `tessera template …`: guests with holes.

use api::{Name, NewTemplate, Template};
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value};

use crate::cli::listing::{WatchOption, show};
use crate::cli::output::{Column, OutputOption, age, say};
use crate::cli::vm::read_json;
use crate::client::{HostOption, segment};
use crate::failure::{self, Failure, Result};

/// What can be done with templates.
#[derive(Debug, Subcommand)]
#[command(after_help = failure::HOST_STATUS_HELP)]
pub enum TemplateCommand {
    /// Show the templates there are
    #[command(visible_alias = "list")]
    Ls {
        #[command(flatten)]
        output: OutputOption,
        #[command(flatten)]
        watch: WatchOption,
    },
    /// Show everything about a template
    Show {
        /// Its name
        template: String,
        #[command(flatten)]
        output: OutputOption,
    },
    /// Make a template, of a guest or of a definition; then tessera vm create NAME --template TEMPLATE
    Create {
        /// Its name
        name: Name,
        /// Say what this guest's definition says, but for its names and addresses
        #[arg(
            long,
            value_name = "VM",
            conflicts_with = "definition",
            required_unless_present = "definition"
        )]
        from: Option<String>,
        /// The part of a definition that it says: JSON, or @FILE with it
        #[arg(long, value_name = "JSON|@FILE")]
        definition: Option<String>,
        /// What it is for
        #[arg(long, value_name = "TEXT", default_value = "")]
        description: String,
    },
    /// Remove templates; guests made from them stay
    Delete {
        /// Their names
        #[arg(required = true, value_name = "TEMPLATE")]
        templates: Vec<String>,
    },
}

const COLUMNS: [Column<Template>; 5] = [
    Column::text("NAME", |template: &Template| template.template.name.to_string()),
    Column::text("IMAGE", |template: &Template| {
        let image = template.template.definition.get("disks").and_then(|disks| disks[0]["image"].as_str());
        image.unwrap_or("-").to_owned()
    }),
    Column::number("CPUS", |template: &Template| said(template, "cpus")),
    Column::number("MEMORY", |template: &Template| said(template, "memory")),
    Column::text("SINCE", |template: &Template| age(template.created)).passing(),
];

fn said(template: &Template, field: &str) -> String {
    match template.template.definition.get(field) {
        None => "-".into(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(number)) if field == "memory" => number
            .as_u64()
            .map_or_else(|| number.to_string(), |bytes| crate::cli::output::size(api::Size(bytes))),
        Some(other) => other.to_string(),
    }
}

impl TemplateCommand {
    /// Does it.
    pub async fn execute(self, host: &HostOption) -> Result<()> {
        let client = host.client()?;
        match self {
            TemplateCommand::Ls { output, watch } => {
                show(&client, "/templates", &[], &COLUMNS, (output, watch)).await
            }
            TemplateCommand::Show { template, output } => {
                output.one(&client.get(&format!("/templates/{}", segment(&template)?), &[]).await?)
            }
            TemplateCommand::Create { name, from, definition, description } => {
                let definition = match (from, definition) {
                    (Some(vm), _) => of_guest(client.get(&format!("/vms/{}", segment(&vm)?), &[]).await?),
                    (None, definition) => match read_json("--definition", &definition.unwrap_or_default())? {
                        Value::Object(definition) => definition,
                        _ => return Err(Failure::input("--definition: it has to be a JSON object")),
                    },
                };
                let body = serde_json::to_value(NewTemplate { name: name.clone(), description, definition });
                let body = body.map_err(|error| Failure::internal(error.to_string()))?;
                let _: Template = client.change(Method::POST, "/templates", &[], Some(&body)).await?;
                say(&format!("{name} has been made"));
                Ok(())
            }
            TemplateCommand::Delete { templates } => {
                for template in &templates {
                    let path = format!("/templates/{}", segment(template)?);
                    let _: Value = client.change(Method::DELETE, &path, &[], None).await?;
                    say(&format!("{template} has been deleted"));
                }
                Ok(())
            }
        }
    }
}

/// A guest's definition without what is its alone.
fn of_guest(mut vm: Map<String, Value>) -> Map<String, Value> {
    for own in ["id", "name", "created", "status", "template"] {
        vm.remove(own);
    }
    for disk in vm.get_mut("disks").and_then(Value::as_array_mut).into_iter().flatten() {
        disk.as_object_mut().map(|disk| disk.remove("unit"));
    }
    for nic in vm.get_mut("nics").and_then(Value::as_array_mut).into_iter().flatten() {
        for own in ["mac", "address", "address6"] {
            nic.as_object_mut().map(|nic| nic.remove(own));
        }
    }
    vm
}
