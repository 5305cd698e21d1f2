//! tus 1.0.0 (<https://tus.io/protocols/resumable-upload>) over the store.
//!
//! | request | answer |
//! |---|---|
//! | `OPTIONS /files/`, `/uploads/<id>` | 204, what is spoken here |
//! | `POST /files/` | 201, `Location: /uploads/<id>`; with a body, what [`take`] makes of it |
//! | `HEAD /uploads/<id>` | 200, the durable `Upload-Offset`; never lower than one told before |
//! | `PATCH /uploads/<id>` | 204 with the durable offset, 409, 413, 415, 423, 460, 507 |
//! | `DELETE /uploads/<id>` | 204; removes the upload, never an object |
//!
//! Once an upload is complete, `HEAD` and the last `PATCH` (or `POST`) say in `Content-Location` where
//! its object is; `HEAD` goes on answering until somebody deletes the upload. Deleting a complete
//! upload forgets only that: the object stays under its name.
//!
//! A `POST` with a body that fails in any way removes the upload: its URL was never told.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{
    checksum::{ALGORITHMS, Checksum},
    intake::{Inflow, take},
    name,
    record::{Id, Record},
    reply::{Refusal, TUS_RESUMABLE, TUS_VERSION, TUS_VERSION_SPOKEN, text_value},
    store::{Store, blocking},
    upload::{Phase, Upload},
};

const UPLOAD_OFFSET: HeaderName = HeaderName::from_static("upload-offset");
const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
const UPLOAD_DEFER_LENGTH: HeaderName = HeaderName::from_static("upload-defer-length");
const UPLOAD_CONCAT: HeaderName = HeaderName::from_static("upload-concat");
const UPLOAD_METADATA: HeaderName = HeaderName::from_static("upload-metadata");
const UPLOAD_CHECKSUM: HeaderName = HeaderName::from_static("upload-checksum");
const METHOD_OVERRIDE: HeaderName = HeaderName::from_static("x-http-method-override");
const TUS_EXTENSION: HeaderName = HeaderName::from_static("tus-extension");
const TUS_CHECKSUM_ALGORITHM: HeaderName = HeaderName::from_static("tus-checksum-algorithm");

const FILES_METHODS: &str = "OPTIONS, POST";
const UPLOAD_METHODS: &str = "OPTIONS, HEAD, PATCH, DELETE";
const EXTENSIONS: &str = "creation,creation-with-upload,checksum,termination";
const METADATA_MAX_BYTES: usize = 8 * 1024;

/// What a tus request is about.
#[derive(Clone, Debug)]
pub enum Target {
    /// `/files/`, where uploads are created.
    Files,
    /// `/uploads/<id>`.
    Upload(String),
}

/// Answers a tus request. To be run as a task of its own: a connection that is lost drops whoever
/// waits for the reply, and that must not stop a body half-way to the disk.
pub async fn answer(
    store: Arc<Store>,
    target: Target,
    method: Method,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let inflow = Inflow::new(body, headers.contains_key(header::EXPECT));
    let response = match dispatch(&store, target, &method, &headers, inflow).await {
        Ok(response) => response,
        Err(refusal) => refusal.into_response(),
    };
    with_version(response)
}

fn with_version(mut response: Response) -> Response {
    response.headers_mut().insert(TUS_RESUMABLE, TUS_VERSION_SPOKEN);
    response
}

async fn dispatch(
    store: &Arc<Store>,
    target: Target,
    method: &Method,
    headers: &HeaderMap,
    inflow: Inflow,
) -> Result<Response, Refusal> {
    let method = match effective_method(method, headers) {
        Ok(method) => method,
        Err(refusal) => return refuse(inflow, refusal),
    };
    if method == Method::OPTIONS {
        return Ok(options());
    }
    let allow = match target {
        Target::Files => FILES_METHODS,
        Target::Upload(_) => UPLOAD_METHODS,
    };
    if !allow.split(", ").any(|allowed| allowed == method.as_str()) {
        return refuse(inflow, Refusal::Method(allow));
    }
    if headers.get(TUS_RESUMABLE) != Some(&TUS_VERSION_SPOKEN) {
        return refuse(inflow, Refusal::TusVersion);
    }
    let Target::Upload(id) = target else {
        return create(store, headers, inflow).await;
    };
    let upload = match Id::parse(&id) {
        Some(id) => store.find(id).await,
        None => Err(Refusal::NotFound),
    };
    match (upload, method) {
        (Err(refusal), _) => refuse(inflow, refusal),
        (Ok(upload), Method::HEAD) => head(&upload),
        (Ok(upload), Method::PATCH) => patch(store, &upload, headers, inflow).await,
        (Ok(upload), _) => {
            let _entry = store.enter()?;
            store.remove(&upload).await?;
            Ok(empty(StatusCode::NO_CONTENT))
        }
    }
}

