//! `haul` as a test runs it: a home, a session and a working directory of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::files::tree;
use crate::support::process::{Done, Running};
use crate::support::wait::until_seldom;

/// One user's machine: everything `haul` may touch lies in one temporary directory.
#[derive(Debug)]
pub struct Haul {
    dir: TempDir,
    session: PathBuf,
}

impl Haul {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new()
            .prefix("bb")
            .rand_bytes(6)
            .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
            .expect("a directory for the test");
        for part in ["home", "in", "out", "store"] {
            fs::create_dir(dir.path().join(part)).expect("a directory for the test");
        }
        let session = dir.path().join("session");
        Self { dir, session }
    }

    /// The same machine with its session elsewhere.
    pub fn with_session(mut self, session: &Path) -> Self {
        session.clone_into(&mut self.session);
        self
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn session(&self) -> &Path {
        &self.session
    }

    /// A path for a source.
    pub fn source(&self, name: &str) -> PathBuf {
        self.dir.path().join("in").join(name)
    }

    /// The directory that `haul` runs in, where downloads without `-o` go.
    pub fn out(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    /// The directory of the server's files.
    pub fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        self.dress(Command::new(env!("CARGO_BIN_EXE_haul")), arguments)
    }

    /// As [`Haul::command`], run under another program, such as strace.
    pub fn command_under(&self, program: &str, options: &[&str], arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(options).arg(env!("CARGO_BIN_EXE_haul"));
        self.dress(command, arguments)
    }

    fn dress(&self, mut command: Command, arguments: &[&str]) -> Command {
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_lowercase();
            if text.starts_with("haul_")
                || text.starts_with("xdg_")
                || text.ends_with("_proxy")
                || text == "rust_log"
            {
                command.env_remove(name);
            }
        }
        command.env("HOME", self.dir.path().join("home")).env("HAUL_SESSION", &self.session);
        command.current_dir(self.out()).args(arguments);
        command
    }

    pub fn spawn(&self, arguments: &[&str]) -> Running {
        Running::spawn(self.command(arguments))
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        self.spawn(arguments).wait()
    }

    /// Starts `haul daemon` and waits until it owns the session.
    pub fn daemon(&self) -> Running {
        let mut daemon = self.spawn(&["daemon"]);
        daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
        daemon
    }

    /// Starts a command with `--json` and waits for the id of its first job.
    pub fn begin(&self, arguments: &[&str]) -> (String, Running) {
        let mut running = self.spawn(&[&["--json"], arguments].concat());
        let id = running.line("the job has an id", |line| {
            serde_json::from_str::<Value>(line).ok().and_then(|value| try_id(&value))
        });
        (id, running)
    }

    /// Submits one job to the owner (`--detach`) and returns its id.
    #[track_caller]
    pub fn detach_one(&self, arguments: &[&str]) -> String {
        let done = self.run(&[&["--json"], arguments, &["--detach"]].concat()).expect(0);
        values(&done.stdout)[0]["accepted"][0].as_u64().expect("a job was accepted").to_string()
    }

    /// The job as `show` has it; nothing if `show` fails, as it may while owners change.
    pub fn show(&self, id: &str) -> Option<Value> {
        let done = self.run(&["--json", "show", id]);
        if done.code == Some(0) { values(&done.stdout).into_iter().next() } else { None }
    }

    /// What happened to the job, as `log` tells people.
    #[track_caller]
    pub fn log(&self, id: &str) -> String {
        self.run(&["log", id]).expect(0).stdout
    }

    /// Runs a transfer with `--json` that is to end with `code`; returns its job's last state.
    #[track_caller]
    pub fn transfer(&self, arguments: &[&str], code: i32) -> Value {
        let done = self.run(&[&["--json"], arguments].concat()).expect(code);
        values(&done.stdout).pop().expect("a final object")
    }

    /// All jobs, as `ls` has them.
    #[track_caller]
    pub fn jobs(&self) -> Vec<Value> {
        values(&self.run(&["--json", "ls"]).expect(0).stdout)
    }

    /// Waits until the job is in one of `states`; panics at once if it has ended in another.
    #[track_caller]
    pub fn until_state(&self, id: &str, states: &[&str]) -> Value {
        until_seldom(&format!("job {id} is {}", states.join(" or ")), || {
            let job = self.show(id)?;
            let state = text(&job, "state");
            if states.contains(&state) {
                return Some(job);
            }
            assert!(!matches!(state, "completed" | "failed"), "job {id} ended, and not as {states:?}: {job}");
            None
        })
    }

    /// Lets an owner run until all the jobs are completed.
    #[track_caller]
    pub fn finish(&self, ids: &[&str]) {
        let daemon = self.daemon();
        for id in ids {
            self.until_state(id, &["completed"]);
        }
        daemon.terminate().expect(0);
    }

    /// Checks that no staging copy and no part file is left of the jobs that have ended.
    #[track_caller]
    pub fn nothing_left(&self) {
        let staged = self.staged();
        assert!(staged.is_empty(), "left in the staging area: {staged:?}");
        let parts: Vec<_> = tree(self.dir.path()).into_iter().filter(|path| is_part(path)).collect();
        assert!(parts.is_empty(), "part files are left: {parts:?}");
    }

    /// What is in the staging area now.
    pub fn staged(&self) -> Vec<PathBuf> {
        tree(&self.session)
            .into_iter()
            .filter(|path| path.parent().is_some_and(|dir| dir.to_string_lossy().starts_with("stag")))
            .collect()
    }
}

/// Part files are `.NAME.JOB.haul`.
pub fn is_part(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with('.') && name.ends_with(".haul")
}

/// The JSON values of an output: one value, an array's elements, or one value a line.
#[track_caller]
pub fn values(output: &str) -> Vec<Value> {
    match serde_json::from_str(output) {
        Ok(Value::Array(values)) => values,
        Ok(value) => vec![value],
        Err(_) => output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("not JSON ({e}): {line}")))
            .collect(),
    }
}

/// A text field of a job.
#[track_caller]
pub fn text<'a>(job: &'a Value, field: &str) -> &'a str {
    job[field].as_str().unwrap_or_else(|| panic!("no text `{field}` in {job}"))
}

/// The kind of a job's cause, or nothing.
pub fn cause(job: &Value) -> Option<&str> {
    job["cause"]["kind"].as_str()
}

/// A job's id, as the command line takes it.
#[track_caller]
pub fn id(job: &Value) -> String {
    try_id(job).unwrap_or_else(|| panic!("no `id` in {job}"))
}

fn try_id(value: &Value) -> Option<String> {
    match &value["id"] {
        Value::String(id) => Some(id.clone()),
        Value::Number(id) => Some(id.to_string()),
        _ => None,
    }
}

/// The path as an argument.
#[track_caller]
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}
