//! The command line as clap reads it. What each command does is in `command/`.

use clap::{ArgAction, Args, Parser, Subcommand};

use crate::select::WhichByState;
use crate::{command, config, style};

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
    /// Colours: auto is for terminals, unless `NO_COLOR` is set
    #[arg(long, global = true, value_enum, value_name = "WHEN", default_value_t)]
    pub color: style::When,
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
    #[command(after_help = command::ls::EXAMPLES)]
    Ls(command::ls::Ls),
    /// Look on while jobs move; Ctrl-C leaves, and the jobs go on
    #[command(after_help = command::watch::NOTES)]
    Watch(command::watch::Watch),
    /// Show all about one job
    Show(command::show::Show),
    /// Print one job's journaled history; times are UTC
    Log(command::log::Log),
    /// Suspend jobs; they stay so until resumed
    Pause(WhichByState),
    /// Take up jobs again and wait for them
    Resume(command::resume::Resume),
    /// Cancel jobs and free what they hold, here and at the server
    Cancel(WhichByState),
    /// Try failed jobs again, each as a new job, and wait for them
    Retry(command::retry::Retry),
    /// Take jobs that have ended off the list
    Rm(WhichByState),
    /// Show the configuration in effect, and where it comes from
    Config(command::config::Show),
    /// Own the session and run its jobs until SIGTERM or SIGINT
    Daemon(command::daemon::Daemon),
    /// Examine the session, repair it, carry its jobs elsewhere
    #[command(after_help = command::doctor::NOTES)]
    Doctor(command::doctor::Doctor),
    /// Receive uploads into a directory and offer its files (tus 1.0, ranged GET)
    #[command(after_help = command::serve::EXAMPLES)]
    Serve(command::serve::Serve),
    /// Move a real file both ways while killing the processes, and check what arrives
    Demo(command::demo::Demo),
    /// Print a shell's completions
    #[command(after_help = command::completions::EXAMPLES)]
    Completions(command::completions::Completions),
    /// Print the manual page, or write all of them into a directory
    Man(command::man::Man),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use longhaul::{JobId, JobState};

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
        let read = |words: &str| Cli::try_parse_from(std::iter::once("haul").chain(words.split(' ')));
        for command in ["pause", "resume", "cancel", "retry", "rm"] {
            for wrong in ["", " 3 --all", " x", " --all --group g", " 9-3", " --group"] {
                assert!(read(&format!("{command}{wrong}")).is_err(), "{command}{wrong}");
            }
            for right in [" 3 4", " 3-17,20", " --all", " --group g", " 3 --group g"] {
                assert!(read(&format!("{command}{right}")).is_ok(), "{command}{right}");
            }
        }
        assert!(read("rm --state failed").is_ok() && read("retry --state failed").is_err());
        let Command::Cancel(which) = read("cancel 3-4 --state queued,sending").expect("valid").command else {
            panic!("not cancel")
        };
        let selection = which.selection(&crate::select::UNFINISHED).expect("fits");
        assert_eq!(selection.ids, Some(vec![JobId(3), JobId(4)]));
        assert_eq!(selection.states, [JobState::Queued, JobState::Sending]);
        assert!(which.selection(&crate::select::ENDED).is_err());
    }

    #[test]
    fn the_doctor_has_options_or_a_task() {
        let read = |words: &str| Cli::try_parse_from(std::iter::once("haul").chain(words.split(' ')));
        for right in [
            "doctor",
            "doctor --repair --dry-run",
            "doctor export",
            "doctor import a.json",
            "--json doctor export -",
        ] {
            assert!(read(right).is_ok(), "{right}");
        }
        for wrong in ["doctor --dry-run", "doctor import", "doctor --repair export", "doctor a.json"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn lists_say_how_they_are_shown() {
        let read = |words: &str| Cli::try_parse_from(std::iter::once("haul").chain(words.split(' ')));
        for right in [
            "ls",
            "ls 3-9 --group g --state ended --since 2h --limit 0",
            "ls --columns id,state",
            "ls -l",
            "ls -1",
            "ls --json-lines",
        ] {
            assert!(read(right).is_ok(), "{right}");
        }
        for wrong in [
            "ls --columns nothing",
            "ls -l -1",
            "ls --since soon",
            "ls --limit -1",
            "ls --summary -1",
            "ls --columns id --long",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
