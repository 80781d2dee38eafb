//! Which guests a verb is for: those that are named, those with a label, or all.

use api::{Vm, VmState};
use clap::Args;
use serde_json::Value;

use crate::client::{Client, everything};
use crate::failure::{Failure, Result};

/// Which guests.
#[derive(Debug, Args)]
pub struct Targets {
    /// Their names or ids
    #[arg(value_name = "VM", required_unless_present_any = ["selector", "all"])]
    vms: Vec<String>,
    /// All guests with this label, if it fits their state (may be repeated: with all of them)
    #[arg(short = 'l', long, value_name = "LABEL=VALUE", conflicts_with = "vms")]
    selector: Vec<String>,
    /// All guests, if it fits their state
    #[arg(long, conflicts_with_all = ["vms", "selector"])]
    all: bool,
}

impl Targets {
    /// Whether the person has named each of them.
    pub fn are_named(&self) -> bool {
        !self.all && self.selector.is_empty()
    }

    /// Their names. Those that are not named must be in a state that fits.
    ///
    /// # Errors
    /// If the host cannot be reached or refuses.
    pub async fn find(&self, client: &Client, fits: fn(VmState) -> bool) -> Result<Vec<String>> {
        if self.are_named() {
            return Ok(self.vms.clone());
        }
        let term = |text: &String| match text.split_once('=') {
            // A comma would begin another term.
            Some((key, value)) if !key.is_empty() && !text.contains(',') => {
                Ok(format!("label.{key}={value}"))
            }
            _ => Err(Failure::input(format!("--selector {text}: write it as LABEL=VALUE"))),
        };
        let filter = self.selector.iter().map(term).collect::<Result<Vec<_>>>()?.join(",");
        let found = everything(client, "/vms", &[("filter", filter)]).await?;
        let read = |vm: Value| serde_json::from_value::<Vm>(vm);
        let found = found.into_iter().map(read).collect::<std::result::Result<Vec<_>, _>>();
        let found = found.map_err(|error| Failure::internal(format!("the host's answer: {error}")))?;
        let fitting = found.iter().filter(|vm| fits(vm.status.state));
        Ok(fitting.map(|vm| vm.definition.name.to_string()).collect())
    }
}
