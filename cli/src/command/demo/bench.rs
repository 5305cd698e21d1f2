//! The set-up: a temporary directory, the receiver, the passage in front of it, and `haul` children.
//!
//! ```text
//! ROOT/demo.bin     the file          ROOT/session/   journal, staging area, control socket
//! ROOT/received/    what was put      ROOT/fetched/   what was got
//! ROOT/*.log        what the children said
//! ```

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use longhaul::control::{Client, Request, Response};
use longhaul::{JobId, JobView};
use serde::Deserialize;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use super::passage::Passage;
use crate::connect::{Attached, Role};
use crate::exit::Failure;
use crate::text;

/// Copies of the file that exist at the same time at most: source, staged, received, fetched.
const COPIES: u64 = 4;
/// For the receiver to listen.
const START: Duration = Duration::from_secs(10);
/// For an owner to answer; it normally takes a fraction of a millisecond.
const ANSWER: Duration = Duration::from_secs(1);
/// Settings of the user's that would lead the children elsewhere.
const FOREIGN: [&str; 7] =
    ["HAUL_SESSION", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];

/// Everything a run needs; dropping it kills the children and removes the files.
pub struct Bench {
    receiver: Child,
    passage: Passage,
    client: Option<Client>,
    // Last: the directory goes when nobody works in it any more.
    root: TempDir,
}

/// What `haul --json serve` prints.
#[derive(Deserialize)]
struct Ready {
    address: SocketAddr,
}

impl Bench {
    pub async fn set_up(size: u64, rate: u64) -> Result<Self, Failure> {
        let root = tempfile::Builder::new()
            .prefix("haul-demo-")
            .tempdir()
            .map_err(|error| Failure::failed(format!("no temporary directory: {error}")))?;
        check_space(root.path(), size)?;
        for dir in ["received", "fetched"] {
            let path = root.path().join(dir);
            fs::create_dir(&path).map_err(|error| at(&path, &error))?;
        }
        let (receiver, address) = start_receiver(root.path()).await?;
        let passage = Passage::open(address, rate)
            .map_err(|error| Failure::failed(format!("no port for the counting pass-through: {error}")))?;
        Ok(Self { receiver, passage, client: None, root })
    }

    pub fn root(&self) -> &Path {
        self.root.path()
    }

    pub fn source(&self) -> PathBuf {
        self.root().join("demo.bin")
    }

    pub fn fetched(&self) -> PathBuf {
        self.root().join("fetched")
    }

    pub fn passage(&self) -> &Passage {
        &self.passage
    }

    /// The URL of a name at the receiver, or with an empty name the one that takes uploads.
    pub fn url(&self, name: &str) -> String {
        format!("http://{}/files/{name}", self.passage.address())
    }

    /// Starts a `haul` that works on the session.
    pub fn haul(&mut self, words: &[OsString]) -> Result<Child, Failure> {
        self.client = None;
        let log = self.log("haul.log")?;
        let mut command = children()?;
        command.arg("--session").arg(self.session()).args(["--json", "-q"]).args(words);
        command.stdout(Stdio::null()).stderr(log);
        command.spawn().map_err(|error| Failure::failed(format!("cannot start haul: {error}")))
    }

    /// The session's newest job as its owner sees it; `None` while nobody answers.
    pub async fn ask(&mut self) -> Option<JobView> {
        let session = self.session();
        let asked = async {
            let mut client = match self.client.take() {
                Some(client) => client,
                None => Client::connect(&session).await.ok()?,
            };
            let list = Request::List { query: longhaul::control::Query::default() };
            let Ok(Response::Jobs { jobs, .. }) = client.call(&list).await else {
                return None;
            };
            self.client = Some(client);
            jobs.into_iter().next_back()
        };
        tokio::time::timeout(ANSWER, asked).await.ok().flatten()
    }

    /// The job as the journal has it, while nobody owns the session.
    pub async fn look(&mut self, id: JobId) -> Result<JobView, Failure> {
        let mut session = Attached::open(&self.session(), Role::Visitor).await?;
        let jobs = session.list(Some(vec![id])).await;
        session
            .leave(jobs)
            .await?
            .pop()
            .ok_or_else(|| Failure::failed(format!("job {id} is not in the journal any more")))
    }

    /// Kills the receiver, lets some time pass, and starts it anew.
    pub async fn kill_receiver(&mut self) -> Result<(), Failure> {
        kill(&mut self.receiver).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let (receiver, address) = start_receiver(self.root.path()).await?;
        self.receiver = receiver;
        self.passage.lead_to(address);
        Ok(())
    }

