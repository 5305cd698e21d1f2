//! The real ports: what the engine touches outside of a simulation.
//!
//! | port | made of | promise beyond its trait |
//! |---|---|---|
//! | [`net`] | reqwest, rustls | one exchange is one exchange: nothing is retried that a server may have seen |
//! | [`disk`] | system calls | no symbolic link is followed at a path's end; errors name the path |
//! | [`clock`] | the kernel, tokio | elapsed time never jumps, and goes on while the machine sleeps |
//! | [`entropy`] | the kernel | never predictable, never empty |
//!
//! Absent on purpose: policy. What to retry, when, and with which credentials is decided above.

mod abort;
mod body;
mod clock;
pub(crate) mod credential;
pub(crate) mod disk;
mod entropy;
pub(crate) mod home;
mod net;
mod redirect;

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::ports::{Blocking, NetError, Ports};

/// How the network port behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetOptions {
    /// An exchange in which nothing moves for so long, in either direction, has failed.
    pub no_progress: Duration,
    /// Name resolution, TCP and TLS together must be done by then.
    pub connect: Duration,
    /// Whether the proxy of the system (environment) is used.
    pub system_proxy: bool,
}

impl Default for NetOptions {
    fn default() -> Self {
        Self { no_progress: Duration::from_secs(60), connect: Duration::from_secs(15), system_proxy: true }
    }
}

/// The real ports. Disk calls run on the blocking pool of the tokio runtime that the engine runs on.
///
/// # Errors
///
/// The TLS client cannot be set up, as when the system has no readable trust store.
pub fn ports(options: NetOptions) -> Result<Ports, NetError> {
    Ok(Ports {
        net: Arc::new(net::HttpNet::new(options)?),
        disk: Arc::new(disk::OsDisk::default()),
        clock: Arc::new(clock::SystemClock::default()),
        entropy: Arc::new(entropy::KernelEntropy),
        blocking: Blocking::Pool,
    })
}

/// An error and all that it comes from, outermost first.
///
/// An [`io::Error`] that wraps another error names as its source that one's source: by `source`
/// alone the inner error itself would never be seen.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| {
        match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        }
    })
}
