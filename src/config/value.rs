//! What values look like in text, both ways.

use crate::store::Fsync;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tidings_proto::{Name, bounds};
use tracing_subscriber::EnvFilter;

/// A type of settings: the same text in files, variables and flags.
pub(super) trait Value: Sized {
    /// What is allowed, for error messages.
    const EXPECTS: &'static str;
    /// One word for it, for usage texts.
    const PLACEHOLDER: &'static str;
    /// Whether it takes several texts.
    const LIST: bool = false;
    /// Whether it must not be shown.
    const SECRET: bool = false;

    /// Reads the texts given; none but for lists is exactly one.
    fn read(texts: &[String]) -> Option<Self> {
        match texts {
            [text] => Self::parse(text),
            _ => None,
        }
    }

    fn parse(text: &str) -> Option<Self>;

    fn show(&self) -> String;
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

const SIZES: &[(&str, u64)] =
    &[("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, factor) = SIZES
            .iter()
            .find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor))
            .unwrap_or(&SIZES[4]);
        write!(f, "{}{unit}", self.0 / factor)
    }
}

impl Value for Size {
    const EXPECTS: &'static str = "a size such as 64KiB, 16MiB, 1GiB, or a number of bytes";
    const PLACEHOLDER: &'static str = "SIZE";
    fn parse(text: &str) -> Option<Self> {
        quantity(text, SIZES, 1).map(Self)
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

const DURATIONS: &[(&str, u64)] =
    &[("ms", 1), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];

impl Value for Duration {
    const EXPECTS: &'static str = "a duration such as 2ms, 1s, 30m, 12h, 7d, or a number of milliseconds";
    const PLACEHOLDER: &'static str = "DURATION";
    fn parse(text: &str) -> Option<Self> {
        quantity(text, DURATIONS, 1).map(Duration::from_millis)
    }
    fn show(&self) -> String {
        let millis = self.as_millis() as u64;
        let mut units = DURATIONS[1..].iter();
        let whole = |(_, factor): &&(&str, u64)| millis > 0 && millis.is_multiple_of(*factor);
        let (unit, factor) = units.find(whole).unwrap_or(&DURATIONS[0]);
        format!("{}{unit}", millis / factor)
    }
}

/// A whole number and a unit, as a multiple of the smallest unit.
fn quantity(text: &str, units: &[(&str, u64)], plain: u64) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit.trim() {
        "" => plain,
        unit => units.iter().find(|(name, _)| *name == unit)?.1,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// A host name or address with a port. The name is resolved when it is used.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort(String);

impl HostPort {
    /// As `host:port`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for HostPort {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).ok_or_else(|| format!("{text:?} is not {}", Self::EXPECTS))
    }
}

impl Value for HostPort {
    const EXPECTS: &'static str = "host:port, such as 10.0.0.7:7380, [::1]:7380 or db.example:7380";
    const PLACEHOLDER: &'static str = "ADDR";
    fn parse(text: &str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let named = !host.is_empty() && host.chars().all(plain);
        let fits = text.len() <= bounds::TEXT && port > 0;
        (fits && (named || text.parse::<SocketAddr>().is_ok())).then(|| Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

impl<T: Value> Value for Vec<T> {
    const EXPECTS: &'static str = T::EXPECTS;
    const PLACEHOLDER: &'static str = T::PLACEHOLDER;
    const LIST: bool = true;
    fn read(texts: &[String]) -> Option<Self> {
        let parts =
            texts.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|part| !part.is_empty());
        parts.map(T::parse).collect()
    }
    fn parse(text: &str) -> Option<Self> {
        Self::read(&[text.to_owned()])
    }
    fn show(&self) -> String {
        self.iter().map(T::show).collect::<Vec<_>>().join(",")
    }
}

impl Value for SocketAddr {
    const EXPECTS: &'static str = "an address and port, such as 127.0.0.1:7380 or [::]:7380";
    const PLACEHOLDER: &'static str = "ADDR";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Option<SocketAddr> {
    const EXPECTS: &'static str = "an address and port, such as 127.0.0.1:7379 or [::1]:7379, or off";
    const PLACEHOLDER: &'static str = "ADDR";
    fn parse(text: &str) -> Option<Self> {
        if text == "off" { Some(None) } else { text.parse().ok().map(Some) }
    }
    fn show(&self) -> String {
        self.map_or_else(|| "off".to_owned(), |address| address.to_string())
    }
}

impl Value for PathBuf {
    const EXPECTS: &'static str = "a path";
    const PLACEHOLDER: &'static str = "PATH";
    fn parse(text: &str) -> Option<Self> {
        Some(text.into())
    }
    fn show(&self) -> String {
        self.display().to_string()
    }
}

impl Value for Option<PathBuf> {
    const EXPECTS: &'static str = "a path";
    const PLACEHOLDER: &'static str = "PATH";
    fn parse(text: &str) -> Option<Self> {
        Some((!text.is_empty()).then(|| text.into()))
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, PathBuf::show)
    }
}

impl Value for Option<Name> {
    const EXPECTS: &'static str = "1 to 63 of a-z 0-9 . _ -, beginning with a letter or digit";
    const PLACEHOLDER: &'static str = "NAME";
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { Name::new(text).ok().map(Some) }
    }
    fn show(&self) -> String {
        self.as_ref().map_or_else(String::new, Name::to_string)
    }
}

/// The label of a zone; empty for none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Zone(String);

impl Zone {
    /// The label.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for Zone {
    const EXPECTS: &'static str = "up to 63 printable characters without spaces";
    const PLACEHOLDER: &'static str = "NAME";
    fn parse(text: &str) -> Option<Self> {
        (text.len() <= bounds::NAME && text.chars().all(|c| c.is_ascii_graphic()))
            .then(|| Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

impl Value for u32 {
    const EXPECTS: &'static str = "a whole number";
    const PLACEHOLDER: &'static str = "NUMBER";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

impl Value for Fsync {
    const EXPECTS: &'static str = "always, everysec or no";
    const PLACEHOLDER: &'static str = "WHEN";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
    fn show(&self) -> String {
        self.to_string()
    }
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Value for LogFormat {
    const EXPECTS: &'static str = "text or json";
    const PLACEHOLDER: &'static str = "FORMAT";
    fn parse(text: &str) -> Option<Self> {
        [Self::Text, Self::Json].into_iter().find(|format| format.show() == text)
    }
    fn show(&self) -> String {
        let text = match self {
            Self::Text => "text",
            Self::Json => "json",
        };
        text.to_owned()
    }
}

/// Which log lines are written, as `tracing-subscriber` reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFilter(String);

impl LogFilter {
    /// The directives.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Value for LogFilter {
    const EXPECTS: &'static str =
        "error, warn, info, debug, trace or off, also by module: info,tidings::net=debug";
    const PLACEHOLDER: &'static str = "FILTER";
    fn parse(text: &str) -> Option<Self> {
        // A lone word that is no level is read as a module's name by the library: a misspelt `inof` would mute all.
        let levels = ["error", "warn", "info", "debug", "trace", "off"];
        let sound = |part: &str| part.contains('=') || part.contains("::") || levels.contains(&part.trim());
        let sound = !text.is_empty() && text.split(',').all(sound) && EnvFilter::try_new(text).is_ok();
        sound.then(|| Self(text.to_owned()))
    }
    fn show(&self) -> String {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [("2ms", 2), ("1s", 1_000), ("30s", 30_000), ("5m", 300_000), ("12h", 43_200_000)];
        for (text, millis) in
            cases.into_iter().chain([("7d", 604_800_000), ("250", 250), ("0", 0), ("1 s", 1_000)])
        {
            assert_eq!(Duration::parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "s", "-1s", "1.5s", "1sec", "2parsecs", "99999999999999999999", "999999999999999999d"]
        {
            assert_eq!(Duration::parse(text), None, "{text}");
        }
        assert_eq!(Duration::from_millis(1_500).show(), "1500ms");
        assert_eq!(Duration::from_secs(7 * 86_400).show(), "7d");
        assert_eq!(Duration::ZERO.show(), "0ms");
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("0", 0), ("12", 12), ("12B", 12), ("64KiB", 65_536), ("64 MiB", 64 << 20), ("1TiB", 1 << 40)]
        {
            assert_eq!(Size::parse(text), Some(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "64MB", "1.5GiB", "-1", "99999999999TiB"] {
            assert_eq!(Size::parse(text), None, "{text}");
        }
        assert_eq!(Size(1 << 30).to_string(), "1GiB");
        assert_eq!(Size(1_500).to_string(), "1500B");
        assert_eq!(Size(0).to_string(), "0B");
    }

    #[test]
    fn addresses() {
        for good in ["10.0.0.7:7380", "[::1]:7380", "node-1.example:7380", "tidings_seed:1"] {
            assert!(HostPort::parse(good).is_some(), "{good}");
        }
        for bad in ["", "node", "node:", ":7380", "node:0", "node:70000", "::1:7380", "a b:1", "[::1:7380"] {
            assert!(HostPort::parse(bad).is_none(), "{bad}");
        }
        let two = Vec::<HostPort>::read(&["a:1, b:2".to_owned()]).unwrap();
        assert_eq!(two.show(), "a:1,b:2");
        assert_eq!(Option::<SocketAddr>::parse("off"), Some(None));
    }

    #[test]
    fn a_misspelt_level_is_no_filter() {
        assert!(LogFilter::parse("info,tidings::net=debug").is_some());
        for bad in ["", "inof", "info,tidings=loud", "="] {
            assert!(LogFilter::parse(bad).is_none(), "{bad}");
        }
    }
}
