//! Clients: one set for each way of connecting that jobs ask for.
//!
//! | option | client |
//! |---|---|
//! | `proxy` | none: the environment's; empty: none at all; a URL: that one, for every host |
//! | `proxy_user` | Basic to an HTTP proxy, name and password to a SOCKS one |
//! | `ca_file` | trusted besides the system's |
//! | `cert_file`, `key_file` | shown to a server that asks for a certificate |
//! | `insecure` | any certificate, any name in it |
//!
//! Invariants: at most [`SETS_MAX`] sets are kept, and the least recently used goes first (what runs on its
//! connections is not touched). Files are read when a set is made and again once they have changed; while
//! they cannot be used, a set that was made of them before goes on: who renews a certificate may not
//! fail the jobs of that moment.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Certificate, Client, ClientBuilder, Identity, NoProxy, Proxy};
use url::Url;

use super::super::{NetOptions, abort};
use super::names::Names;
use super::{cause, refused};
use crate::job::TransportOptions;
use crate::ports::{NetError, NetErrorKind, Transport};

/// How many ways of connecting are remembered.
const SETS_MAX: usize = 16;

/// Bytes of a file of certificates at most.
const PEM_MAX: u64 = 4 << 20;

const POOL_IDLE: Duration = Duration::from_secs(30);

/// An HTTP/2 connection carries many exchanges: one that is dead must be found out as such, or each
/// new exchange would wait on it.
const PING: Duration = Duration::from_secs(20);

/// The kernel gives a connection up this much later than we do, counted from when the peer last took
/// something. It is what frees a connection whose exchange was dropped while the peer takes nothing:
/// hyper first wants to write what it has buffered.
const KERNEL_MARGIN: Duration = Duration::from_secs(5);

/// By so much the timeout of large uploads differs from all others: that is how their sockets are known.
const MARK: Duration = Duration::from_millis(37);

/// What a client is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Ordinary,
    /// For redirects that begin at a public address: connects to public addresses only.
    PublicOnly,
    /// For large uploads: a connection each, which can be cut off.
    Large,
}

/// The sets that were used last, the latest at the end.
#[derive(Debug)]
pub(super) struct Clients {
    options: NetOptions,
    sets: Mutex<Vec<Arc<Set>>>,
}

impl Clients {
    /// With the ordinary set made, so that a machine without trust store is known at once.
    pub(super) fn new(options: NetOptions) -> Result<Self, NetError> {
        let first = Set::new(options.clone(), Transport::default(), Vec::new())?;
        first.get(Kind::Ordinary)?;
        Ok(Self { options, sets: Mutex::new(vec![Arc::new(first)]) })
    }

    /// The set for a way of connecting.
    pub(super) async fn of(self: &Arc<Self>, transport: &Transport) -> Result<Arc<Set>, NetError> {
        let known = self.find(transport);
        if let Some(set) = known.as_ref().filter(|set| set.files.is_empty()) {
            return Ok(Arc::clone(set));
        }
        let (clients, transport) = (Arc::clone(self), transport.clone());
        tokio::task::spawn_blocking(move || clients.renew(transport, known))
            .await
            .unwrap_or_else(|lost| Err(refused(format!("cannot set up a client: {lost}"))))
    }

    fn find(&self, transport: &Transport) -> Option<Arc<Set>> {
        let mut sets = self.sets();
        let at = sets.iter().position(|set| set.is_for(transport))?;
        let found = sets.remove(at);
        sets.push(Arc::clone(&found));
        Some(found)
    }

