//! A session: open, lock, recover; the embedder's handle.
//!
//! Opening takes the directory's lock, replays the journal, checks it against the staging area, and
//! starts the loop (`run`) on the caller's tokio runtime; unfinished jobs go on at once. Whoever has
//! a session open serves its control socket. Several sessions fit into one process; each has a
//! directory of its own.

mod events;
mod handle;
mod many;
mod retry;
pub(crate) use retry::may_follow;
mod specify;
mod submission;

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longhaul_journal::{Journal, OpenReport, Opened};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

pub use events::EventStream;
pub use handle::JobHandle;
pub use many::Changes;
pub use submission::{SessionOptions, Submission, Transfer, UploadProtocol};

use crate::control::{self, Acceptance, Query, Request, Response, SUBMIT_MAX, Selection};
use crate::error::{OpenError, SessionClosed, SubmitError};
use crate::job::record::{Jobs, Replay};
use crate::job::step::Transition;
use crate::job::{Job, JobId};
use crate::os::home::{self, Home, Lock};
use crate::ports::Ports;
use crate::run::shelf::{self, Found, Survey};
use crate::run::staging::Kept;
use crate::run::{Ask, CHECKPOINT_BYTES, Change, Closed, Limits, Message, Order, Runner, Wiring, staging};
use crate::schedule::Slots;
use crate::view::{Event, JobView};

/// Failures in a row after which a job is suspended, where nothing else is asked for.
pub const ATTEMPTS_MAX_DEFAULT: u32 = 10;
/// Jobs that run at once, where nothing else is asked for.
const CONCURRENT_DEFAULT: usize = 8;
/// sled's page cache: rows are read in small stretches, and each commit is written once.
const CACHE_BYTES: u64 = 16 << 20;
/// The staging budget as a share of the file system's free space.
const STAGE_BUDGET_SHARE: u64 = 10;

/// Where a session lives: a path if `name_or_path` has a slash, else a name under the user's state
/// directory (`$XDG_STATE_HOME/longhaul`, `~/.local/state/longhaul`).
///
/// # Errors
///
/// [`OpenError::Name`]: neither a path nor a usable name.
pub fn session_dir(name_or_path: &str) -> Result<PathBuf, OpenError> {
    if name_or_path.contains('/') {
        return Ok(PathBuf::from(name_or_path));
    }
    let unusable = name_or_path.is_empty() || name_or_path.starts_with('.') || name_or_path.contains('\0');
    home::sessions()
        .filter(|_| !unusable)
        .map(|sessions| sessions.join(name_or_path))
        .ok_or_else(|| OpenError::Name(name_or_path.to_owned()))
}

/// An open session. Clones share it; when the last one is dropped, the engine stops and the jobs keep
/// the states they are in.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use longhaul::{Session, SessionOptions};
///
/// let session = Session::open(SessionOptions::new("/var/lib/app/transfers")).await?;
/// let job = session.upload("/data/movie.mp4", "https://example.org/files/").await?;
/// println!("accepted as job {}", job.id()); // from here on it survives a power cut
/// let ended = job.wait().await?;
/// println!("{}", ended.state);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Session {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    engine: Engine,
    control: Option<AbortHandle>,
    dir: PathBuf,
    report: OpenReport,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(control) = &self.control {
            control.abort();
        }
        self.engine.stop();
    }
}

/// The loop, seen from outside.
#[derive(Clone, Debug)]
pub(crate) struct Engine {
    inbox: mpsc::UnboundedSender<Message>,
    events: broadcast::Sender<Arc<Event>>,
    closed: watch::Receiver<Option<Closed>>,
    busy: watch::Receiver<bool>,
    ports: Ports,
    stage_dir: PathBuf,
}

