//! A session with many jobs, and one whose daemon nobody waits for.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::files::tree;
use crate::support::haul::{Haul, arg, values};
use crate::support::process::{Done, Running};
use crate::support::wait::until;

/// Kills the daemons that `put --detach` has started for one session when the test ends, however it ends.
#[derive(Debug)]
pub struct Reaper {
    session: PathBuf,
}

impl Reaper {
    pub fn of(haul: &Haul) -> Self {
        Self { session: haul.session().to_owned() }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        for pid in daemons_of(&self.session) {
            let _ = kill(pid);
        }
    }
}

/// SIGKILL, to one process.
pub fn kill(pid: u32) -> rustix::io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, Signal::KILL)
}

/// Whether there is such a process, other than as a zombie.
pub fn runs(pid: u32) -> bool {
    field(pid, "State").is_some_and(|state| !state.starts_with('Z'))
}

/// A line of `/proc/PID/status`.
pub fn field(pid: u32, name: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(line.trim().to_owned())
}

/// Resident memory in MiB: now, and at its highest.
pub fn resident(pid: u32) -> (u64, u64) {
    let mebibytes = |name| {
        let text = field(pid, name).unwrap_or_else(|| panic!("process {pid} has no {name}"));
        let kib: u64 = text.trim_end_matches(" kB").parse().expect("a number of KiB");
        kib >> 10
    };
    (mebibytes("VmRSS"), mebibytes("VmHWM"))
}

/// Processes that run as the detached daemon of this session.
fn daemons_of(session: &Path) -> Vec<u32> {
    let is_one = |pid: &u32| {
        let Ok(words) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut words = words.split(|&byte| byte == 0);
        words.any(|word| word == session.as_os_str().as_bytes())
            && words.any(|word| word == b"--detached")
            && runs(*pid)
    };
    fs::read_dir("/proc")
        .expect("list the processes")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(is_one)
        .collect()
}

impl Haul {
    /// The detached daemons of this session.
    pub fn daemons(&self) -> Vec<u32> {
        daemons_of(self.session())
    }

    /// The session's owner, by its lock.
    #[track_caller]
    pub fn owner(&self) -> u32 {
        until("the session has an owner", || {
            let pid = fs::read_to_string(self.session().join("lock")).ok()?.trim().parse().ok()?;
            runs(pid).then_some(pid)
        })
    }

    /// Runs with standard input from a file.
    pub fn run_from(&self, input: &Path, arguments: &[&str]) -> Done {
        let script = format!("exec \"$0\" \"$@\" < '{}'", input.display());
        Running::spawn(self.command_under("sh", &["-c", &script], arguments)).wait()
    }

    /// Runs on a terminal so wide; what it writes there is its stdout.
    pub fn run_on_a_terminal(&self, columns: usize, env: &[(&str, &str)], arguments: &[&str]) -> Done {
        let words = arguments.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
        let line = format!("'{}' {words}", env!("CARGO_BIN_EXE_haul"));
        // The program's own path comes after the options, where `script` looks for its file; and a standard input
        // that ends would end the terminal's processes too.
        let script = "[ -p \"$2\" ] || mkfifo \"$2\"; exec script -qec \"$1\" /dev/null <>\"$2\"";
        let keys = self.dir().join("keys");
        let mut command = self.command_under("sh", &["-c", script], &[&line, arg(&keys)]);
        command.env_remove("NO_COLOR").env("TERM", "xterm-256color").env("COLUMNS", columns.to_string());
        command.envs(env.iter().copied());
        Running::spawn(command).wait()
    }

    /// `put --detach` or `get --detach`; the numbers of the jobs.
    #[track_caller]
    pub fn detach(&self, arguments: &[&str]) -> Vec<String> {
        let done = self.run(&[&["--json"], arguments, &["--detach"]].concat()).expect(0);
        accepted(&done)
    }
}

/// The numbers that a detached command has printed with `--json`.
#[track_caller]
pub fn accepted(done: &Done) -> Vec<String> {
    let value = values(&done.stdout).pop().unwrap_or_default();
    let ids = value["accepted"].as_array().unwrap_or_else(|| panic!("nothing was accepted: {done:?}"));
    ids.iter().map(ToString::to_string).collect()
}

/// The numbers of jobs.
pub fn ids(jobs: &[Value]) -> Vec<u64> {
    jobs.iter().map(|job| job["id"].as_u64().unwrap_or_else(|| panic!("no number in {job}"))).collect()
}

/// Where a text stands in the files below a directory, but for those that `but` takes out.
pub fn holders(dir: &Path, text: &str, but: impl Fn(&Path) -> bool) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = fs::read(dir.join(path)).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    tree(dir).into_iter().filter(|path| !but(path)).filter(holds).collect()
}
