//! Settings: a TOML file, overridden by `TIDINGS_*` variables, overridden by flags.
//!
//! One table, below, says of every knob its name, type, default and meaning; the
//! struct, the flags, the variables, the file's keys and `config check` follow from
//! it. Durations are written `2ms`, `1s`, `30m`, `12h`, `7d` (a plain number is in
//! milliseconds), sizes `64KiB`, `16MiB`, `1GiB` (a plain number is in bytes).
//! Relative paths start at the working directory, wherever they were written.

mod archive;
mod load;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tidings_proto::{Name, bounds};

pub use crate::store::Fsync;
pub use archive::{Access, Endpoint, Region, Secret, Target};
pub use load::{Problem, Problems, Sources, env_name};
use value::Value;
pub use value::{HostPort, LogFilter, LogFormat, Size, Zone};

/// One knob, as the table describes it.
#[derive(Debug, Clone, Copy)]
pub struct Knob {
    /// Its key in the file.
    pub name: &'static str,
    /// Meaning, unit and consequence.
    pub help: &'static str,
    /// The default as one would write it; empty if it depends on others.
    pub default: &'static str,
    /// What a value looks like.
    pub expects: &'static str,
    /// One word for a value, in usage texts.
    pub placeholder: &'static str,
    /// Whether it takes several values.
    pub list: bool,
    /// Whether its value is never shown.
    pub secret: bool,
}

