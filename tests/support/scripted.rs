//! An HTTP/1.1 server that does as it is told: it answers a request itself, hands it to a real server behind it,
//! or breaks off. One request a connection, one thread each; standard library only.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

/// A request as it came, without its body.
#[derive(Debug, Clone)]
pub struct Request {
    /// Its number at this server, from 0.
    pub index: usize,
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub arrived: Instant,
}

impl Request {
    /// The value of a header, by its lower-case name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }
}

/// What the server does with a request.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Takes the whole body, then answers.
    Reply(Reply),
    /// Hands the request to the server behind and its answer back.
    Forward,
    /// As [`Answer::Forward`], but closes the connection without having said so.
    ForwardAndClose,
    /// Hands the request on, reads the answer, and resets the client's connection instead of telling it.
    ForwardAndLose,
    /// Closes the connection without an answer.
    Close,
    /// Takes the whole body, sends these bytes as they are, and closes the connection without having said so.
    Raw(Vec<u8>),
    /// Connects to the server behind, says 200, and passes bytes both ways: what CONNECT asks for.
    Tunnel,
}

#[derive(Debug, Clone, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Says this Content-Length instead of the body's.
    pub claimed: Option<u64>,
}

impl Reply {
    pub fn new(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn claiming(mut self, length: u64) -> Self {
        self.claimed = Some(length);
        self
    }
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self::Reply(reply)
    }
}

type Script = dyn Fn(&Request) -> Answer + Send + Sync;

/// A running scripted server.
pub struct Scripted {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    script: Box<Script>,
    behind: Option<SocketAddr>,
    seen: Mutex<Vec<Request>>,
    closing: AtomicBool,
}

impl fmt::Debug for Scripted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Scripted").field("addr", &self.addr).finish_non_exhaustive()
    }
}

impl Scripted {
    /// A server that has only its script.
    pub fn alone(script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, Box::new(script))
    }

    /// A server in front of a real one.
    pub fn before(behind: SocketAddr, script: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(Some(behind), Box::new(script))
    }

    fn start(behind: Option<SocketAddr>, script: Box<Script>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port");
        let addr = listener.local_addr().expect("address of the scripted server");
        let shared =
            Arc::new(Shared { script, behind, seen: Mutex::default(), closing: AtomicBool::new(false) });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.closing.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&accepting);
                // A connection that breaks is the client's affair: the test looks at what the client does.
                thread::spawn(move || serve(&client, &shared));
            }
        });
        Self { addr, shared }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.shared.seen.lock().expect("no script panics").clone()
    }

    /// How many requests had this method.
    pub fn count(&self, method: &str) -> usize {
        self.seen().iter().filter(|request| request.method == method).count()
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
    }
}

/// How a body is framed.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

