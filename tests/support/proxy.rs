//! A TCP proxy that slows, counts and breaks what passes through it.
//!
//! Faults trigger on the bytes of all connections together, one direction at a time, so the client's connection
//! pool cannot decide whether one fires; a proxy dropped with a fault unfired fails its test.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::support::wait::until;

/// How often a pump looks up from a silent connection.
const LOOK: Duration = Duration::from_millis(20);

/// The direction of bytes: `Up` is from `haul` to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    Up,
    Down,
}

/// What happens to the connection that carries the triggering byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Both sides are closed in order.
    Fin,
    /// Both sides are reset.
    Rst,
    /// Both sides stay open and nothing moves any more.
    Stall,
}

#[derive(Debug, Clone, Copy)]
pub struct Fault {
    pub way: Way,
    /// Fires when this many bytes have gone that way.
    pub after: u64,
    pub act: Act,
}

#[derive(Debug, Default)]
struct Lane {
    bytes: AtomicU64,
    /// Bytes per second; 0 for no limit.
    rate: AtomicU64,
    /// When the lane is free for the next block.
    free: Mutex<Option<Instant>>,
    faults: Mutex<VecDeque<Fault>>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    up: Lane,
    down: Lane,
    connections: AtomicU64,
    refusing: AtomicBool,
    closing: AtomicBool,
    open: Mutex<Vec<Weak<Pair>>>,
}

#[derive(Debug)]
struct Pair {
    client: TcpStream,
    server: TcpStream,
    over: AtomicBool,
    stalled: AtomicBool,
}

/// A running proxy. Dropping it closes its connections and checks that every fault fired.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

impl Proxy {
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = small_listener();
        let addr = listener.local_addr().expect("address of the proxy");
        let shared = Arc::new(Shared {
            upstream,
            up: Lane::default(),
            down: Lane::default(),
            connections: AtomicU64::new(0),
            refusing: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            open: Mutex::default(),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { addr, shared }
    }

    /// A proxy that lets `rate` bytes a second through each way.
    pub fn slow(upstream: SocketAddr, rate: u64) -> Self {
        let proxy = Self::to(upstream);
        proxy.throttle(rate);
        proxy
    }

    pub fn throttle(&self, rate: u64) {
        for lane in [&self.shared.up, &self.shared.down] {
            lane.rate.store(rate, Ordering::SeqCst);
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr)
    }

    /// Bytes that have gone `way` so far, heads and bodies, over all connections.
    pub fn bytes(&self, way: Way) -> u64 {
        self.lane(way).bytes.load(Ordering::SeqCst)
    }

    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// From now on new connections are reset, and those that are open too.
    pub fn refuse(&self, refusing: bool) {
        self.shared.refusing.store(refusing, Ordering::SeqCst);
        if refusing {
            self.shared.end_all();
        }
    }

    /// Adds a fault; those of one direction fire in the order of their bytes.
    pub fn arm(&self, fault: Fault) {
        let mut faults = self.lane(fault.way).faults.lock().expect("no proxy thread panics");
        faults.push_back(fault);
        faults.make_contiguous().sort_by_key(|fault| fault.after);
    }

    pub fn unfired(&self) -> usize {
        [Way::Up, Way::Down]
            .map(|way| self.lane(way).faults.lock().expect("no proxy thread panics").len())
            .iter()
            .sum()
    }

    #[track_caller]
    pub fn until_bytes(&self, way: Way, bytes: u64) {
        until(&format!("{bytes} bytes have gone {way:?}"), || (self.bytes(way) >= bytes).then_some(()));
    }

    fn lane(&self, way: Way) -> &Lane {
        self.shared.lane(way)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.addr);
        self.shared.end_all();
        if !thread::panicking() {
            assert_eq!(self.unfired(), 0, "a fault of the proxy never fired: the test did not test it");
        }
    }
}

impl Shared {
    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Up => &self.up,
            Way::Down => &self.down,
        }
    }

    fn end_all(&self) {
        for pair in
            self.open.lock().expect("no proxy thread panics").drain(..).filter_map(|pair| pair.upgrade())
        {
            pair.end(true);
        }
    }
}

