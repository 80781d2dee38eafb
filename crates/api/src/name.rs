//! Names that people give to things.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

/// A text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// It cannot be a [`Name`].
    #[error(
        "'{0}' cannot be a name: use lower-case letters, digits and hyphens, at most 63, the first and the last one no hyphen"
    )]
    Name(String),
    /// It could be taken for an id.
    #[error("'{0}' cannot be a name: it looks like an id")]
    Id(String),
    /// It cannot be an [`ImageName`].
    #[error("'{0}' cannot be an image's name: use lower-case letters, digits and . _ - : (at most 64)")]
    Image(String),
}

/// Text as it is shown in an error: the beginning of what may be long.
fn shown(text: &str) -> String {
    let mut cut: String = text.chars().take(80).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    cut
}

/// The name of a guest, a network or another thing of a host: a label as host names are made of (RFC 1123, section 2.1), in lower case, so
/// that a guest's name can be its host name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

/// An image's name: as `debian:12`. Lower-case letters, digits and `. _ - :`, at most 64, the first one a letter or a digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

const NAME_PATTERN: &str = "^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$";
const IMAGE_PATTERN: &str = "^[a-z0-9][a-z0-9._:-]{0,63}$";

impl Name {
    /// The name of what every host has one of: `default`.
    pub fn usual() -> Name {
        Name("default".into())
    }
}

fn plain(c: char) -> bool {
    c.is_ascii_lowercase() || c.is_ascii_digit()
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Name, NameError> {
        let good = (1..=63).contains(&text.len())
            && text.starts_with(plain)
            && text.ends_with(plain)
            && text.chars().all(|c| plain(c) || c == '-');
        if !good {
            return Err(NameError::Name(shown(text)));
        }
        if uuid::Uuid::try_parse(text).is_ok() {
            return Err(NameError::Id(shown(text)));
        }
        Ok(Name(text.to_owned()))
    }
}

impl FromStr for ImageName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<ImageName, NameError> {
        let good = text.len() <= 64
            && text.starts_with(plain)
            && text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-' | ':'));
        if good { Ok(ImageName(text.to_owned())) } else { Err(NameError::Image(shown(text))) }
    }
}

/// What both kinds of names can do.
macro_rules! text_of_a_name {
    ($($name:ident, $pattern:ident, $longest:literal, $example:literal;)*) => {$(
        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<$name, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                ObjectBuilder::new()
                    .schema_type(Type::String)
                    .pattern(Some($pattern))
                    .max_length(Some($longest))
                    .examples([$example])
                    .into()
            }
        }

        impl ToSchema for $name {
            fn name() -> Cow<'static, str> {
                stringify!($name).into()
            }
        }
    )*};
}

text_of_a_name! {
    Name, NAME_PATTERN, 63, "web-1";
    ImageName, IMAGE_PATTERN, 64, "debian:13";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_label_of_a_host_name() {
        for name in ["a", "web-1", "0", &"a".repeat(63)] {
            assert!(name.parse::<Name>().is_ok(), "{name}");
        }
        let id = uuid::Uuid::nil().to_string();
        for name in [
            "",
            "-a",
            "a-",
            "A",
            "a.b",
            "a_b",
            "../a",
            "a b",
            "ä",
            &"a".repeat(64),
            &id,
            &id.replace('-', ""),
        ] {
            assert!(name.parse::<Name>().is_err(), "{name}");
        }
    }

    #[test]
    fn an_images_name_cannot_lead_out_of_a_folder() {
        for name in ["", ".", "..", "../x", "a/b", ".hidden", "-x", "A", "a b", "a\n", &"a".repeat(65)] {
            assert!(name.parse::<ImageName>().is_err(), "{name:?}");
        }
        for name in ["debian:12", "a", "0.1-x_y"] {
            assert!(name.parse::<ImageName>().is_ok(), "{name:?}");
        }
    }

    #[test]
    fn an_error_shows_only_the_beginning_of_a_long_name() {
        let error = "x y".repeat(1 << 20).parse::<Name>().unwrap_err().to_string();
        assert!(error.len() < 400, "{}", error.len());
    }
}