    /// The set as its files are now. Blocks.
    fn renew(&self, transport: Transport, known: Option<Arc<Set>>) -> Result<Arc<Set>, NetError> {
        // Before they are read: a change in between shows next time.
        let files = seen(&transport.options);
        if let (Some(known), Ok(files)) = (&known, &files)
            && known.files == *files
        {
            return Ok(Arc::clone(known));
        }
        let made = files.and_then(|files| Set::new(self.options.clone(), transport, files));
        let made = made.and_then(|set| {
            set.get(Kind::Ordinary)?;
            Ok(set)
        });
        match (made, known) {
            (Ok(set), _) => Ok(self.keep(set)),
            (Err(error), Some(known)) => {
                tracing::warn!("{error}; what was read of it before is still used");
                Ok(known)
            }
            (Err(error), None) => Err(error),
        }
    }

    fn keep(&self, set: Set) -> Arc<Set> {
        let mut sets = self.sets();
        let is_same = |old: &Arc<Set>| old.is_for(&set.transport) && old.files == set.files;
        if let Some(same) = sets.iter().find(|old| is_same(old)) {
            // Two requests at once have made it: one pool of connections is enough.
            return Arc::clone(same);
        }
        sets.retain(|old| !old.is_for(&set.transport));
        let set = Arc::new(set);
        sets.push(Arc::clone(&set));
        let surplus = sets.len().saturating_sub(SETS_MAX);
        sets.drain(..surplus);
        set
    }

    fn sets(&self) -> MutexGuard<'_, Vec<Arc<Set>>> {
        // Each change is one list operation: a panic elsewhere leaves nothing half done.
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The clients of one way of connecting. Each reads the trust store, so each is made when first needed.
#[derive(Debug)]
pub(super) struct Set {
    options: NetOptions,
    transport: Transport,
    /// The files as they were before they were read.
    files: Vec<Seen>,
    roots: Vec<Certificate>,
    identity: Option<Identity>,
    ordinary: OnceLock<Client>,
    public: OnceLock<Client>,
    large: OnceLock<Client>,
}

impl Set {
    /// Reads the files.
    fn new(options: NetOptions, transport: Transport, files: Vec<Seen>) -> Result<Self, NetError> {
        let wishes = &transport.options;
        let roots = wishes.ca_file.as_deref().map(roots).transpose()?.unwrap_or_default();
        let identity = match (&wishes.cert_file, &wishes.key_file) {
            (Some(cert), key) => Some(identity(cert, key.as_deref())?),
            (None, Some(key)) => {
                return Err(refused(format!("the key file {} needs a certificate file", key.display())));
            }
            (None, None) => None,
        };
        let (ordinary, public, large) = Default::default();
        Ok(Self { options, transport, files, roots, identity, ordinary, public, large })
    }

    fn is_for(&self, transport: &Transport) -> bool {
        self.transport.options == transport.options && self.transport.proxy_user == transport.proxy_user
    }

    /// The client for a purpose.
    pub(super) fn get(&self, kind: Kind) -> Result<&Client, NetError> {
        let slot = match kind {
            Kind::Ordinary => &self.ordinary,
            Kind::PublicOnly => &self.public,
            Kind::Large => &self.large,
        };
        if let Some(client) = slot.get() {
            return Ok(client);
        }
        let made = self.make(kind)?;
        Ok(slot.get_or_init(|| made))
    }

