//! GET and HEAD of finished objects.
//!
//! Invariants: bytes of two versions never share a reply: the file is looked at again after every
//! block that was read, and if anything about it has changed the connection is cut, so that the
//! client sees a short body; nothing is ever padded. The `ETag` is strong: it changes whenever the
//! file is replaced or written to, as far as the file system tells.
//!
//! Not seen: a store through a shared mapping that moves neither time (the file systems allow
//! themselves that for the second store into a page).

use std::{
    fs::{File, Metadata},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use futures_util::stream;
use sha2::{Digest, Sha256};

use super::{
    condition::{Answer, Validators, answer},
    name,
    reply::{Refusal, text_value},
    store::{Store, blocking},
};

const READ_BYTES: u64 = 512 * 1024;
/// Some kernels stamp files with a clock that ticks this seldom at worst, so that a second write in the
/// same tick leaves no trace. A file younger than that may still change unseen.
const TICK: Duration = Duration::from_millis(20);
/// 9999-12-31T23:59:59Z, the last moment an HTTP date can name.
const HTTP_DATE_MAX_S: i64 = 253_402_300_799;

/// What is compared to tell that a file is still the version a reply is about. The device is left
/// out on purpose: its number may change with a reboot, and the directory is on one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Version {
    inode: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Version {
    fn of(meta: &Metadata) -> Self {
        Self {
            inode: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// How long until a write could no longer go unseen.
    fn settles_in(&self, clock: SystemTime) -> Option<Duration> {
        let changed = UNIX_EPOCH.checked_add(Duration::new(
            u64::try_from(self.ctime.0).ok()?,
            u32::try_from(self.ctime.1).ok()?,
        ))?;
        // A time in the future says that the clock was set back, not that the file is young.
        TICK.checked_sub(clock.duration_since(changed).ok()?)
    }

    fn validators(&self, weak: bool) -> Validators {
        let mut hasher = Sha256::new();
        for word in [self.inode, self.size] {
            hasher.update(word.to_le_bytes());
        }
        for (seconds, nanoseconds) in [self.mtime, self.ctime] {
            hasher.update(seconds.to_le_bytes());
            hasher.update(nanoseconds.to_le_bytes());
        }
        let digest = name::hex(&hasher.finalize()[..16]);
        let mtime_s = (0..=HTTP_DATE_MAX_S).contains(&self.mtime.0).then_some(self.mtime.0);
        Validators {
            etag: format!("{}\"{digest}\"", if weak { "W/" } else { "" }),
            modified: mtime_s.map(|s| UNIX_EPOCH + Duration::from_secs(s.unsigned_abs())),
        }
    }
}

/// Answers a GET or HEAD for the object whose percent-encoded name is `segment`.
pub async fn get(
    store: Arc<Store>,
    segment: &str,
    headers: &HeaderMap,
    with_body: bool,
) -> Result<Response, Refusal> {
    let name = name::decode(segment).filter(|name| name::servable(name)).ok_or(Refusal::NotFound)?;
    let root = Arc::clone(&store.root);
    let (file, mut version) = blocking(move || {
        let file = root.object(&name)?.ok_or(Refusal::NotFound)?;
        let version = Version::of(&file.metadata()?);
        Ok((Arc::new(file), version))
    })
    .await?;
    let mut weak = false;
    if let Some(wait) = version.settles_in(SystemTime::now()) {
        tokio::time::sleep(wait).await;
        let file = Arc::clone(&file);
        let later = blocking(move || Ok(Version::of(&file.metadata()?))).await?;
        weak = later != version;
        version = later;
    }
    let validators = version.validators(weak);
    let size = version.size;
    let (status, start, end) = match answer(headers, &validators, size, SystemTime::now(), with_body) {
        Answer::Whole => (StatusCode::OK, 0, size),
        Answer::Part(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
        Answer::NotModified => (StatusCode::NOT_MODIFIED, 0, 0),
        Answer::PreconditionFailed => return Err(Refusal::Precondition),
        Answer::Unsatisfiable => return Err(Refusal::Range(size)),
    };
    let body = if with_body && status != StatusCode::NOT_MODIFIED {
        stream_range(store, file, version, start, end)
    } else {
        Body::empty()
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    describe(response.headers_mut(), status, &validators, (start, end, size));
    Ok(response)
}

fn describe(
    headers: &mut HeaderMap,
    status: StatusCode,
    validators: &Validators,
    (start, end, size): (u64, u64, u64),
) {
    headers.insert(header::ETAG, text_value(&validators.etag));
    if let Some(modified) = validators.modified {
        let date = httpdate::fmt_http_date(modified);
        headers.insert(header::LAST_MODIFIED, text_value(&date));
    }
    if status == StatusCode::NOT_MODIFIED {
        return;
    }
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(end - start));
    // What somebody uploaded is data; no browser shall take it for a page of this host.
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if status == StatusCode::PARTIAL_CONTENT {
        let range = format!("bytes {start}-{}/{size}", end - 1);
        headers.insert(header::CONTENT_RANGE, text_value(&range));
    }
}

/// The bytes, block by block; any error ends the connection before the announced length.
fn stream_range(store: Arc<Store>, file: Arc<File>, version: Version, start: u64, end: u64) -> Body {
    Body::from_stream(stream::try_unfold(start, move |position| {
        let (store, file) = (Arc::clone(&store), Arc::clone(&file));
        async move {
            if position == end {
                return Ok(None);
            }
            if store.is_stopping() {
                return Err(io::Error::other("the server is shutting down"));
            }
            let bytes = (end - position).min(READ_BYTES);
            let block = tokio::task::spawn_blocking(move || read(&file, version, position, bytes));
            let block = block.await.map_err(io::Error::other)??;
            Ok::<_, io::Error>(Some((block, position + bytes)))
        }
    }))
}

fn read(file: &File, version: Version, position: u64, bytes: u64) -> io::Result<Bytes> {
    let mut block = vec![0; bytes as usize];
    file.read_exact_at(&mut block, position)?;
    // After reading: a change before it has moved the times, one after it is not in the block.
    if Version::of(&file.metadata()?) != version {
        return Err(io::Error::other("the object changed while it was read"));
    }
    Ok(block.into())
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use super::*;

    #[test]
    fn a_file_that_changed_under_the_reader_is_not_read_on() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("f");
        fs::write(&path, b"0123456789").expect("write");
        let file = File::open(&path).expect("open");
        let version = Version::of(&file.metadata().expect("meta"));
        assert_eq!(read(&file, version, 2, 3).expect("read"), "234");
        let mut writer = fs::OpenOptions::new().append(true).open(&path).expect("open");
        writer.write_all(b"more").expect("write");
        assert!(read(&file, version, 2, 3).is_err(), "grown");
        writer.set_len(4).expect("truncate");
        assert!(read(&file, version, 2, 3).is_err(), "shrunk");
    }

    #[test]
    fn times_outside_of_http_dates_do_no_harm() {
        for seconds in [i64::MIN, -1, 0, HTTP_DATE_MAX_S, HTTP_DATE_MAX_S + 1, i64::MAX] {
            let version = Version { inode: 1, size: 1, mtime: (seconds, 0), ctime: (seconds, i64::MAX) };
            let validators = version.validators(false);
            validators.modified.map(httpdate::fmt_http_date);
            version.settles_in(SystemTime::now());
        }
    }
}
