//! The way to a session: owning it, or talking to its owner over the control socket.
//!
//! ```text
//! open ──▶ Session::open ──ok──▶ Owner
//!              │ owned                        a lost answer ──▶ reopen ──▶ the request again
//!              ▼
//!          Client::connect ──answers──▶ Remote
//!              │ not yet, or no more
//!              └──▶ again, for PATIENCE in all: an owner is starting or leaving
//! ```
//!
//! A guest never owns: where nobody does, it starts a daemon (`detach`).
//!
//! Invariant: a request is repeated only when repeating it changes nothing. Submitting is such a request, since
//! every submission has a key.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use longhaul::control::{CallError, Client, Counts, PAGE_MAX, Query, Request, Response, Selection};
use longhaul::{Closed, JobId, JobView, OpenError, Session, SessionOptions};
use tokio::sync::mpsc;

use crate::config;
use crate::detach::{self, Starting};
use crate::exit::{Exit, Failure};

/// How long an owner may take to start answering, or to leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a command that only looks may hold the session; it normally takes milliseconds.
const VISIT: Duration = Duration::from_secs(1);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a daemon may take to take up its session: it replays the journal first.
const START: Duration = Duration::from_secs(60);
/// An owner that is there answers in microseconds; a stopped one never.
const GREETING: Duration = Duration::from_secs(2);
/// News that may queue up before the owner is told to wait.
const NEWS_MAX: usize = 256;

/// What a command wants of the session if nobody owns it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// To own it and run its jobs.
    Owner,
    /// To own it for a moment, journal or look, and leave: no job is started.
    Visitor,
    /// Never to own it: a daemon runs its jobs, and is started if there is none.
    Guest,
}

/// A way to the session.
pub enum Link {
    /// This process owns it.
    Owner(Session),
    /// Another process does.
    Remote(Client),
}