    fn make(&self, kind: Kind) -> Result<Client, NetError> {
        let mut builder = Client::builder()
            .user_agent(concat!("longhaul/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            // An embedder's other crates may turn reqwest's features on for all.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .tls_backend_rustls()
            .connect_timeout(self.options.connect)
            .pool_idle_timeout(POOL_IDLE)
            .tcp_nodelay(true)
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(PING)
            .http2_keep_alive_timeout(PING)
            .dns_resolver(Names { public_only: kind == Kind::PublicOnly })
            .tls_certs_merge(self.roots.iter().cloned())
            .tls_danger_accept_invalid_certs(self.transport.options.insecure);
        if let Some(identity) = self.identity.clone() {
            builder = builder.identity(identity);
        }
        #[cfg(target_os = "linux")]
        {
            builder = builder.tcp_user_timeout(self.options.no_progress + KERNEL_MARGIN);
        }
        builder = match kind {
            Kind::Ordinary | Kind::PublicOnly => builder,
            Kind::Large => {
                let mark = self.options.no_progress + KERNEL_MARGIN + MARK;
                let mark_ms = u32::try_from(mark.as_millis()).unwrap_or(u32::MAX);
                #[cfg(target_os = "linux")]
                {
                    builder = builder.tcp_user_timeout(mark);
                }
                builder.pool_max_idle_per_host(0).connector_layer(abort::Watch { mark_ms })
            }
        };
        self.proxied(builder)?.build().map_err(|error| NetError {
            kind: NetErrorKind::Tls,
            message: format!("cannot set up TLS: {}", cause(&error)),
        })
    }

    fn proxied(&self, builder: ClientBuilder) -> Result<ClientBuilder, NetError> {
        let user = self.transport.proxy_user.as_ref().map(|user| user.expose().as_str());
        let proxy = match (self.transport.options.proxy.as_deref(), user) {
            (None, None) if self.options.system_proxy => return Ok(builder),
            (None, Some(user)) if self.options.system_proxy => {
                let set = |name: &str| std::env::var(name).ok();
                return Ok(environment(set, user)?
                    .into_iter()
                    .fold(builder.no_proxy(), ClientBuilder::proxy));
            }
            (None | Some(""), _) => return Ok(builder.no_proxy()),
            (Some(proxy), user) => Proxy::all(proxy_url(proxy, user)?),
        };
        let proxy = proxy.map_err(|error| refused(format!("the proxy's URL: {}", cause(&error))))?;
        Ok(builder.no_proxy().proxy(proxy))
    }
}

/// A proxy's URL, with what it is to be told.
fn proxy_url(text: &str, user: Option<&str>) -> Result<Url, NetError> {
    let bad = |why: String| refused(format!("the proxy's URL: {why}"));
    // As curl takes it: `host:port` is an HTTP proxy.
    let with_scheme = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let mut url = Url::parse(&with_scheme).map_err(|error| bad(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
        return Err(bad(format!("the scheme {} is none of http, https, socks5, socks5h", url.scheme())));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(bad("it names no host".to_owned()));
    }
    if let Some(user) = user {
        let (name, password) = user.split_once(':').unwrap_or((user, ""));
        // All of it: setting them leaves a `%` alone, and who reads them takes it for the start of a code.
        let coded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let set = url.set_username(&coded(name)).and_then(|()| url.set_password(Some(&coded(password))));
        set.map_err(|()| bad("it cannot carry a user".to_owned()))?;
    }
    Ok(url)
}

/// The environment's proxies, which the HTTP layer otherwise finds by itself, with a user for them.
fn environment(set: impl Fn(&str) -> Option<String>, user: &str) -> Result<Vec<Proxy>, NetError> {
    // In a CGI program HTTP_PROXY is what a client said in its header `Proxy`.
    if set("REQUEST_METHOD").is_some() {
        return Ok(Vec::new());
    }
    let first = |names: [&str; 4]| names.iter().find_map(|name| set(name).filter(|text| !text.is_empty()));
    let no_proxy = set("NO_PROXY").or_else(|| set("no_proxy")).as_deref().and_then(NoProxy::from_string);
    let http = first(["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"]).map(|url| (url, false));
    let https = first(["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]).map(|url| (url, true));
    let made = http.into_iter().chain(https).map(|(text, is_https)| {
        let url = proxy_url(&text, Some(user))?;
        let proxy = if is_https { Proxy::https(url) } else { Proxy::http(url) };
        let proxy = proxy.map_err(|error| refused(format!("the proxy's URL: {}", cause(&error))))?;
        Ok(proxy.no_proxy(no_proxy.clone()))
    });
    made.collect()
}

/// What a change of a file shows in.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    path: PathBuf,
    size: u64,
    ino: u64,
    mtime_ns: i128,
    ctime_ns: i128,
}

impl Seen {
    fn new(path: &Path, found: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| i128::from(seconds) * 1_000_000_000 + i128::from(rest);
        Self {
            path: path.to_owned(),
            size: found.len(),
            ino: found.ino(),
            mtime_ns: nanoseconds(found.mtime(), found.mtime_nsec()),
            ctime_ns: nanoseconds(found.ctime(), found.ctime_nsec()),
        }
    }
}

/// What each file of the options is for, as errors call it.
const CA: &str = "CA file";
const CERT: &str = "client certificate file";
const KEY: &str = "client key file";

fn seen(options: &TransportOptions) -> Result<Vec<Seen>, NetError> {
    let TransportOptions { proxy: _, ca_file, cert_file, key_file, insecure: _ } = options;
    let files = [(CA, ca_file), (CERT, cert_file), (KEY, key_file)];
    let named = files.into_iter().filter_map(|(what, path)| Some((what, path.as_deref()?)));
    named.map(|(what, path)| Ok(Seen::new(path, &look(what, path)?))).collect()
}

/// Only regular files: reading a FIFO might never end.
fn look(what: &str, path: &Path) -> Result<Metadata, NetError> {
    let found = std::fs::metadata(path).map_err(|error| unusable(what, path, &error.to_string()))?;
    if found.is_file() { Ok(found) } else { Err(unusable(what, path, "it is no regular file")) }
}

fn read(what: &str, path: &Path) -> Result<Vec<u8>, NetError> {
    let mut text = Vec::new();
    look(what, path)?;
    File::open(path)
        .and_then(|file| file.take(PEM_MAX + 1).read_to_end(&mut text))
        .map_err(|error: io::Error| unusable(what, path, &error.to_string()))?;
    if text.len() as u64 > PEM_MAX {
        return Err(unusable(what, path, &format!("it has more than {PEM_MAX} bytes")));
    }
    Ok(text)
}

fn roots(path: &Path) -> Result<Vec<Certificate>, NetError> {
    let bad = |why: &str| unusable(CA, path, why);
    let roots = Certificate::from_pem_bundle(&read(CA, path)?).map_err(|error| bad(&cause(&error)))?;
    if roots.is_empty() {
        return Err(bad("it holds no certificate in PEM form"));
    }
    // Alone, so that what is wrong with it is not put down to the system's.
    let alone = Client::builder().no_proxy().tls_backend_rustls().tls_certs_only(roots.iter().cloned());
    alone.build().map_err(|error| bad(&format!("it holds no usable certificate: {}", cause(&error))))?;
    Ok(roots)
}

fn identity(cert: &Path, key: Option<&Path>) -> Result<Identity, NetError> {
    let mut text = read(CERT, cert)?;
    let key_text = key.map(|key| read(KEY, key)).transpose()?;
    let bad = |why: &str| match key {
        Some(key) => unusable(CERT, cert, &format!("together with the {KEY} {}: {why}", key.display())),
        None => unusable(CERT, cert, why),
    };
    // The last key of all is taken: that of the key file.
    if let Some(key_text) = key_text {
        text.push(b'\n');
        text.extend(key_text);
    }
    let encrypted =
        |line: &[u8]| line.starts_with(b"-----BEGIN ENCRYPTED") || line.starts_with(b"Proc-Type: 4,ENC");
    if text.split(|byte| *byte == b'\n').any(encrypted) {
        return Err(bad("its key is encrypted, and nobody is here to unlock it"));
    }
    let identity = Identity::from_pem(&text).map_err(|error| bad(&cause(&error)))?;
    let alone = Client::builder().no_proxy().tls_backend_rustls().tls_certs_only([]);
    alone.identity(identity.clone()).build().map_err(|error| bad(&cause(&error)))?;
    Ok(identity)
}

fn unusable(what: &str, path: &Path, why: &str) -> NetError {
    refused(format!("cannot use the {what} {}: {why}", path.display()))
}

#[cfg(test)]
mod tests;
