//! Files that say what a host should have.

use std::io::Read;
use std::path::Path;

use api::{Name, SiteKind};
use serde_json::{Map, Value};

use super::found::Host;
use super::{Wanted, wanted};
use crate::failure::{Failure, Result};

/// A file as it is written: what is in its lists is not looked at yet.
#[derive(Debug)]
pub struct SiteFile {
    /// What to call the file in errors.
    pub path: String,
    /// The site's name.
    pub site: Name,
    fields: Map<String, Value>,
}

/// The lists of a file, in the order in which what is in them needs each other.
pub const LISTS: [(&str, SiteKind); 7] = [
    ("pools", SiteKind::Pool),
    ("networks", SiteKind::Network),
    ("volumes", SiteKind::Volume),
    ("share_groups", SiteKind::ShareGroup),
    ("templates", SiteKind::Template),
    ("vms", SiteKind::Vm),
    ("users", SiteKind::User),
];

impl SiteFile {
    /// Reads a file: YAML (of which JSON is a part), or TOML where its name ends so. `-` is the standard input, YAML.
    ///
    /// # Errors
    /// If it cannot be read, or is no such file.
    pub fn read(path: &Path) -> Result<SiteFile> {
        let told = |error: std::io::Error| Failure::input(format!("{}: {error}", path.display()));
        let mut text = String::new();
        if path == Path::new("-") {
            std::io::stdin().read_to_string(&mut text).map_err(told)?;
        } else {
            text = std::fs::read_to_string(path).map_err(told)?;
        }
        let toml = path.extension().is_some_and(|extension| extension == "toml");
        SiteFile::parse(&path.display().to_string(), &text, toml)
    }

    /// The same of text.
    ///
    /// # Errors
    /// If it is no such file.
    pub fn parse(path: &str, text: &str, toml: bool) -> Result<SiteFile> {
        let wrong = |what: &str| Failure::input(format!("{path}: {what}"));
        let value: Value = if toml {
            toml::from_str(text).map_err(|error| wrong(&one_line(&error.to_string())))?
        } else {
            serde_yaml_ng::from_str(text).map_err(|error| wrong(&error.to_string()))?
        };
        let Value::Object(fields) = value else {
            return Err(wrong(
                "a site is fields with lists: site, pools, networks, volumes, share_groups, templates, vms, users",
            ));
        };
        let known = |key: &&String| *key == "site" || LISTS.iter().any(|(list, _)| list == key);
        if let Some(unknown) = fields.keys().find(|key| !known(key)) {
            let names = LISTS.map(|(list, _)| list).join(", ");
            return Err(wrong(&format!("there is no field {unknown}: use site, {names}")));
        }
        for (list, _) in LISTS {
            if fields.get(list).is_some_and(|value| !value.is_array() && !value.is_null()) {
                return Err(wrong(&format!("{list}: it has to be a list")));
            }
        }
        let site = match fields.get("site") {
            Some(Value::String(name)) => name.parse().map_err(|error| wrong(&format!("site: {error}")))?,
            _ => return Err(wrong("site: the site needs a name, for example site: home")),
        };
        Ok(SiteFile { path: path.to_owned(), site, fields })
    }

    /// Everything that it wants, in the order in which that needs each other.
    ///
    /// # Errors
    /// If something is wrong with it; all of that is told, each with its field.
    pub fn wanted(&self, host: &Host) -> Result<Vec<Wanted>> {
        wanted::read(self, host)
    }

    /// The things of a kind that it names, each with its place.
    pub fn list(&self, list: &'static str) -> impl Iterator<Item = (String, &Value)> {
        let items = self.fields.get(list).and_then(Value::as_array).into_iter().flatten();
        items.enumerate().map(move |(number, item)| (format!("{list}[{number}]"), item))
    }
}

/// What is wrong with TOML is told in several lines, with a picture.
fn one_line(error: &str) -> String {
    let lines = error.lines().map(str::trim).filter(|line| !line.is_empty() && !line.contains('|'));
    lines.collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &str, toml: bool) -> String {
        SiteFile::parse("s", text, toml).unwrap_err().to_string()
    }

    #[test]
    fn yaml_json_and_toml_say_the_same() {
        let yaml = SiteFile::parse("s", "site: home\nvms:\n- name: a\n", false).unwrap();
        let json = SiteFile::parse("s", r#"{"site": "home", "vms": [{"name": "a"}]}"#, false).unwrap();
        let toml = SiteFile::parse("s", "site = \"home\"\n[[vms]]\nname = \"a\"\n", true).unwrap();
        assert_eq!(yaml.fields, json.fields);
        assert_eq!(yaml.fields, toml.fields);
        assert_eq!(yaml.list("vms").next().unwrap().0, "vms[0]");
    }

    #[test]
    fn what_is_no_site_is_refused_with_the_place() {
        assert_eq!(
            fails("site: home\nguests: []", false),
            "s: there is no field guests: use site, pools, networks, volumes, share_groups, templates, vms, users"
        );
        assert_eq!(fails("vms: []", false), "s: site: the site needs a name, for example site: home");
        assert_eq!(fails("site: home\nvms: 1", false), "s: vms: it has to be a list");
        assert!(fails("site: [", false).contains("at line 2 column 1"));
        assert!(fails("site = ", true).contains("at line 1, column 8"), "{}", fails("site = ", true));
        assert!(fails("site: A B", false).starts_with("s: site: 'A B' cannot be a name"));
    }
}
