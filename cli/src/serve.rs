//! `haul serve`: a small durable receiver for the other end of an upload.
//!
//! ```text
//! connection --Gate--> answer: host, token, size of headers
//!                        |-- /files/, /uploads/<id> --> tus.rs --> store.rs: one Upload each
//!                        |                                |           upload.rs: its one Writer
//!                        |                                +-- intake.rs --> chunk.rs: bytes to disk
//!                        |                                                    +-- publish.rs
//!                        +-- /files/<name> -----------> object.rs, condition.rs
//! ```
//!
//! The layout of the directory is in `dir.rs`; records and durable offsets in `record.rs`, `mark.rs`.
//!
//! Invariants:
//! - an offset is told only after its bytes and the offset itself are synced, so it survives `kill -9`
//!   and power cuts and never decreases;
//! - an upload is told to be complete only after its object stands under its name, durably;
//! - no object is ever overwritten or removed;
//! - one server owns a directory.
//!
//! Absent on purpose: PUT, listings, TLS (a proxy's work), expiry of unfinished uploads.

mod checksum;
mod chunk;
mod condition;
mod conn;
mod dir;
mod intake;
mod mark;
mod name;
mod object;
mod publish;
mod record;
mod reply;
mod store;
mod token;
mod tus;
mod upload;

#[cfg(test)]
mod tests;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{Method, header, request::Parts, uri::Authority},
    response::{IntoResponse as _, Response},
};
use tokio::{net::TcpListener, sync::watch};

use self::{
    conn::Gate,
    dir::{DirLock, Root},
    reply::Refusal,
    store::Store,
    tus::Target,
};

pub use self::token::Token;

const HEADERS_MAX_BYTES: usize = 32 * 1024;

/// Where and what to serve.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// Created if it does not exist; its parent must.
    pub dir: PathBuf,
    pub listen: SocketAddr,
    /// Required of every request if set; must be set unless `listen` is a loopback address.
    pub token: Option<Token>,
}

/// Why there is no server, or why it ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// Anybody could write to the directory.
    #[error("refusing to listen on {address} without a token: it is not a loopback address")]
    Exposed { address: SocketAddr },
    /// The token could not be sent in a header.
    #[error("a token must be one or more visible ASCII characters")]
    Token,
    #[error("cannot serve {}", path.display())]
    Directory { path: PathBuf, source: io::Error },
    /// Somebody else could change what was acknowledged.
    #[error("cannot trust the directory {}: {reason}", name::STATE_DIR)]
    StateDirectory { reason: &'static str },
    /// Another server owns the directory.
    #[error("{} is being served already, by process {pid}", path.display())]
    Locked { path: PathBuf, pid: String },
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the server ended")]
    Ended(#[source] io::Error),
}

/// How long the server waits for whom.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// A second writer for the first, before it is refused.
    lock_wait: Duration,
    /// For the next bytes of a body. The writer's lock of a client that vanished lasts this long.
    body_stall: Duration,
    /// For anything at all to move on a connection.
    idle: Duration,
    /// For replies under way when the server is told to stop.
    grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lock_wait: Duration::from_secs(3),
            body_stall: Duration::from_secs(30),
            idle: Duration::from_secs(300),
            grace: Duration::from_secs(5),
        }
    }
}

/// A server that is bound, recovered and locked, but does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    token: Option<Token>,
    store: Arc<Store>,
    lock: Arc<DirLock>,
    stop: watch::Sender<bool>,
}

struct App {
    store: Arc<Store>,
    token: Option<Token>,
}

impl Server {
    /// Takes the directory's lock, recovers its uploads and opens the port.
    ///
    /// # Errors
    ///
    /// Any [`ServeError`] but `Ended`; nothing was changed if it is `Exposed` or `Locked`.
    pub async fn bind(options: ServeOptions) -> Result<Self, ServeError> {
        Self::bind_with(options, Limits::default()).await
    }

