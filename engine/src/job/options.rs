//! What a job may ask for beyond its two ends: how connections are made, and what single protocols want to know.
//!
//! Invariant: journaled as they are, so no secret is ever in them (`secret` has those).

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::record;

/// The priority of a job that does not name one.
pub const PRIORITY_DEFAULT: u8 = 5;
/// The highest priority.
pub const PRIORITY_MAX: u8 = 9;

/// How a job's connections are made, where the session's defaults are not enough.
///
/// ```
/// use longhaul::{Submission, TransportOptions};
///
/// let transport = TransportOptions::default()
///     .proxy("http://proxy.example.org:3128")
///     .ca_file("/etc/ssl/example-ca.pem")
///     .client_certificate("/etc/ssl/me.pem", Some("/etc/ssl/me.key".into()));
/// let upload = Submission::upload("/data/movie.mp4", "https://example.org/files/")
///     .transport(transport)
///     .proxy_user("me:s3cret");
/// assert!(!format!("{upload:?}").contains("s3cret"));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct TransportOptions {
    /// `http://`, `https://`, `socks5://` or `socks5h://` URL of a proxy, without password; empty for none at all, also not
    /// that of the environment. `None`: the environment's.
    pub proxy: Option<String>,
    /// PEM file of certificates that are trusted besides the system's.
    #[serde(with = "record::path_bytes_option")]
    pub ca_file: Option<PathBuf>,
    /// PEM file with a client certificate, and its key if there is no `key_file`.
    #[serde(with = "record::path_bytes_option")]
    pub cert_file: Option<PathBuf>,
    /// PEM file with the client certificate's key.
    #[serde(with = "record::path_bytes_option")]
    pub key_file: Option<PathBuf>,
    /// Trust any certificate. For tests.
    pub insecure: bool,
}

impl TransportOptions {
    /// The URL of a proxy, without password (that is [`Submission::proxy_user`](crate::Submission::proxy_user));
    /// empty for none at all, also not that of the environment.
    #[must_use]
    pub fn proxy(self, url: impl Into<String>) -> Self {
        Self { proxy: Some(url.into()), ..self }
    }

    /// A PEM file of certificates that are trusted besides the system's.
    #[must_use]
    pub fn ca_file(self, path: impl Into<PathBuf>) -> Self {
        Self { ca_file: Some(path.into()), ..self }
    }

    /// A PEM file with a client certificate, and one with its key if that is not in the first.
    #[must_use]
    pub fn client_certificate(self, certificate: impl Into<PathBuf>, key: Option<PathBuf>) -> Self {
        Self { cert_file: Some(certificate.into()), key_file: key, ..self }
    }

    /// Whether any certificate is trusted. For tests.
    #[must_use]
    pub fn insecure(self, insecure: bool) -> Self {
        Self { insecure, ..self }
    }
}

/// What single protocols want to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HttpOptions {
    /// PUT only over an object with this entity tag, quotes and all (If-Match), or `*`.
    pub if_match: Option<String>,
    /// PUT only if no object has this entity tag (If-None-Match); `*`: only if there is none.
    pub if_none_match: Option<String>,
    /// Content-Type of the file; `application/octet-stream` when `None`.
    pub content_type: Option<String>,
    /// PUT is complete only when a look at the object has shown it. `false`: the server's 2xx is believed
    /// where it lets nobody look.
    pub verify: bool,
    /// The server documents `Idempotency-Key` for POST: one is sent, and a lost answer is asked for again.
    pub idempotent_post: bool,
    /// A POST sends the file as part of this form.
    pub form: Option<Form>,
}

impl HttpOptions {
    /// No wishes.
    pub const PLAIN: Self = Self {
        if_match: None,
        if_none_match: None,
        content_type: None,
        verify: true,
        idempotent_post: false,
        form: None,
    };
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self::PLAIN
    }
}

/// A form around the file (`multipart/form-data`, RFC 7578).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Form {
    /// The name of the file's field.
    pub field: String,
    /// Further fields, sent before the file, in this order.
    #[serde(default)]
    pub fields: Vec<(String, String)>,
}
