//! What happens, for those who listen: numbered, and the last of it kept for those who come back.
//!
//! An event's number is that of its record in the journal, so that numbers rise over restarts too; not every
//! number has an event. Invariant: every event above [`Feed::floor`] is kept.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::control::Selection;
use crate::job::Job;
use crate::view::{Event, JobView};

/// Events that are kept, and that a slow listener may lag behind.
pub const EVENTS_MAX: usize = 4096;

/// The last events, and a way to hear the next.
#[derive(Debug)]
pub struct Feed {
    kept: VecDeque<Arc<Event>>,
    floor: u64,
    last: u64,
    listeners: broadcast::Sender<Arc<Event>>,
}

/// What a listener begins with.
#[derive(Debug)]
pub struct Backlog {
    /// Events since the number that was named.
    pub events: VecDeque<Arc<Event>>,
    /// Some since then are no longer known.
    pub missed: bool,
    /// The number of the last event before the ones to come.
    pub last: u64,
    /// The ones to come.
    pub next: broadcast::Receiver<Arc<Event>>,
}

impl Feed {
    /// Nothing has been heard of what lies above this number.
    pub fn new(floor: u64) -> Self {
        Self { kept: VecDeque::new(), floor, last: floor, listeners: broadcast::channel(EVENTS_MAX).0 }
    }

    /// Something happened to a job.
    pub fn tell(&mut self, number: u64, what: String, job: &Job) {
        self.tell_view(number, what, JobView::new(job, 0));
    }

    /// The same, with the job as it is seen right now.
    pub fn tell_view(&mut self, number: u64, what: String, job: JobView) {
        let event = Arc::new(Event { number, what, job });
        if self.kept.len() == EVENTS_MAX
            && let Some(oldest) = self.kept.pop_front()
        {
            self.floor = oldest.number;
        }
        self.kept.push_back(Arc::clone(&event));
        self.last = number;
        // No listener is no error.
        let _nobody = self.listeners.send(event);
    }

    /// Something happened that is not kept.
    pub fn forget(&mut self, number: u64) {
        (self.floor, self.last) = (number, number);
    }

    /// Listens: to what has happened after that event, if it is named, and to what will.
    pub fn listen(&self, after: Option<u64>, jobs: &Selection) -> Backlog {
        let since = after.unwrap_or(self.last);
        let events = self.kept.iter().filter(|event| event.number > since && fits(jobs, event));
        Backlog {
            events: events.cloned().collect(),
            missed: since < self.floor || since > self.last,
            last: self.last,
            next: self.listeners.subscribe(),
        }
    }

    /// Listens to what will happen, without a look at what has.
    pub fn listeners(&self) -> broadcast::Sender<Arc<Event>> {
        self.listeners.clone()
    }
}

/// Whether an event is one of those jobs'.
pub fn fits(jobs: &Selection, event: &Event) -> bool {
    jobs.fits(&event.job)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::job::record::{Jobs, Record};
    use crate::job::{JobId, JobSpec, Token};
    use crate::ports::WallMs;
    use crate::protocol::ProtocolId;

    fn job(id: u64, group: Option<&str>) -> Job {
        let spec = JobSpec::new(ProtocolId::Get, "http://h/".to_owned(), PathBuf::from("/d"), Token([0; 16]));
        let spec = JobSpec { group: group.map(ToOwned::to_owned), ..spec };
        let mut jobs = Jobs::default();
        let born = Record::Submitted { id: JobId(id), at: WallMs(1), spec: Box::new(spec) };
        jobs.apply(born).expect("new");
        jobs.map.remove(&JobId(id)).expect("born")
    }

    fn numbers(backlog: &Backlog) -> Vec<u64> {
        backlog.events.iter().map(|event| event.number).collect()
    }

    #[test]
    fn who_comes_back_hears_what_was_said_since() {
        let mut feed = Feed::new(10);
        for number in 11..=15 {
            feed.tell(number, String::new(), &job(number, (number == 13).then_some("g")));
        }
        let since = feed.listen(Some(12), &Selection::all());
        assert_eq!((numbers(&since), since.missed), (vec![13, 14, 15], false));
        assert_eq!(numbers(&feed.listen(Some(10), &Selection::group("g"))), [13]);
        assert_eq!(numbers(&feed.listen(None, &Selection::all())), [0; 0]);
        assert_eq!(feed.listen(None, &Selection::all()).last, 15);
    }

    #[test]
    fn who_was_away_too_long_is_told_so() {
        let mut feed = Feed::new(10);
        assert!(feed.listen(Some(9), &Selection::all()).missed, "from before this journal's memory");
        assert!(feed.listen(Some(11), &Selection::all()).missed, "from a future that was never durable");
        assert!(!feed.listen(Some(10), &Selection::all()).missed);
        for number in 11..=(EVENTS_MAX as u64 + 12) {
            feed.tell(number, String::new(), &job(number, None));
        }
        assert!(feed.listen(Some(11), &Selection::all()).missed);
        assert!(!feed.listen(Some(12), &Selection::all()).missed);
        feed.forget(9000);
        assert!(feed.listen(Some(8999), &Selection::all()).missed);
    }
}
