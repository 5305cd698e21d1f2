//! Cutting a connection off at once.
//!
//! Closing a TCP connection normally sends what lies in the kernel's buffers first: on a slow line that
//! is seconds of data after a job was told to hold still. reqwest shows no socket, so this finds it: a
//! large upload gets a connection of its own, and the stream socket with our mark that appears in the
//! process while that connection is being made is it. Dropping the exchange before its end then disconnects the socket,
//! which resets the connection and throws its buffers away.
//!
//! Where the kernel does not allow it (before Linux 5.6, some containers) or another socket appeared at
//! the same instant, the connection is closed the ordinary way.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, SocketType, connect_unspec, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use tower_layer::Layer;
use tower_service::Service;

tokio::task_local! {
    /// The exchange in whose name the current task connects.
    static CONNECTING: Cutter;
}

/// One look at the process's sockets at a time: otherwise two connections that are being made at once
/// could be taken for each other.
static LOOKING: Mutex<()> = Mutex::new(());

/// Cuts an exchange's connection off when dropped before [`Cutter::spare`].
#[derive(Clone, Debug, Default)]
pub(super) struct Cutter(Arc<Mutex<Vec<OwnedFd>>>);

impl Cutter {
    /// Runs `call`; connections made in it become this cutter's.
    pub(super) async fn watch<T>(&self, call: impl Future<Output = T>) -> T {
        CONNECTING.scope(self.clone(), call).await
    }

    /// Disconnects, now.
    pub(super) fn cut(&self) {
        for socket in self.sockets().drain(..) {
            // A socket that is no longer connected needs no cutting.
            let _gone = connect_unspec(&socket);
        }
    }

    /// The exchange has ended well: its connection may end in its own way.
    pub(super) fn spare(&self) {
        self.sockets().clear();
    }

    fn sockets(&self) -> std::sync::MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches connections being made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Watch {
    /// The `TCP_USER_TIMEOUT` that only the watched client sets, milliseconds.
    pub(super) mark_ms: u32,
}

impl<S> Layer<S> for Watch {
    type Service = Watched<S>;

    fn layer(&self, inner: S) -> Watched<S> {
        Watched { inner, mark_ms: self.mark_ms }
    }
}

/// A connector that is watched.
#[derive(Clone, Debug)]
pub(super) struct Watched<S> {
    inner: S,
    mark_ms: u32,
}

impl<S, R> Service<R> for Watched<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Connecting<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, target: R) -> Self::Future {
        let cutter = CONNECTING.try_with(Clone::clone).ok();
        Connecting { inner: Box::pin(self.inner.call(target)), cutter, mark_ms: self.mark_ms }
    }
}

/// A connection being made.
pub(super) struct Connecting<F> {
    inner: Pin<Box<F>>,
    cutter: Option<Cutter>,
    mark_ms: u32,
}

impl<F: Future> Future for Connecting<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let Some(cutter) = self.cutter.clone() else { return self.inner.as_mut().poll(context) };
        let _alone = LOOKING.lock().unwrap_or_else(PoisonError::into_inner);
        let before = sockets();
        let polled = self.inner.as_mut().poll(context);
        let after = sockets();
        let appeared = after.iter().filter(|(socket, _)| !before.contains_key(*socket));
        let appeared: Vec<OwnedFd> =
            appeared.filter_map(|(_, fd)| stream_socket(*fd, self.mark_ms)).collect();
        // Two at one instant: one is not ours, and nobody can tell which.
        if appeared.len() == 1 {
            cutter.sockets().extend(appeared);
        }
        polled
    }
}

/// The sockets of this process, by what the kernel calls them: descriptor numbers are used again at once.
fn sockets() -> BTreeMap<PathBuf, RawFd> {
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let named = listed.filter_map(|entry| {
        let target = std::fs::read_link(entry.path()).ok()?;
        let is_socket = target.to_str()?.starts_with("socket:");
        Some((target, entry.file_name().to_str()?.parse().ok()?)).filter(|_| is_socket)
    });
    named.collect()
}

/// A second descriptor of the socket, if it is one.
fn stream_socket(fd: RawFd, mark_ms: u32) -> Option<OwnedFd> {
    let process = pidfd_open(getpid(), PidfdFlags::empty()).ok()?;
    let second = pidfd_getfd(process.as_fd(), fd, PidfdGetfdFlags::empty()).ok()?;
    // Marked as ours before it was connected: the process may have others, which must not be touched.
    let marked = sockopt::tcp_user_timeout(&second).ok()? == mark_ms;
    let family = sockopt::socket_domain(&second).ok()?;
    let internet = family == AddressFamily::INET || family == AddressFamily::INET6;
    (marked && internet && sockopt::socket_type(&second).ok()? == SocketType::STREAM).then_some(second)
}
