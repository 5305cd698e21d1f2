//! What a PUT says of the file and of what may stand in its place.

use http::header::{CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue};

use super::state::Before;
use crate::job::{FailCause, HttpOptions};
use crate::protocol::{Facts, wire};

/// Content-Type and conditions.
pub(super) fn headers(facts: &Facts<'_>) -> Result<HeaderMap, FailCause> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type(facts)?);
    for (name, value) in [(IF_MATCH, &facts.http.if_match), (IF_NONE_MATCH, &facts.http.if_none_match)] {
        let Some(value) = value else { continue };
        let value = HeaderValue::from_str(value).map_err(|_| unfit(name.as_str()))?;
        headers.insert(name, value);
    }
    Ok(headers)
}

/// The Content-Type of the file, as the user has it or for bytes of any kind.
pub fn content_type(facts: &Facts<'_>) -> Result<HeaderValue, FailCause> {
    let kind = facts.http.content_type.as_deref().unwrap_or("application/octet-stream");
    HeaderValue::from_str(kind).map_err(|_| unfit(CONTENT_TYPE.as_str()))
}

fn unfit(name: &str) -> FailCause {
    FailCause::LocalIo(format!("{name} has characters that no header carries"))
}

/// Why a condition does not hold for what stands there: some servers do not look at them.
pub(super) fn fails(http: &HttpOptions, before: &Before, host: &str) -> Option<String> {
    let tag = match before {
        Before::Unknown => return None,
        Before::Absent => None,
        Before::Object(seen) => Some(seen.etag.as_deref()),
    };
    match (tag, http.if_match.as_deref(), http.if_none_match.as_deref()) {
        (None, Some(_), _) => {
            Some(format!("there is no such object at {host} yet, and If-Match asks for one"))
        }
        (Some(_), _, Some("*")) => {
            Some(format!("there is an object at {host} already, and If-None-Match: * asks for none"))
        }
        (Some(Some(tag)), Some(asked), _) if asked != "*" && !asked.contains(tag) => {
            let tag = wire::printable(tag, 60);
            Some(format!("the object at {host} has the ETag {tag}, and If-Match asks for another"))
        }
        (Some(Some(tag)), _, Some(asked)) if asked == tag => {
            Some(format!("the object at {host} has the ETag that If-None-Match excludes"))
        }
        (None, None, _) | (Some(_), _, _) => None,
    }
}

/// What a 412 means, if a condition was sent.
pub(super) fn refused(http: &HttpOptions, host: &str) -> Option<String> {
    let condition = match (&http.if_match, &http.if_none_match) {
        (Some(_), _) => "If-Match: the object there is not the one that may be replaced",
        (None, Some(_)) => "If-None-Match: there is an object already that must not be replaced",
        (None, None) => return None,
    };
    Some(format!("{condition} ({host})"))
}