macro_rules! knobs {
    ($( $(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:literal, )+) => {
        /// Everything that can be set.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Config {
            $( $(#[doc = $doc])+ pub $name: $type, )+
            /// Where the values came from.
            pub origins: Origins,
        }

        /// Every knob, in the order in which they are listed.
        pub const KNOBS: &[Knob] = &[$( Knob {
            name: stringify!($name),
            help: concat!($($doc, "\n"),+),
            default: $default,
            expects: <$type as Value>::EXPECTS,
            placeholder: <$type as Value>::PLACEHOLDER,
            list: <$type as Value>::LIST,
            secret: <$type as Value>::SECRET,
        } ),+];

        impl Config {
            fn build(settings: &mut load::Settings) -> Self {
                Self { $( $name: settings.value(stringify!($name), $default), )+ origins: Origins::default() }
            }

            fn shown(&self) -> Vec<(&'static str, String)> {
                vec![$( (stringify!($name), self.$name.show()) ),+]
            }
        }
    };
}

knobs! {
    /// Directory of the log, the checkpoints, the list of members and, unless said otherwise, the certificates and
    /// the admin socket. One process owns it.
    data_dir: PathBuf = "tidings-data",
    /// Name of the cluster; nodes of another realm are refused. Without it the realm of the node's certificate; with
    /// it a certificate of another realm is refused at the start.
    realm: Option<Name> = "",
    /// Label of the rack or region; empty for none. Ops cross between zones once, not once a member.
    zone: Zone = "",
    /// Where other nodes connect (QUIC, UDP).
    listen: SocketAddr = "0.0.0.0:7380",
    /// Addresses that other members are told to use, at most 8. Without any they use the address they see.
    advertise: Vec<HostPort> = "",
    /// Seeds, as host:port: whom to ask for the members while none is known. Names are resolved again each time.
    join: Vec<HostPort> = "",
    /// Where Redis clients connect (TCP); `off` for nowhere. There is no password by default: keep it local.
    resp: Option<SocketAddr> = "127.0.0.1:7379",
    /// Where /metrics, /healthz, /readyz and the status page are served (TCP); `off` for nowhere.
    http: Option<SocketAddr> = "127.0.0.1:7381",
    /// Path of the admin socket; admin.sock in the data directory by default. Who can open it, mode 0600, may do all.
    admin: Option<PathBuf> = "",
    /// File with the certificate of the cluster's authority (PEM); ca.pem in the data directory by default.
    ca: Option<PathBuf> = "",
    /// File with the node's certificate (PEM), which also names the node; node.pem in the data directory by default.
    cert: Option<PathBuf> = "",
    /// File with the certificate's private key (PEM); node-key.pem in the data directory by default.
    key: Option<PathBuf> = "",
    /// When the log is forced to the disk: `always` before a write is acknowledged, so that it survives power loss;
    /// `everysec`, so that power loss can cost a second of writes not yet gossiped; `no` leaves it to the system.
    fsync: Fsync = "everysec",
    /// How often what a peer is not known to have is offered to it again. Longer is quieter, and slower after loss.
    push_interval: Duration = "1s",
    /// How long a fresh write may wait for company while the link is busy. 0 sends each at once: lower delay, more
    /// packets.
    push_window: Duration = "2ms",
    /// How often, give or take a jitter, the node compares itself with `fanout` members. It bounds how long a gap that
    /// everything else missed can last.
    anti_entropy_interval: Duration = "30s",
    /// How many members an anti-entropy round visits, and how many links get ops inline in a large cluster.
    fanout: u32 = "3",
    /// How far ahead of the own clock a remote timestamp may pull this node's timestamps. No write is refused for it.
    max_clock_drift: Duration = "500ms",
    /// Size of recent ops kept in memory for peers that lack them. Older ones are read from the log on disk.
    log_memory: Size = "64MiB",
    /// Size of the log on disk. A member that was away while more was written catches up by comparing states.
    log_disk: Size = "1GiB",
    /// Age after which the log on disk is cut; see `log_disk`.
    log_age: Duration = "7d",
    /// Size of one file of the log; it is allocated ahead.
    segment_size: Size = "64MiB",
    /// How much is logged between checkpoints. Less starts faster after a crash and writes more.
    checkpoint_size: Size = "256MiB",
    /// Where finished checkpoints and full segments of the log are copied to: file:///path or s3://bucket/prefix; empty
    /// for nowhere. Nodes of a cluster may use one place.
    archive: Option<Target> = "",
    /// The S3 service, as https://host:port; empty for Amazon's, or what AWS_ENDPOINT_URL says.
    archive_endpoint: Endpoint = "",
    /// The S3 region; empty for what AWS_REGION says.
    archive_region: Region = "",
    /// Id of the S3 access key; empty for what AWS_ACCESS_KEY_ID, or else the machine's role, says. Never shown.
    archive_access_key: Secret = "",
    /// The S3 secret key; empty for what AWS_SECRET_ACCESS_KEY, or else the machine's role, says. Never shown; a flag
    /// can be seen by other users of the machine, a variable or a file cannot.
    archive_secret_key: Secret = "",
    /// How long at most until what was written is in a checkpoint, while there is an archive. Less loses less with the
    /// disk, and writes and copies more.
    archive_interval: Duration = "1h",
    /// How many of this node's checkpoints are kept in the archive.
    archive_keep: u32 = "32",
    /// Age at which a checkpoint goes from the archive; the newest stays.
    archive_keep_age: Duration = "30d",
    /// An archive that an empty data directory is filled from before the node starts, with the newest checkpoint of the
    /// realm; peers have the rest. Empty for peers alone. An archive that cannot be read stops the start.
    restore_from: Option<Target> = "",
    /// How often the node looks whether its memory and its disk still hold what was put there. 0 for only when asked.
    audit_interval: Duration = "10m",
    /// How many writes that peers are known to have the node may lack and still be ready. More, and it says that it is
    /// not, until it has caught up; it answers all the same.
    ready_lag: u32 = "100000",
    /// Most Redis clients at once; further ones get an error and are closed.
    max_clients: u32 = "10000",
    /// Memory of the process above which writes are refused with Redis's OOM error; reads, deletes and what peers send
    /// go on. What deletes free can be written again. 0 for no limit.
    max_memory: Size = "0",
    /// Log since the last checkpoint beyond which writes are refused with an error, if checkpoints fail or cannot keep
    /// up; from half of it on writers are slowed. 0 for no limit.
    max_log: Size = "4GiB",
    /// Longest key that a client may write.
    max_key_size: Size = "64KiB",
    /// Longest element of a set that a client may write.
    max_element_size: Size = "1MiB",
    /// Longest value that a client may write.
    max_value_size: Size = "16MiB",
    /// What the node tells of itself on standard error: `error`, `warn`, `info`, `debug`, `trace`, also by module as in
    /// `info,tidings::net=debug`.
    log_filter: LogFilter = "info",
    /// `text` for people, `json` for programs.
    log_format: LogFormat = "text",
}

/// The knobs that a running node takes over when it reads its settings again; the others need a restart.
pub const LIVE: &[&str] =
    &["push_interval", "push_window", "anti_entropy_interval", "fanout", "max_clock_drift", "log_filter"];

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody set it.
    Default,
    /// A line of a file.
    File(PathBuf, usize),
    /// An environment variable.
    Env(String),
    /// A flag on the command line.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// Where the values of a [`Config`] came from; whatever is not in it is a default.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Origins(BTreeMap<&'static str, Origin>);

impl Origins {
    /// Where the value of a knob came from.
    pub fn of(&self, knob: &str) -> &Origin {
        self.0.get(knob).unwrap_or(&Origin::Default)
    }
}

/// One value as it is used, and where it came from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigRow {
    /// The knob.
    pub key: String,
    /// Its value as one would write it.
    pub value: String,
    /// `default`, `FILE:LINE`, the name of a variable, or a flag.
    pub origin: String,
}

impl Default for Config {
    fn default() -> Self {
        Self::load(&Sources::default()).expect("the defaults are valid").0
    }
}

impl Config {
    /// The admin socket's path.
    pub fn admin_path(&self) -> PathBuf {
        self.in_data_dir(self.admin.as_deref(), "admin.sock")
    }

    /// The path of the authority's certificate.
    pub fn ca_path(&self) -> PathBuf {
        self.in_data_dir(self.ca.as_deref(), "ca.pem")
    }

    /// The path of the node's certificate.
    pub fn cert_path(&self) -> PathBuf {
        self.in_data_dir(self.cert.as_deref(), "node.pem")
    }

    /// The path of the certificate's key.
    pub fn key_path(&self) -> PathBuf {
        self.in_data_dir(self.key.as_deref(), "node-key.pem")
    }

    /// What opens the archives.
    pub fn archive_access(&self) -> Access {
        Access {
            endpoint: self.archive_endpoint.clone(),
            region: self.archive_region.clone(),
            access_key: self.archive_access_key.clone(),
            secret_key: self.archive_secret_key.clone(),
        }
    }

    fn in_data_dir(&self, given: Option<&Path>, name: &str) -> PathBuf {
        given.map_or_else(|| self.data_dir.join(name), Path::to_owned)
    }

    /// Takes over from `new` what may change while a node runs. Returns the knobs that would change and need a restart.
    pub fn reload(&mut self, new: Self) -> Vec<&'static str> {
        let before = self.shown();
        let Self { push_interval, push_window, anti_entropy_interval, fanout, max_clock_drift, .. } = new;
        *self = Self {
            push_interval,
            push_window,
            anti_entropy_interval,
            fanout,
            max_clock_drift,
            ..self.clone()
        };
        self.log_filter.clone_from(&new.log_filter);
        for knob in LIVE {
            match new.origins.0.get(knob) {
                Some(origin) => _ = self.origins.0.insert(knob, origin.clone()),
                None => _ = self.origins.0.remove(knob),
            }
        }
        let changed =
            before.into_iter().zip(new.shown()).filter(|(old, new)| old != new).map(|(old, _)| old.0);
        changed.filter(|knob| !LIVE.contains(knob)).collect()
    }

    /// Every value with its origin, in the table's order.
    pub fn rows(&self) -> Vec<ConfigRow> {
        let row = |(key, shown): (&'static str, String)| {
            let value = match key {
                "admin" => self.admin_path().show(),
                "ca" => self.ca_path().show(),
                "cert" => self.cert_path().show(),
                "key" => self.key_path().show(),
                _ => shown,
            };
            ConfigRow { key: key.to_owned(), value, origin: self.origins.of(key).to_string() }
        };
        self.shown().into_iter().map(row).collect()
    }

    /// Values that are right by themselves and wrong in this place: the knob, and what is allowed.
    fn out_of_range(&self) -> Vec<(&'static str, String)> {
        let second = Duration::from_secs(1);
        let hour = Duration::from_secs(3_600);
        let minimum = Duration::from_millis(10);
        let up_to = |size: usize| format!("1B to {}", Size(size as u64));
        let checks = [
            ("data_dir", !self.data_dir.as_os_str().is_empty(), "a path".to_owned()),
            (
                "advertise",
                self.advertise.len() <= bounds::ADDRESSES,
                format!("at most {}", bounds::ADDRESSES),
            ),
            ("fanout", (1..=64).contains(&self.fanout), "1 to 64".to_owned()),
            ("push_interval", (minimum..=hour).contains(&self.push_interval), "10ms to 1h".to_owned()),
            ("push_window", self.push_window <= second, "0ms to 1s".to_owned()),
            (
                "anti_entropy_interval",
                (minimum..=hour).contains(&self.anti_entropy_interval),
                "10ms to 1h".into(),
            ),
            ("max_clock_drift", self.max_clock_drift <= hour, "0ms to 1h".to_owned()),
            ("log_age", self.log_age >= second, "1s or more".to_owned()),
            ("log_disk", self.log_disk >= self.segment_size, "segment_size or more".to_owned()),
            (
                "segment_size",
                (Size(1 << 20)..=Size(1 << 30)).contains(&self.segment_size),
                "1MiB to 1GiB".into(),
            ),
            ("checkpoint_size", self.checkpoint_size >= Size(1 << 20), "1MiB or more".to_owned()),
            (
                "max_log",
                self.max_log == Size(0) || self.max_log.0 >= self.checkpoint_size.0.saturating_mul(2),
                "0, or twice checkpoint_size or more".to_owned(),
            ),
            ("archive", can_open(&self.archive), NO_BUCKETS.to_owned()),
            ("restore_from", can_open(&self.restore_from), NO_BUCKETS.to_owned()),
            (
                "archive_access_key",
                self.archive_access_key.is_empty() || !self.archive_secret_key.is_empty(),
                "empty without archive_secret_key".to_owned(),
            ),
            (
                "archive_secret_key",
                self.archive_secret_key.is_empty() || !self.archive_access_key.is_empty(),
                "empty without archive_access_key".to_owned(),
            ),
            (
                "audit_interval",
                self.audit_interval.is_zero() || self.audit_interval >= second,
                "0 or 1s or more".to_owned(),
            ),
            ("archive_interval", self.archive_interval >= second, "1s or more".to_owned()),
            ("archive_keep", self.archive_keep >= 1, "1 or more".to_owned()),
            ("archive_keep_age", self.archive_keep_age >= second, "1s or more".to_owned()),
            ("max_clients", (1..=1_000_000).contains(&self.max_clients), "1 to 1000000".to_owned()),
            ("max_key_size", within(self.max_key_size, bounds::KEY), up_to(bounds::KEY)),
            ("max_element_size", within(self.max_element_size, bounds::ELEMENT), up_to(bounds::ELEMENT)),
            ("max_value_size", within(self.max_value_size, bounds::VALUE), up_to(bounds::VALUE)),
        ];
        checks.into_iter().filter(|check| !check.1).map(|(knob, _, allowed)| (knob, allowed)).collect()
    }
}