fn serve(client: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut reader = BufReader::new(client);
    let Some((first, headers)) = read_head(&mut reader)? else { return Ok(()) };
    let mut words = first.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (method, target) = (word(), word());
    let request = {
        let mut seen = shared.seen.lock().expect("no script panics");
        let index = seen.len();
        let request = Request { index, method, target, headers, arrived: Instant::now() };
        seen.push(request.clone());
        request
    };
    let framing = framing_of(&request.headers, Framing::Length(0));
    if request.header("expect").is_some_and(|v| v.eq_ignore_ascii_case("100-continue")) {
        let mut client = client;
        client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    match (shared.script)(&request) {
        Answer::Close => {
            let _ = socket2::SockRef::from(client).set_linger(Some(std::time::Duration::ZERO));
            return Ok(());
        }
        Answer::Reply(reply) => {
            copy_body(&mut reader, framing, &mut io::sink())?;
            write_reply(client, &request, &reply)?;
        }
        Answer::Raw(bytes) => {
            copy_body(&mut reader, framing, &mut io::sink())?;
            let mut client = client;
            client.write_all(&bytes)?;
        }
        Answer::Tunnel => {
            let behind = shared.behind.expect("a script that tunnels has a server behind it");
            return tunnel(client, &TcpStream::connect(behind)?);
        }
        Answer::Forward => {
            let answer = forward(&request, &mut reader, framing, shared)?;
            let mut client = client;
            copy_answer(&request, answer, true, &mut client)?;
        }
        Answer::ForwardAndClose => {
            let answer = forward(&request, &mut reader, framing, shared)?;
            let mut client = client;
            copy_answer(&request, answer, false, &mut client)?;
        }
        Answer::ForwardAndLose => {
            let answer = forward(&request, &mut reader, framing, shared)?;
            copy_answer(&request, answer, true, &mut io::sink())?;
            let _ = socket2::SockRef::from(client).set_linger(Some(std::time::Duration::ZERO));
            return Ok(());
        }
    }
    client.shutdown(Shutdown::Write)?;
    // Lets the client read the answer before the socket goes.
    io::copy(&mut reader, &mut io::sink())?;
    Ok(())
}

fn tunnel(mut client: &TcpStream, server: &TcpStream) -> io::Result<()> {
    client.write_all(b"HTTP/1.1 200 Connected\r\n\r\n")?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let up = thread::spawn(move || {
        let copied = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        copied
    });
    let down = io::copy(&mut &*server, &mut client);
    client.shutdown(Shutdown::Both)?;
    up.join().map_err(|_| io::ErrorKind::Other)??;
    down.map(drop)
}

fn write_reply(mut client: &TcpStream, request: &Request, reply: &Reply) -> io::Result<()> {
    let length = reply.claimed.unwrap_or(reply.body.len() as u64);
    let mut head = format!("HTTP/1.1 {} Scripted\r\nConnection: close\r\n", reply.status);
    if !matches!(reply.status, 204 | 304) {
        header(&mut head, "Content-Length", length);
    }
    for (name, value) in &reply.headers {
        header(&mut head, name, value);
    }
    head.push_str("\r\n");
    client.write_all(head.as_bytes())?;
    if request.method != "HEAD" {
        client.write_all(&reply.body)?;
    }
    Ok(())
}

fn header(head: &mut String, name: &str, value: impl fmt::Display) {
    fmt::Write::write_fmt(head, format_args!("{name}: {value}\r\n")).expect("write to a string");
}

fn forward(
    request: &Request,
    body: &mut impl BufRead,
    framing: Framing,
    shared: &Shared,
) -> io::Result<BufReader<TcpStream>> {
    let behind = shared.behind.expect("a script that forwards has a server behind it");
    let mut server = TcpStream::connect(behind)?;
    let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", request.method, request.target);
    for (name, value) in &request.headers {
        if !matches!(name.as_str(), "connection" | "expect") {
            header(&mut head, name, value);
        }
    }
    head.push_str("\r\n");
    server.write_all(head.as_bytes())?;
    if copy_body(body, framing, &mut server).is_err() {
        // The client broke off: the server behind must see it, and may have answered.
        server.shutdown(Shutdown::Write)?;
    }
    Ok(BufReader::new(server))
}

fn copy_answer(
    request: &Request,
    mut answer: BufReader<TcpStream>,
    says_close: bool,
    client: &mut impl Write,
) -> io::Result<()> {
    let Some((first, headers)) = read_head(&mut answer)? else { return Ok(()) };
    let mut head = format!("{first}\r\n");
    for (name, value) in &headers {
        if name != "connection" && name != "keep-alive" {
            header(&mut head, name, value);
        }
    }
    head.push_str(if says_close { "Connection: close\r\n\r\n" } else { "\r\n" });
    client.write_all(head.as_bytes())?;
    let bodiless = request.method == "HEAD" || first.contains(" 204 ") || first.contains(" 304 ");
    if !bodiless {
        copy_body(&mut answer, framing_of(&headers, Framing::UntilClose), client)?;
    }
    client.flush()
}

type Head = (String, Vec<(String, String)>);

/// A head's first line and headers, names in lower case; nothing at the end of the stream.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Head>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let first = line.trim_end().to_owned();
    let mut headers = Vec::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 || line.trim_end().is_empty() {
            return Ok(Some((first, headers)));
        }
        if let Some((name, value)) = line.trim_end().split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
}

fn framing_of(headers: &[(String, String)], default: Framing) -> Framing {
    let header = |name: &str| headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str());
    if header("transfer-encoding").is_some_and(|v| v.eq_ignore_ascii_case("chunked")) {
        return Framing::Chunked;
    }
    header("content-length").and_then(|v| v.parse().ok()).map_or(default, Framing::Length)
}

/// Copies a body with its framing as it is; an end before its time is an error.
fn copy_body(reader: &mut impl BufRead, framing: Framing, to: &mut impl Write) -> io::Result<()> {
    match framing {
        Framing::Length(length) => copy_exactly(reader, length, to),
        Framing::UntilClose => io::copy(reader, to).map(drop),
        Framing::Chunked => loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            to.write_all(line.as_bytes())?;
            let size = u64::from_str_radix(line.trim().split(';').next().unwrap_or_default(), 16)
                .map_err(|_| io::ErrorKind::UnexpectedEof)?;
            // The chunk and its line end; after the last chunk, just the line end (no trailers come here).
            copy_exactly(reader, size + 2, to)?;
            if size == 0 {
                return Ok(());
            }
        },
    }
}

fn copy_exactly(reader: &mut impl Read, length: u64, to: &mut impl Write) -> io::Result<()> {
    let copied = io::copy(&mut reader.take(length), to)?;
    if copied == length { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}
