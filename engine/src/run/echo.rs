//! What a server says back of a request's secrets: blotted out of its refusal before anybody reads, logs or
//! journals it.
//!
//! Servers explain themselves with what they were sent: `invalid token: eyJ…`. Absent on purpose: the bodies of
//! successes, which are the protocol's, and files.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::HeaderMap;

/// What stands in a secret's place.
const BLOT: &[u8] = b"[redacted]";
/// Shorter parts of a header are words such as `Bearer`, or would blot out half of any text.
const PART_MIN: usize = 8;
/// Shorter values are not looked for.
const WHOLE_MIN: usize = 4;

/// The secrets of one request; longest first. No formatter prints them.
#[derive(Default)]
pub struct Echo(Vec<Vec<u8>>);

impl Echo {
    /// Of a request with these headers, and `name:password` for its proxy.
    pub fn of(headers: &HeaderMap, proxy_user: Option<&str>) -> Self {
        let mut secrets = Vec::new();
        for value in headers.values().filter(|value| value.is_sensitive()) {
            add(&mut secrets, value.as_bytes());
        }
        if let Some(user) = proxy_user {
            add(&mut secrets, STANDARD.encode(user).as_bytes());
            add_user(&mut secrets, user.as_bytes());
        }
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.dedup();
        Self(secrets)
    }

    /// The body without them.
    pub fn blot(&self, body: Bytes) -> Bytes {
        self.0.iter().fold(body, |body, secret| without(&body, secret).unwrap_or(body))
    }
}

fn add(secrets: &mut Vec<Vec<u8>>, value: &[u8]) {
    if value.len() >= WHOLE_MIN {
        secrets.push(value.to_owned());
    }
    let is_seam = |byte: &u8| byte.is_ascii_whitespace() || b";,=\"".contains(byte);
    for part in value.split(is_seam).filter(|part| part.len() >= PART_MIN) {
        secrets.push(part.to_owned());
    }
    if let Some(encoded) = value.strip_prefix(b"Basic ")
        && let Ok(user) = STANDARD.decode(encoded)
    {
        add_user(secrets, &user);
    }
}

fn add_user(secrets: &mut Vec<Vec<u8>>, user: &[u8]) {
    let password = user.iter().position(|&byte| byte == b':').map_or(user, |colon| &user[colon + 1..]);
    secrets.extend([user, password].into_iter().filter(|text| text.len() >= WHOLE_MIN).map(<[u8]>::to_owned));
}

/// `None`: it is not in there.
fn without(body: &[u8], secret: &[u8]) -> Option<Bytes> {
    let find = |body: &[u8]| body.windows(secret.len()).position(|window| window == secret);
    let (mut clean, mut rest) = (BytesMut::new(), body);
    while let Some(at) = find(rest) {
        clean.extend_from_slice(&rest[..at]);
        clean.extend_from_slice(BLOT);
        rest = &rest[at + secret.len()..];
    }
    if clean.is_empty() {
        return None;
    }
    clean.extend_from_slice(rest);
    Some(clean.freeze())
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header};

    use super::*;

    fn headers(name: header::HeaderName, value: &str) -> HeaderMap {
        let mut value = HeaderValue::from_str(value).expect("a value");
        value.set_sensitive(true);
        HeaderMap::from_iter([(name, value), (header::ACCEPT, HeaderValue::from_static("application/json"))])
    }

    fn blotted(headers: &HeaderMap, proxy_user: Option<&str>, body: &str) -> String {
        let body = Echo::of(headers, proxy_user).blot(Bytes::from(body.to_owned()));
        String::from_utf8(body.to_vec()).expect("UTF-8")
    }

    #[test]
    fn a_token_is_not_said_back() {
        let headers = headers(header::AUTHORIZATION, "Bearer eyJhbGciOi.x");
        let body = "Bearer token eyJhbGciOi.x of application/json is bad: \"Bearer eyJhbGciOi.x\"";
        let expected = "Bearer token [redacted] of application/json is bad: \"[redacted]\"";
        assert_eq!(blotted(&headers, None, body), expected);
        assert_eq!(blotted(&headers, None, "no such file"), "no such file");
        assert_eq!(blotted(&HeaderMap::new(), None, body), body);
    }

    #[test]
    fn passwords_and_cookies_are_not_said_back_in_any_form() {
        let basic = format!("Basic {}", STANDARD.encode("me:geheim"));
        let authorization = headers(header::AUTHORIZATION, &basic);
        let body = format!("{basic}, me:geheim, geheim");
        assert_eq!(blotted(&authorization, None, &body), "[redacted], [redacted], [redacted]");
        let cookie = headers(header::COOKIE, "id=0123456789; lang=de");
        assert_eq!(blotted(&cookie, None, "session 0123456789 (de)"), "session [redacted] (de)");
        let user = format!("{} of me:geheim", STANDARD.encode("me:geheim"));
        assert_eq!(blotted(&HeaderMap::new(), Some("me:geheim"), &user), "[redacted] of [redacted]");
    }
}
