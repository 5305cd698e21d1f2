//! A background uploader: hands files over, can be killed at any time, and finds its uploads again when it is started
//! again.
//!
//! ```sh
//! haul serve inbox &       # or any tus server, or one that takes PUT
//! cargo run -p longhaul --example background_upload -- ./uploads http://127.0.0.1:8080/files/ *.jpg
//! ```
//!
//! Kill it (`kill -9`, Ctrl-C, the power switch) and run the same line again, as often as you like: what has arrived is
//! not sent again, and what was under way goes on where the server stands. Without files it only finishes what there
//! is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use longhaul::{Session, SessionOptions, Submission};

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut args = std::env::args().skip(1);
    let (Some(dir), Some(url)) = (args.next(), args.next()) else {
        return Err("usage: background_upload SESSION-DIRECTORY URL [FILE…]".into());
    };
    upload(Path::new(&dir), &url, args.map(PathBuf::from).collect()).await
}

pub async fn upload(dir: &Path, url: &str, files: Vec<PathBuf>) -> Outcome {
    // This alone finds every unfinished upload of earlier runs, and goes on with it.
    let session = Session::open(SessionOptions::new(dir)).await?;
    for job in session.jobs().await? {
        println!("found    {:>3} {}: {}, {} bytes done", job.id, job.source, job.state, job.done);
    }
    for file in files {
        // One key, one upload, however often it is submitted. (At most 200 bytes. Put the time of the last change into
        // it if a file that was changed shall be sent again.)
        let key = std::path::absolute(&file)?.display().to_string();
        let job = session.submit(Submission::upload(&file, url).key(key)).await?;
        println!("accepted {:>3} {}: from here on it survives a power cut", job.id(), file.display());
    }
    // Nothing left to do: every upload has ended, or is suspended until somebody helps.
    session.idled(Duration::from_millis(100)).await;
    for job in session.jobs().await? {
        let why = job.cause.map_or_else(String::new, |cause| format!(" ({})", cause.text));
        println!("{:<8} {:>3} {}{why}", job.state.to_string(), job.id, job.source);
    }
    session.shutdown().await;
    Ok(())
}