    /// Finished files at the receiver.
    pub fn received(&self) -> Result<Vec<PathBuf>, Failure> {
        let all = entries(&self.root().join("received"))?;
        Ok(all.into_iter().filter(|path| path.is_file() && !is_hidden(path)).collect())
    }

    /// What should be gone by now: staging copies, part files, unfinished uploads.
    pub fn copies_left(&self) -> Result<u64, Failure> {
        let staged = entries(&self.root().join("session/stage"))?;
        let parts = entries(&self.fetched())?.into_iter().filter(|path| is_hidden(path));
        let unfinished = entries(&self.root().join("received/.haul-serve"))?;
        let unfinished =
            unfinished.into_iter().filter(|path| path.extension().is_some_and(|end| end == "part"));
        Ok((staged.len() + parts.count() + unfinished.count()) as u64)
    }

    /// The end of what the children said, for a message about one that failed.
    pub fn last_words(&self) -> String {
        let said = fs::read_to_string(self.root().join("haul.log")).unwrap_or_default();
        let mut lines: Vec<_> = said.lines().rev().take(5).map(text::escape).collect();
        lines.reverse();
        lines.join("\n")
    }

    pub async fn tear_down(mut self) {
        // It is killed on drop; here it is also waited for, so that the directory can go.
        let _gone = kill(&mut self.receiver).await;
    }

    fn session(&self) -> PathBuf {
        self.root().join("session")
    }

    fn log(&self, name: &str) -> Result<File, Failure> {
        open_log(&self.root().join(name))
    }
}

/// SIGKILL, and only back when the process is gone with all its locks and connections.
pub async fn kill(child: &mut Child) -> Result<ExitStatus, Failure> {
    let lost = |error: io::Error| Failure::failed(format!("cannot kill a child: {error}"));
    child.start_kill().map_err(lost)?;
    child.wait().await.map_err(lost)
}

async fn start_receiver(root: &Path) -> Result<(Child, SocketAddr), Failure> {
    let mut command = children()?;
    command.args(["--json", "serve"]).arg(root.join("received")).args(["--listen", "127.0.0.1:0"]);
    command.stdout(Stdio::piped()).stderr(open_log(&root.join("serve.log"))?);
    let failed = |why: String| Failure::failed(format!("haul serve did not start: {why}"));
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let Some(out) = child.stdout.take() else { return Err(failed("no output".to_owned())) };
    let mut line = String::new();
    let mut out = BufReader::new(out);
    match tokio::time::timeout(START, out.read_line(&mut line)).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => return Err(failed(error.to_string())),
        Err(_) => return Err(failed("it took too long".to_owned())),
    }
    let ready: Ready = serde_json::from_str(&line).map_err(|_| {
        let said = fs::read_to_string(root.join("serve.log")).unwrap_or_default();
        failed(text::escape(said.trim()).into_owned())
    })?;
    Ok((child, ready.address))
}

fn children() -> Result<Command, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::failed(format!("where is haul? {error}")))?;
    let mut command = Command::new(own);
    // A user's limits or proxy would spoil the show.
    command.arg("--no-config").stdin(Stdio::null()).kill_on_drop(true);
    for name in FOREIGN {
        command.env_remove(name);
    }
    Ok(command)
}

fn check_space(dir: &Path, size: u64) -> Result<(), Failure> {
    let stat = rustix::fs::statvfs(dir).map_err(|error| at(dir, &error.into()))?;
    let (free, needed) = (stat.f_bavail.saturating_mul(stat.f_frsize), size.saturating_mul(COPIES));
    if free < needed {
        return Err(Failure::failed(format!(
            "{}: {} free, {} needed; use a smaller --size, or set TMPDIR to a larger place",
            dir.display(),
            text::bytes(free),
            text::bytes(needed)
        )));
    }
    Ok(())
}

fn open_log(path: &Path) -> Result<File, Failure> {
    File::options().create(true).append(true).open(path).map_err(|error| at(path, &error))
}

/// What is in a directory; nothing if there is none.
fn entries(dir: &Path) -> Result<Vec<PathBuf>, Failure> {
    let read = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        read => read.map_err(|error| at(dir, &error))?,
    };
    read.map(|entry| entry.map(|entry| entry.path()).map_err(|error| at(dir, &error))).collect()
}

fn is_hidden(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn at(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", path.display()))
}