impl Pair {
    fn end(&self, reset: bool) {
        if self.over.load(Ordering::SeqCst) {
            return;
        }
        for stream in [&self.client, &self.server] {
            if reset {
                // The reset goes out when both pumps have let go of the socket.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
            } else {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether this end of the pumping is only to look again.
    fn idle(&self, error: &io::Error) -> bool {
        let again =
            matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted);
        again && !self.over.load(Ordering::SeqCst)
    }

    fn read(&self, mut from: &TcpStream, block: &mut [u8]) -> io::Result<usize> {
        loop {
            match from.read(block) {
                Err(error) if self.idle(&error) => {}
                result => return result,
            }
        }
    }

    fn write(&self, mut to: &TcpStream, mut block: &[u8]) -> io::Result<()> {
        while !block.is_empty() {
            match to.write(block) {
                Ok(written) => block = &block[written..],
                Err(error) if self.idle(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Lane {
    /// Waits for this block's turn on a link of the lane's rate.
    fn pace(&self, bytes: u64) {
        let rate = self.rate.load(Ordering::SeqCst);
        if rate == 0 {
            return;
        }
        let now = Instant::now();
        let start = {
            let mut free = self.free.lock().expect("no proxy thread panics");
            let start = free.map_or(now, |at| at.max(now));
            *free = Some(start + Duration::from_secs_f64(bytes as f64 / rate as f64));
            start
        };
        // The link's own time, not a wait for anything.
        thread::sleep(start.saturating_duration_since(now));
    }

    /// How much may pass before the next fault is due, and the fault if it is due now.
    fn next_fault(&self) -> (u64, Option<Act>) {
        let mut faults = self.faults.lock().expect("no proxy thread panics");
        let gone = self.bytes.load(Ordering::SeqCst);
        match faults.front() {
            None => (u64::MAX, None),
            Some(fault) if fault.after > gone => (fault.after - gone, None),
            Some(_) => (u64::MAX, faults.pop_front().map(|fault| fault.act)),
        }
    }
}

/// Accepted sockets inherit the small buffer, so that a killed client leaves little on the way.
fn small_listener() -> TcpListener {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(64 * 1024).expect("a small buffer");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a loopback port");
    socket.listen(128).expect("a listener");
    socket.into()
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for client in listener.incoming().flatten() {
        if shared.closing.load(Ordering::SeqCst) {
            return;
        }
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let server = TcpStream::connect(shared.upstream);
        let (false, Ok(server)) = (shared.refusing.load(Ordering::SeqCst), server) else {
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            continue;
        };
        for stream in [&client, &server] {
            let _ = stream.set_nodelay(true);
            let _ = stream.set_read_timeout(Some(LOOK));
            let _ = stream.set_write_timeout(Some(LOOK));
        }
        let _ = SockRef::from(&server).set_recv_buffer_size(64 * 1024);
        let pair =
            Arc::new(Pair { client, server, over: AtomicBool::new(false), stalled: AtomicBool::new(false) });
        let mut open = shared.open.lock().expect("no proxy thread panics");
        open.retain(|pair| pair.strong_count() > 0);
        open.push(Arc::downgrade(&pair));
        for way in [Way::Up, Way::Down] {
            let (pair, shared) = (Arc::clone(&pair), Arc::clone(shared));
            thread::spawn(move || pump(&pair, &shared, way));
        }
    }
}

fn pump(pair: &Pair, shared: &Shared, way: Way) {
    let lane = shared.lane(way);
    let (from, to) = match way {
        Way::Up => (&pair.client, &pair.server),
        Way::Down => (&pair.server, &pair.client),
    };
    let mut block = vec![0; 16 * 1024];
    loop {
        let (room, due) = lane.next_fault();
        match due {
            None => {}
            Some(Act::Fin) => return pair.end(false),
            Some(Act::Rst) => return pair.end(true),
            Some(Act::Stall) => pair.stalled.store(true, Ordering::SeqCst),
        }
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(block.len());
        let read = match pair.read(from, &mut block[..room]) {
            Ok(0) => {
                let _ = to.shutdown(Shutdown::Write);
                return;
            }
            Ok(read) => read,
            Err(_) => return pair.end(true),
        };
        while pair.stalled.load(Ordering::SeqCst) && !pair.over.load(Ordering::SeqCst) {
            thread::sleep(LOOK);
        }
        if pair.over.load(Ordering::SeqCst) {
            return;
        }
        lane.pace(read as u64);
        if pair.write(to, &block[..read]).is_err() {
            return pair.end(true);
        }
        lane.bytes.fetch_add(read as u64, Ordering::SeqCst);
    }
}
