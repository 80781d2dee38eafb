//! The firewall: two tables of our own in the kernel's nftables, made anew as one transaction whenever they must differ.
//!
//! `inet` sees packets that the host routes or receives; `bridge` sees every frame that a guest sends, before anything else
//! does. What a guest may is kept in sets, so the number of rules does not grow with that of guests. All names that come from
//! people are hashed or checked before they get here.

mod frames;
mod packets;

#[cfg(test)]
mod tests;

use std::fmt::{Display, Write};

use crate::definition::{Network, Port, Site};
use crate::names::Owner;

/// The rules of a site, as a script for `nft -f`. The same for the same site.
pub(crate) fn script(owner: Owner, site: &Site) -> String {
    let mut text = remove(owner);
    packets::table(&mut text, owner, site);
    frames::table(&mut text, owner, site);
    text
}

/// The script that removes the rules. It adds the tables first, since what is not there cannot be deleted.
pub(crate) fn remove(owner: Owner) -> String {
    let table = owner.table();
    ["inet", "bridge"]
        .map(|family| format!("table {family} {table}\ndelete table {family} {table}\n"))
        .concat()
}

/// Adds a set, sorted, so that the order of definitions makes no difference.
fn set<T: Display>(text: &mut String, name: &str, of: &str, elements: impl IntoIterator<Item = T>) {
    collection(text, "set", name, of, elements);
}

fn collection<T: Display>(
    text: &mut String,
    what: &str,
    name: &str,
    of: &str,
    elements: impl IntoIterator<Item = T>,
) {
    let mut elements: Vec<_> = elements.into_iter().map(|element| element.to_string()).collect();
    elements.sort_unstable();
    elements.dedup();
    let _ = write!(text, "\t{what} {name} {{ {of};");
    if !elements.is_empty() {
        let _ = write!(text, " elements = {{ {} }}", elements.join(", "));
    }
    text.push_str(" }\n");
}

/// Adds a chain of rules, one a line.
fn chain(text: &mut String, name: &str, hook: &str, rules: &[String]) {
    let _ = writeln!(text, "\tchain {name} {{");
    for line in [hook.to_owned()].iter().filter(|hook| !hook.is_empty()).chain(rules) {
        let _ = writeln!(text, "\t\t{line}");
    }
    text.push_str("\t}\n");
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
