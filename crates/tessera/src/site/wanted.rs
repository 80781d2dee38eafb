//! What a file says should be there, checked as far as that can be done without doing it.

use std::collections::BTreeMap;

use api::{
    Bound, DiskSource, Invalid, Name, Network as Cable, NewTemplate, Role, SITE_LABEL, ShareGroup, SiteKind,
    VmDefinition, merge,
};
use network::definition::{Ipv4, Network, NetworkKind, free_subnet};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;
use storage::{PoolDefinition, VolumeDefinition, VolumeSource};
use utoipa::ToSchema;

use super::file::SiteFile;
use super::found::{Host, plain, user};
use super::{Key, Wanted, field, schedules};
use crate::failure::{Failure, Result};

/// Somebody who logs in with a password, which is told nowhere: `tessera user passwd` sets it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SiteUser {
    /// The name they log in with.
    name: Name,
    /// What they may do.
    role: Role,
    /// Which guests they may do that with: those that carry all these labels; all of them, and the host, if there are none.
    #[serde(default)]
    labels: Bound,
    /// Whether they are kept out.
    #[serde(default)]
    disabled: bool,
}

/// Reads what the lists of a file name.
struct Reader<'a> {
    file: &'a SiteFile,
    host: &'a Host,
    wanted: Vec<Wanted>,
    places: BTreeMap<Key, String>,
    networks: Vec<Network>,
    wrong: Vec<String>,
}

/// Everything that a file wants, in the order in which it needs each other.
///
/// # Errors
/// If something is wrong with it; all of that is told, each with its field.
pub fn read(file: &SiteFile, host: &Host) -> Result<Vec<Wanted>> {
    let wanted = Vec::new();
    let mut reader =
        Reader { file, host, wanted, places: BTreeMap::new(), networks: Vec::new(), wrong: Vec::new() };
    reader.each("pools", Reader::pool);
    reader.each("networks", Reader::network);
    reader.each("volumes", Reader::volume);
    reader.each("share_groups", Reader::share_group);
    reader.each("templates", Reader::template);
    reader.each("vms", Reader::vm);
    reader.each("users", Reader::user);
    reader.references();
    if reader.wrong.is_empty() {
        return Ok(reader.wanted);
    }
    Err(Failure::input(format!("{}: {}", file.path, reader.wrong.join("; "))))
}

/// Reads a value as what it should be; an error begins with the field.
fn typed<T: DeserializeOwned>(place: &str, value: &Value) -> std::result::Result<T, String> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().iter().map(|segment| match segment {
            Segment::Seq { index } => format!("[{index}]"),
            Segment::Map { key } => format!(".{key}"),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        });
        format!("{place}{}: {}", path.collect::<String>(), error.inner())
    })
}

type Read = std::result::Result<(), String>;

impl<'a> Reader<'a> {
    fn each(&mut self, list: &'static str, read: fn(&mut Self, &str, &Value) -> Read) {
        let file = self.file;
        for (place, item) in file.list(list) {
            if let Err(wrong) = read(self, &place, item) {
                self.wrong.push(wrong);
            }
        }
    }

    fn add(&mut self, kind: SiteKind, name: impl Into<String>, place: &str, definition: Value) -> Read {
        let key = Key::new(kind, name);
        if let Some(first) = self.places.insert(key.clone(), place.to_owned()) {
            return Err(format!("{place}.name: {first} is the {key} already"));
        }
        self.wanted.push(Wanted { key, place: place.to_owned(), definition });
        Ok(())
    }

    fn all_good(&mut self, place: &str, wrong: Vec<Invalid>) -> Read {
        let told = wrong.iter().map(|wrong| format!("{place}{}: {}", field(&wrong.pointer), wrong.detail));
        let told = told.collect::<Vec<_>>();
        if told.is_empty() { Ok(()) } else { Err(told.join("; ")) }
    }

    fn pool(&mut self, place: &str, item: &Value) -> Read {
        let pool: PoolDefinition = typed(place, item)?;
        self.all_good(place, pool.check())?;
        self.add(SiteKind::Pool, pool.name.as_str(), place, json!(pool))
    }

