//! What a waiting command shows: a bar on a terminal, plain lines elsewhere, results on standard output.
//!
//! ```text
//!                    terminal             no terminal                 --json            -q
//! state changes      where they matter    a line each                 a value a line    (json only)
//! bytes moving       one bar              a line every 10 s at most   none              none
//! endings            standard output, once for each job; with --json the job's last value
//!                    of a crowd: of those that did not end well, and one line for all
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use longhaul::{JobId, JobState, JobView};

use crate::config::{self, Progress};
use crate::exit::Failure;
use crate::meter::Meter;
use crate::output::{self, Context};
use crate::report;
use crate::text::{self, escape};
use crate::wait::tally::Tally;

/// Between two progress lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// The display of one command.
pub struct Screen<'a> {
    context: &'a Context,
    bar: Option<ProgressBar>,
    meter: Meter,
    started: Instant,
    line_at: Instant,
    told: BTreeSet<JobId>,
    /// Endings are all that is still to be shown.
    ending: bool,
    /// Progress is worth a line where there is no bar.
    lines: bool,
}

impl<'a> Screen<'a> {
    /// Shows nothing yet.
    pub fn new(context: &'a Context) -> Self {
        let progress = config::get().output.progress.unwrap_or_default();
        let plain =
            progress != Progress::Auto || context.quiet || context.verbose || !io::stderr().is_terminal();
        let bar = (!plain)
            .then(|| ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()).with_style(spinner()));
        let now = Instant::now();
        Self {
            context,
            bar,
            meter: Meter::default(),
            started: now,
            line_at: now,
            told: BTreeSet::new(),
            ending: false,
            lines: progress != Progress::None,
        }
    }

    /// The global options.
    pub fn context(&self) -> &'a Context {
        self.context
    }

    /// Whether there is a bar to keep moving.
    pub fn is_live(&self) -> bool {
        self.bar.is_some()
    }

    /// Tells something by the way.
    pub fn note(&self, text: impl fmt::Display) {
        self.above(|| self.context.note(text));
    }

    /// Tells something that must not go unheard.
    pub fn warn(&self, text: impl fmt::Display) {
        self.above(|| output::complain(text));
    }

    /// Shows a job in a state in which it was not shown before.
    pub fn changed(&mut self, view: &JobView) -> Result<(), Failure> {
        if self.context.json {
            return self.above(|| output::print_json(view));
        }
        if view.state.is_terminal() {
            return self.result(view);
        }
        let matters = view.state == JobState::Suspended;
        if !self.ending && (matters || self.bar.is_none()) {
            self.note(change_line(view));
        }
        Ok(())
    }

    /// Shows how a job ended for this command: once.
    pub fn result(&mut self, view: &JobView) -> Result<(), Failure> {
        if self.context.json || !self.told.insert(view.id) {
            return Ok(());
        }
        self.above(|| output::print(&format!("{}\n", report::result_line(view))))?;
        if let Some(remedy) = report::remedy(view, self.context) {
            self.above(|| output::complain(format_args!("job {}: {remedy}", view.id)));
        }
        Ok(())
    }

    /// Takes a look at all jobs of the command; cheap enough for every tick.
    pub fn look(&mut self, jobs: &BTreeMap<JobId, JobView>) {
        let all = Totals::of(jobs);
        self.meter.sample(self.started.elapsed(), all.done);
        let text = all.line(&self.meter);
        if let Some(bar) = &self.bar {
            match all.size {
                Some(size) => {
                    bar.set_style(gauge());
                    bar.set_length(size);
                    bar.set_position(all.done);
                }
                None => bar.set_style(spinner()),
            }
            bar.set_message(text);
            bar.tick();
        } else {
            self.line(&text);
        }
    }

    /// Takes a look at a crowd.
    pub fn look_at_crowd(&mut self, crowd: &Tally) {
        self.meter.sample(self.started.elapsed(), crowd.done());
        let text = crowd.line(&self.meter, self.started.elapsed());
        if let Some(bar) = &self.bar {
            bar.set_message(text);
            bar.tick();
        } else {
            self.line(&text);
        }
    }

    /// A line of progress, not too often.
    fn line(&mut self, text: &str) {
        if self.lines && self.line_at.elapsed() >= LINE_EVERY && !self.context.json {
            self.line_at = Instant::now();
            self.context.note(text);
        }
    }

    /// How a crowd ended.
    pub fn crowd_result(&self, crowd: &Tally) -> Result<(), Failure> {
        if self.context.json {
            return Ok(());
        }
        self.above(|| output::print(&format!("{}\n", crowd.result())))
    }

    /// Takes the bar away; from here on only endings are shown.
    pub fn end(&mut self) {
        self.ending = true;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Writes above the bar, or just writes.
    fn above<T>(&self, write: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// `3  sending  movie.mp4 → http://…`, with what there is to say about it.
fn change_line(view: &JobView) -> String {
    let mut line = format!("{}  {}  {}", view.id, view.state, report::route(view));
    if let Some(cause) = report::cause(view) {
        line = format!("{line}  ({cause})");
    }
    if view.state == JobState::Suspended && report::clears_itself(view) {
        line.push_str("; goes on by itself when that clears");
    }
    line
}

/// All jobs of a command taken together.
#[derive(Debug, PartialEq, Eq)]
struct Totals {
    jobs: usize,
    ended: usize,
    done: u64,
    /// Known only when every job's size is.
    size: Option<u64>,
    /// The name of the only job left, or of the first that moves.
    name: String,
    trouble: Option<String>,
}

impl Totals {
    fn of(jobs: &BTreeMap<JobId, JobView>) -> Self {
        let views = || jobs.values();
        let current = views().find(|view| view.state == JobState::Sending);
        let current = current.or_else(|| views().find(|view| !view.state.is_terminal()));
        Self {
            jobs: jobs.len(),
            ended: views().filter(|view| view.state.is_terminal()).count(),
            done: views().map(|view| view.done).fold(0, u64::saturating_add),
            size: views().try_fold(0u64, |sum, view| view.size.map(|size| sum.saturating_add(size))),
            name: current.map(report::route).unwrap_or_default(),
            trouble: current.and_then(|view| view.trouble.clone()),
        }
    }

    fn line(&self, meter: &Meter) -> String {
        let mut parts = Vec::new();
        parts.push(match self.size {
            Some(size) => {
                format!(
                    "{} of {}, {} %",
                    text::bytes(self.done),
                    text::bytes(size),
                    text::percent(self.done, size)
                )
            }
            None => text::bytes(self.done),
        });
        if let Some(rate) = meter.rate() {
            parts.push(format!("{}/s", text::bytes(rate)));
        }
        if let Some(eta) = self.size.and_then(|size| meter.eta(size.saturating_sub(self.done))) {
            parts.push(format!("{} left", text::span(eta)));
        }
        if self.jobs > 1 {
            parts.push(format!("{} of {} jobs ended", self.ended, self.jobs));
        }
        if !self.name.is_empty() {
            parts.push(self.name.clone());
        }
        if let Some(trouble) = &self.trouble {
            parts.push(format!("trying again after: {}", escape(trouble)));
        }
        parts.join(", ")
    }
}

fn gauge() -> ProgressStyle {
    styled("{bar:24} {wide_msg}")
}

fn spinner() -> ProgressStyle {
    styled("{spinner} {wide_msg}")
}

/// The templates are constants, so that the fallback is never seen.
fn styled(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::job;

    fn two() -> BTreeMap<JobId, JobView> {
        let mut moving = job(JobState::Sending, None);
        (moving.size, moving.done) = (Some(4096), 1024);
        let mut ended = job(JobState::Completed, None);
        (ended.id, ended.size, ended.done) = (JobId(4), Some(4096), 4096);
        BTreeMap::from([(moving.id, moving), (ended.id, ended)])
    }

    #[test]
    fn totals_add_up() {
        let all = Totals::of(&two());
        assert_eq!((all.jobs, all.ended, all.done, all.size), (2, 1, 5120, Some(8192)));
        let mut meter = Meter::default();
        assert_eq!(
            all.line(&meter),
            "5.0 KiB of 8.0 KiB, 62 %, 1 of 2 jobs ended, movie.mp4 → http://host/files/"
        );
        meter.sample(Duration::ZERO, 3072);
        meter.sample(Duration::from_secs(2), 5120);
        assert!(all.line(&meter).starts_with("5.0 KiB of 8.0 KiB, 62 %, 1.0 KiB/s, 3 s left, 1 of 2"));
    }

    #[test]
    fn one_unknown_size_makes_the_total_unknown() {
        let mut jobs = two();
        jobs.get_mut(&JobId(3)).expect("there").size = None;
        let all = Totals::of(&jobs);
        assert_eq!(all.size, None);
        assert!(all.line(&Meter::default()).starts_with("5.0 KiB, 1 of 2 jobs ended"));
    }

    #[test]
    fn waiting_for_space_is_said_to_end_by_itself() {
        let waiting = job(JobState::Suspended, Some(("no-space", "no space left: /")));
        let line = "3  suspended  movie.mp4 → http://host/files/  (no-space: no space left: /); \
                    goes on by itself when that clears";
        assert_eq!(change_line(&waiting), line);
    }
}
