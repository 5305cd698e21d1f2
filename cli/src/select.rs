//! Which jobs a command is about: numbers and ranges, groups, states, times.

use std::collections::BTreeSet;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use longhaul::control::{self, Selection};
use longhaul::{JobId, JobState, WallMs};

use crate::exit::Failure;
use crate::text::{escape, parse_since};

/// Numbers that one command may name: a request has to fit into [`control::REQUEST_MAX`] bytes.
const IDS_MAX: usize = 40_000;
const _: () = assert!(IDS_MAX * (u64::MAX.ilog10() as usize + 2) < control::REQUEST_MAX);

/// Numbers as they are written: `3`, `3-17`, `3,5,8-10`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ids(Vec<JobId>);

impl FromStr for Ids {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("{} names no jobs; write 3, 3-17 or 3,5,8", escape(text));
        let number = |text: &str| -> Result<u64, String> {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse().ok().filter(|_| plain).ok_or_else(form)
        };
        let mut ids = Vec::new();
        for part in text.split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if last < first {
                return Err(form());
            }
            if last - first >= IDS_MAX as u64 || ids.len() >= IDS_MAX {
                return Err(too_many());
            }
            ids.extend((first..=last).map(JobId));
        }
        Ok(Self(ids))
    }
}

fn too_many() -> String {
    format!("one command names {IDS_MAX} jobs at most; take --group, --state or --all instead")
}

/// A state, or several at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateName {
    Queued,
    Staged,
    Sending,
    Suspended,
    Completed,
    Failed,
    /// Queued, staged, sending or suspended
    Unfinished,
    /// Completed or failed
    Ended,
}

/// The states of jobs that have not ended.
pub const UNFINISHED: [JobState; 4] =
    [JobState::Queued, JobState::Staged, JobState::Sending, JobState::Suspended];
/// The states of jobs that have.
pub const ENDED: [JobState; 2] = [JobState::Completed, JobState::Failed];

impl StateName {
    fn states(self) -> &'static [JobState] {
        match self {
            Self::Queued => &[JobState::Queued],
            Self::Staged => &[JobState::Staged],
            Self::Sending => &[JobState::Sending],
            Self::Suspended => &[JobState::Suspended],
            Self::Completed => &[JobState::Completed],
            Self::Failed => &[JobState::Failed],
            Self::Unfinished => &UNFINISHED,
            Self::Ended => &ENDED,
        }
    }
}

/// The states that names stand for, each once.
pub fn states(names: &[StateName]) -> Vec<JobState> {
    let mut states = Vec::new();
    for &state in names.iter().flat_map(|name| name.states()) {
        if !states.contains(&state) {
            states.push(state);
        }
    }
    states
}

/// The numbers of several arguments: each once, in rising order.
pub fn ids(args: &[Ids]) -> Result<Option<Vec<JobId>>, Failure> {
    let ids: BTreeSet<JobId> = args.iter().flat_map(|ids| ids.0.iter().copied()).collect();
    if ids.len() > IDS_MAX {
        return Err(Failure::usage(too_many()));
    }
    Ok((!args.is_empty()).then(|| ids.into_iter().collect()))
}

/// Jobs to change: by number, by group, or all to which it applies.
#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = true)]
pub struct Which {
    /// Job numbers, as `haul ls` shows them; also 3-17 and 3,5,8
    #[arg(value_name = "ID")]
    pub ids: Vec<Ids>,
    /// The jobs of this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Every job it applies to
    #[arg(long, conflicts_with_all = ["ids", "group"])]
    pub all: bool,
}

impl Which {
    /// As requests say it.
    pub fn selection(&self) -> Result<Selection, Failure> {
        Ok(Selection { ids: ids(&self.ids)?, group: self.group.clone(), ..Selection::all() })
    }
}

/// The same, also by state.
#[derive(Debug, Args)]
#[group(id = "which-by-state", required = true, multiple = true)]
pub struct WhichByState {
    /// Job numbers, as `haul ls` shows them; also 3-17 and 3,5,8
    #[arg(value_name = "ID")]
    pub ids: Vec<Ids>,
    /// The jobs of this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only those in these states
    #[arg(long, value_name = "STATE", value_enum, value_delimiter = ',')]
    pub state: Vec<StateName>,
    /// Every job it applies to
    #[arg(long, conflicts_with_all = ["ids", "group", "state"])]
    pub all: bool,
}

impl WhichByState {
    /// As requests say it. The states must be among those that the command is for.
    pub fn selection(&self, fitting: &[JobState]) -> Result<Selection, Failure> {
        let states = states(&self.state);
        if let Some(state) = states.iter().find(|state| !fitting.contains(state)) {
            let fitting: Vec<_> = fitting.iter().map(|state| state.name()).collect();
            let text = format!("--state {state} does not fit here; it may be {}", fitting.join(", "));
            return Err(Failure::usage(text));
        }
        Ok(Selection { ids: ids(&self.ids)?, group: self.group.clone(), ..Selection::all() }
            .in_states(states))
    }
}

/// Jobs to look at: all, unless something narrows them.
#[derive(Debug, Default, Args)]
pub struct Filter {
    /// Only these jobs; also 3-17 and 3,5,8
    #[arg(value_name = "ID")]
    pub ids: Vec<Ids>,
    /// Only jobs of this group
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Only jobs in these states
    #[arg(long, value_name = "STATE", value_enum, value_delimiter = ',')]
    pub state: Vec<StateName>,
    /// Only jobs that have moved since: 10m, 2h, 3d, or 2026-11-22T14:00:00Z (UTC where no zone is named)
    #[arg(long, value_name = "WHEN", value_parser = parse_since)]
    pub since: Option<WallMs>,
}

impl Filter {
    /// As requests say it.
    pub fn selection(&self) -> Result<Selection, Failure> {
        let (group, since) = (self.group.clone(), self.since);
        Ok(Selection { ids: ids(&self.ids)?, group, states: states(&self.state), since })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Vec<u64>> {
        text.parse::<Ids>().ok().map(|ids| ids.0.iter().map(|id| id.0).collect())
    }

    #[test]
    fn numbers_ranges_and_lists() {
        assert_eq!(read("3"), Some(vec![3]));
        assert_eq!(read("3-6"), Some(vec![3, 4, 5, 6]));
        assert_eq!(read("3,5,8-9"), Some(vec![3, 5, 8, 9]));
        assert_eq!(read("7-7"), Some(vec![7]));
        assert_eq!(read("18446744073709551614-18446744073709551615").map(|ids| ids.len()), Some(2));
        for wrong in
            ["", "x", "3-", "-3", "6-3", "3,,4", "+3", "3-4-5", "1-40001", "18446744073709551616", "0x3"]
        {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn several_arguments_make_one_set() {
        let args: Vec<Ids> = ["5", "3-4", "4,1"].iter().map(|text| text.parse().expect("ids")).collect();
        let got = ids(&args).expect("fits").expect("some");
        assert_eq!(got, [1, 3, 4, 5].map(JobId));
        assert_eq!(ids(&[]).expect("fits"), None);
        let many: Vec<Ids> =
            ["1-30000", "30001-60000"].iter().map(|text| text.parse().expect("ids")).collect();
        assert!(ids(&many).is_err(), "more than a request holds");
    }

    #[test]
    fn state_names_add_up() {
        use StateName::{Ended, Failed, Queued, Unfinished};
        assert_eq!(states(&[Failed, Ended]), [JobState::Failed, JobState::Completed]);
        assert_eq!(states(&[Unfinished, Queued]).len(), 4);
        assert!(states(&[]).is_empty());
    }
}