    fn network(&mut self, place: &str, item: &Value) -> Read {
        let mut network: Network = typed(place, item)?;
        let definition = json!(network);
        // The host gives addresses to those that need some and name none; here any free ones do.
        if network.ipv4.is_none() && matches!(network.kind, NetworkKind::Nat | NetworkKind::Routed) {
            let taken = self.networks.iter().filter_map(|network| Some(network.ipv4.as_ref()?.subnet));
            let subnet =
                free_subnet(&taken.collect::<Vec<_>>()).map_err(|error| format!("{place}: {error}"))?;
            network.ipv4 = Some(Ipv4 { subnet, gateway: None, dhcp: true, range: None });
        }
        let faults = network.check(&self.networks);
        let faults = faults
            .iter()
            .map(|fault| format!("{place}{}: {}; {}", field(&fault.pointer), fault.detail, fault.expected));
        let faults = faults.collect::<Vec<_>>();
        if !faults.is_empty() {
            return Err(faults.join("; "));
        }
        let name = network.name.clone();
        self.networks.push(network);
        self.add(SiteKind::Network, name, place, definition)
    }

    fn volume(&mut self, place: &str, item: &Value) -> Read {
        let mut said = item.clone();
        let pool = said.as_object_mut().and_then(|fields| fields.remove("pool"));
        let pool: Name = match &pool {
            Some(pool) => typed(&format!("{place}.pool"), pool)?,
            None => api::default_pool(),
        };
        let volume: VolumeDefinition = typed(place, &said)?;
        self.all_good(place, volume.check())?;
        let mut definition = json!(volume);
        definition["pool"] = json!(pool);
        self.add(SiteKind::Volume, format!("{pool}/{}", volume.name), place, definition)
    }

    fn share_group(&mut self, place: &str, item: &Value) -> Read {
        let group: ShareGroup = typed(place, item)?;
        self.all_good(place, group.check())?;
        self.add(SiteKind::ShareGroup, group.name.as_str(), place, json!(group))
    }

    fn template(&mut self, place: &str, item: &Value) -> Read {
        let template: NewTemplate = typed(place, item)?;
        self.all_good(place, template.check())?;
        let guest = Value::Object(template.definition.clone());
        self.guest(&format!("{place}.definition"), template.name.as_str(), guest)?;
        self.add(SiteKind::Template, template.name.as_str(), place, json!(template))
    }

    /// Reads a guest's definition, whose name may be said elsewhere.
    fn guest(
        &mut self,
        place: &str,
        name: &str,
        mut said: Value,
    ) -> std::result::Result<VmDefinition, String> {
        if let Some(fields) = said.as_object_mut() {
            fields.insert("name".into(), name.into());
        }
        let definition: VmDefinition = typed(place, &said)?;
        self.all_good(place, definition.check())?;
        if definition.labels.contains_key(SITE_LABEL) {
            return Err(format!("{place}.labels: {SITE_LABEL} is set where a site is applied"));
        }
        Ok(definition)
    }

    fn vm(&mut self, place: &str, item: &Value) -> Read {
        let mut said = item.clone();
        let fields = said.as_object_mut().ok_or_else(|| format!("{place}: it has to be fields"))?;
        let state = fields.remove("state");
        let list = fields.remove(schedules::FIELD).filter(|list| !list.is_null());
        if let Some(state) = &state
            && !["running", "stopped"].map(Value::from).contains(state)
        {
            return Err(format!("{place}.state: {state} is no state to want: use running or stopped"));
        }
        let name: Name = typed(&format!("{place}.name"), fields.get("name").unwrap_or(&Value::Null))?;
        let mut whole = Value::Object(Map::new());
        if let Some(template) = fields.get("template").filter(|template| !template.is_null()) {
            let template: Name = typed(&format!("{place}.template"), template)?;
            whole = self.template_of(place, &name, &template)?;
        }
        merge(&mut whole, said);
        let definition = self.guest(place, name.as_str(), whole)?;
        let mut definition = plain(&definition).map_err(|error| format!("{place}: {error}"))?;
        if let Some(state) = state {
            definition["state"] = state;
        }
        if let Some(list) = list {
            let place = format!("{place}.{}", schedules::FIELD);
            definition[schedules::FIELD] = schedules::read(&place, &list, typed)?;
        }
        self.add(SiteKind::Vm, name.as_str(), place, definition)
    }

