//! A TCP pass-through that counts bytes and holds them to a rate.
//!
//! Invariant: a byte is counted when it has arrived here, whether or not it can be passed on: what a
//! dying process sent was sent.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

const BLOCK: usize = 64 << 10;
/// Small socket buffers, so that what a sender calls sent has mostly passed here.
const SOCKET_BUFFER: u32 = 256 << 10;
/// What may go at once after a pause.
const BURST: Duration = Duration::from_millis(5);

/// A running pass-through; dropping it stops it.
pub struct Passage {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    upstream: Mutex<SocketAddr>,
    sent: AtomicU64,
    received: AtomicU64,
    rate: u64,
    /// When the next byte may go.
    free_at: Mutex<Instant>,
}

impl Passage {
    /// Opens a port in front of `upstream`; `rate` is in bytes per second, both ways together.
    pub fn open(upstream: SocketAddr, rate: u64) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(SOCKET_BUFFER)?;
        socket.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let listener = socket.listen(64)?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            upstream: Mutex::new(upstream),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            rate,
            free_at: Mutex::new(Instant::now()),
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared)));
        Ok(Self { address, shared, task })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Leads new connections elsewhere.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *self.shared.upstream.lock().unwrap_or_else(PoisonError::into_inner) = upstream;
    }

    /// Bytes that clients have sent.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }

    /// Bytes that the server has sent.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::Relaxed)
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(pass(client, Arc::clone(&shared)));
            }
            // Out of descriptors, most likely: others will close theirs.
            Err(_) => sleep(Duration::from_millis(50)).await,
        }
    }
}

/// An error either way ends both ways, as a broken line would.
async fn pass(client: TcpStream, shared: Arc<Shared>) {
    let upstream = *shared.upstream.lock().unwrap_or_else(PoisonError::into_inner);
    let Ok(server) = connect(upstream).await else { return };
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let _broken = tokio::try_join!(
        one_way(client_read, server_write, &shared, &shared.sent),
        one_way(server_read, client_write, &shared, &shared.received),
    );
}

async fn connect(upstream: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(SOCKET_BUFFER)?;
    socket.connect(upstream).await
}

async fn one_way(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    shared: &Shared,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut block = vec![0; BLOCK];
    loop {
        let got = from.read(&mut block).await?;
        if got == 0 {
            return to.shutdown().await;
        }
        count.fetch_add(got as u64, Ordering::Relaxed);
        sleep_until(shared.slot(got as u64)).await;
        to.write_all(&block[..got]).await?;
    }
}

impl Shared {
    /// Reserves the time that `bytes` take.
    fn slot(&self, bytes: u64) -> Instant {
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.rate.max(1));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = Instant::now().checked_sub(BURST).unwrap_or_else(Instant::now);
        *free_at = (*free_at).max(earliest) + takes;
        *free_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each connection with as many bytes as it got, plus one.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("bind");
        let address = listener.local_addr().expect("address");
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut got = Vec::new();
                stream.read_to_end(&mut got).await.expect("read");
                got.push(0);
                stream.write_all(&got).await.expect("write");
            }
        });
        address
    }

    async fn exchange(passage: &Passage, bytes: usize) -> usize {
        let mut stream = TcpStream::connect(passage.address()).await.expect("connect");
        stream.write_all(&vec![7; bytes]).await.expect("write");
        stream.shutdown().await.expect("shutdown");
        let mut got = Vec::new();
        stream.read_to_end(&mut got).await.map_or(0, |_| got.len())
    }

    #[tokio::test]
    async fn bytes_are_passed_and_counted_each_way() {
        let passage = Passage::open(echo().await, 1 << 40).expect("open");
        assert_eq!(exchange(&passage, 1_000_000).await, 1_000_001);
        assert_eq!((passage.sent(), passage.received()), (1_000_000, 1_000_001));
    }

    #[tokio::test]
    async fn the_rate_is_held() {
        let passage = Passage::open(echo().await, 4_000_000).expect("open");
        let started = Instant::now();
        exchange(&passage, 400_000).await;
        // 0.8 MB in all: 200 ms, less the burst.
        assert!(started.elapsed() >= Duration::from_millis(180), "{:?}", started.elapsed());
    }

    #[tokio::test]
    async fn without_a_server_connections_break_and_a_new_server_is_found() {
        let passage = Passage::open(SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 40).expect("open");
        let mut stream = TcpStream::connect(passage.address()).await.expect("connect");
        assert!(matches!(stream.read(&mut [0; 8]).await, Ok(0) | Err(_)));
        passage.lead_to(echo().await);
        assert_eq!(exchange(&passage, 10).await, 11);
    }
}
