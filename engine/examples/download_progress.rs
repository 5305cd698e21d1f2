//! A downloader with a line of progress, which goes on after Ctrl-C when it is started again.
//!
//! ```sh
//! cargo run -p longhaul --example download_progress -- ./downloads https://example.org/movie.mp4 movie.mp4
//! ```
//!
//! There is no handler for Ctrl-C, and none is needed: what was accepted is in the journal, and what has arrived is in
//! a part file beside the destination. The same line again goes on with both.

#![allow(clippy::disallowed_methods, reason = "an embedding program, not the engine")]

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use longhaul::control::{Response, Selection};
use longhaul::{JobState, JobView, Session, SessionOptions, Submission};

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, url, file] = args.as_slice() else {
        return Err("usage: download_progress SESSION-DIRECTORY URL FILE".into());
    };
    let ended = download(Path::new(dir), url, Path::new(file)).await?;
    match ended.state {
        JobState::Completed => Ok(()),
        state => Err(format!("{state}: {}", ended.cause.map_or_else(String::new, |cause| cause.text)).into()),
    }
}

/// Downloads `url` to `file`, and tells how far it is. Ends when the download does, or when it is suspended.
pub async fn download(dir: &Path, url: &str, file: &Path) -> Outcome<JobView> {
    let session = Session::open(SessionOptions::new(dir)).await?;
    // One file, one download: the key makes a second run find the job of the first.
    let key = std::path::absolute(file)?.display().to_string();
    let job = session.submit(Submission::download(url, file).key(key)).await?;
    // Somebody may have suspended it since (`haul --session ./downloads pause 1`): running this means to go on.
    let _at_work_already = job.resume().await;

    let mut events = session.events_after(None, Selection::ids([job.id()])).await;
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    let mut rate = Rate { at: Instant::now(), done: None };
    let ended = loop {
        tokio::select! {
            told = events.next() => match told {
                Some(Response::Event { event }) => println!("\r\x1b[K{:>9}  {}", event.job.state, event.what),
                // Some events were missed: the next look tells how things stand.
                Some(_) => {}
                None => return Err("the session has ended".into()),
            },
            _ = tick.tick() => {
                let view = job.view().await?.ok_or("the job is past retention")?;
                print!("\r\x1b[K{}", line(&view, rate.next(view.done)));
                std::io::stdout().flush()?;
                if view.state.is_terminal() || view.state == JobState::Suspended {
                    println!();
                    break view;
                }
            }
        }
    };
    session.shutdown().await;
    Ok(ended)
}

/// Bytes a second between two looks.
struct Rate {
    at: Instant,
    done: Option<u64>,
}

impl Rate {
    fn next(&mut self, done: u64) -> f64 {
        let span = std::mem::replace(&mut self.at, Instant::now()).elapsed().as_secs_f64();
        // At the first look, `done` is what earlier runs have brought.
        let before = self.done.replace(done).unwrap_or(done);
        done.saturating_sub(before) as f64 / span.max(0.001)
    }
}

fn line(view: &JobView, rate: f64) -> String {
    let (done, rate) = (view.done as f64 / 1e6, rate / 1e6);
    let of = match view.size {
        Some(size) if size > 0 => {
            format!("of {:.1} MB, {:.0} %", size as f64 / 1e6, view.done as f64 / size as f64 * 100.0)
        }
        Some(_) | None => "so far".to_owned(),
    };
    let waits = view.waits_for.as_ref().map_or_else(String::new, |what| format!(", waits for {what}"));
    format!("{:>9}  {done:.1} MB {of}, {rate:.1} MB/s{waits}", view.state)
}