    async fn bind_with(options: ServeOptions, limits: Limits) -> Result<Self, ServeError> {
        let ServeOptions { dir, listen, token } = options;
        if token.is_none() && !listen.ip().to_canonical().is_loopback() {
            return Err(ServeError::Exposed { address: listen });
        }
        let (stop, stopped) = watch::channel(false);
        let path = dir.clone();
        let opened = tokio::task::spawn_blocking(move || {
            let (root, lock) = Root::open(&dir)?;
            let lock = Arc::new(lock);
            let store = Store::open(root, &lock, limits, stopped)
                .map_err(|source| ServeError::Directory { path: dir, source })?;
            Ok((Arc::new(store), lock))
        });
        let (store, lock) = opened
            .await
            .unwrap_or_else(|error| Err(ServeError::Directory { path, source: io::Error::other(error) }))?;
        let failed = |source| ServeError::Listen { address: listen, source };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        Ok(Self { listener, address, token, store, lock, stop })
    }

    /// The address with the port that was chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `shutdown` is ready. Bodies that are arriving then are ended as if their
    /// connection had been lost: what came is synced and kept. When this returns, nothing is written
    /// any more and the directory is free for the next server.
    ///
    /// # Errors
    ///
    /// [`ServeError::Ended`].
    pub async fn run(self, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<(), ServeError> {
        let Self { listener, token, store, lock, stop, .. } = self;
        let limits = store.limits;
        let app = Arc::new(App { store: Arc::clone(&store), token });
        // The signal's task may outlive this future, which must mean stop, too, when it is dropped.
        let stop = Arc::new(stop);
        let signal = Arc::downgrade(&stop);
        let router = Router::new().fallback(answer).with_state(app);
        let serving = axum::serve(Gate::new(listener, limits.idle), router)
            .with_graceful_shutdown(async move {
                shutdown.await;
                if let Some(stop) = signal.upgrade() {
                    stop.send_replace(true);
                }
            })
            .into_future();
        let overdue = async {
            store.stopping().await;
            tokio::time::sleep(limits.grace).await;
        };
        let ended = tokio::select! {
            ended = serving => ended.map_err(ServeError::Ended),
            () = overdue => Ok(()),
        };
        store.quiet().await;
        drop(lock);
        ended
    }
}

async fn answer(State(app): State<Arc<App>>, request: Request) -> Response {
    match route(&app, request).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    }
}

async fn route(app: &App, request: Request) -> Result<Response, Refusal> {
    let (head, body) = request.into_parts();
    admit(app, &head)?;
    let store = Arc::clone(&app.store);
    let path = head.uri.path();
    let target = match (path.strip_prefix("/files/"), path.strip_prefix("/uploads/")) {
        (Some(""), _) => Target::Files,
        _ if path == "/files" || path == "*" => Target::Files,
        (_, Some(id)) => Target::Upload(id.to_owned()),
        (Some(segment), _) => {
            return match head.method {
                Method::GET => object::get(store, segment, &head.headers, true).await,
                Method::HEAD => object::get(store, segment, &head.headers, false).await,
                _ => Err(Refusal::Method("GET, HEAD")),
            };
        }
        (None, None) => return Err(Refusal::NotFound),
    };
    let answered = tokio::spawn(tus::answer(store, target, head.method, head.headers, body));
    answered.await.map_err(|_| Refusal::Internal)
}

/// What is asked of every request before anything else.
fn admit(app: &App, head: &Parts) -> Result<(), Refusal> {
    let headers = &head.headers;
    let bytes = headers.iter().map(|(name, value)| name.as_str().len() + value.len());
    if bytes.sum::<usize>() > HEADERS_MAX_BYTES {
        return Err(Refusal::Headers);
    }
    match &app.token {
        Some(token) => token.admits(headers).then_some(()).ok_or(Refusal::Unauthorized),
        None => is_local_host(head).then_some(()).ok_or(Refusal::Misdirected),
    }
}

/// Without a token, a page in a browser on this machine could reach the server under a name of its
/// own that resolves to a loopback address. An address or `localhost` cannot be such a name.
fn is_local_host(head: &Parts) -> bool {
    let host = match head.headers.get(header::HOST) {
        Some(host) => host.to_str().ok(),
        None => head.uri.authority().map(Authority::as_str).or(Some("localhost")),
    };
    let Some(host) = host else { return false };
    let bare = match host.rsplit_once(':') {
        Some((bare, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => bare,
        _ => host,
    };
    let bare = bare.trim_start_matches('[').trim_end_matches(']');
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}
