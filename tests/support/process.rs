//! Child processes with captured output, in process groups of their own, gone when dropped.

use std::io::Read;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub use rustix::process::Signal;
use rustix::process::{Pid, kill_process, kill_process_group};

use crate::support::wait::{PATIENCE, until, within};

/// How a process ended and what it said.
#[derive(Debug)]
pub struct Done {
    /// None when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
    what: String,
}

impl Done {
    /// Checks the exit code; a failure shows all that the process said.
    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(
            self.code,
            Some(code),
            "exit code of {}\n--- stdout\n{}--- stderr\n{}",
            self.what,
            self.stdout,
            self.stderr
        );
        self
    }
}

/// A started process. Dropping it kills its whole group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    stdout: Stream,
    stderr: Stream,
}

#[derive(Debug)]
struct Stream {
    text: Arc<Mutex<Vec<u8>>>,
    reader: JoinHandle<()>,
}

impl Stream {
    fn of(mut pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut block = [0; 4096];
            while let Ok(n @ 1..) = pipe.read(&mut block) {
                sink.lock().expect("no reader panics").extend_from_slice(&block[..n]);
            }
        });
        Self { text, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().expect("no reader panics")).into_owned()
    }
}

impl Running {
    pub fn spawn(mut command: Command) -> Self {
        let what = format!("{command:?}");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot start {what}: {e}"));
        let stdout = Stream::of(child.stdout.take().expect("stdout is piped"));
        let stderr = Stream::of(child.stderr.take().expect("stderr is piped"));
        Self { child, what, stdout, stderr }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Sends a signal to the process, not to its group.
    pub fn signal(&self, signal: Signal) {
        // ESRCH: it has ended already, and its wait tells how.
        let _ = kill_process(self.pid(), signal);
    }

    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("wait for a child")
    }

    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line of stdout that `pick` takes.
    #[track_caller]
    pub fn line<T>(&mut self, what: &str, mut pick: impl FnMut(&str) -> Option<T>) -> T {
        until(what, || {
            let ended = self.ended();
            let text = self.stdout();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let found = whole.lines().find_map(&mut pick);
            assert!(
                found.is_some() || ended.is_none() || !self.stdout.reader.is_finished(),
                "{} ended ({ended:?}) before {what}\n--- stdout\n{text}--- stderr\n{}",
                self.what,
                self.stderr()
            );
            found
        })
    }

    /// Waits until the process ends by itself.
    #[track_caller]
    pub fn wait(self) -> Done {
        self.wait_at_most(PATIENCE)
    }

    #[track_caller]
    pub fn wait_at_most(mut self, limit: Duration) -> Done {
        let status = within(limit, Duration::from_millis(2), || self.ended());
        let Some(status) = status else {
            panic!(
                "{} still runs after {limit:?}\n--- stdout\n{}--- stderr\n{}",
                self.what,
                self.stdout(),
                self.stderr()
            );
        };
        // A grandchild may hold the pipes open: what is there by then is what there is.
        let _ = within(Duration::from_secs(5), Duration::from_millis(1), || {
            (self.stdout.reader.is_finished() && self.stderr.reader.is_finished()).then_some(())
        });
        Done { code: status.code(), stdout: self.stdout(), stderr: self.stderr(), what: self.what.clone() }
    }

    /// SIGKILL, to the process alone. Panics if it had ended by itself.
    #[track_caller]
    pub fn kill(mut self) -> Done {
        assert!(self.ended().is_none(), "{} ended before its kill\n{}", self.what, self.stderr());
        self.signal(Signal::KILL);
        let status = until("a killed process is gone", || self.ended());
        assert_eq!(status.signal(), Some(9), "{} ended otherwise than by SIGKILL", self.what);
        self.wait()
    }

    /// SIGTERM, then waits for the end.
    #[track_caller]
    pub fn terminate(self) -> Done {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// SIGINT, as Ctrl-C sends it.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = kill_process_group(self.pid(), Signal::KILL);
        let _ = self.child.wait();
    }
}