impl Session {
    /// Opens the session in the options' directory, makes it if it is missing, and takes up every
    /// unfinished job.
    ///
    /// Runs on the caller's tokio runtime, which needs its I/O and time drivers enabled.
    ///
    /// Cancellation: no transfer is begun before this resolves. What has been begun of opening when the future is
    /// dropped ends by itself; until then the session is [`OpenError::Owned`], by this process.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was sent and nothing deleted.
    pub async fn open(options: SessionOptions) -> Result<Self, OpenError> {
        let (dir, stage_budget) = (options.dir.clone(), options.stage_budget);
        let opening = tokio::task::spawn_blocking(move || open_files(&dir, stage_budget));
        let (home, budget, opened, lock) =
            opening.await.map_err(|error| OpenError::Journal(error.to_string()))??;
        let ports = crate::os::ports(crate::os::NetOptions::default()).map_err(|error| OpenError::Io {
            doing: "set up TLS".to_owned(),
            source: io::Error::other(error),
        })?;
        let listener = home::bind_socket(&home.socket())
            .map_err(|source| OpenError::Io { doing: format!("bind {}", home.socket().display()), source })?;
        let report = opened.report.clone();
        let engine = Engine::start(
            Arc::new(Some(lock)),
            ports,
            opened,
            home.stage(),
            budget,
            &options,
            CHECKPOINT_BYTES,
        )
        .await?;
        let control = tokio::spawn(control::server::serve(listener, engine.clone())).abort_handle();
        Ok(Self { inner: Arc::new(Inner { engine, control: Some(control), dir: home.dir, report }) })
    }

    /// Opens a session over any ports and any journal: for simulations. No lock, no control socket; a
    /// checkpoint whenever the log has grown by `checkpoint_bytes`.
    ///
    /// # Errors
    ///
    /// As [`Session::open`].
    #[cfg(feature = "sim")]
    pub async fn open_with(
        ports: Ports,
        opened: Opened<Transition, Survey>,
        options: SessionOptions,
        checkpoint_bytes: u64,
    ) -> Result<Self, OpenError> {
        let budget = options.stage_budget.unwrap_or_default();
        let report = opened.report.clone();
        let dir = options.dir.clone();
        let stage_dir = dir.join("stage");
        let engine =
            Engine::start(Arc::default(), ports, opened, stage_dir, budget, &options, checkpoint_bytes)
                .await?;
        Ok(Self { inner: Arc::new(Inner { engine, control: None, dir, report }) })
    }

    /// The session's directory.
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// What opening the journal saw: removed leftovers, a rebuild.
    pub fn notes(&self) -> &[String] {
        &self.inner.report.notes
    }

    /// Uploads a file; resolves once the job is durable.
    ///
    /// Cancellation: as [`Session::submit`].
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: there is no job.
    pub async fn upload(
        &self,
        source: impl Into<PathBuf>,
        url: impl Into<String>,
    ) -> Result<JobHandle, SubmitError> {
        self.submit(Submission::upload(source, url)).await
    }

    /// Downloads a file; resolves once the job is durable.
    ///
    /// Cancellation: as [`Session::submit`].
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: there is no job.
    pub async fn download(
        &self,
        url: impl Into<String>,
        destination: impl Into<PathBuf>,
    ) -> Result<JobHandle, SubmitError> {
        self.submit(Submission::download(url, destination)).await
    }

    /// Accepts a job; resolves once it is durable. From then on it survives SIGKILL and power cut.
    ///
    /// With a key ([`Submission::key`]), submitting again what was submitted before gives the job that there is, also
    /// when it has ended:
    ///
    /// ```no_run
    /// # async fn example(session: longhaul::Session) -> Result<(), Box<dyn std::error::Error>> {
    /// use longhaul::Submission;
    ///
    /// let movie = Submission::upload("/data/movie.mp4", "https://example.org/files/").key("movie-4711");
    /// let job = session.submit(movie.clone()).await?;
    /// assert_eq!(session.submit(movie).await?.id(), job.id());
    /// # Ok(()) }
    /// ```
    ///
    /// Cancellation: dropping the future leaves open whether the job was accepted; it exists whole or not at all. With
    /// a key it can be submitted again all the same.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: there is no job.
    pub async fn submit(&self, submission: Submission) -> Result<JobHandle, SubmitError> {
        let (job, _) = self.inner.engine.submit(submission).await?;
        Ok(JobHandle::new(self.clone(), job.id))
    }

