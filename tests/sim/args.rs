//! The simulator as a command.

use crate::fleet::{Until, cores};
use crate::plan::{Kind, Overrides, Profile};

/// What was asked for.
#[derive(Debug)]
pub struct Args {
    pub seed: Option<u64>,
    /// None for the suite, unless there is a seed: then for that one schedule.
    pub until: Option<Until>,
    pub profile: Option<Profile>,
    pub over: Overrides,
    pub shrink: bool,
    pub tell: bool,
    pub jobs: usize,
    /// Tests of the suite that are wanted and not wanted, by parts of their names.
    pub only: Vec<String>,
    pub skip: Vec<String>,
    /// Names are to be equal, not just to contain a word.
    pub exact: bool,
    /// Names are to be listed, and nothing is to be run.
    pub list: bool,
}

const USAGE: &str = "usage: sim [--seed N] [--schedules N | --minutes N] [--jobs N] [--profile calm|catchup|chaos|storm] \
    [--nodes N | --nodes-up-to N] [--ops N] [--seconds N] [--faults kind,kind | none] [--strikes N] [--no-shrink] \
    [--quiet], or what test runners pass: part of a test's name, --list, --skip, --exact";

impl Args {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self {
            seed: None,
            until: None,
            profile: None,
            over: Overrides::default(),
            shrink: true,
            tell: true,
            jobs: cores(),
            only: Vec::new(),
            skip: Vec::new(),
            exact: false,
            list: false,
        };
        while let Some(word) = words.next() {
            args.take(&word, &mut words)?;
        }
        Ok(args)
    }

    fn take(&mut self, word: &str, words: &mut impl Iterator<Item = String>) -> Result<(), String> {
        let mut value = || words.next().ok_or(format!("{word} needs a value\n{USAGE}"));
        let number = |text: String| -> Result<u64, String> {
            text.parse().map_err(|_| format!("{word}: {text:?} is not a number\n{USAGE}"))
        };
        match word {
            "--seed" => self.seed = Some(number(value()?)?),
            "--schedules" => self.until = Some(Until::Schedules(number(value()?)?)),
            "--minutes" => self.until = Some(Until::Minutes(number(value()?)?)),
            "--jobs" => self.jobs = number(value()?)?.max(1) as usize,
            "--nodes" => self.over.nodes = Some(number(value()?)? as usize),
            "--nodes-up-to" => self.over.nodes_up_to = Some(number(value()?)?.max(2) as usize),
            "--ops" => self.over.ops = Some(number(value()?)?),
            "--seconds" => self.over.seconds = Some(number(value()?)?),
            "--strikes" => self.over.strikes = Some(number(value()?)?),
            "--profile" => {
                let name = value()?;
                let found = Profile::ALL.into_iter().find(|profile| profile.name() == name);
                self.profile = Some(found.ok_or(format!("no profile {name}\n{USAGE}"))?);
            }
            "--faults" => {
                let names = value()?;
                let names = names.split(',').filter(|name| !matches!(*name, "none" | ""));
                let kind = |name| Kind::named(name).ok_or(format!("no fault {name}\n{USAGE}"));
                self.over.faults = Some(names.map(kind).collect::<Result<_, _>>()?);
            }
            "--no-shrink" => self.shrink = false,
            "--quiet" => self.tell = false,
            "--list" => self.list = true,
            "--exact" => self.exact = true,
            "--skip" => self.skip.push(value()?),
            // What else test runners pass to every test binary.
            "--test-threads" | "--color" | "--format" => drop(value()?),
            "--nocapture" | "--no-capture" | "--show-output" | "-q" | "--include-ignored" | "--ignored" => {}
            word if !word.starts_with('-') => self.only.push(word.to_owned()),
            _ => return Err(format!("what is {word}?\n{USAGE}")),
        }
        Ok(())
    }

    /// Whether nothing was asked for but the suite, or parts of it.
    pub fn is_suite(&self) -> bool {
        self.seed.is_none()
            && self.until.is_none()
            && self.profile.is_none()
            && self.over == Overrides::default()
    }

    /// Whether a test of the suite is wanted.
    pub fn wants(&self, name: &str) -> bool {
        let fits = |word: &String| if self.exact { name == word } else { name.contains(&word[..]) };
        (self.only.is_empty() || self.only.iter().any(fits)) && !self.skip.iter().any(fits)
    }
}
