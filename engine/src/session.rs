//! A session: open, lock, recover; the embedder's handle.
//!
//! Opening takes the directory's lock, replays the journal, checks it against the staging area, and
//! starts the loop (`run`) on the caller's tokio runtime; unfinished jobs go on at once. Whoever has
//! a session open serves its control socket. Several sessions fit into one process; each has a
//! directory of its own.

mod submission;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use longhaul_journal::{Journal, OpenReport, Opened};
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::AbortHandle;

pub use submission::{SessionOptions, Submission, Transfer, UploadProtocol};

use crate::control::{self, Request, Response, Selection};
use crate::error::{OpenError, SubmitError};
use crate::job::record::{Jobs, Replay};
use crate::job::step::Transition;
use crate::job::{JobId, JobSpec, Token};
use crate::os::home::{self, Home, Lock};
use crate::ports::Ports;
use crate::protocol::ProtocolId;
use crate::run::{Ask, CHECKPOINT_BYTES, Closed, Limits, Message, Runner, Wiring, staging};
use crate::view::{JobLog, JobView};

/// Failures in a row after which a job is suspended, where nothing else is asked for.
pub const ATTEMPTS_MAX_DEFAULT: u32 = 10;
/// Jobs that run at once, where nothing else is asked for.
const CONCURRENT_DEFAULT: usize = 8;
/// The staging budget as a share of the file system's free space.
const STAGE_BUDGET_SHARE: u64 = 10;
/// Events that a slow subscriber may lag behind.
const EVENTS_MAX: usize = 4096;
/// A source written to this shortly ago is looked at again: on kernels with coarse timestamps a
/// write right after the first look would leave no trace.
const TIMESTAMP_GRAIN: Duration = Duration::from_millis(20);

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
    events: broadcast::Sender<Response>,
    closed: watch::Receiver<Option<Closed>>,
    ports: Ports,
}