    /// A job by its number; `None` if there is none, or it is past retention.
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: whether there is one is known when the session is opened again.
    pub async fn job(&self, id: JobId) -> Result<Option<JobHandle>, SessionClosed> {
        let known = !self.inner.engine.list(Selection::ids([id])).await?.is_empty();
        Ok(known.then(|| JobHandle::new(self.clone(), id)))
    }

    /// All jobs, in order of their numbers. With very many of them, [`Session::page`] is better.
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: nothing is known of the jobs until the session is opened again.
    pub async fn jobs(&self) -> Result<Vec<JobView>, SessionClosed> {
        self.inner.engine.list(Selection::all()).await
    }

    /// The jobs of a selection, in order of their numbers.
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: nothing is known of the jobs until the session is opened again.
    pub async fn select(&self, jobs: Selection) -> Result<Vec<JobView>, SessionClosed> {
        self.inner.engine.list(jobs).await
    }

    /// A page of jobs, and the number to go on after (before, with [`Query::newest`]) if there may be more.
    ///
    /// ```no_run
    /// # async fn example(session: longhaul::Session) -> Result<(), longhaul::SessionClosed> {
    /// use longhaul::control::{Query, Selection};
    ///
    /// let mut query = Query { limit: Some(100), ..Selection::group("movies").into() };
    /// loop {
    ///     let (jobs, more) = session.page(query.clone()).await?;
    ///     jobs.iter().for_each(|job| println!("{} {}", job.id, job.state));
    ///     let Some(last) = more else { break };
    ///     query.after = Some(last);
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Cancellation: a look, and no more.
    ///
    /// # Errors
    ///
    /// [`SessionClosed`]: nothing is known of the jobs until the session is opened again.
    pub async fn page(&self, query: Query) -> Result<(Vec<JobView>, Option<JobId>), SessionClosed> {
        self.inner.engine.page(query).await
    }

    /// Accepts many jobs, each by itself, with few waits for the disk; resolves once those that were accepted are
    /// durable. One answer for each submission, in their order.
    ///
    /// Cancellation: dropping the future leaves open whether they were accepted, all that can be or none. With keys
    /// ([`Submission::key`]) they can be submitted again all the same.
    pub async fn submit_all(&self, submissions: Vec<Submission>) -> Vec<Acceptance> {
        self.inner.engine.submit_all(submissions).await
    }

