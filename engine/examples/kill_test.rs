//! Fault injection of an embedder's own: a program that is killed in mid-upload, again and again, at offsets that a
//! seed chooses; then it is looked at whether the promise was kept.
//!
//! ```sh
//! cargo run -p longhaul --example kill_test             # a new seed each time
//! cargo run -p longhaul --example kill_test -- 42 20    # that seed, twenty kills
//! ```
//!
//! It starts itself as a child process, which uploads a file to a small tus server in the parent; the parent kills the
//! child with SIGKILL as soon as the server has so many bytes, starts it again, and so on. In the end the object must be
//! there byte for byte, once, and the session's directory clean. Nothing else is needed, and nothing is left behind.
//!
//! To have this in a test of your own: `kill_test(seed, kills, &["--exact", "child"])` from one `#[test]`, and
//! `child()` in another one named `child` (`engine/tests/embed.rs` does so).

#![allow(clippy::disallowed_methods, reason = "an embedding program, not the engine")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use longhaul::control::Selection;
use longhaul::{JobState, Session, SessionOptions, Submission, UploadProtocol};

pub type Outcome<T = ()> = Result<T, Box<dyn std::error::Error>>;

/// Bytes of the upload.
const SIZE: usize = 8 << 20;
/// What tells a child process that it is one: the session's directory, the URL, the file.
const CHILD: [&str; 3] = ["KILL_TEST_SESSION", "KILL_TEST_URL", "KILL_TEST_FILE"];

fn main() -> Outcome {
    if std::env::var_os(CHILD[0]).is_some() {
        return child();
    }
    let mut numbers = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis() as u64;
    let (seed, kills) = (numbers.next().unwrap_or(Ok(now))?, numbers.next().unwrap_or(Ok(5))?);
    kill_test(seed, kills, &[])
}

/// The program under test: an uploader as anybody would write it. Nothing to do if this is no child process.
pub fn child() -> Outcome {
    let [Ok(dir), Ok(url), Ok(file)] = CHILD.map(std::env::var) else { return Ok(()) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let session = Session::open(SessionOptions::new(dir)).await?;
        let upload = Submission::upload(file, url).protocol(UploadProtocol::Tus).key("the only one");
        let ended = session.submit(upload).await?.wait().await?;
        session.shutdown().await;
        match ended.state {
            JobState::Completed => Ok(()),
            state => Err(format!("job {} is {state}: {:?}", ended.id, ended.cause).into()),
        }
    })
}

/// Kills the child process `kills` times, lets it end, and checks what came of it.
pub fn kill_test(seed: u64, kills: u64, child_args: &[&str]) -> Outcome {
    println!("seed {seed}: {kills} kills");
    let mut random = Random(seed);
    let dir = tempfile::tempdir()?;
    let (session, file) = (dir.path().join("session"), dir.path().join("movie.bin"));
    let content: Vec<u8> = (0..SIZE / 8).flat_map(|_| random.number().to_le_bytes()).collect();
    std::fs::write(&file, &content)?;
    let server = Server::start(Duration::from_millis(2))?;
    let start = || -> std::io::Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        let values = [session.as_os_str(), server.url.as_ref(), file.as_os_str()];
        command.args(child_args).envs(CHILD.into_iter().zip(values)).spawn()
    };

    let mut offsets: Vec<u64> = (0..kills).map(|_| random.number() % SIZE as u64).collect();
    offsets.sort_unstable();
    for offset in offsets {
        let mut child = start()?;
        let ended = loop {
            match child.try_wait()? {
                None if server.stored() < offset => thread::sleep(Duration::from_millis(1)),
                ended => break ended,
            }
        };
        // SIGKILL: no handler, no destructor, no last words.
        child.kill()?;
        child.wait()?;
        match ended {
            None => println!("killed it at byte {offset}; the server has {} of {SIZE}", server.stored()),
            Some(status) if status.success() => println!("it had done its work before byte {offset}"),
            Some(status) => return Err(format!("the child ended by itself: {status}").into()),
        }
    }
    let last = start()?.wait()?;
    if !last.success() {
        return Err(format!("not completed in the end: {last}").into());
    }
    check(&session, &server, &content)
}

/// One job, completed; one object, byte for byte; nothing left behind.
fn check(dir: &Path, server: &Server, content: &[u8]) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (counts, report) = runtime.block_on(async {
        let session = Session::open(SessionOptions::new(dir)).await?;
        let counts = session.count(Selection::all()).await?;
        session.shutdown().await;
        Outcome::Ok((counts, longhaul::doctor::examine(dir).await?))
    })?;
    require((counts.completed, counts.all()) == (1, 1), &format!("one completed job: {counts:?}"))?;
    let objects = server.complete();
    require(objects.len() == 1, &format!("one object, not {}", objects.len()))?;
    require(objects[0] == content, "every byte as it was")?;
    let left = std::fs::read_dir(dir.join("stage"))?.count();
    require(left == 0, &format!("an empty staging area, not {left} files"))?;
    require(report.findings.is_empty(), &format!("nothing for a doctor: {:?}", report.findings))?;
    println!("completed: {} bytes, {} travelled", content.len(), server.taken());
    Ok(())
}