/// What a binary without S3 allows.
const NO_BUCKETS: &str = "file:///path: this program was built without the feature `archive`";

fn can_open(target: &Option<Target>) -> bool {
    cfg!(feature = "archive") || !matches!(target, Some(Target::Bucket { .. }))
}

fn within(size: Size, bound: usize) -> bool {
    (1..=bound as u64).contains(&size.0)
}

/// The knob of that name, if there is one.
pub fn knob(name: &str) -> Option<&'static Knob> {
    KNOBS.iter().find(|knob| knob.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_as_documented() {
        let config = Config::default();
        assert_eq!(config.listen.to_string(), "0.0.0.0:7380");
        assert_eq!(config.push_window, Duration::from_millis(2));
        assert_eq!(config.log_disk, Size(1 << 30));
        assert_eq!(config.admin_path(), Path::new("tidings-data/admin.sock"));
        assert!(config.rows().iter().all(|row| row.origin == "default"));
        assert_eq!(config.rows().len(), KNOBS.len());
    }

    #[test]
    fn every_shown_value_can_be_read_back() {
        let config = Config::default();
        let flags = config.shown().into_iter().filter(|(_, value)| !value.is_empty());
        let flags = flags.map(|(key, value)| (key, vec![value])).collect();
        let (again, _) = Config::load(&Sources { flags, ..Sources::default() }).unwrap();
        assert_eq!(again.shown(), config.shown());
    }

    #[test]
    fn reloading_takes_over_what_it_may() {
        let set = |flags: &[(&'static str, &str)]| {
            let flags = flags.iter().map(|(key, value)| (*key, vec![(*value).to_owned()])).collect();
            Config::load(&Sources { flags, ..Sources::default() }).unwrap().0
        };
        for live in LIVE {
            let mut config = Config::default();
            let value = if *live == "log_filter" { "debug" } else { "50" };
            let wanted = set(&[(live, value)]);
            assert!(config.reload(wanted.clone()).is_empty(), "{live}");
            assert_eq!(config, wanted);
        }
        let mut config = set(&[("fanout", "4")]);
        assert_eq!(config.reload(set(&[("zone", "b"), ("resp", "off")])), ["zone", "resp"]);
        assert_eq!((config.fanout, config.zone.as_str()), (3, ""));
        assert_eq!(config.origins.of("fanout"), &Origin::Default);
    }

    #[test]
    fn every_knob_says_what_it_does() {
        for knob in KNOBS {
            assert!(knob.help.trim().ends_with('.'), "{} has no whole sentence", knob.name);
            assert!(!knob.expects.is_empty() && !knob.placeholder.is_empty(), "{}", knob.name);
        }
    }
}