    /// Everything that happens from now on.
    ///
    /// ```no_run
    /// # async fn example(session: longhaul::Session) {
    /// use longhaul::control::Response;
    ///
    /// let mut events = session.events();
    /// while let Some(told) = events.next().await {
    ///     match told {
    ///         Response::Event { event } => println!("job {}: {}", event.job.id, event.what),
    ///         // Too slow: look at the jobs instead of at what happened to them.
    ///         _ => println!("{:?}", session.jobs().await),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn events(&self) -> EventStream {
        self.inner.engine.events()
    }

    /// What has happened to the selected jobs since the event with the number `after`, and what will: for who was
    /// away. Numbers ([`Event::number`]) rise over restarts too. If something in between is no longer known, the
    /// first item is [`Response::Missed`], and a list tells how things stand.
    ///
    /// Keep the last number where it survives a restart, and no event is lost or told twice:
    ///
    /// ```no_run
    /// # async fn example(session: longhaul::Session) -> Result<(), Box<dyn std::error::Error>> {
    /// use longhaul::control::{Response, Selection};
    ///
    /// let seen: Option<u64> = std::fs::read_to_string("seen").ok().and_then(|number| number.parse().ok());
    /// let mut events = session.events_after(seen, Selection::group("movies")).await;
    /// while let Some(told) = events.next().await {
    ///     match told {
    ///         Response::Event { event } => {
    ///             println!("job {} is {}: {}", event.job.id, event.job.state, event.what);
    ///             std::fs::write("seen", event.number.to_string())?;
    ///         }
    ///         // Away for too long: how things stand, instead of how they came to be.
    ///         Response::Missed { .. } => println!("{:?}", session.select(Selection::group("movies")).await?),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// Cancellation: nobody listens; what has happened can be asked for again.
    pub async fn events_after(&self, after: Option<u64>, jobs: Selection) -> EventStream {
        self.inner.engine.listen(after, jobs).await
    }

    /// Resolves when there has been nothing to do for so long: no job at work, waiting for its turn or its time, or
    /// for what clears by itself. Suspended jobs are nothing to do. Never resolves once the session is closed.
    ///
    /// Cancellation: the span begins anew with the next call.
    pub async fn idled(&self, span: Duration) {
        self.inner.engine.idled(span).await;
    }

    /// Answers what the control socket can be asked.
    ///
    /// Cancellation: as the method of the same name: once polled, what was asked for is done all the same.
    pub async fn call(&self, request: Request) -> Response {
        self.inner.engine.call(request).await
    }

    /// Resolves when the engine has ended, by [`Session::shutdown`] or because the journal failed; at once if it has
    /// ended before.
    ///
    /// Cancellation: dropping the future changes nothing.
    pub async fn closed(&self) -> Closed {
        self.inner.engine.closed().await
    }

    /// Stops the engine and closes the journal; jobs keep the states they are in, and go on when the
    /// session is opened again. Resolves when another may open it. It ends for all clones and handles at once: what
    /// they ask from then on is answered by [`SessionClosed`].
    ///
    /// Cancellation: once polled, it ends all the same; [`Session::closed`] of a clone tells when. Dropping the last
    /// clone stops the engine too, without a way to wait for it.
    pub async fn shutdown(self) -> Closed {
        if let Some(control) = &self.inner.control {
            control.abort();
        }
        self.inner.engine.stop();
        self.inner.engine.closed().await
    }
}

/// Everything of opening that blocks.
fn open_files(
    dir: &Path,
    stage_budget: Option<u64>,
) -> Result<(Home, u64, Opened<Transition, Survey>, Lock), OpenError> {
    let io =
        |source| OpenError::Io { doing: format!("prepare the session directory {}", dir.display()), source };
    let home = Home::prepare(dir).map_err(io)?;
    let lock = home.lock().map_err(|held| match held {
        Ok(pid) => OpenError::Owned { pid, dir: home.dir.clone() },
        Err(source) => OpenError::Io { doing: format!("lock the session {}", home.dir.display()), source },
    })?;
    let budget = match stage_budget {
        Some(bytes) => bytes,
        None => free_bytes(&home.stage())? / STAGE_BUDGET_SHARE,
    };
    let options = longhaul_journal::Options { cache_bytes: CACHE_BYTES, ..Default::default() };
    let opened = Journal::open_into(&home.journal(), options, Survey::new(budget))?;
    Ok((home, budget, opened, lock))
}

fn free_bytes(dir: &Path) -> Result<u64, OpenError> {
    crate::ports::Disk::free_space(&crate::os::disk::OsDisk::default(), dir)
        .map_err(|source| OpenError::Io { doing: format!("measure {}", dir.display()), source })
}

/// Replays what a journal held that nobody else has open: the unfinished jobs, and the ended ones since the last
/// checkpoint.
pub(crate) fn replay(opened: &mut Opened<Transition>) -> Result<Jobs, OpenError> {
    let damaged = |text: String| OpenError::Damaged { text };
    let unfinished = opened.report.checkpoint_unfinished;
    let mut replay = Replay::from_rows(&opened.rows, unfinished).map_err(damaged)?;
    for recovered in opened.tail.drain(..) {
        let seq = recovered.seq();
        replay
            .apply(seq, recovered.into_value())
            .map_err(|error| damaged(format!("record {}: {error}", seq.0)))?;
    }
    Ok(replay.finish())
}

