//! The disk from which cloud-init in a guest learns who it is: its NoCloud source, a small FAT file system labelled CIDATA with the
//! files meta-data, user-data and network-config
//! (<https://docs.cloud-init.io/en/latest/reference/datasources/nocloud.html>).

use std::io::{self, Cursor, Write};
use std::path::Path;

use api::{CloudInit, Id, Name, User};
use fatfs::{FatType, FileSystem, FormatVolumeOptions, FsOptions};
use serde::Serialize;
use serde_json::{Value, json};

use crate::{Error, Result, draft};

/// Room for all three files at their longest, with a file system around them.
const DISK: usize = 1 << 20;
const SECTOR: u16 = 512;
const LABEL: [u8; 11] = *b"CIDATA     ";

/// What cloud-init is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Who the guest is.
    pub meta_data: String,
    /// What it is to do.
    pub user_data: String,
    /// How its network cards are to be used.
    pub network_config: String,
    /// Tells the file system from others.
    volume: u32,
}

impl Seed {
    /// What `config` says, for the guest of this name and id. A guest with another id is a new one for cloud-init, which then does
    /// all again.
    ///
    /// # Errors
    /// Never for what [`api::VmDefinition::check`] finds nothing wrong with.
    pub fn new(config: &CloudInit, name: &Name, id: &Id) -> Result<Seed> {
        let hostname = config.hostname.as_deref().unwrap_or(name.as_str());
        let meta_data = yaml(&json!({"instance-id": id, "local-hostname": hostname}))?;
        let user_data = match &config.user_data {
            Some(text) => text.clone(),
            None => format!("#cloud-config\n{}", yaml(&cloud_config(hostname, config.user.as_ref()))?),
        };
        let network_config = match &config.network_config {
            Some(text) => text.clone(),
            None => yaml(&dhcp())?,
        };
        let [.., a, b, c, d] = *id.bytes();
        Ok(Seed { meta_data, user_data, network_config, volume: u32::from_be_bytes([a, b, c, d]) })
    }

    /// The disk's bytes.
    ///
    /// # Errors
    /// If the texts do not fit.
    pub fn disk(&self) -> io::Result<Vec<u8>> {
        let mut disk = Cursor::new(vec![0; DISK]);
        let options = FormatVolumeOptions::new()
            .bytes_per_sector(SECTOR)
            .total_sectors((DISK / usize::from(SECTOR)) as u32)
            .fat_type(FatType::Fat12)
            .volume_id(self.volume)
            .volume_label(LABEL);
        fatfs::format_volume(&mut disk, options)?;
        let system = FileSystem::new(&mut disk, FsOptions::new())?;
        for (name, text) in [
            ("meta-data", &self.meta_data),
            ("user-data", &self.user_data),
            ("network-config", &self.network_config),
        ] {
            let mut file = system.root_dir().create_file(name)?;
            file.write_all(text.as_bytes())?;
            file.flush()?;
        }
        system.unmount()?;
        Ok(disk.into_inner())
    }

    /// Puts the disk into a file, in place of the one that may be there, in one step.
    ///
    /// # Errors
    /// If the host refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.disk().and_then(|disk| draft::write(path, &disk)).map_err(Error::host(path))
    }
}

/// What is made of the fields that a person gave (<https://docs.cloud-init.io/en/latest/reference/modules.html>).
fn cloud_config(hostname: &str, user: Option<&User>) -> Value {
    let mut config = json!({"hostname": hostname, "manage_etc_hosts": true, "ssh_pwauth": false});
    let Some(user) = user else { return config };
    if user.name == "root" {
        config["disable_root"] = false.into();
        config["users"] = json!([{"name": "root", "ssh_authorized_keys": user.ssh_keys}]);
    } else {
        config["users"] = json!([{
            "name": user.name,
            "groups": ["sudo"],
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "lock_passwd": true,
            "ssh_authorized_keys": user.ssh_keys,
        }]);
    }
    config
}

