//! The file of `tessera host --config`: what the daemon's options say, in TOML.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use api::Size;
use serde::{Deserialize, Deserializer, de};

use crate::cli::memory::{PagingOption, PoolOption};
use crate::cli::options::OrNone;
use crate::failure::{Failure, Result};

/// Where root's daemon looks if it is told no other file.
pub const USUAL: &str = "/etc/tessera/host.toml";

/// A file that says nothing, and tells what it could.
pub const TEMPLATE: &str = include_str!("host.toml");

/// What a file can say: keys are the names of the options. A path that is not absolute is taken from the file's folder.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct HostConfig {
    /// `--state-dir`.
    pub state_dir: Option<PathBuf>,
    /// `--listen`.
    pub listen: Vec<String>,
    /// `--socket`.
    pub socket: Option<PathBuf>,
    /// `--memory-pool`.
    #[serde(deserialize_with = "said")]
    pub memory_pool: Option<PoolOption>,
    /// `--memory-paging`.
    #[serde(deserialize_with = "said")]
    pub memory_paging: Option<PagingOption>,
    /// `--memory-compression`.
    #[serde(deserialize_with = "said")]
    pub memory_compression: Option<OrNone<Size>>,
    /// `--memory-merge`.
    pub memory_merge: bool,
    /// `--no-memory-reporting`.
    pub no_memory_reporting: bool,
    /// `--kvm-as-it-is`.
    pub kvm_as_it_is: bool,
    /// `--tls-cert`.
    pub tls_cert: Option<PathBuf>,
    /// `--tls-key`.
    pub tls_key: Option<PathBuf>,
}

/// Something as its option says it.
fn said<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(
    deserializer: D,
) -> std::result::Result<Option<T>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(de::Error::custom)
}

impl HostConfig {
    /// What the file says that somebody has named; or else, for root, the usual one if it is there.
    ///
    /// # Errors
    /// If it cannot be read, or says what makes no sense.
    pub fn find(named: Option<&Path>, usual: Option<&Path>) -> Result<Self> {
        match (named, usual) {
            (Some(path), _) => Self::read(path),
            (None, Some(path)) if path.exists() => Self::read(path),
            _ => Ok(Self::default()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let wrong = |what: String| Failure::input(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let mut config = Self::parse(&text).map_err(wrong)?;
        let folder = path.parent().unwrap_or(Path::new("/"));
        for path in [&mut config.state_dir, &mut config.socket, &mut config.tls_cert, &mut config.tls_key] {
            *path = path.take().map(|path| folder.join(path));
        }
        Ok(config)
    }

    /// # Errors
    /// What is wrong, with the key or the line where it is.
    fn parse(text: &str) -> std::result::Result<Self, String> {
        let line = |error: &toml::de::Error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            format!("line {}", before.matches('\n').count() + 1)
        };
        let told = |error: &toml::de::Error| error.message().replace('\n', ", ");
        let read = toml::Deserializer::parse(text);
        let read = read.map_err(|error| format!("{}: {}", line(&error), told(&error)))?;
        serde_path_to_error::deserialize(read).map_err(|error| {
            let (key, error) = (error.path().to_string(), error.into_inner());
            let key = if key == "." { String::new() } else { format!("{key}: ") };
            format!("{}: {key}{}", line(&error), told(&error))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_the_options_say() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("host.toml");
        std::fs::write(&path, "listen = [\"none\"]\nstate-dir = \"/srv/t\"\ntls-key = \"key.pem\"\n")
            .unwrap();
        let config = HostConfig::find(Some(&path), None).unwrap();
        assert_eq!(config.listen, ["none"]);
        assert_eq!(config.state_dir, Some("/srv/t".into()));
        assert_eq!(config.tls_key, Some(folder.path().join("key.pem")));
    }

    #[test]
    fn the_usual_file_need_not_be_there_but_a_named_one_must() {
        let nowhere = Path::new("/nowhere/host.toml");
        assert_eq!(HostConfig::find(None, Some(nowhere)).unwrap(), HostConfig::default());
        assert!(
            HostConfig::find(Some(nowhere), None).unwrap_err().to_string().contains("/nowhere/host.toml")
        );
    }

    #[test]
    fn the_file_that_is_installed_tells_every_key_and_says_nothing() {
        assert_eq!(HostConfig::parse(TEMPLATE).unwrap(), HostConfig::default());
        let said: String = TEMPLATE.lines().map(|line| line.strip_prefix('#').unwrap_or(line)).fold(
            String::new(),
            |all, line| {
                if line.starts_with(' ') { all } else { all + line + "\n" }
            },
        );
        let config = HostConfig::parse(&said).unwrap();
        assert!(config.state_dir.is_some() && !config.listen.is_empty() && config.socket.is_some());
        assert!(config.tls_cert.is_some() && config.tls_key.is_some() && config.memory_pool.is_some());
        assert!(config.memory_paging.is_some() && config.memory_compression.is_some() && config.memory_merge);
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, told) in [
            ("\nlisen = []", "line 2: lisen: unknown field `lisen`, expected one of `state-dir`, `listen`"),
            ("listen = [\"none\", 5]", "line 1: listen[1]: invalid type: integer `5`, expected a string"),
            ("memory-pool = \"much\"", "line 1: memory-pool: 'much' is not a unit of size"),
            ("memory-paging = \"swap:1G\"", "line 1: memory-paging: 'swap:1G' is not"),
            ("socket = true", "line 1: socket: invalid type: boolean `true`"),
            ("a = 1\nsocket = \"", "line 2: "),
            ("socket = \"a\"\nsocket = \"b\"", "line 2: duplicate key"),
        ] {
            let error = HostConfig::parse(text).unwrap_err();
            assert!(error.starts_with(told), "{text:?}: {error}");
        }
    }
}
