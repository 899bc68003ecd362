//! Brings file, variables and flags together, and says all that is wrong with them at once.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::archive::HIDDEN;
use super::value::Value;
use super::{Config, KNOBS, Knob, Origin, Origins, knob};

/// What settings are read from, the weakest first.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// A TOML file.
    pub file: Option<PathBuf>,
    /// Environment variables; those that do not begin with `TIDINGS_` are passed over.
    pub env: Vec<(String, String)>,
    /// Knobs given as flags.
    pub flags: Vec<(&'static str, Vec<String>)>,
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{}: {why}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        why: String,
    },
    /// The file is not TOML.
    #[error("{}:{line}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        why: String,
    },
    /// No knob has this name.
    #[error("{}:{line}: unknown key `{key}`{}", path.display(), hint(suggestion))]
    Unknown {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The key.
        key: String,
        /// A knob with a similar name.
        suggestion: Option<&'static str>,
    },
    /// The value is not allowed.
    #[error("{origin}: `{key}` cannot be {value:?}: allowed is {allowed}")]
    Value {
        /// The knob.
        key: &'static str,
        /// What was given.
        value: String,
        /// Where.
        origin: Origin,
        /// What is allowed.
        allowed: String,
    },
}

fn hint(suggestion: &Option<&'static str>) -> String {
    suggestion.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

/// All that is wrong with the settings. Nothing of them is used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(Problem::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

/// What was set, by knob; and the problems found on the way.
#[derive(Debug, Default)]
pub(super) struct Settings {
    given: BTreeMap<&'static str, (Vec<String>, Origin)>,
    problems: Vec<Problem>,
}

impl Settings {
    /// The knob's value, or its default; a value that is not allowed becomes a problem.
    pub(super) fn value<T: Value>(&mut self, key: &'static str, default: &str) -> T {
        let default = || T::read(&[default.to_owned()]).expect("the table's defaults are valid");
        let Some((texts, origin)) = self.given.get(key) else { return default() };
        T::read(texts).unwrap_or_else(|| {
            let (value, origin, allowed) = (told(key, texts), origin.clone(), T::EXPECTS.to_owned());
            self.problems.push(Problem::Value { key, value, origin, allowed });
            default()
        })
    }
}

/// A value as messages may have it.
fn told(key: &str, texts: &[String]) -> String {
    let secret = knob(key).is_some_and(|knob| knob.secret);
    if secret { HIDDEN.to_owned() } else { texts.join(",") }
}

impl Config {
    /// Reads the settings. Beside them come warnings: variables that look like settings and are none.
    pub fn load(sources: &Sources) -> Result<(Self, Vec<String>), Problems> {
        let mut settings = Settings::default();
        if let Some(path) = &sources.file {
            read_file(path, &mut settings);
        }
        let warnings = read_env(&sources.env, &mut settings);
        for (key, texts) in &sources.flags {
            settings.given.insert(key, (texts.clone(), Origin::Flag(format!("--{}", key.replace('_', "-")))));
        }
        let mut config = Self::build(&mut settings);
        let Settings { given, mut problems } = settings;
        if problems.is_empty() {
            let outside = config.out_of_range().into_iter();
            problems.extend(outside.map(|(key, allowed)| {
                let (texts, origin) = given.get(key).cloned().unwrap_or_else(|| {
                    (vec![knob(key).map_or("", |knob| knob.default).to_owned()], Origin::Default)
                });
                Problem::Value { key, value: told(key, &texts), origin, allowed }
            }));
        }
        if !problems.is_empty() {
            return Err(Problems(problems));
        }
        config.origins = Origins(given.into_iter().map(|(key, (_, origin))| (key, origin)).collect());
        Ok((config, warnings))
    }
}

/// The environment variable of a knob.
pub fn env_name(knob: &Knob) -> String {
    format!("TIDINGS_{}", knob.name.to_uppercase())
}

fn read_env(env: &[(String, String)], settings: &mut Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    for (name, text) in env {
        let Some(rest) = name.strip_prefix("TIDINGS_") else { continue };
        if let Some(knob) = KNOBS.iter().find(|knob| env_name(knob) == *name) {
            settings.given.insert(knob.name, (vec![text.clone()], Origin::Env(name.clone())));
        } else if rest != "CONFIG" && !of_kubernetes(rest) {
            let suggestion = similar(&rest.to_lowercase()).and_then(knob).map(env_name);
            let hint = suggestion.map_or_else(String::new, |name| format!("; did you mean {name}?"));
            warnings.push(format!("the variable {name} is no setting and is not used{hint}"));
        }
    }
    warnings
}

/// Kubernetes puts these into every pod when a service is called `tidings`. It is also why a variable that is no knob is
/// a warning and not an error: others write into this space.
fn of_kubernetes(rest: &str) -> bool {
    rest.starts_with("SERVICE_") || rest == "PORT" || rest.starts_with("PORT_")
}

fn read_file(path: &Path, settings: &mut Settings) {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => {
            settings.problems.push(Problem::Read { path: path.to_owned(), why: error.to_string() });
            return;
        }
    };
    let line_at = |offset: usize| text[..offset.min(text.len())].matches('\n').count() + 1;
    let table = match DeTable::parse(&text) {
        Ok(table) => table.into_inner(),
        Err(error) => {
            let line = error.span().map_or(1, |span| line_at(span.start));
            let why = error.message().to_owned();
            settings.problems.push(Problem::Syntax { path: path.to_owned(), line, why });
            return;
        }
    };
    let mut entries: Vec<_> = table.into_iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    for (key, value) in entries {
        let line = line_at(key.span().start);
        let Some(knob) = knob(key.get_ref()) else {
            let key = key.into_inner().into_owned();
            let suggestion = similar(&key);
            settings.problems.push(Problem::Unknown { path: path.to_owned(), line, key, suggestion });
            continue;
        };
        let origin = Origin::File(path.to_owned(), line);
        match texts(value.get_ref(), knob.list) {
            Some(texts) => _ = settings.given.insert(knob.name, (texts, origin)),
            None => settings.problems.push(Problem::Value {
                key: knob.name,
                value: told(knob.name, &[text[value.span()].to_owned()]),
                origin,
                allowed: if knob.list {
                    format!("a list of {}", knob.expects)
                } else {
                    knob.expects.to_owned()
                },
            }),
        }
    }
}

