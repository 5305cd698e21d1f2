//! Embedding: a program that downloads a file, pauses it on the way, is "restarted", and finds its
//! transfer again.
//!
//! Runs as it stands: `cargo run -p longhaul --example embed`. It brings its own small HTTP server, so that
//! nothing else is needed.

#![allow(clippy::disallowed_methods, reason = "an embedding program, not the engine")]

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use longhaul::control::Response;
use longhaul::{JobState, Session, SessionOptions};

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let dir = tempfile::tempdir()?;
    let url = serve_slowly(vec![42; 8 << 20])?;
    let options = SessionOptions::new(dir.path().join("session"));

    // The first life: accept a job, watch it, pause it half way.
    let session = Session::open(options.clone()).await?;
    let mut events = session.events();
    let job = session.download(&url, dir.path().join("movie.bin")).await?;
    println!("accepted as job {}: from here on it survives a power cut", job.id());
    while let Some(Response::Event { event }) = events.next().await {
        println!("  {:>9}  {}", event.job.state, event.what);
        if event.job.state == JobState::Sending {
            break;
        }
    }
    while job.view().await?.is_some_and(|view| view.done < 5 << 20) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let paused = job.suspend().await?;
    println!("paused at {} of {:?} bytes", paused.done, paused.size);
    session.shutdown().await;

    // The second life: the session is found again by its directory, and with it the job.
    let session = Session::open(options).await?;
    for view in session.jobs().await? {
        println!("found job {} again, {} at {} bytes", view.id, view.state, view.done);
        let Some(job) = session.job(view.id).await? else { continue };
        job.resume().await?;
        let ended = job.wait().await?;
        println!("job {} is {}: {:?}", ended.id, ended.state, ended.file);
    }
    let bytes = std::fs::read(dir.path().join("movie.bin"))?;
    assert!(bytes.len() == 8 << 20 && bytes.iter().all(|byte| *byte == 42), "every byte is there");
    session.shutdown().await;
    Ok(())
}

/// A server that answers ranged GETs, a little at a time, so that there is something to pause.
pub fn serve_slowly(content: Vec<u8>) -> Outcome<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://{}/movie.bin", listener.local_addr()?);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that pauses closes the connection: that is no error here.
            let _closed = answer(stream, &content);
        }
    });
    Ok(url)
}

fn answer(mut stream: TcpStream, content: &[u8]) -> std::io::Result<()> {
    let mut start = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            start = range.trim_end_matches('-').parse::<usize>().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    let (from, total) = (start.unwrap_or(0), content.len());
    let status = match start {
        Some(from) => format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{total}", total - 1),
        None => "200 OK".to_owned(),
    };
    let length = total - from;
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nETag: \"v1\"\r\nConnection: close\r\n\r\n"
    )?;
    for piece in content[from..].chunks(64 << 10) {
        stream.write_all(piece)?;
        std::thread::sleep(Duration::from_millis(15));
    }
    Ok(())
}
