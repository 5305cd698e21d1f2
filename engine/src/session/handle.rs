//! One job, as an embedder holds it.

use super::Session;
use crate::control::{Request, Response, Selection};
use crate::error::{ChangeError, SessionClosed};
use crate::job::JobId;
use crate::view::{JobLog, JobView};

/// One job of an open session. It keeps the session open; [`Session::shutdown`] ends it all the same.
///
/// Cancellation, of every method: dropping the future takes back nothing and loses nothing. A change is one message to
/// the engine, sent when the future is polled for the first time: it is carried out whole or, if the future was never
/// polled, not at all.
#[derive(Clone, Debug)]
pub struct JobHandle {
    session: Session,
    id: JobId,
}

impl JobHandle {
    pub(super) fn new(session: Session, id: JobId) -> Self {
        Self { session, id }
    }

    /// Its number.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The job as it is now; `None` once it was removed or is past retention.
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: how it stands is known when the session is opened again.
    pub async fn view(&self) -> Result<Option<JobView>, SessionClosed> {
        Ok(self.session.select(self.only()).await?.pop())
    }

    /// Its journaled history; `None` once it was removed or is past retention.
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: it can be had when the session is opened again.
    pub async fn log(&self) -> Result<Option<JobLog>, SessionClosed> {
        match self.session.call(Request::Log { id: self.id }).await {
            Response::Log { log } => Ok(Some(*log)),
            Response::Refused { kind, .. } if kind == "unknown-job" => Ok(None),
            other => Err(SessionClosed::from(other)),
        }
    }

    /// Suspends it; durable, and its bytes stopped, when this resolves. Other jobs go on.
    ///
    /// Cancellation: once polled, it is suspended all the same.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: it stays as it was.
    pub async fn suspend(&self) -> Result<JobView, ChangeError> {
        self.change(Request::Suspend { jobs: self.only() }).await
    }

    /// Takes it up again; durable when this resolves.
    ///
    /// Cancellation: once polled, it is taken up all the same.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: it stays as it was.
    pub async fn resume(&self) -> Result<JobView, ChangeError> {
        self.change(Request::Resume { jobs: self.only() }).await
    }

    /// Cancels it; durable when this resolves. It is `failed` when everything it held is freed: wait for
    /// that with [`JobHandle::wait`].
    ///
    /// Cancellation: once polled, it is cancelled all the same.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: it stays as it was.
    pub async fn cancel(&self) -> Result<JobView, ChangeError> {
        self.change(Request::Cancel { jobs: self.only() }).await
    }

    /// Tries a failed job again, as a new job that names this one as its predecessor; durable when this resolves.
    ///
    /// ```no_run
    /// # async fn example(session: longhaul::Session) -> Result<(), Box<dyn std::error::Error>> {
    /// use longhaul::JobState;
    ///
    /// let job = session.upload("/data/movie.mp4", "https://example.org/files/").await?;
    /// let mut ended = job.wait().await?;
    /// if ended.state == JobState::Failed {
    ///     ended = job.retry().await?.wait().await?;
    /// }
    /// println!("{}", ended.state);
    /// # Ok(()) }
    /// ```
    ///
    /// Cancellation: dropping the future leaves open whether there is a new job. A job has one successor at most, so
    /// asking again is safe: then it is refused, and [`JobView::predecessor`] tells which one it is.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: there is no new job.
    pub async fn retry(&self) -> Result<Self, ChangeError> {
        let again = self.change(Request::Retry { jobs: self.only() }).await?;
        Ok(Self::new(self.session.clone(), again.id))
    }

    /// Takes an ended job off the list, for good; gives it as it was last, once that is durable. From then on its key
    /// is free.
    ///
    /// Cancellation: once polled, it is removed all the same.
    ///
    /// # Errors
    ///
    /// [`ChangeError`]: it stays as it was.
    pub async fn remove(&self) -> Result<JobView, ChangeError> {
        self.change(Request::Remove { jobs: self.only() }).await
    }

    fn only(&self) -> Selection {
        Selection::ids([self.id])
    }

    async fn change(&self, request: Request) -> Result<JobView, ChangeError> {
        let left = |why| ChangeError::Left { id: self.id, why };
        let mut done = self.session.change(request).await?;
        match (done.jobs.pop(), done.skipped.pop()) {
            (Some(job), _) => Ok(job),
            (None, Some(skipped)) => Err(left(skipped.why)),
            (None, None) => Err(left("it is past".to_owned())),
        }
    }

    /// Waits until the job is completed or failed. A job that is suspended has not ended: where that must not be
    /// waited for, listen to [`Session::events_after`] instead.
    ///
    /// Cancellation: dropping the future loses nothing; the job goes on, and can be waited for again.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Closed`]: the session ended first; the job goes on when it is opened again.
    /// [`ChangeError::Left`]: it was removed, or is past retention.
    pub async fn wait(&self) -> Result<JobView, ChangeError> {
        let mut events = self.session.events();
        loop {
            // Subscribed before the look, so that no end can fall between.
            let Some(job) = self.view().await? else {
                return Err(ChangeError::Left { id: self.id, why: "it is past".to_owned() });
            };
            if job.state.is_terminal() {
                return Ok(job);
            }
            loop {
                match events.next().await {
                    Some(Response::Event { event }) if event.job.id != self.id => {}
                    // Believed as it is: by the next look it may have been removed.
                    Some(Response::Event { event }) if event.job.state.is_terminal() => return Ok(event.job),
                    Some(_) => break,
                    None => {
                        return Err(ChangeError::Closed(self.session.inner.engine.why_closed().await));
                    }
                }
            }
        }
    }
}
