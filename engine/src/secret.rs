//! Secrets: never in a state, a journal, a log or a `Debug` text.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A value that no formatter prints.
///
/// ```
/// use longhaul::Redacted;
///
/// let token = Redacted::new("s3cret");
/// assert_eq!((format!("{token:?}").as_str(), *token.expose()), ("[redacted]", "s3cret"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Redacted<T>(T);

impl<T> Redacted<T> {
    /// Wraps a secret.
    pub fn new(secret: T) -> Self {
        Self(secret)
    }

    /// The secret itself: for the request that needs it, and nothing else.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Redacted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// As it is: for the session's own file of secrets and the control socket, which only their user can read.
impl<T: Serialize> Serialize for Redacted<T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Redacted<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self)
    }
}

/// What a job's requests carry that nobody else may see. The session keeps it in a file of its own (0600), never
/// in the journal; it goes with its job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Secrets {
    /// Headers, for the job's own origin only.
    pub headers: Vec<(String, Redacted<String>)>,
    /// `name:password` for the proxy.
    pub proxy_user: Option<Redacted<String>>,
}

impl Secrets {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.headers.is_empty() && self.proxy_user.is_none()
    }
}

/// Where a credential is to be found each time a request is made: a bearer token, but for netrc. Only this is
/// journaled.
///
/// ```
/// use longhaul::{CredentialRef, Submission};
///
/// let upload = Submission::upload("/data/movie.mp4", "https://example.org/files/")
///     .credential(CredentialRef::File("/run/secrets/token".into())); // read anew for each request
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CredentialRef {
    /// An environment variable of the owner.
    Env(String),
    /// The first line of a file.
    File(#[serde(with = "crate::job::record::path_bytes")] PathBuf),
    /// The name and password that a netrc file has for the host (Basic authentication); none if it has none.
    Netrc(#[serde(with = "crate::job::record::path_bytes")] PathBuf),
}

impl fmt::Display for CredentialRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Netrc(path) => write!(f, "netrc file {}", path.display()),
        }
    }
}
