//! The firewall: two tables of our own in the kernel's nftables, changed as one transaction whenever they must differ.
//!
//! `inet` sees packets that the host routes or receives; `bridge` sees every frame that a guest sends, before anything else
//! does. What a guest may is kept in sets, so the number of rules does not grow with that of guests, and whoever knows which
//! rules are there can change elements only. All names that come from people are hashed or checked before they get here.

mod frames;
mod packets;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt::{Display, Write};

use crate::definition::{Network, Port, Site};
use crate::names::Owner;

/// The rules of a site. The same for the same site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rules {
    owner: Owner,
    tables: [Table; 2],
}

/// A table of rules, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Table {
    family: &'static str,
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    /// Chains and limits, as nft reads them.
    Text(String),
    /// A set or map as it is declared, and what is in it: sorted, so that the order of definitions makes no difference.
    Elements { declaration: String, name: &'static str, elements: BTreeSet<String> },
}

impl Rules {
    pub(crate) fn of(owner: Owner, site: &Site) -> Self {
        Self { owner, tables: [packets::table(owner, site), frames::table(owner, site)] }
    }

    /// The script for `nft -f` that sets them, whatever was there.
    pub(crate) fn script(&self) -> String {
        let mut text = remove(self.owner);
        for table in &self.tables {
            table.write(&mut text, self.owner);
        }
        text
    }

    /// The script that makes them of others that are there; none if they differ in more than elements.
    pub(crate) fn script_after(&self, before: &Self) -> Option<String> {
        let mut text = String::new();
        for (table, before) in self.tables.iter().zip(&before.tables) {
            table.write_changes(&mut text, before, self.owner)?;
        }
        (self.owner == before.owner).then_some(text)
    }
}

impl Table {
    fn new(family: &'static str) -> Self {
        Self { family, parts: Vec::new() }
    }

    fn set<T: Display>(&mut self, name: &'static str, of: &str, elements: impl IntoIterator<Item = T>) {
        self.collection("set", name, of, elements);
    }

    fn map<T: Display>(&mut self, name: &'static str, of: &str, elements: impl IntoIterator<Item = T>) {
        self.collection("map", name, of, elements);
    }

    fn collection<T: Display>(
        &mut self,
        what: &str,
        name: &'static str,
        of: &str,
        elements: impl IntoIterator<Item = T>,
    ) {
        let elements = elements.into_iter().map(|element| element.to_string()).collect();
        self.parts.push(Part::Elements { declaration: format!("{what} {name} {{ {of};"), name, elements });
    }

    /// Adds a chain of rules, one a line.
    fn chain(&mut self, name: &str, hook: &str, rules: &[String]) {
        let mut text = format!("\tchain {name} {{\n");
        for line in [hook.to_owned()].iter().filter(|hook| !hook.is_empty()).chain(rules) {
            let _ = writeln!(text, "\t\t{line}");
        }
        text.push_str("\t}\n");
        self.parts.push(Part::Text(text));
    }

    fn write(&self, text: &mut String, owner: Owner) {
        let _ = writeln!(text, "table {} {} {{", self.family, owner.table());
        for part in &self.parts {
            match part {
                Part::Text(rules) => text.push_str(rules),
                Part::Elements { declaration, elements, .. } => {
                    let _ = write!(text, "\t{declaration}");
                    if !elements.is_empty() {
                        let _ = write!(text, " elements = {{ {} }}", joined(elements));
                    }
                    text.push_str(" }\n");
                }
            }
        }
        text.push_str("}\n");
    }

    /// Writes which elements differ; none if more does.
    fn write_changes(&self, text: &mut String, before: &Self, owner: Owner) -> Option<()> {
        if self.parts.len() != before.parts.len() {
            return None;
        }
        for parts in self.parts.iter().zip(&before.parts) {
            match parts {
                (
                    Part::Elements { declaration, name, elements },
                    Part::Elements { declaration: declared, elements: had, .. },
                ) if declaration == declared => {
                    // A map's key can have another value only when it has lost the one that it had.
                    for (verb, elements) in [("delete", had - elements), ("add", elements - had)] {
                        if !elements.is_empty() {
                            let (family, table) = (self.family, owner.table());
                            let elements = joined(&elements);
                            let _ = writeln!(text, "{verb} element {family} {table} {name} {{ {elements} }}");
                        }
                    }
                }
                (part, before) if part == before => {}
                _ => return None,
            }
        }
        Some(())
    }
}

fn joined(elements: &BTreeSet<String>) -> String {
    elements.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// The script that removes the rules. It adds the tables first, since what is not there cannot be deleted.
pub(crate) fn remove(owner: Owner) -> String {
    let table = owner.table();
    ["inet", "bridge"]
        .map(|family| format!("table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

fn lines(rules: &[&str]) -> Vec<String> {
    rules.iter().map(|rule| (*rule).to_owned()).collect()
}

/// The networks that the host has a bridge with addresses for.
fn managed(site: &Site) -> impl Iterator<Item = &Network> {
    site.networks.iter().filter(|network| network.is_managed())
}

/// The ports that are taps, with their networks.
pub(crate) fn taps(site: &Site) -> impl Iterator<Item = (&Port, &Network)> {
    site.ports.iter().filter_map(|port| {
        let network = site.networks.iter().find(|network| network.name == port.network)?;
        network.has_taps().then_some((port, network))
    })
}

fn quoted(interface: &str) -> String {
    format!("\"{interface}\"")
}
