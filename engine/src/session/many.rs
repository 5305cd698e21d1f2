//! Changes of many jobs at once, as an embedder asks for them.

use super::Session;
use crate::control::{Counts, Request, Response, Selection, Skipped};
use crate::error::SessionClosed;
use crate::view::JobView;

/// What a change of many jobs did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "it tells which jobs were left as they were"]
pub struct Changes {
    /// How many jobs it changed.
    pub changed: u64,
    /// The first [`PAGE_MAX`](crate::control::PAGE_MAX) of them, as they are now; after [`Session::retry`] the new
    /// jobs, after [`Session::remove`] those that are gone.
    pub jobs: Vec<JobView>,
    /// The first [`PAGE_MAX`](crate::control::PAGE_MAX) jobs of those named by number that it left as they were, and
    /// why.
    pub skipped: Vec<Skipped>,
}

impl Session {
    /// How many of the selected jobs there are in each state.
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: nothing is known of the jobs until the session is opened again.
    pub async fn count(&self, jobs: Selection) -> Result<Counts, SessionClosed> {
        match self.call(Request::Count { jobs }).await {
            Response::Counts { counts } => Ok(counts),
            other => Err(SessionClosed::from(other)),
        }
    }

    /// Suspends the selected jobs, those of them that have not ended; durable, and their bytes stopped, when this
    /// resolves.
    ///
    /// ```no_run
    /// # async fn example(session: longhaul::Session) -> Result<(), longhaul::SessionClosed> {
    /// use longhaul::control::Selection;
    ///
    /// let done = session.suspend(Selection::group("movies")).await?;
    /// println!("{} jobs hold still", done.changed);
    /// let counts = session.count(Selection::group("movies")).await?;
    /// assert_eq!(counts.suspended, counts.unfinished());
    /// # Ok(()) }
    /// ```
    ///
    /// Cancellation: once polled, they are suspended all the same.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: how many of them were is known when the session is opened again.
    pub async fn suspend(&self, jobs: Selection) -> Result<Changes, SessionClosed> {
        self.change(Request::Suspend { jobs }).await
    }

    /// Takes the selected jobs up again, those of them that are suspended; durable when this resolves.
    ///
    /// Cancellation: once polled, they are taken up all the same.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: how many of them were is known when the session is opened again.
    pub async fn resume(&self, jobs: Selection) -> Result<Changes, SessionClosed> {
        self.change(Request::Resume { jobs }).await
    }

    /// Cancels the selected jobs, those of them that have not ended; durable when this resolves. Each is `failed` when
    /// everything it held is freed.
    ///
    /// Cancellation: once polled, they are cancelled all the same.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: how many of them were is known when the session is opened again.
    pub async fn cancel(&self, jobs: Selection) -> Result<Changes, SessionClosed> {
        self.change(Request::Cancel { jobs }).await
    }

    /// Tries the selected jobs again, those of them that have failed, each as a new job that names its predecessor;
    /// durable when this resolves.
    ///
    /// Cancellation: dropping the future leaves open how many of them were. Asking again is safe: a job is tried again
    /// once, and its successor if that fails too.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: how many of them were is known when the session is opened again.
    pub async fn retry(&self, jobs: Selection) -> Result<Changes, SessionClosed> {
        self.change(Request::Retry { jobs }).await
    }

    /// Takes the selected jobs off the list, those of them that have ended; durable when this resolves.
    ///
    /// Cancellation: once polled, they are removed all the same.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: how many of them were is known when the session is opened again.
    pub async fn remove(&self, jobs: Selection) -> Result<Changes, SessionClosed> {
        self.change(Request::Remove { jobs }).await
    }

    pub(super) async fn change(&self, request: Request) -> Result<Changes, SessionClosed> {
        match self.call(request).await {
            Response::Changed { changed, jobs, skipped } => Ok(Changes { changed, jobs, skipped }),
            other => Err(SessionClosed::from(other)),
        }
    }
}