impl Session {
    /// Opens the session in the options' directory, makes it if it is missing, and takes up every
    /// unfinished job.
    ///
    /// Runs on the caller's tokio runtime, which needs its I/O and time drivers enabled.
    ///
    /// # Errors
    ///
    /// [`OpenError`]; nothing was sent and nothing deleted.
    pub async fn open(options: SessionOptions) -> Result<Self, OpenError> {
        let dir = options.dir.clone();
        let opening = tokio::task::spawn_blocking(move || open_files(&dir));
        let (home, lock, opened) = opening.await.map_err(|error| OpenError::Journal(error.to_string()))??;
        let ports = crate::os::ports(crate::os::NetOptions::default()).map_err(|error| OpenError::Io {
            doing: "set up TLS".to_owned(),
            source: io::Error::other(error),
        })?;
        let listener = home::bind_socket(&home.socket())
            .map_err(|source| OpenError::Io { doing: format!("bind {}", home.socket().display()), source })?;
        let report = opened.report.clone();
        let engine =
            Engine::start(ports, opened, home.stage(), &options, CHECKPOINT_BYTES, Some(lock)).await?;
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
        opened: Opened<Transition>,
        options: SessionOptions,
        checkpoint_bytes: u64,
    ) -> Result<Self, OpenError> {
        let report = opened.report.clone();
        let dir = options.dir.clone();
        let stage_dir = dir.join("stage");
        let engine = Engine::start(ports, opened, stage_dir, &options, checkpoint_bytes, None).await?;
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
    /// Dropping the future before it resolves leaves open whether the job was accepted.
    ///
    /// # Errors
    ///
    /// [`SubmitError`]: there is no job.
    pub async fn submit(&self, submission: Submission) -> Result<JobHandle, SubmitError> {
        let job = self.inner.engine.submit(submission).await?;
        Ok(JobHandle { session: self.clone(), id: job.id })
    }

    /// A job by its number.
    pub async fn job(&self, id: JobId) -> Option<JobHandle> {
        let known = !self.inner.engine.list(Some(vec![id])).await.is_empty();
        known.then(|| JobHandle { session: self.clone(), id })
    }

    /// All jobs, in order of their numbers.
    pub async fn jobs(&self) -> Vec<JobView> {
        self.inner.engine.list(None).await
    }

    /// Everything that happens from now on.
    pub fn events(&self) -> EventStream {
        self.inner.engine.events()
    }

    /// Answers what the control socket can be asked.
    pub async fn call(&self, request: Request) -> Response {
        self.inner.engine.call(request).await
    }

    /// Resolves when the engine has ended, by [`Session::shutdown`] or because the journal failed.
    pub async fn closed(&self) -> Closed {
        self.inner.engine.closed().await
    }

    /// Stops the engine and closes the journal; jobs keep the states they are in, and go on when the
    /// session is opened again.
    pub async fn shutdown(self) -> Closed {
        if let Some(control) = &self.inner.control {
            control.abort();
        }
        self.inner.engine.stop();
        self.inner.engine.closed().await
    }
}

/// Whether a URL can be a job's remote end.
fn check_target(text: &str) -> Result<(), String> {
    let url = url::Url::parse(text)
        .map_err(|error| format!("{error}; it must be an absolute http or https URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} is not http or https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "it holds a name or password; put the credential into a file or the environment".to_owned()
        );
    }
    if url.fragment().is_some() {
        return Err(
            "it has a #fragment, which no server would see; escape the # as %23 if it is meant".to_owned()
        );
    }
    Ok(())
}

/// Everything of opening that blocks.
fn open_files(dir: &Path) -> Result<(Home, Lock, Opened<Transition>), OpenError> {
    let io =
        |source| OpenError::Io { doing: format!("prepare the session directory {}", dir.display()), source };
    let home = Home::prepare(dir).map_err(io)?;
    let lock = home.lock().map_err(|held| match held {
        Ok(pid) => OpenError::Owned { pid, dir: home.dir.clone() },
        Err(source) => OpenError::Io { doing: format!("lock the session {}", home.dir.display()), source },
    })?;
    let opened = Journal::open(&home.journal(), longhaul_journal::Options::default())?;
    Ok((home, lock, opened))
}

/// Replays what the journal held.
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
pub(crate) async fn sweep(ports: &Ports, stage_dir: &Path, jobs: &Jobs) -> Result<(), OpenError> {
    let dir = stage_dir.to_owned();
    let keep: std::collections::BTreeSet<u64> = jobs
        .map
        .values()
        .filter(|job| !job.state().is_terminal() && job.core.has_copy())
        .map(|job| job.id.0)
        .collect();
    let last = jobs.last.0;
    let swept = ports.block(move |disk| {
        let newer =
            disk.list(&dir)?.into_iter().find(|path| staging::number(path).is_some_and(|job| job > last));
        match newer {
            Some(path) => Ok(Err(path)),
            None => staging::sweep(disk, &dir, |job| keep.contains(&job)).map(Ok),
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

impl Engine {
    async fn start(
        ports: Ports,
        mut opened: Opened<Transition>,
        stage_dir: PathBuf,
        options: &SessionOptions,
        checkpoint_bytes: u64,
        lock: Option<Lock>,
    ) -> Result<Self, OpenError> {
        let jobs = replay(&mut opened)?;
        sweep(&ports, &stage_dir, &jobs).await?;
        let stage_budget = if let Some(bytes) = options.stage_budget {
            bytes
        } else {
            let dir = stage_dir.clone();
            let free = ports.block(move |disk| disk.free_space(&dir)).await;
            free.map_err(|source| OpenError::Io {
                doing: format!("measure {}", stage_dir.display()),
                source,
            })? / STAGE_BUDGET_SHARE
        };
        let limits = Limits {
            concurrent: options.concurrent,
            stage_budget,
            admit: options.admit,
            retention: options.retention,
            checkpoint_bytes,
        };
        let (inbox, messages) = mpsc::unbounded_channel();
        let (events, _) = broadcast::channel(EVENTS_MAX);
        let (closed_in, closed) = watch::channel(None);
        let wiring = Wiring { inbox: inbox.clone(), messages, events: events.clone(), closed: closed_in };
        let last = opened.report.last;
        let runner = Runner::new(ports.clone(), opened.journal, last, jobs, stage_dir, limits, wiring);
        tokio::spawn(async move {
            let (end, closed) = runner.run().await;
            // Another may own the session from here on; only then is it said to be closed.
            drop(lock);
            closed.send_replace(Some(end));
        });
        Ok(Self { inbox, events, closed, ports })
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
        EventStream { events: self.events.subscribe(), closed: self.closed.clone() }
    }

    /// A breath before the next try, when the system is out of descriptors.
    pub(crate) async fn pause_after_accept_failure(&self) {
        self.ports.clock.sleep(Duration::from_millis(100)).await;
    }

    pub(crate) async fn call(&self, request: Request) -> Response {
        let ask = match request {
            Request::Owner => return Response::Owner { pid: std::process::id(), event: 0 },
            Request::Submit { submission } => {
                return match self.submit(*submission).await {
                    Ok(job) => Response::Submitted { job: Box::new(job), existing: false },
                    Err(error) => {
                        Response::Refused { kind: error.kind().to_owned(), text: error.to_string() }
                    }
                };
            }
            Request::List { query } => Ask::List(query.jobs.ids),
            Request::Log { id } => Ask::Log(id),
            Request::Suspend { jobs } => Ask::Suspend(jobs.ids),
            Request::Resume { jobs } => Ask::Resume(jobs.ids),
            Request::Cancel { jobs } => Ask::Cancel(jobs.ids),
            other => {
                return Response::Refused { kind: "bad-request".to_owned(), text: format!("{other:?}") };
            }
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
        // The loop has let go of the request, as it does when it ends; then it says why.
        self.closed().await;
        let text = match &*self.closed.borrow() {
            Some(Closed::Poisoned(why)) => {
                format!(
                    "the journal failed: {why}. Put right what it names (is there space?); then `haul ls` tells what is durable"
                )
            }
            Some(Closed::Stopped) | None => "the session is closing".to_owned(),
        };
        Response::Refused { kind: "journal".to_owned(), text }
    }

    async fn list(&self, ids: Option<Vec<JobId>>) -> Vec<JobView> {
        match self.call(Request::List { query: Selection { ids, ..Selection::default() }.into() }).await {
            Response::Jobs { jobs, .. } => jobs,
            _ => Vec::new(),
        }
    }

    async fn submit(&self, submission: Submission) -> Result<JobView, SubmitError> {
        let spec = Box::new(self.specify(submission).await?);
        match self.send(|answer| Message::Submit { spec, answer }).await {
            Response::Submitted { job, .. } => Ok(*job),
            Response::Refused { kind, text } if kind == "too-large" => Err(SubmitError::TooLarge(text)),
            Response::Refused { text, .. } => Err(SubmitError::Closed(text)),
            other => Err(SubmitError::Closed(format!("{other:?}"))),
        }
    }

    /// Looks at both ends of a submission, and at nothing else.
    async fn specify(&self, submission: Submission) -> Result<JobSpec, SubmitError> {
        check_target(&submission.url).map_err(SubmitError::Url)?;
        let token = Token(self.ports.entropy.token());
        let mut spec = JobSpec {
            checksum: submission.checksum,
            attempts_max: submission.attempts_max.max(1),
            credential: submission.credential,
            ..JobSpec::new(ProtocolId::Tus, submission.url, PathBuf::new(), token)
        };
        match submission.transfer {
            Transfer::Upload { source, stage, .. } => {
                let shown = source.clone();
                let look = async |path: PathBuf| {
                    self.ports
                        .block(move |disk| {
                            let path = disk.resolve(&path)?;
                            let file = disk.open_read(&path)?.fingerprint()?;
                            Ok((path, file))
                        })
                        .await
                        .map_err(|error| SubmitError::Source { path: shown.clone(), source: error })
                };
                let (path, mut file) = look(source).await?;
                let age_ms = i128::from(self.ports.clock.now().0) - file.mtime_ns / 1_000_000;
                if age_ms <= i128::from(TIMESTAMP_GRAIN.subsec_millis()) {
                    self.ports.clock.sleep(TIMESTAMP_GRAIN).await;
                    file = look(path.clone()).await?.1;
                }
                (spec.path, spec.source, spec.stage) = (path, Some(file), stage);
            }
            Transfer::Download { destination, overwrite } => {
                let (path, into) = self.destination(destination, overwrite).await?;
                spec.protocol = ProtocolId::Get;
                (spec.path, spec.name_from_server, spec.overwrite) = (path, into, overwrite);
            }
        }
        Ok(spec)
    }

    /// The absolute destination, and whether it is a directory to download into.
    async fn destination(
        &self,
        destination: PathBuf,
        overwrite: bool,
    ) -> Result<(PathBuf, bool), SubmitError> {
        let shown = destination.clone();
        let wrong = |why: String| SubmitError::Destination { path: shown.clone(), why };
        let look = self.ports.block(move |disk| {
            if disk.is_dir(&destination) {
                return Ok(Ok((disk.resolve(&destination)?, true)));
            }
            let Some(name) = destination.file_name() else {
                return Ok(Err("it names no file".to_owned()));
            };
            let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = disk.resolve(parent.unwrap_or(Path::new(".")))?;
            let path = parent.join(name);
            if !overwrite && disk.inspect(&path)?.is_some() {
                return Ok(Err("it exists; choose another name, or overwrite it".to_owned()));
            }
            Ok(Ok((path, false)))
        });
        look.await.map_err(|error| wrong(error.to_string()))?.map_err(wrong)
    }
}

/// Events of a session.
#[derive(Debug)]
pub struct EventStream {
    events: broadcast::Receiver<Response>,
    closed: watch::Receiver<Option<Closed>>,
}

impl EventStream {
    /// The next [`Response::Event`], or [`Response::Missed`] after falling too far behind; `None` when
    /// the session is over. Cancellation-safe.
    pub async fn next(&mut self) -> Option<Response> {
        tokio::select! {
            biased;
            event = self.events.recv() => match event {
                Ok(event) => Some(event),
                Err(broadcast::error::RecvError::Lagged(events)) => Some(Response::Missed { events }),
                Err(broadcast::error::RecvError::Closed) => None,
            },
            _ = self.closed.wait_for(Option::is_some) => None,
        }
    }
}

/// One job of an open session.
#[derive(Clone, Debug)]
pub struct JobHandle {
    session: Session,
    id: JobId,
}

impl JobHandle {
    /// Its number.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// The job as it is now; `None` once it is past retention.
    pub async fn view(&self) -> Option<JobView> {
        self.session.inner.engine.list(Some(vec![self.id])).await.pop()
    }

    /// Its journaled history.
    pub async fn log(&self) -> Option<JobLog> {
        match self.session.call(Request::Log { id: self.id }).await {
            Response::Log { log } => Some(*log),
            _ => None,
        }
    }

    /// Suspends it; durable, and its bytes stopped, when this resolves. Other jobs go on.
    ///
    /// # Errors
    ///
    /// [`ChangeError`](crate::ChangeError): it stays as it was.
    pub async fn suspend(&self) -> Result<JobView, crate::ChangeError> {
        self.change(Request::Suspend { jobs: Selection::ids([self.id]) }).await
    }

    /// Takes it up again.
    ///
    /// # Errors
    ///
    /// [`ChangeError`](crate::ChangeError): it stays as it was.
    pub async fn resume(&self) -> Result<JobView, crate::ChangeError> {
        self.change(Request::Resume { jobs: Selection::ids([self.id]) }).await
    }

    /// Cancels it; durable when this resolves. It is `failed` when everything it held is freed: wait for
    /// that with [`JobHandle::wait`].
    ///
    /// # Errors
    ///
    /// [`ChangeError`](crate::ChangeError): it stays as it was.
    pub async fn cancel(&self) -> Result<JobView, crate::ChangeError> {
        self.change(Request::Cancel { jobs: Selection::ids([self.id]) }).await
    }

    async fn change(&self, request: Request) -> Result<JobView, crate::ChangeError> {
        use crate::ChangeError;
        match self.session.call(request).await {
            Response::Changed { mut jobs, mut skipped, .. } => match (jobs.pop(), skipped.pop()) {
                (Some(job), _) => Ok(job),
                (None, Some(skipped)) => Err(ChangeError::Left { id: self.id, why: skipped.why }),
                (None, None) => Err(ChangeError::Left { id: self.id, why: "it is past".to_owned() }),
            },
            Response::Refused { kind, text } if kind == "journal" => Err(ChangeError::Closed(text)),
            Response::Refused { text, .. } => Err(ChangeError::Left { id: self.id, why: text }),
            other => Err(ChangeError::Closed(format!("{other:?}"))),
        }
    }

    /// Waits until the job is completed or failed. Dropping the future loses nothing.
    ///
    /// # Errors
    ///
    /// [`ChangeError::Closed`](crate::ChangeError::Closed): the session ended first; the job goes on when it
    /// is opened again.
    pub async fn wait(&self) -> Result<JobView, crate::ChangeError> {
        let mut events = self.session.events();
        loop {
            // Subscribed before the look, so that no end can fall between.
            let Some(job) = self.view().await else {
                return Err(crate::ChangeError::Closed("the session is closing".to_owned()));
            };
            if job.state.is_terminal() {
                return Ok(job);
            }
            loop {
                match events.next().await {
                    Some(Response::Event { event }) if event.job.id != self.id => {}
                    Some(_) => break,
                    None => return Err(crate::ChangeError::Closed("the session has ended".to_owned())),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
