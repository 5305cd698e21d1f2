//! Every refusal of the server, and the status and one line of text each one becomes.
//!
//! Invariant: a reply never carries a path of this machine, a token, or an operating system's error
//! text; those go to the log only.

use std::io;

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};

pub const TUS_RESUMABLE: HeaderName = HeaderName::from_static("tus-resumable");
pub const TUS_VERSION: HeaderName = HeaderName::from_static("tus-version");
pub const TUS_VERSION_SPOKEN: HeaderValue = HeaderValue::from_static("1.0.0");

/// Why a request was not carried out.
#[derive(Debug)]
pub enum Refusal {
    /// The bearer token is missing or wrong.
    Unauthorized,
    /// A browser was sent here under a foreign host name (DNS rebinding).
    Misdirected,
    /// The request cannot be understood; sending it again cannot help.
    Malformed(&'static str),
    /// There is no such object or upload.
    NotFound,
    /// The resource does not know the method; the text is its `Allow`.
    Method(&'static str),
    /// `Upload-Offset` is not where the upload stands.
    OffsetMismatch,
    /// `Tus-Resumable` is missing or names a version that is not spoken here.
    TusVersion,
    /// `If-Match` or `If-Unmodified-Since` does not hold.
    Precondition,
    /// More bytes than `Upload-Length` announced, or than a file can hold.
    TooLarge,
    /// A body of another type than `application/offset+octet-stream`.
    MediaType,
    /// The range lies outside the object, whose size this is.
    Range(u64),
    /// Another request is writing to this upload.
    Locked,
    /// The request's headers are larger than the server keeps.
    Headers,
    /// The chunk does not have the checksum it came with; it was discarded.
    Checksum,
    /// The body ended early; what arrived is kept.
    Cut,
    /// The client sent nothing for too long; what arrived is kept.
    Stalled,
    /// As many bodies are being received as the server allows.
    Busy,
    /// The server is shutting down; what arrived is kept.
    Stopping,
    /// The disk refused.
    Storage(io::Error),
    /// A task of the server died.
    Internal,
}

impl Refusal {
    fn status(&self) -> StatusCode {
        match self {
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::Malformed(_) | Self::Cut => StatusCode::BAD_REQUEST,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::OffsetMismatch => StatusCode::CONFLICT,
            Self::TusVersion | Self::Precondition => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::Locked => StatusCode::LOCKED,
            Self::Headers => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            // 460 is the status the tus checksum extension made up.
            Self::Checksum => StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST),
            Self::Stalled => StatusCode::REQUEST_TIMEOUT,
            Self::Busy | Self::Stopping => StatusCode::SERVICE_UNAVAILABLE,
            Self::Storage(error) if is_full(error) => StatusCode::INSUFFICIENT_STORAGE,
            Self::Storage(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn text(&self) -> &'static str {
        match self {
            Self::Unauthorized => "a bearer token is required",
            Self::Misdirected => "this host name is not served here",
            Self::Malformed(what) => what,
            Self::NotFound => "not found",
            Self::Method(_) => "method not allowed",
            Self::OffsetMismatch => "Upload-Offset is not the offset of the upload",
            Self::TusVersion => "Tus-Resumable must be 1.0.0",
            Self::Precondition => "the precondition does not hold",
            Self::TooLarge => "more bytes than the upload may have",
            Self::MediaType => "the body must be application/offset+octet-stream",
            Self::Range(_) => "the range lies outside the object",
            Self::Locked => "another request is writing to this upload",
            Self::Headers => "the request headers are too large",
            Self::Checksum => "checksum mismatch: the chunk was discarded",
            Self::Cut => "the body ended early",
            Self::Stalled => "the body stalled",
            Self::Busy => "too many uploads at once",
            Self::Stopping => "the server is shutting down",
            Self::Storage(error) if is_full(error) => "no space left",
            Self::Storage(_) => "storage error",
            Self::Internal => "internal error",
        }
    }
}

/// Whether the disk is full or the quota used up: a state that passes, unlike other disk errors.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        tracing::warn!(%error, "storage error");
        Self::Storage(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(format!("{}\n", self.text())));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        match self {
            Self::Unauthorized => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"haul\""));
            }
            Self::Method(allow) => {
                headers.insert(header::ALLOW, HeaderValue::from_static(allow));
            }
            Self::TusVersion => {
                headers.insert(TUS_VERSION, TUS_VERSION_SPOKEN);
            }
            Self::Range(size) => {
                headers.insert(header::CONTENT_RANGE, text_value(&format!("bytes */{size}")));
            }
            Self::Locked | Self::Busy | Self::Stopping => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Misdirected
            | Self::Malformed(_)
            | Self::NotFound
            | Self::OffsetMismatch
            | Self::Precondition
            | Self::TooLarge
            | Self::MediaType
            | Self::Headers
            | Self::Checksum
            | Self::Cut
            | Self::Stalled
            | Self::Storage(_)
            | Self::Internal => {}
        }
        response
    }
}

/// A header value from text this server made itself, which is ASCII without control characters.
pub fn text_value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}
