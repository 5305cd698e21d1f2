//! What happens, as an embedder hears it: numbered, and taken up again where it was left.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::{broadcast, watch};

use crate::control::{Response, Selection};
use crate::run::Closed;
use crate::run::feed::{self, Backlog};
use crate::view::Event;

/// Events of a session, from [`Session::events`](crate::Session::events) or
/// [`Session::events_after`](crate::Session::events_after).
#[derive(Debug)]
pub struct EventStream {
    backlog: VecDeque<Arc<Event>>,
    missed: bool,
    /// Events up to this number have been told, or are in the backlog.
    heard: u64,
    jobs: Selection,
    next: broadcast::Receiver<Arc<Event>>,
    closed: watch::Receiver<Option<Closed>>,
}

impl EventStream {
    /// All events from here on.
    pub(super) fn live(
        next: broadcast::Receiver<Arc<Event>>,
        jobs: Selection,
        closed: watch::Receiver<Option<Closed>>,
    ) -> Self {
        Self { backlog: VecDeque::new(), missed: false, heard: 0, jobs, next, closed }
    }

    /// The events of a backlog, and those that follow it.
    pub(super) fn resumed(
        backlog: Backlog,
        jobs: Selection,
        closed: watch::Receiver<Option<Closed>>,
    ) -> Self {
        let Backlog { events, missed, last, next } = backlog;
        Self { backlog: events, missed, heard: last, jobs, next, closed }
    }

    /// The number up to which everything has been told or is in the backlog.
    pub(super) fn heard(&self) -> u64 {
        self.heard
    }

    /// The next [`Response::Event`], or [`Response::Missed`] after falling too far behind; `None` when
    /// the session is over.
    ///
    /// Cancellation: dropping the future loses no event; the next call gives what this one would have given.
    pub async fn next(&mut self) -> Option<Response> {
        if std::mem::take(&mut self.missed) {
            return Some(Response::Missed { events: 0 });
        }
        if let Some(event) = self.backlog.pop_front() {
            return Some(told(&event));
        }
        loop {
            tokio::select! {
                biased;
                event = self.next.recv() => match event {
                    Ok(event) if event.number > self.heard && feed::fits(&self.jobs, &event) => {
                        return Some(told(&event));
                    }
                    Ok(_) => {}
                    Err(broadcast::error::RecvError::Lagged(events)) => {
                        return Some(Response::Missed { events });
                    }
                    Err(broadcast::error::RecvError::Closed) => return None,
                },
                _ = self.closed.wait_for(Option::is_some) => return None,
            }
        }
    }
}

fn told(event: &Event) -> Response {
    Response::Event { event: Box::new(event.clone()) }
}