    /// What the template of a guest says: that of the file, or of the host. One that is no more says nothing to a guest that was made of it.
    fn template_of(&self, place: &str, vm: &Name, template: &Name) -> std::result::Result<Value, String> {
        let key = Key::new(SiteKind::Template, template.as_str());
        let own = self.wanted.iter().find(|wanted| wanted.key == key).map(|wanted| &wanted.definition);
        let known = own.or_else(|| self.host.things.get(&key).map(|found| &found.definition));
        if let Some(known) = known {
            return Ok(known["definition"].clone());
        }
        let made_of = self.host.get(SiteKind::Vm, vm.as_str()).map(|found| &found.definition["template"]);
        if made_of.is_some_and(|made_of| made_of == template.as_str()) {
            return Ok(json!({}));
        }
        Err(format!("{place}.template: there is no template {template}"))
    }

    fn user(&mut self, place: &str, item: &Value) -> Read {
        if item.get("password").is_some() {
            return Err(format!("{place}.password: a file has no passwords: use tessera user passwd"));
        }
        let said: SiteUser = typed(place, item)?;
        let definition = user(&said.name, said.role, &said.labels, said.disabled);
        self.add(SiteKind::User, said.name.as_str(), place, definition)
    }

    /// Whether there is such a thing, or will be.
    fn has(&self, kind: SiteKind, name: &str) -> bool {
        let key = Key::new(kind, name);
        self.places.contains_key(&key) || self.host.things.contains_key(&key)
    }

    /// What is named has to be there, or be made.
    fn references(&mut self) {
        let mut wrong = Vec::new();
        for wanted in &self.wanted {
            let place = &wanted.place;
            match wanted.key.kind {
                SiteKind::Volume => {
                    self.volume_references(place, &wanted.key, &wanted.definition, &mut wrong)
                }
                SiteKind::ShareGroup => self.group_reference(place, &wanted.definition, "within", &mut wrong),
                SiteKind::Vm => self.vm_references(place, &wanted.definition, &mut wrong),
                _ => {}
            }
        }
        self.wrong.extend(wrong);
    }

    fn volume_references(&self, place: &str, key: &Key, definition: &Value, wrong: &mut Vec<String>) {
        let (pool, _) = key.name.split_once('/').unwrap_or_default();
        if !self.has(SiteKind::Pool, pool) {
            wrong.push(format!("{place}.pool: there is no pool {pool}"));
        }
        match serde_json::from_value(definition["source"].clone()) {
            Ok(VolumeSource::Image(image)) if !self.host.images.contains(image.as_str()) => {
                wrong.push(format!("{place}.source.image: there is no image {image}"));
            }
            Ok(VolumeSource::Volume(name)) if !self.has(SiteKind::Volume, &format!("{pool}/{name}")) => {
                wrong.push(format!("{place}.source.volume: there is no volume {pool}/{name}"));
            }
            _ => {}
        }
    }

    /// The group that a field names has to be there.
    fn group_reference(&self, place: &str, definition: &Value, field: &str, wrong: &mut Vec<String>) {
        let named = definition[field].as_str();
        if let Some(name) = named.filter(|name| !self.has(SiteKind::ShareGroup, name)) {
            wrong.push(format!("{place}.{field}: there is no group {name}"));
        }
    }