fn require(holds: bool, what: &str) -> Outcome {
    if holds { Ok(()) } else { Err(format!("expected {what}").into()) }
}

/// Numbers from a seed (`SplitMix64`).
struct Random(u64);

impl Random {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// As much of tus 1.0 as an upload needs, in memory: one request a connection, one thread a request. What it has of a
/// request that breaks off, it keeps, as tus servers do.
pub struct Server {
    pub url: String,
    store: Arc<Mutex<Store>>,
}

#[derive(Default)]
struct Store {
    uploads: BTreeMap<String, Upload>,
    created: u64,
    taken: u64,
}

struct Upload {
    len: u64,
    bytes: Vec<u8>,
    /// Of the request that may write; an older one's last bytes must not come between.
    writer: u64,
}

impl Server {
    /// Listens; waits for `pause` after each 64 KiB that it takes.
    pub fn start(pause: Duration) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let url = format!("http://{}/files/", listener.local_addr()?);
        let store = Arc::<Mutex<Store>>::default();
        let served = Arc::clone(&store);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let store = Arc::clone(&served);
                // Clients that are killed break their connections: that is no error here.
                thread::spawn(move || answer(stream, &store, pause));
            }
        });
        Ok(Self { url, store })
    }

    /// Bytes of all uploads, finished or not.
    pub fn stored(&self) -> u64 {
        lock(&self.store).uploads.values().map(|upload| upload.bytes.len() as u64).sum()
    }

    /// Bytes of files that were taken from connections, kept or not.
    pub fn taken(&self) -> u64 {
        lock(&self.store).taken
    }

    /// The finished uploads.
    pub fn complete(&self) -> Vec<Vec<u8>> {
        let store = lock(&self.store);
        let whole = store.uploads.values().filter(|upload| upload.bytes.len() as u64 == upload.len);
        whole.map(|upload| upload.bytes.clone()).collect()
    }
}

fn lock(store: &Mutex<Store>) -> MutexGuard<'_, Store> {
    store.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(stream: TcpStream, store: &Mutex<Store>, pause: Duration) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let number = |name: &str| headers.get(name).and_then(|value| value.parse::<u64>().ok()).unwrap_or(0);
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let said = match method {
        "OPTIONS" => "204 No Content\r\nTus-Version: 1.0.0\r\nTus-Extension: creation,termination".to_owned(),
        "POST" => create(store, number("upload-length")),
        "PATCH" => {
            let (offset, len) = (number("upload-offset"), number("content-length"));
            take(&mut reader.take(len), store, path, offset, pause)?
        }
        "HEAD" => tell(store, path),
        "DELETE" => match lock(store).uploads.remove(path) {
            Some(_) => "204 No Content".to_owned(),
            None => "404 Not Found".to_owned(),
        },
        _ => "405 Method Not Allowed".to_owned(),
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 {said}\r\nTus-Resumable: 1.0.0\r\nCache-Control: no-store\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )
}

fn create(store: &Mutex<Store>, len: u64) -> String {
    let mut store = lock(store);
    store.created += 1;
    let path = format!("/files/{}", store.created);
    store.uploads.insert(path.clone(), Upload { len, bytes: Vec::new(), writer: 0 });
    format!("201 Created\r\nLocation: {path}")
}

fn tell(store: &Mutex<Store>, path: &str) -> String {
    match lock(store).uploads.get_mut(path) {
        Some(upload) => {
            // What was told must stay true.
            upload.writer += 1;
            format!("200 OK\r\nUpload-Offset: {}\r\nUpload-Length: {}", upload.bytes.len(), upload.len)
        }
        None => "404 Not Found".to_owned(),
    }
}

fn take(
    body: &mut impl Read,
    store: &Mutex<Store>,
    path: &str,
    offset: u64,
    pause: Duration,
) -> std::io::Result<String> {
    let writer = match lock(store).uploads.get_mut(path) {
        Some(upload) if upload.bytes.len() as u64 == offset => {
            upload.writer += 1;
            upload.writer
        }
        Some(_) => return Ok("409 Conflict".to_owned()),
        None => return Ok("404 Not Found".to_owned()),
    };
    let mut buffer = vec![0; 64 << 10];
    loop {
        let got = body.read(&mut buffer)?;
        let mut guard = lock(store);
        let store = &mut *guard;
        store.taken += got as u64;
        let Some(upload) = store.uploads.get_mut(path).filter(|upload| upload.writer == writer) else {
            return Ok("409 Conflict".to_owned());
        };
        upload.bytes.extend_from_slice(&buffer[..got]);
        if got == 0 {
            return Ok(format!("204 No Content\r\nUpload-Offset: {}", upload.bytes.len()));
        }
        drop(guard);
        thread::sleep(pause);
    }
}
