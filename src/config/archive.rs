//! Where archives are, and what opens them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::value::Value;

/// A place for archives: a directory, or a part of an S3 bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// `file:///path`.
    Directory(PathBuf),
    /// `s3://bucket/prefix`.
    Bucket {
        /// The bucket.
        bucket: String,
        /// What all names in it begin with; may be empty.
        prefix: String,
    },
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| Err(format!("{text:?} is no place for archives: {why}"));
        if let Some(path) = text.strip_prefix("file://") {
            return match Path::new(path) {
                path if path.is_absolute() => Ok(Self::Directory(path.to_owned())),
                _ => wrong("the path must be absolute, as in file:///var/backups/tidings"),
            };
        }
        let Some(rest) = text.strip_prefix("s3://") else {
            return wrong("it must begin with file:/// or s3://");
        };
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-');
        if !(3..=63).contains(&bucket.len()) || !bucket.chars().all(plain) {
            return wrong("a bucket's name has 3 to 63 of a-z 0-9 . -");
        }
        let parts = prefix.trim_end_matches('/');
        let sound =
            |part: &str| !matches!(part, "" | "." | "..") && part.chars().all(|c| c.is_ascii_graphic());
        if !parts.is_empty() && !parts.split('/').all(sound) {
            return wrong("the prefix must be printable, without empty parts");
        }
        Ok(Self::Bucket { bucket: bucket.to_owned(), prefix: parts.to_owned() })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::Bucket { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::Bucket { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl Value for Option<Target> {
    const EXPECTS: &'static str =
        "file:///absolute/path, or s3://bucket/prefix with a bucket of 3 to 63 a-z 0-9 . -";
    const PLACEHOLDER: &'static str = "URL";
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, Target::to_string)
    }
}

/// The address of an S3 service; empty for Amazon's own.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Endpoint(String);

impl Endpoint {
    /// As `http://host:port` or `https://host`; empty for Amazon's own.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Endpoint {
    const EXPECTS: &'static str =
        "https://host, https://host:port or http://host:port, without a path or credentials";
    const PLACEHOLDER: &'static str = "URL";
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim_end_matches('/');
        let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
        let sound = host.is_some_and(|host| !host.is_empty() && host.chars().all(plain));
        (text.is_empty() || sound).then(|| Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

/// The name of an S3 region; empty for what the environment says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Region(String);

impl Region {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Region {
    const EXPECTS: &'static str = "a region such as eu-central-1";
    const PLACEHOLDER: &'static str = "NAME";
    fn parse(text: &str) -> Option<Self> {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        text.chars().all(plain).then(|| Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

/// Something that is never shown: not in tables, messages or `Debug`.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Secret(String);

/// What stands in the place of a secret.
pub(super) const HIDDEN: &str = "(hidden)";

impl Secret {
    /// The text itself: for whoever signs with it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether none was given.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.show())
    }
}

impl Value for Secret {
    const EXPECTS: &'static str = "a text";
    const PLACEHOLDER: &'static str = "SECRET";
    const SECRET: bool = true;
    fn parse(text: &str) -> Option<Self> {
        Some(Self(text.to_owned()))
    }
    fn show(&self) -> String {
        if self.0.is_empty() { String::new() } else { HIDDEN.to_owned() }
    }
}

/// What opens a target beside its name. Where something is empty, the environment's `AWS_*` variables count.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Access {
    /// The S3 service.
    pub endpoint: Endpoint,
    /// Its region.
    pub region: Region,
    /// Who asks.
    pub access_key: Secret,
    /// And proves it.
    pub secret_key: Secret,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_read_and_shown() {
        for text in ["file:///var/backups", "s3://bucket", "s3://my.bucket-1/a/b"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        let bare = "s3://bucket/a/".parse::<Target>().unwrap();
        assert_eq!(bare, Target::Bucket { bucket: "bucket".into(), prefix: "a".into() });
        for (text, why) in [
            ("/var/backups", "must begin with"),
            ("ftp://x", "must begin with"),
            ("file://relative", "must be absolute"),
            ("file://", "must be absolute"),
            ("s3://", "bucket's name"),
            ("s3://UPPER", "bucket's name"),
            ("s3://bucket/a//b", "prefix"),
            ("s3://bucket/../b", "prefix"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(error.contains(why) && error.contains(text), "{error}");
        }
    }

    #[test]
    fn endpoints_are_plain_and_secrets_are_not_shown() {
        for good in ["", "http://127.0.0.1:9000", "https://s3.example/", "http://[::1]:9000"] {
            assert!(Endpoint::parse(good).is_some(), "{good}");
        }
        for bad in ["127.0.0.1:9000", "https://", "https://user:pass@host", "https://host/path"] {
            assert!(Endpoint::parse(bad).is_none(), "{bad}");
        }
        let secret = Secret::parse("hunter2").unwrap();
        assert_eq!((secret.show().as_str(), format!("{secret:?}").as_str()), (HIDDEN, HIDDEN));
        assert_eq!(secret.reveal(), "hunter2");
        assert_eq!(Secret::default().show(), "");
    }
}
