//! A server of forms: each POST that it accepts is another file, unless it has seen its Idempotency-Key before.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Method;

use super::rng::Content;
use super::tus::{Head, Reply};

/// What has been accepted, by job and by the boundary of its form, which is of the attempt's token.
#[derive(Default)]
pub struct Forms {
    pub accepted: BTreeMap<u64, Vec<(String, Content)>>,
    keys: BTreeMap<String, Vec<u8>>,
    pub wrong: Vec<String>,
}

/// A form on its way.
pub struct Taking {
    job: u64,
    boundary: String,
    key: Option<String>,
    bytes: Vec<u8>,
}

/// What the server does with a request whose head it has read.
pub enum Verdict {
    Reply(Reply),
    Body(Taking),
}

impl Forms {
    pub fn head(&mut self, head: &Head<'_>) -> Verdict {
        let job = head.numbers().first().copied().unwrap_or_default();
        let boundary =
            head.text("content-type").and_then(|kind| kind.strip_prefix("multipart/form-data; boundary="));
        let (true, Some(boundary)) = (*head.method == Method::POST, boundary) else {
            self.wrong.push(format!("form: job {job} sends {} without a form", head.method));
            return Verdict::Reply(Reply::new(400));
        };
        let key = head.text("idempotency-key").map(ToOwned::to_owned);
        Verdict::Body(Taking { job, boundary: boundary.to_owned(), key, bytes: Vec::new() })
    }

    pub fn feed(taking: &mut Taking, bytes: &Bytes) {
        taking.bytes.extend_from_slice(bytes);
    }

    /// The whole form is there.
    pub fn finish(&mut self, taking: Taking) -> Reply {
        let Taking { job, boundary, key, bytes } = taking;
        let Some(content) = file_of(&bytes, &boundary) else {
            self.wrong.push(format!("form: what job {job} sends is no form with a file and a field"));
            return Reply::new(400);
        };
        if let Some(key) = key {
            if let Some(before) = self.keys.get(&key) {
                if *before != bytes {
                    self.wrong.push(format!("form: job {job} sends another form with the same key"));
                }
                return Reply::new(201);
            }
            self.keys.insert(key, bytes.clone());
        }
        self.accepted.entry(job).or_default().push((boundary, Content::new(content)));
        Reply::new(201)
    }
}

fn file_of(bytes: &[u8], boundary: &str) -> Option<Vec<u8>> {
    let tail = format!("\r\n--{boundary}--\r\n");
    let begin = format!(
        "--{boundary}\r\nContent-Disposition: form-data; name=\"album\"\r\n\r\nsummer\r\n--{boundary}\r\n"
    );
    let file = bytes.strip_prefix(begin.as_bytes())?.strip_suffix(tail.as_bytes())?;
    let end = file.windows(4).take(1000).position(|four| four == b"\r\n\r\n")?;
    let is_file = file.starts_with(b"Content-Disposition: form-data; name=\"file\"; filename=\"");
    is_file.then(|| file[end + 4..].to_vec())
}