impl Link {
    /// Owns the session, or else finds its owner.
    pub async fn open(dir: &Path, role: Role) -> Result<Self, Failure> {
        if role == Role::Guest {
            return Self::visit_daemon(dir).await;
        }
        let started = Instant::now();
        loop {
            let owned = match Session::open(options(dir, role)).await {
                Ok(session) => return Ok(Self::Owner(session)),
                Err(owned @ OpenError::Owned { .. }) => owned,
                Err(other) => return Err(other.into()),
            };
            if let Some(client) = greet(dir).await {
                return Ok(Self::Remote(client));
            }
            if started.elapsed() >= PATIENCE {
                let text = format!("{owned}; it does not answer on its control socket");
                return Err(Failure::new(Exit::Owned, text));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Sees to it that the session has a daemon, and finds whoever owns it now.
    async fn visit_daemon(dir: &Path) -> Result<Self, Failure> {
        let started = Instant::now();
        let mut starting: Option<Starting> = None;
        loop {
            if !detach::has_daemon(dir)? {
                if let Some(failure) = starting.as_mut().and_then(Starting::failed) {
                    return Err(failure);
                }
                if starting.as_mut().is_none_or(Starting::has_left) {
                    starting = Some(Starting::daemon(dir)?);
                }
            }
            if let Some(client) = greet(dir).await {
                return Ok(Self::Remote(client));
            }
            if started.elapsed() >= START {
                let text = "the session's daemon does not answer on its control socket; see daemon.log in its directory";
                return Err(Failure::new(Exit::Owned, text));
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks once. `Err`: the owner is gone, and what it did with the request is not known.
    async fn call(&mut self, request: &Request) -> Result<Response, Lost> {
        match self {
            Self::Owner(session) => Ok(session.call(request.clone()).await),
            Self::Remote(client) => match client.call(request).await? {
                // It is closing, or its journal failed: either way it leaves, and its successor knows
                // what is durable.
                Response::Refused { kind, text } if kind == "journal" => Err(Lost(text)),
                response => Ok(response),
            },
        }
    }

    /// Starts listening for changes of those jobs.
    async fn news(&self, dir: &Path, jobs: Selection) -> Result<mpsc::Receiver<News>, Lost> {
        let (tell, news) = mpsc::channel(NEWS_MAX);
        match self {
            Self::Owner(session) => {
                let mut events = session.events();
                tokio::spawn(async move {
                    while let Some(item) = events.next().await {
                        if is_elsewhere(&item, jobs.group.as_deref()) {
                            continue;
                        }
                        if !pass_on(&tell, item).await {
                            return;
                        }
                    }
                });
            }
            Self::Remote(_) => {
                // A connection of its own: the other one stays free for requests.
                let client = Client::connect(dir).await.map_err(|error| Lost(error.to_string()))?;
                let mut subscription = client.subscribe(None, jobs).await?;
                tokio::spawn(async move {
                    while let Ok(Some(item)) = subscription.next().await {
                        if !pass_on(&tell, item).await {
                            return;
                        }
                    }
                });
            }
        }
        Ok(news)
    }
}

/// What a listener hears; the end of the channel means that the owner is gone.
#[derive(Debug)]
pub enum News {
    /// A job changed.
    Job(Box<JobView>),
    /// Something was missed: list again.
    Gap,
}

/// The owner is gone in the middle of a request.
#[derive(Debug)]
pub struct Lost(String);

impl From<CallError> for Lost {
    fn from(error: CallError) -> Self {
        Self(error.to_string())
    }
}

/// Owners lost in a row while one request was asked.
#[derive(Debug, Default)]
pub struct Losses {
    first: Option<Instant>,
}

/// A command's attachment to a session, which outlives owners.
pub struct Attached {
    dir: PathBuf,
    role: Role,
    link: Link,
    generation: u32,
}

impl Attached {
    /// See [`Link::open`].
    pub async fn open(dir: &Path, role: Role) -> Result<Self, Failure> {
        let link = Link::open(dir, role).await?;
        Ok(Self { dir: dir.to_owned(), role, link, generation: 0 })
    }

    /// Whether this process owns the session.
    pub fn owns(&self) -> bool {
        matches!(self.link, Link::Owner(_))
    }

    /// Rises with each reopening; news of an older generation end by themselves.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Asks, and asks the next owner if this one goes away before it answers.
    pub async fn call(&mut self, request: &Request) -> Result<Response, Failure> {
        let mut losses = Losses::default();
        loop {
            match self.try_call(request).await {
                Ok(response) => return Ok(response),
                Err(lost) => self.survive(lost, &mut losses).await?,
            }
        }
    }

    /// Asks once, for requests that must not be repeated blindly.
    pub async fn try_call(&mut self, request: &Request) -> Result<Response, Lost> {
        self.link.call(request).await
    }

    /// The jobs with these numbers, or all; unknown numbers are left out.
    pub async fn list(&mut self, ids: Option<Vec<JobId>>) -> Result<Vec<JobView>, Failure> {
        let mut all = Vec::new();
        let Some(ids) = ids else {
            self.each(Selection::all(), |view| all.push(view)).await?;
            return Ok(all);
        };
        for some in ids.chunks(PAGE_MAX) {
            self.each(Selection::ids(some.iter().copied()), |view| all.push(view)).await?;
        }
        Ok(all)
    }

    /// Hands every such job to `see`, page by page.
    pub async fn each(&mut self, jobs: Selection, mut see: impl FnMut(JobView)) -> Result<(), Failure> {
        let mut query = Query { limit: Some(PAGE_MAX), ..jobs.into() };
        loop {
            let (jobs, more) = self.page(query.clone()).await?;
            jobs.into_iter().for_each(&mut see);
            let Some(after) = more else { return Ok(()) };
            query.after = Some(after);
        }
    }

    /// One page of jobs, and where the next one goes on, if there may be more.
    pub async fn page(&mut self, query: Query) -> Result<(Vec<JobView>, Option<JobId>), Failure> {
        match self.call(&Request::List { query }).await? {
            Response::Jobs { jobs, more } => Ok((jobs, more)),
            other => Err(unexpected(other)),
        }
    }

    /// How many such jobs there are in each state.
    pub async fn count(&mut self, jobs: Selection) -> Result<Counts, Failure> {
        match self.call(&Request::Count { jobs }).await? {
            Response::Counts { counts } => Ok(counts),
            other => Err(unexpected(other)),
        }
    }

    /// Listens for changes of those jobs from now on.
    pub async fn news(&mut self, jobs: &Selection) -> Result<mpsc::Receiver<News>, Failure> {
        let mut losses = Losses::default();
        loop {
            match self.link.news(&self.dir, jobs.clone()).await {
                Ok(news) => return Ok(news),
                Err(lost) => self.survive(lost, &mut losses).await?,
            }
        }
    }

    /// Resolves when the engine in this process has stopped by itself; never for another's.
    pub async fn stopped(&self) -> Failure {
        match &self.link {
            Link::Owner(session) => stopped(session).await,
            Link::Remote(_) => std::future::pending().await,
        }
    }

    /// Finds the session's next owner, which may be this process.
    pub async fn reopen(&mut self) -> Result<(), Failure> {
        self.link = Link::open(&self.dir, self.role).await?;
        self.generation += 1;
        Ok(())
    }

    /// Leaves, with what the command came to; jobs stay in the state they are in.
    pub async fn leave<T>(self, ended: Result<T, Failure>) -> Result<T, Failure> {
        let Link::Owner(session) = self.link else { return ended };
        let closed = session.shutdown().await;
        match (ended, closed) {
            // Also when all was done before: from here on nobody could rely on the journal.
            (Ok(_), Closed::Poisoned(text)) => Err(Failure::new(Exit::Journal, text)),
            (ended, _) => ended,
        }
    }

    /// After a loss: finds the next owner, unless one after the other is lost.
    pub async fn survive(&mut self, lost: Lost, losses: &mut Losses) -> Result<(), Failure> {
        if self.owns() || losses.first.get_or_insert_with(Instant::now).elapsed() >= PATIENCE {
            return Err(Failure::failed(format!("the session's owner gave no answer: {}", lost.0)));
        }
        tokio::time::sleep(PAUSE).await;
        self.reopen().await
    }
}

/// Opens something that a visitor may hold for a moment: that is no other owner.
pub async fn past_visitors<T>(mut open: impl AsyncFnMut() -> Result<T, OpenError>) -> Result<T, Failure> {
    let started = Instant::now();
    loop {
        match open().await {
            Err(OpenError::Owned { .. }) if started.elapsed() < VISIT => tokio::time::sleep(PAUSE).await,
            other => return Ok(other?),
        }
    }
}

/// Resolves when the engine in this process has stopped by itself.
pub async fn stopped(session: &Session) -> Failure {
    match session.closed().await {
        Closed::Poisoned(text) => Failure::new(Exit::Journal, text),
        Closed::Stopped => Failure::failed("the session was closed"),
    }
}

/// An answer that does not belong to the question, or a refusal.
pub fn unexpected(response: Response) -> Failure {
    match response {
        Response::Refused { kind, text } => Failure::refused(&kind, text),
        other => Failure::failed(format!("the session's owner gave an answer of another kind: {other:?}")),
    }
}

fn options(dir: &Path, role: Role) -> SessionOptions {
    config::get().session.options(dir).admit(role == Role::Owner)
}

/// Connects and makes sure that somebody answers: a connection alone may be an owner on its way out.
async fn greet(dir: &Path) -> Option<Client> {
    let greeting = async {
        let mut client = Client::connect(dir).await.ok()?;
        matches!(client.call(&Request::Owner).await, Ok(Response::Owner { .. })).then_some(client)
    };
    tokio::time::timeout(GREETING, greeting).await.ok().flatten()
}

/// Whether it is news of a job of another group than the one that is listened for.
fn is_elsewhere(item: &Response, group: Option<&str>) -> bool {
    matches!(item, Response::Event { event } if group.is_some() && event.job.group.as_deref() != group)
}

/// Hands one item on; false when nobody listens any more.
async fn pass_on(tell: &mpsc::Sender<News>, item: Response) -> bool {
    match item {
        Response::Event { event } => tell.send(News::Job(Box::new(event.job))).await.is_ok(),
        // The first item of a subscription; the listener lists for itself, after it has subscribed.
        Response::Jobs { .. } => true,
        _ => tell.send(News::Gap).await.is_ok(),
    }
}