/// Addresses from the network, for every card (network configuration, version 2).
fn dhcp() -> Value {
    json!({"version": 2, "ethernets": {"all": {"match": {"name": "e*"}, "dhcp4": true}}})
}

fn yaml(value: &impl Serialize) -> Result<String> {
    serde_yaml_ng::to_string(value)
        .map_err(|error| Error::invalid("/cloud_init", Value::Null, &error.to_string()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn seed(config: &CloudInit) -> Seed {
        Seed::new(config, &"web-1".parse().unwrap(), &Id::new()).unwrap()
    }

    fn parse(text: &str) -> Value {
        serde_yaml_ng::from_str(text).unwrap()
    }

    #[test]
    fn the_disk_has_the_three_files_under_the_label_that_cloud_init_looks_for() {
        let seed = seed(&CloudInit::default());
        let system = FileSystem::new(Cursor::new(seed.disk().unwrap()), FsOptions::new()).unwrap();
        assert_eq!(system.volume_label(), "CIDATA");
        assert_eq!(system.read_volume_label_from_root_dir().unwrap().as_deref(), Some("CIDATA"));
        let read = |name: &str| {
            let mut text = String::new();
            system.root_dir().open_file(name).unwrap().read_to_string(&mut text).unwrap();
            text
        };
        assert_eq!(read("meta-data"), seed.meta_data);
        assert_eq!(read("user-data"), seed.user_data);
        assert_eq!(read("network-config"), seed.network_config);
        assert_eq!(system.root_dir().iter().count(), 3);
    }

    #[test]
    fn a_guest_is_told_its_name_its_id_and_who_may_log_in() {
        let id = Id::new();
        let user = User { name: "ann".into(), ssh_keys: vec!["ssh-ed25519 AAAA ann@home".into()] };
        let config = CloudInit { user: Some(user), ..CloudInit::default() };
        let seed = Seed::new(&config, &"web-1".parse().unwrap(), &id).unwrap();
        assert_eq!(parse(&seed.meta_data), json!({"instance-id": id, "local-hostname": "web-1"}));
        assert!(seed.user_data.starts_with("#cloud-config\n"));
        let told = parse(&seed.user_data);
        assert_eq!(told["hostname"], "web-1");
        assert_eq!(told["users"][0]["name"], "ann");
        assert_eq!(told["users"][0]["ssh_authorized_keys"], json!(["ssh-ed25519 AAAA ann@home"]));
        assert_eq!(parse(&seed.network_config)["ethernets"]["all"]["dhcp4"], true);
    }

    #[test]
    fn text_cannot_become_more_than_a_value() {
        let user =
            User { name: "x\nruncmd: [reboot]".into(), ssh_keys: vec!["a: b\n- c #".into(), "yes".into()] };
        let hostname = Some("h\"\n#cloud-config\nruncmd: 1".to_owned());
        let config =
            CloudInit { user: Some(user.clone()), hostname: hostname.clone(), ..CloudInit::default() };
        let told = parse(&seed(&config).user_data);
        assert_eq!(told["hostname"].as_str(), hostname.as_deref());
        assert_eq!(told["users"][0]["name"], user.name.as_str());
        assert_eq!(told["users"][0]["ssh_authorized_keys"], json!(user.ssh_keys));
        assert!(told.get("runcmd").is_none());
    }

    #[test]
    fn what_a_person_wrote_is_passed_on_as_it_is_and_fits_at_its_longest() {
        let long = "#!/bin/sh\n".to_owned() + &"x".repeat(65526);
        let config = CloudInit {
            user_data: Some(long.clone()),
            network_config: Some("y".repeat(65536)),
            user: Some(User { name: "ann".into(), ssh_keys: Vec::new() }),
            ..CloudInit::default()
        };
        let seed = seed(&config);
        assert_eq!((&seed.user_data, seed.network_config.len()), (&long, 65536));
        seed.disk().unwrap();
    }

    #[test]
    fn a_seed_takes_the_place_of_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("seed.img");
        for _ in 0..2 {
            seed(&CloudInit::default()).write(&path).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().len(), DISK as u64);
        }
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