/// Some clients and proxies know only GET and POST, and name the method in a header.
fn effective_method(method: &Method, headers: &HeaderMap) -> Result<Method, Refusal> {
    let named = single(headers, &METHOD_OVERRIDE)?.filter(|_| *method == Method::POST);
    named.map_or(Ok(method.clone()), |named| {
        named.parse().map_err(|_| Refusal::Malformed("X-HTTP-Method-Override is not a method"))
    })
}

/// Reads on for a while, so that the refusal arrives before the connection closes.
fn refuse(inflow: Inflow, refusal: Refusal) -> Result<Response, Refusal> {
    inflow.drain();
    Err(refusal)
}

fn options() -> Response {
    let mut response = empty(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(TUS_VERSION, TUS_VERSION_SPOKEN);
    headers.insert(TUS_EXTENSION, HeaderValue::from_static(EXTENSIONS));
    headers.insert(TUS_CHECKSUM_ALGORITHM, HeaderValue::from_static(ALGORITHMS));
    response
}

fn head(upload: &Upload) -> Result<Response, Refusal> {
    let mut response = empty(StatusCode::OK);
    let headers = response.headers_mut();
    describe(upload, headers)?;
    headers.insert(UPLOAD_LENGTH, HeaderValue::from(upload.length));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(metadata) = &upload.metadata {
        headers.insert(UPLOAD_METADATA, text_value(metadata));
    }
    Ok(response)
}

/// The offset, and the object's place once there is one.
fn describe(upload: &Upload, headers: &mut HeaderMap) -> Result<(), Refusal> {
    let offset = upload.offset();
    headers.insert(UPLOAD_OFFSET, HeaderValue::from(offset));
    match upload.published() {
        Some(name) => {
            let place = format!("/files/{}", name::encode(name));
            headers.insert(header::CONTENT_LOCATION, text_value(&place));
        }
        // Only an upload of length zero that a full disk kept from being published at start.
        None if offset == upload.length => return Err(Refusal::Internal),
        None => {}
    }
    Ok(())
}

/// A creation as the headers describe it.
struct Creation {
    record: Record,
    checksum: Option<Checksum>,
}

fn parse_creation(headers: &HeaderMap, inflow: &Inflow) -> Result<Creation, Refusal> {
    if headers.contains_key(UPLOAD_DEFER_LENGTH) || headers.contains_key(UPLOAD_CONCAT) {
        return Err(Refusal::Malformed("this tus extension is not spoken here"));
    }
    let length = number(headers, &UPLOAD_LENGTH, "Upload-Length must be one decimal number")?;
    if i64::try_from(length).is_err() {
        return Err(Refusal::TooLarge);
    }
    let metadata = single(headers, &UPLOAD_METADATA)?;
    let wanted = wanted_name(metadata.unwrap_or_default())?;
    if !inflow.is_empty() {
        require_offset_type(headers)?;
    }
    if inflow.exceeds(length) {
        return Err(Refusal::TooLarge);
    }
    let wanted = wanted.unwrap_or_else(|| "upload".to_owned());
    Ok(Creation {
        record: Record::new(length, wanted, metadata.map(str::to_owned)),
        checksum: checksum(headers)?,
    })
}

async fn create(store: &Arc<Store>, headers: &HeaderMap, inflow: Inflow) -> Result<Response, Refusal> {
    let creation = match parse_creation(headers, &inflow) {
        Ok(creation) => creation,
        Err(refusal) => return refuse(inflow, refusal),
    };
    let _entry = store.enter()?;
    let upload = match store.create(creation.record).await {
        Ok(upload) => upload,
        Err(refusal) => return refuse(inflow, refusal),
    };
    if !inflow.is_empty() && upload.length > 0 {
        let writer = upload.lock(store.limits.lock_wait).await.ok_or(Refusal::Locked)?;
        let taken = take(store, &upload, writer, inflow, creation.checksum).await;
        if let Err(refusal) = taken {
            if let Err(error) = store.remove(&upload).await {
                tracing::warn!(upload = %upload.id, ?error, "an upload nobody knows of is left");
            }
            return Err(refusal);
        }
    }
    if upload.published().is_some() {
        store.forget(&upload.id);
    }
    let mut response = empty(StatusCode::CREATED);
    let headers = response.headers_mut();
    headers.insert(header::LOCATION, text_value(&format!("/uploads/{}", upload.id)));
    describe(&upload, headers)?;
    Ok(response)
}

async fn patch(
    store: &Arc<Store>,
    upload: &Arc<Upload>,
    headers: &HeaderMap,
    inflow: Inflow,
) -> Result<Response, Refusal> {
    let parsed = require_offset_type(headers).and_then(|()| {
        let offset = number(headers, &UPLOAD_OFFSET, "Upload-Offset must be one decimal number")?;
        Ok((offset, checksum(headers)?, store.enter()?))
    });
    let (offset, checksum, _entry) = match parsed {
        Ok(parsed) => parsed,
        Err(refusal) => return refuse(inflow, refusal),
    };
    let Some(mut writer) = upload.lock(store.limits.lock_wait).await else {
        return refuse(inflow, Refusal::Locked);
    };
    if writer.phase == Phase::Ready {
        // An earlier body completed the upload, but the disk refused to publish it.
        let pending = Arc::clone(upload);
        let published = blocking(move || {
            writer.complete(&pending)?;
            Ok(writer)
        });
        writer = match published.await {
            Ok(writer) => writer,
            Err(refusal) => return refuse(inflow, refusal),
        };
        store.forget(&upload.id);
    }
    if writer.phase == Phase::Gone {
        return refuse(inflow, Refusal::NotFound);
    }
    if offset != upload.offset() {
        return refuse(inflow, Refusal::OffsetMismatch);
    }
    if writer.phase == Phase::Receiving {
        take(store, upload, writer, inflow, checksum).await?;
    } else if !inflow.is_empty() {
        return refuse(inflow, Refusal::TooLarge);
    }
    if upload.published().is_some() {
        store.forget(&upload.id);
    }
    let mut response = empty(StatusCode::NO_CONTENT);
    describe(upload, response.headers_mut())?;
    Ok(response)
}

fn require_offset_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let media_type = single(headers, &header::CONTENT_TYPE)?.ok_or(Refusal::MediaType)?;
    let expected = "application/offset+octet-stream";
    media_type.eq_ignore_ascii_case(expected).then_some(()).ok_or(Refusal::MediaType)
}

fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Refusal> {
    single(headers, &UPLOAD_CHECKSUM)?.map(Checksum::parse).transpose()
}

/// A header that may come once; twice, two readers could take different ones.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(Some(text)),
        _ => Err(Refusal::Malformed("a header is repeated or not ASCII")),
    }
}

/// Digits only: `+1`, ` 1`, `1e9` and `0x1` are not offsets.
fn number(headers: &HeaderMap, name: &HeaderName, wrong: &'static str) -> Result<u64, Refusal> {
    let text = single(headers, name)?.unwrap_or_default();
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = digits.then(|| text.parse().ok()).flatten();
    number.ok_or(Refusal::Malformed(wrong))
}

/// Checks all of `Upload-Metadata` (`key base64,key base64,key`) and reduces its `filename`.
fn wanted_name(metadata: &str) -> Result<Option<String>, Refusal> {
    const WRONG: Refusal = Refusal::Malformed("Upload-Metadata is malformed");
    if metadata.len() > METADATA_MAX_BYTES {
        return Err(Refusal::Headers);
    }
    let mut keys = Vec::new();
    let mut wanted = None;
    for pair in metadata.split(',').filter(|_| !metadata.is_empty()) {
        let (key, value) = pair.trim().split_once(' ').unwrap_or((pair.trim(), ""));
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) || keys.contains(&key) {
            return Err(WRONG);
        }
        keys.push(key);
        let value = STANDARD.decode(value).map_err(|_| WRONG)?;
        if key == "filename" {
            wanted = name::reduce(&String::from_utf8(value).map_err(|_| WRONG)?);
        }
    }
    Ok(wanted)
}

fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_parsed_strictly() {
        for (metadata, wanted) in [
            ("", None),
            ("filename YS5iaW4=", Some("a.bin")),
            ("is_confidential,filename YS5iaW4=,other eA==", Some("a.bin")),
            ("filename Li4vLi4vZXRjL3Bhc3N3ZA==", Some("passwd")),
            ("filename Li4=", None),
            ("filename", None),
        ] {
            assert_eq!(wanted_name(metadata).ok(), Some(wanted.map(str::to_owned)), "{metadata}");
        }
        for wrong in [
            "filename YS5iaW4",
            "filename ?",
            "filename YQ== YQ==",
            "a,,b",
            ",",
            "a eA==,a eA==",
            "a  eA==",
            "filename /w==",
        ] {
            assert!(wanted_name(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_plain_decimal_numbers_are_offsets() {
        for (text, value) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("+1", None),
            ("1e9", None),
            (" 1", None),
            ("", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(UPLOAD_OFFSET, HeaderValue::from_static(text));
            assert_eq!(number(&headers, &UPLOAD_OFFSET, "").ok(), value, "{text:?}");
            headers.append(UPLOAD_OFFSET, HeaderValue::from_static(text));
            assert!(number(&headers, &UPLOAD_OFFSET, "").is_err());
        }
    }
}