/// A TOML value as the texts that a flag would carry.
fn texts(value: &DeValue<'_>, list: bool) -> Option<Vec<String>> {
    match value {
        DeValue::String(text) => Some(vec![text.to_string()]),
        DeValue::Integer(number) if number.radix() == 10 => Some(vec![number.as_str().to_owned()]),
        DeValue::Array(values) if list => {
            let texts = values.iter().map(|value| value.get_ref().as_str().map(str::to_owned));
            texts.collect()
        }
        _ => None,
    }
}

/// The knob whose name is nearest, if it is near enough to be meant.
fn similar(name: &str) -> Option<&'static str> {
    let near = KNOBS.iter().map(|knob| (distance(name, knob.name), knob.name)).min()?;
    (near.0 <= 1 + name.len() / 4).then_some(near.1)
}

/// Levenshtein's edit distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(
        text: &str,
        env: &[(&str, &str)],
        flags: &[(&'static str, &[&str])],
    ) -> Result<(Config, Vec<String>), String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tidings.toml");
        fs::write(&path, text).unwrap();
        let env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let flags = flags
            .iter()
            .map(|(name, texts)| (*name, texts.iter().map(|t| t.to_string()).collect()))
            .collect();
        let prefix = format!("{}/", dir.path().display());
        Config::load(&Sources { file: Some(path), env, flags })
            .map_err(|error| error.to_string().replace(&prefix, ""))
    }

    #[test]
    fn the_stronger_source_wins_and_is_named() {
        let text = "# mine\nfanout = 4\npush_interval = \"250ms\"\nzone = \"a\"\njoin = [\"a:1\", \"b:2\"]\n";
        let env = [("TIDINGS_FANOUT", "5"), ("TIDINGS_ZONE", "b"), ("HOME", "/root")];
        let (config, warnings) = load(text, &env, &[("zone", &["c"]), ("resp", &["off"])]).unwrap();
        assert!(warnings.is_empty());
        assert_eq!((config.fanout, config.zone.as_str(), config.resp), (5, "c", None));
        let origin = |key: &str| config.origins.of(key).to_string();
        assert!(origin("push_interval").ends_with("tidings.toml:3"), "{}", origin("push_interval"));
        assert!(origin("join").ends_with("tidings.toml:5"));
        assert_eq!(origin("fanout"), "TIDINGS_FANOUT");
        assert_eq!(origin("zone"), "--zone");
        assert_eq!(origin("listen"), "default");
        assert_eq!(config.rows().iter().find(|row| row.key == "join").unwrap().value, "a:1,b:2");
    }

    #[test]
    fn unknown_keys_are_named_with_their_line() {
        let error = load("fanout = 3\n\npush_intervall = 5\n[limits]\nkeys = 1\n", &[], &[]).unwrap_err();
        assert_eq!(
            error,
            "tidings.toml:3: unknown key `push_intervall`; did you mean `push_interval`?\n\
             tidings.toml:4: unknown key `limits`"
        );
    }

    #[test]
    fn bad_values_name_key_value_origin_and_what_is_allowed() {
        let error =
            load("fsync = \"often\"\nfanout = \"3\"\nlog_age = 1.5\n", &[("TIDINGS_LISTEN", "here")], &[]);
        let error = error.unwrap_err();
        assert!(
            error.contains("tidings.toml:1: `fsync` cannot be \"often\": allowed is always, everysec or no")
        );
        assert!(
            error.contains("tidings.toml:3: `log_age` cannot be \"1.5\": allowed is a duration such as"),
            "{error}"
        );
        assert!(
            error.contains("TIDINGS_LISTEN: `listen` cannot be \"here\": allowed is an address"),
            "{error}"
        );
        assert!(!error.contains("fanout"), "a number may be quoted");
        let error = load("", &[], &[("fanout", &["65"])]).unwrap_err();
        assert_eq!(error, "--fanout: `fanout` cannot be \"65\": allowed is 1 to 64");
        let error = load("segment_size = \"1GiB\"\nlog_disk = \"64MiB\"\n", &[], &[]).unwrap_err();
        assert_eq!(error, "tidings.toml:2: `log_disk` cannot be \"64MiB\": allowed is segment_size or more");
    }

    #[test]
    fn secrets_are_in_no_message() {
        for (text, key) in [
            ("archive_secret_key = true", "archive_secret_key"),
            ("archive_access_key = 7.5", "archive_access_key"),
        ] {
            let error = load(text, &[], &[]).unwrap_err();
            assert!(error.contains(key) && error.contains(HIDDEN), "{error}");
            assert!(!error.contains("true") && !error.contains("7.5"), "{error}");
        }
        let error = load("", &[("TIDINGS_ARCHIVE_SECRET_KEY", "hunter2")], &[]).unwrap_err();
        assert!(error.contains("without archive_access_key") && !error.contains("hunter2"), "{error}");
        let env = [("TIDINGS_ARCHIVE_SECRET_KEY", "hunter2"), ("TIDINGS_ARCHIVE_ACCESS_KEY", "hunter1")];
        let (config, _) = load("archive = \"s3://bucket/a\"", &env, &[]).unwrap();
        assert!(!format!("{config:?}{:?}", config.rows()).contains("hunter"));
        let error = load("archive = \"s3://B\"", &[], &[]).unwrap_err();
        assert!(error.contains("`archive` cannot be \"s3://B\": allowed is file:///"), "{error}");
    }

    #[test]
    fn what_is_not_toml_is_shown_with_its_line() {
        let error = load("fanout = 3\nzone = oops\n", &[], &[]).unwrap_err();
        assert!(error.starts_with("tidings.toml:2: "), "{error}");
        let error = load("fanout = 3\nfanout = 4\n", &[], &[]).unwrap_err();
        assert!(error.starts_with("tidings.toml:2: duplicate key"), "{error}");
        let missing = Sources { file: Some("nowhere.toml".into()), ..Sources::default() };
        assert!(Config::load(&missing).unwrap_err().to_string().starts_with("nowhere.toml: No such file"));
    }

    #[test]
    fn foreign_variables_are_no_errors() {
        let env = [
            ("TIDINGS_PORT_7379_TCP", "tcp://10.0.0.1:7379"),
            ("TIDINGS_FAN_OUT", "3"),
            ("TIDINGS_CONFIG", "x"),
        ];
        let (_, warnings) = load("", &env, &[]).unwrap();
        assert_eq!(
            warnings,
            ["the variable TIDINGS_FAN_OUT is no setting and is not used; did you mean TIDINGS_FANOUT?"]
        );
    }
}
