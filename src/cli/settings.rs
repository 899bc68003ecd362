//! Every knob as a flag; `config show` and `config check`.

use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Subcommand};

use super::print::Out;
use super::{Ask, Usage};
use crate::config::{Config, ConfigRow, KNOBS, Knob, Origin, Problem, Sources, env_name};

/// Where settings come from.
#[derive(Debug, Clone, Args)]
pub(super) struct Settings {
    /// A file with settings (TOML). Variables override it, and flags override those.
    #[arg(long, value_name = "FILE", env = "TIDINGS_CONFIG", hide_env_values = true)]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

impl Settings {
    /// Those of a file and the variables, without flags.
    pub(super) fn of_file(config: Option<PathBuf>) -> Self {
        Self { config, flags: Flags(Vec::new()) }
    }

    /// The settings to use; warnings go to standard error.
    pub(super) fn load(self) -> anyhow::Result<Config> {
        let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
        let env = std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect();
        let sources = Sources { file: self.config, env, flags: self.flags.0 };
        let loaded = Config::load(&sources).map_err(|problems| {
            let by_flag =
                |problem: &Problem| matches!(problem, Problem::Value { origin: Origin::Flag(_), .. });
            let usage = problems.0.iter().all(by_flag);
            if usage { anyhow::Error::new(Usage(problems.to_string())) } else { problems.into() }
        });
        let (config, warnings) = loaded?;
        warnings.iter().for_each(|warning| eprintln!("tidings: {warning}"));
        Ok(config)
    }
}

/// The knobs given as flags.
#[derive(Debug, Clone)]
struct Flags(Vec<(&'static str, Vec<String>)>);

struct FlagText {
    knob: &'static Knob,
    long: String,
    help: String,
}

static FLAGS: LazyLock<Vec<FlagText>> = LazyLock::new(|| {
    let text = |knob: &'static Knob| {
        let help = knob.help.split_whitespace().collect::<Vec<_>>().join(" ");
        let default =
            if knob.default.is_empty() { String::new() } else { format!(" [default: {}]", knob.default) };
        FlagText {
            knob,
            long: knob.name.replace('_', "-"),
            help: format!("{help}{default} [env: {}]", env_name(knob)),
        }
    };
    KNOBS.iter().map(text).collect()
});

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        FLAGS.iter().fold(command, |command, flag| {
            let action = if flag.knob.list { ArgAction::Append } else { ArgAction::Set };
            let arg = Arg::new(flag.knob.name).long(flag.long.as_str()).value_name(flag.knob.placeholder);
            command.arg(arg.help(flag.help.as_str()).action(action))
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let given = |knob: &Knob| matches.get_many::<String>(knob.name).map(|texts| texts.cloned().collect());
        Ok(Self(KNOBS.iter().filter_map(|knob| Some((knob.name, given(knob)?))).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum ConfigCommand {
    /// The settings of the running node, and where each came from.
    Show(Ask),
    /// Checks settings, and shows what `run` with the same flags would use and where each value came from.
    Check {
        #[command(flatten)]
        settings: Settings,
        /// JSON instead of a table.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn config(command: ConfigCommand) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Show(ask) => print(ask.out(), &ask.client().config().await?),
        ConfigCommand::Check { settings, json } => print(Out::new(json), &settings.load()?.rows()),
    }
}

fn print(mut out: Out, rows: &[ConfigRow]) -> anyhow::Result<()> {
    let cells = |row: &ConfigRow| [row.key.clone(), row.value.clone(), row.origin.clone()];
    Ok(out.rows(rows, ["key", "value", "from"], cells)?)
}