    fn vm_references(&self, place: &str, definition: &Value, wrong: &mut Vec<String>) {
        for (name, schedule) in definition[schedules::FIELD].as_object().into_iter().flatten() {
            if let Some(pool) = schedule["pool"].as_str().filter(|pool| !self.has(SiteKind::Pool, pool)) {
                wrong.push(format!("{place}.{}: {name}: there is no pool {pool}", schedules::FIELD));
            }
        }
        self.group_reference(place, definition, "share_group", wrong);
        let Ok(definition) = super::plan::guest(definition) else { return };
        for (number, disk) in definition.disks.iter().enumerate() {
            match &disk.source {
                DiskSource::Image(image) if !self.host.images.contains(image.as_str()) => {
                    wrong.push(format!("{place}.disks[{number}].image: there is no image {image}"));
                }
                DiskSource::Volume(volume) if !self.has(SiteKind::Volume, &volume.to_string()) => {
                    wrong.push(format!("{place}.disks[{number}].volume: there is no volume {volume}"));
                }
                _ => {}
            }
        }
        for (number, nic) in definition.nics.iter().enumerate() {
            if let Cable::Named(name) = &nic.network
                && !self.has(SiteKind::Network, name.as_str())
            {
                wrong.push(format!("{place}.nics[{number}].network: there is no network {name}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::found::Found;
    use super::*;

    fn host() -> Host {
        let mut host = Host::default();
        let template = json!({ "name": "small", "definition": { "memory": "64M", "boot": { "kernel": "/k" }, "cpus": 2 } });
        let found = Found { identity: String::new(), definition: template, state: None };
        host.things.insert(Key::new(SiteKind::Template, "small"), found);
        let pool = Found { identity: String::new(), definition: json!({}), state: None };
        host.things.insert(Key::new(SiteKind::Pool, "default"), pool);
        host
    }

    fn fails(text: &str) -> String {
        let file = SiteFile::parse("s", &format!("site: home\n{text}"), false).unwrap();
        read(&file, &host()).unwrap_err().to_string()
    }

    #[test]
    fn what_a_template_says_is_wanted_where_the_guest_says_nothing_else() {
        let text = "site: home\nvms:\n- {name: a, template: small, cpus: 3, boot: {kernel: null, initrd: /i}, state: running}\n";
        let wanted = read(&SiteFile::parse("s", text, false).unwrap(), &host()).unwrap();
        let vm = &wanted[0].definition;
        assert_eq!((&vm["memory"], &vm["cpus"]), (&json!(64 << 20), &json!(3)));
        assert_eq!((&vm["boot"], &vm["state"]), (&json!({ "initrd": "/i" }), &json!("running")));
    }

    #[test]
    fn what_is_wrong_is_told_with_file_and_field() {
        for (text, told) in [
            ("vms: [{name: a, cpu: 2}]", "s: vms[0].cpu: unknown field `cpu`"),
            ("vms: [{name: a}, {name: b, cpus: 0}]", "s: vms[1].cpus: a guest has 1 to 254 processors"),
            ("vms: [{name: a, disks: [{image: x}]}]", "s: vms[0].disks[0].image: there is no image x"),
            (
                "vms: [{name: a, disks: [{volume: {name: v}}]}]",
                "s: vms[0].disks[0].volume: there is no volume default/v",
            ),
            (
                "vms: [{name: a, nics: [{network: {named: lan}}]}]",
                "s: vms[0].nics[0].network: there is no network lan",
            ),
            ("vms: [{name: a, template: big}]", "s: vms[0].template: there is no template big"),
            (
                "vms: [{name: a, state: paused}]",
                "s: vms[0].state: \"paused\" is no state to want: use running or stopped",
            ),
            (
                "vms: [{name: a, labels: {tessera.site: x}}]",
                "s: vms[0].labels: tessera.site is set where a site is applied",
            ),
            (
                "vms: [{name: a, schedules: [{name: n, action: backup, every: 60, keep: {last: 1}, pool: v}]}]",
                "s: vms[0].schedules: n: there is no pool v",
            ),
            (
                "vms: [{name: a, schedules: [{name: n, often: 1}]}]",
                "s: vms[0].schedules[0].often: unknown field",
            ),
            ("vms: [{name: a}, {name: a}]", "s: vms[1].name: vms[0] is the vm a already"),
            ("vms: [{cpus: 1}]", "s: vms[0].name: "),
            ("vms: [a]", "s: vms[0]: it has to be fields"),
            ("vms: [{name: a, share_group: g}]", "s: vms[0].share_group: there is no group g"),
            ("share_groups: [{name: g, within: h}]", "s: share_groups[0].within: there is no group h"),
            (
                "share_groups: [{name: g, cpu_share: {weight: 0}}]",
                "s: share_groups[0].cpu_share.weight: the weight 0 is none",
            ),
            ("pools: [{name: p, path: x}]", "s: pools[0].path: the path must begin with /"),
            ("volumes: [{name: v}]", "s: volumes[0].size: a volume without a source must have a size"),
            ("volumes: [{name: v, size: 1G, pool: q}]", "s: volumes[0].pool: there is no pool q"),
            ("networks: [{name: n, kind: nut}]", "s: networks[0].kind: unknown variant `nut`"),
            ("networks: [{name: n, kind: bridged}]", "s: networks[0].interface: "),
            (
                "templates: [{name: t, definition: {cpus: 0}}]",
                "s: templates[0].definition.cpus: a guest has 1 to 254",
            ),
            (
                "users: [{name: u, role: admin, password: geheim}]",
                "s: users[0].password: a file has no passwords",
            ),
            ("users: [{name: u, role: boss}]", "s: users[0].role: unknown variant `boss`"),
        ] {
            let said = fails(text);
            assert!(said.starts_with(told), "{text}: {said}");
        }
        assert_eq!(fails("vms: [{name: a, cpus: 0}, {name: b, cpus: 0}]").matches("1 to 254").count(), 2);
    }
}