/// Compares the staging area with the journal: removes what ended jobs left, and takes a copy of a job
/// that the journal never heard of for what it is: a sign that the journal has lost its end.
async fn sweep(
    ports: &Ports,
    stage_dir: &Path,
    found: &Found,
    journal: &Journal<Transition>,
    lock: Arc<Option<Lock>>,
) -> Result<(), OpenError> {
    let dir = stage_dir.to_owned();
    let listed = ports.block(move |disk| disk.list(&dir)).await;
    let listed = listed
        .map_err(|source| OpenError::Io { doing: format!("look through {}", stage_dir.display()), source })?;
    let mut keep = BTreeSet::new();
    for id in listed.iter().filter_map(|path| staging::number(path)).map(JobId) {
        keep.extend(needed(found, journal, id).await?.into_iter().map(|kind| (id.0, kind)));
    }
    let last = found.jobs.last.0;
    let dir = stage_dir.to_owned();
    let swept = ports.block(move |disk| {
        // Opening may be given up meanwhile, and this call not: the next owner's files must not meet it.
        let _held = lock;
        let newer =
            disk.list(&dir)?.into_iter().find(|path| staging::number(path).is_some_and(|job| job > last));
        match newer {
            Some(path) => Ok(Err(path)),
            None => staging::sweep(disk, &dir, |job, kind| keep.contains(&(job, kind))).map(Ok),
        }
    });
    let swept = swept.await;
    match swept {
        Ok(Ok(removed)) => {
            for path in removed {
                tracing::info!(path = %path.display(), "removed a staging file that no job needs");
            }
            Ok(())
        }
        Ok(Err(path)) => Err(OpenError::Damaged {
            text: format!(
                "{} belongs to a job later than the last one in the journal ({last}): the journal has lost its end. \
                 Nothing was sent or deleted",
                path.display()
            ),
        }),
        Err(source) => Err(OpenError::Io { doing: format!("look through {}", stage_dir.display()), source }),
    }
}

/// What a job still needs of the staging area.
async fn needed(found: &Found, journal: &Journal<Transition>, id: JobId) -> Result<Vec<Kept>, OpenError> {
    let job = match found.jobs.map.get(&id) {
        Some(job) => Some(job.clone()),
        None if found.index.get(id).is_some() => {
            shelf::fetch(journal, &BTreeSet::from([id])).await.map_err(OpenError::Journal)?.pop()
        }
        None => shelf::ended(journal, id).await.map_err(OpenError::Journal)?,
    };
    let Some(job) = job.filter(|job| !found.jobs.gone.contains(&job.id)) else { return Ok(Vec::new()) };
    let unfinished = !job.state().is_terminal();
    let copy = (unfinished && job.core.has_copy()).then_some(Kept::Copy);
    let secrets = job.spec.has_secrets && (unfinished || retry::may_follow(&job));
    Ok(copy.into_iter().chain(secrets.then_some(Kept::Secrets)).collect())
}

impl Engine {
    /// `lock` goes last, whenever this is given up: who has it finds the journal closed.
    async fn start(
        lock: Arc<Option<Lock>>,
        ports: Ports,
        mut opened: Opened<Transition, Survey>,
        stage_dir: PathBuf,
        stage_budget: u64,
        options: &SessionOptions,
        checkpoint_bytes: u64,
    ) -> Result<Self, OpenError> {
        let found = shelf::replay(&mut opened, stage_budget).await?;
        sweep(&ports, &stage_dir, &found, &opened.journal, Arc::clone(&lock)).await?;
        let limits = Limits {
            slots: Slots {
                concurrent: options.concurrent,
                per_host: options.per_host.unwrap_or(usize::MAX),
                uploads: options.uploads.unwrap_or(usize::MAX),
                downloads: options.downloads.unwrap_or(usize::MAX),
            },
            rate: options.limit_rate,
            stage_budget,
            admit: options.admit,
            retention: options.retention,
            checkpoint_bytes,
        };
        let (inbox, messages) = mpsc::unbounded_channel();
        let events = found.feed.listeners();
        let (closed_in, closed) = watch::channel(None);
        let (busy_in, busy) = watch::channel(true);
        let wiring = Wiring { inbox: inbox.clone(), messages, closed: closed_in, busy: busy_in };
        let last = opened.report.last;
        let runner =
            Runner::new(ports.clone(), opened.journal, last, found, stage_dir.clone(), limits, wiring);
        tokio::spawn(async move {
            let (end, closed) = runner.run().await;
            // Another may own the session from here on; only then is it said to be closed.
            drop(lock);
            closed.send_replace(Some(end));
        });
        Ok(Self { inbox, events, closed, busy, ports, stage_dir })
    }

