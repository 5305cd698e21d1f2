//! The command line as clap reads it. What each command does is in `command/`.

use clap::{ArgAction, Args, Parser, Subcommand};

use longhaul::JobId;

use crate::{command, config};

/// The session when none is named.
pub const SESSION_DEFAULT: &str = "default";

/// The foot of `haul --help`.
const NOTES: &str = "\
Sessions:
  A session is a directory with a journal. A plain NAME is kept in
  $XDG_STATE_HOME/longhaul/NAME, or ~/.local/state/longhaul/NAME; anything with a slash in it is a
  path. One process owns a session at a time (haul daemon, or the first put, get or resume); all
  others talk to it. A killed owner's jobs go on by themselves under the next one.

Exit codes:
   0  done                                  73  another process owns the session
   1  a job failed                          74  the journal could not be read or written
   2  the command line makes no sense       78  the journal is damaged or of a newer version
   3  the outcome of a job is unknown      130  interrupted twice
   4  a job is suspended                   143  terminated; jobs go on under the next owner

  Of several, the one that puts most in doubt: 74, 78, 3, 1, 4, 0. A closed output ends with 141.";

/// File transfers over HTTP that survive crashes, power cuts and bad lines.
#[derive(Debug, Parser)]
#[command(name = "haul", version, after_help = NOTES, propagate_version = true)]
#[command(infer_subcommands = false, disable_help_subcommand = true)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// The session: a name, or a path with a slash in it
    #[arg(long, global = true, env = "HAUL_SESSION", value_name = "NAME|PATH", default_value = SESSION_DEFAULT)]
    pub session: String,
    /// Print JSON: one value, or one a line where jobs are waited for
    #[arg(long, global = true)]
    pub json: bool,
    /// Print results and errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Trace to standard error; twice for more, three times for all
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    #[command(flatten)]
    pub config: config::Choice,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Upload files and wait until each is proven complete
    #[command(after_help = command::put::EXAMPLES)]
    Put(command::put::Put),
    /// Download files and wait until each is proven complete
    #[command(after_help = command::get::EXAMPLES)]
    Get(command::get::Get),
    /// List the session's jobs, newest last
    Ls,
    /// Show all about one job
    Show(command::show::Show),
    /// Print one job's journaled history; times are UTC
    Log(command::log::Log),
    /// Suspend jobs; they stay so until resumed
    Pause(Selection),
    /// Take up jobs again and wait for them
    Resume(Selection),
    /// Cancel jobs and free what they hold, here and at the server
    Cancel(Selection),
    /// Show the configuration in effect, and where it comes from
    Config(command::config::Show),
    /// Own the session and run its jobs until SIGTERM or SIGINT
    Daemon(command::daemon::Daemon),
    /// Examine the session and say what is wrong with it
    Doctor,
    /// Receive uploads into a directory and offer its files (tus 1.0, ranged GET)
    #[command(after_help = command::serve::EXAMPLES)]
    Serve(command::serve::Serve),
    /// Move a real file both ways while killing the processes, and check what arrives
    Demo(command::demo::Demo),
}

/// Which jobs.
#[derive(Debug, Args)]
pub struct Selection {
    /// Job numbers, as `haul ls` shows them
    #[arg(value_name = "ID", required_unless_present = "all")]
    pub ids: Vec<JobId>,
    /// Every job it applies to
    #[arg(long, conflicts_with = "ids")]
    pub all: bool,
}

impl Selection {
    /// As requests say it.
    pub fn wanted(&self) -> longhaul::control::Selection {
        longhaul::control::Selection { ids: (!self.all).then(|| self.ids.clone()), ..Default::default() }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn global_options_may_follow_the_command() {
        let words = ["haul", "put", "a", "b", "http://host/files/", "--json", "--no-config"];
        let cli = Cli::try_parse_from(words).expect("valid");
        let Command::Put(put) = cli.command else { panic!("not put") };
        assert_eq!(put.words.len(), 3);
        assert!(cli.global.json && cli.global.config.no_config);
    }

    #[test]
    fn jobs_are_named_or_all_but_not_both() {
        assert!(Cli::try_parse_from(["haul", "pause"]).is_err());
        assert!(Cli::try_parse_from(["haul", "pause", "3", "--all"]).is_err());
        assert!(Cli::try_parse_from(["haul", "pause", "x"]).is_err());
        let cli = Cli::try_parse_from(["haul", "cancel", "3", "4"]).expect("valid");
        let Command::Cancel(selection) = cli.command else { panic!("not cancel") };
        assert_eq!(selection.wanted().ids, Some(vec![JobId(3), JobId(4)]));
    }
}
