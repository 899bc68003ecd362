//! The simulator as a command.

use crate::plan::{Kind, Overrides, Profile};

/// What was asked for.
#[derive(Debug, Default)]
pub struct Args {
    pub seed: Option<u64>,
    pub schedules: u64,
    pub profile: Option<Profile>,
    pub over: Overrides,
    pub shrink: bool,
    pub tell: bool,
    bare: bool,
}

const USAGE: &str = "usage: sim [--seed N] [--schedules N] [--profile calm|catchup|chaos|storm] [--nodes N] \
    [--ops N] [--minutes N | --seconds N] [--faults kind,kind | none] [--strikes N] [--no-shrink] [--quiet]";

impl Args {
    pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut args = Self { schedules: 0, shrink: true, tell: true, bare: true, ..Self::default() };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, String> {
                let text = words.next().ok_or(USAGE)?;
                text.parse().map_err(|_| format!("{word}: {text:?} is not a number\n{USAGE}"))
            };
            match word.as_str() {
                "--seed" => args.seed = Some(number()?),
                "--schedules" => args.schedules = number()?,
                "--nodes" => args.over.nodes = Some(number()? as usize),
                "--ops" => args.over.ops = Some(number()?),
                "--minutes" => args.over.seconds = Some(number()? * 60),
                "--seconds" => args.over.seconds = Some(number()?),
                "--strikes" => args.over.strikes = Some(number()?),
                "--profile" => {
                    let name = words.next().ok_or(USAGE)?;
                    let found = Profile::ALL.into_iter().find(|profile| profile.name() == name);
                    args.profile = Some(found.ok_or(format!("no profile {name}\n{USAGE}"))?);
                }
                "--faults" => {
                    let names = words.next().ok_or(USAGE)?;
                    let names = names.split(',').filter(|name| !matches!(*name, "none" | ""));
                    let kind = |name| Kind::named(name).ok_or(format!("no fault {name}\n{USAGE}"));
                    args.over.faults = Some(names.map(kind).collect::<Result<_, _>>()?);
                }
                "--no-shrink" => args.shrink = false,
                "--quiet" => args.tell = false,
                // What test runners pass to every test binary.
                "--nocapture" | "-q" | "--exact" | "--include-ignored" => continue,
                _ => return Err(format!("what is {word}?\n{USAGE}")),
            }
            args.bare = false;
        }
        if args.schedules == 0 {
            args.schedules = if args.seed.is_some() { 1 } else { 1_000 };
        }
        Ok(args)
    }

    pub fn is_bare(&self) -> bool {
        self.bare
    }
}