    pub(crate) fn stop(&self) {
        let _ended = self.inbox.send(Message::Stop);
    }

    pub(crate) async fn closed(&self) -> Closed {
        let mut closed = self.closed.clone();
        match closed.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Closed::Stopped),
            Err(_) => Closed::Poisoned("the engine's task has ended without a word".to_owned()),
        }
    }

    pub(crate) fn events(&self) -> EventStream {
        EventStream::live(self.events.subscribe(), Selection::all(), self.closed.clone())
    }

    pub(crate) async fn listen(&self, after: Option<u64>, jobs: Selection) -> EventStream {
        let (answer, answered) = oneshot::channel();
        let asked = self.inbox.send(Message::Listen { after, jobs: jobs.clone(), answer });
        let backlog = match asked {
            Ok(()) => answered.await.ok(),
            Err(_) => None,
        };
        let closed = self.closed.clone();
        match backlog {
            Some(backlog) => EventStream::resumed(backlog, jobs, closed),
            // It is closing: the stream says so at once.
            None => EventStream::live(self.events.subscribe(), jobs, closed),
        }
    }

    pub(crate) async fn idled(&self, span: Duration) {
        let mut busy = self.busy.clone();
        loop {
            if busy.wait_for(|busy| !busy).await.is_err() {
                return std::future::pending().await;
            }
            tokio::select! {
                biased;
                again = busy.wait_for(|busy| *busy) => if again.is_err() {
                    return std::future::pending().await;
                },
                () = self.ports.clock.sleep(span) => return,
            }
        }
    }

    /// A breath before the next try, when the system is out of descriptors.
    pub(crate) async fn pause_after_accept_failure(&self) {
        self.ports.clock.sleep(Duration::from_millis(100)).await;
    }

    pub(crate) async fn call(&self, request: Request) -> Response {
        let ask = match request {
            Request::Owner => {
                let event = self.listen(None, Selection::all()).await.heard();
                return Response::Owner { pid: std::process::id(), event };
            }
            Request::Submit { submission } => {
                return match self.submit(*submission).await {
                    Ok((job, existing)) => Response::Submitted { job: Box::new(job), existing },
                    Err(error) => {
                        Response::Refused { kind: error.kind().to_owned(), text: error.to_string() }
                    }
                };
            }
            Request::SubmitAll { submissions } => {
                let results = self.submit_all(submissions).await;
                return Response::Accepted { results };
            }
            Request::Retry { jobs } => return self.retry(jobs).await,
            // A connection is turned into a stream by who serves it.
            Request::Subscribe { jobs, .. } => Ask::List(jobs.into()),
            Request::List { query } => Ask::List(query),
            Request::Count { jobs } => Ask::Count(jobs),
            Request::Log { id } => Ask::Log(id),
            Request::Suspend { jobs } => Ask::Change(Change::Suspend, jobs),
            Request::Resume { jobs } => Ask::Change(Change::Resume, jobs),
            Request::Cancel { jobs } => Ask::Change(Change::Cancel, jobs),
            Request::Remove { jobs } => Ask::Change(Change::Remove, jobs),
        };
        self.send(|answer| Message::Ask { ask, answer }).await
    }

    async fn send(&self, message: impl FnOnce(oneshot::Sender<Response>) -> Message) -> Response {
        let (answer, answered) = oneshot::channel();
        if self.inbox.send(message(answer)).is_ok()
            && let Ok(response) = answered.await
        {
            return response;
        }
        let text = self.why_closed().await;
        Response::Refused { kind: "journal".to_owned(), text }
    }

    /// The loop has let go of a request, as it does when it ends; then it says why.
    async fn why_closed(&self) -> String {
        match self.closed().await {
            Closed::Poisoned(why) => format!(
                "the journal failed: {why}. Put right what it names (is there space?); then `haul ls` tells what is durable"
            ),
            Closed::Stopped => "the session is closing".to_owned(),
        }
    }

    /// All pages of a selection.
    async fn list(&self, jobs: Selection) -> Result<Vec<JobView>, SessionClosed> {
        let mut all = Vec::new();
        let mut query = Query::from(jobs);
        loop {
            let (jobs, more) = self.page(query.clone()).await?;
            all.extend(jobs);
            let Some(after) = more else { return Ok(all) };
            query.after = Some(after);
        }
    }

    async fn page(&self, query: Query) -> Result<(Vec<JobView>, Option<JobId>), SessionClosed> {
        match self.send(|answer| Message::Ask { ask: Ask::List(query), answer }).await {
            Response::Jobs { jobs, more } => Ok((jobs, more)),
            other => Err(SessionClosed::from(other)),
        }
    }

    /// A job with all that is known of it.
    async fn look(&self, id: JobId) -> Option<Box<Job>> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Message::Look { id, answer }).ok()?;
        answered.await.ok().flatten()
    }

    /// The job that has this key.
    async fn keyed(&self, key: String) -> Option<Box<Job>> {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Message::Keyed { key, answer }).ok()?;
        answered.await.ok().flatten()
    }

    async fn submit(&self, submission: Submission) -> Result<(JobView, bool), SubmitError> {
        let order = self.order_or_known(submission).await?;
        match self.hand_in(vec![order]).await?.pop() {
            Some(Acceptance::Accepted { id, existing }) => {
                let look = self.list(Selection::ids([id])).await;
                let job = look.map_err(|SessionClosed(why)| {
                    SubmitError::Closed(format!("job {id} was accepted, then {why}"))
                })?;
                let gone = || SubmitError::Key(format!("job {id}, which has the key, was just removed"));
                job.into_iter().next().map(|job| (job, existing)).ok_or_else(gone)
            }
            Some(Acceptance::Refused { kind, text }) => Err(SubmitError::from_kind(&kind, text)),
            None => Err(SubmitError::Closed("the session is closing".to_owned())),
        }
    }

    async fn submit_all(&self, submissions: Vec<Submission>) -> Vec<Acceptance> {
        let count = submissions.len();
        let refused = |kind: &str, text: String| Acceptance::Refused { kind: kind.to_owned(), text };
        if count > SUBMIT_MAX {
            let text = format!("{count} submissions at once, {SUBMIT_MAX} is the most");
            return vec![refused("too-large", text); count];
        }
        let mut orders = Vec::with_capacity(count);
        for submission in submissions {
            orders.push(match self.order_or_known(submission).await {
                Ok(order) => order,
                Err(error) => Order::Refused(error.kind().to_owned(), error.to_string()),
            });
        }
        match self.hand_in(orders).await {
            Ok(results) => results,
            Err(error) => vec![refused(error.kind(), error.to_string()); count],
        }
    }

    /// Has the loop accept orders, and waits until they are durable.
    async fn hand_in(&self, orders: Vec<Order>) -> Result<Vec<Acceptance>, SubmitError> {
        let (answer, answered) = oneshot::channel();
        if self.inbox.send(Message::Submit { orders, answer }).is_ok()
            && let Ok(results) = answered.await
        {
            return Ok(results);
        }
        Err(SubmitError::Closed(self.why_closed().await))
    }
}

#[cfg(test)]
mod tests;
