//! Where a redirect may lead, and what may travel along. Pure; what a name leads to is asked in `net`.
//!
//! | step | rule |
//! |---|---|
//! | `https` to `http`, or to anything else | refused |
//! | more than [`HOPS_MAX`] | refused |
//! | userinfo in the target, two targets, a target over [`LOCATION_MAX`] | refused |
//! | other scheme, host or port | only [`TRAVELS`] goes along; nothing comes back on the way home |
//! | from a public address to one that is not | refused, also when a name leads there |
//!
//! Headers are kept by a list of what is harmless, not dropped by a list of what is known as secret:
//! servers invent their own (`X-Api-Key`), and a `PRIVATE-TOKEN` is one that no library knows.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use http::header::{ACCEPT, ACCEPT_ENCODING, IF_MATCH, IF_NONE_MATCH, IF_RANGE, LOCATION, RANGE, USER_AGENT};
use http::{HeaderMap, HeaderName, StatusCode};
use url::{Host, Url};

/// The most redirects of one request.
pub(super) const HOPS_MAX: usize = 10;

/// The longest target, in bytes.
const LOCATION_MAX: usize = 8 * 1024;

/// What goes along to another origin.
static TRAVELS: [HeaderName; 8] = [
    ACCEPT,
    ACCEPT_ENCODING,
    IF_MATCH,
    IF_NONE_MATCH,
    IF_RANGE,
    RANGE,
    USER_AGENT,
    HeaderName::from_static("want-repr-digest"),
];

/// Checks a URL that a request is to go to; the reason if it may not.
pub(super) fn parse(url: &str) -> Result<Url, String> {
    let url = Url::parse(url).map_err(|error| format!("bad URL: {error}"))?;
    check(url)
}

fn check(mut url: Url) -> Result<Url, String> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("the scheme {} is neither http nor https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("the URL carries a user name or password".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

/// The target of a redirect; `None` if the reply is none.
pub(super) fn target(from: &Url, status: StatusCode, headers: &HeaderMap) -> Result<Option<Url>, String> {
    if !matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let mut locations = headers.get_all(LOCATION).iter();
    let Some(location) = locations.next() else { return Ok(None) };
    if locations.any(|other| other != location) {
        return Err("the redirect names two targets".to_owned());
    }
    if location.len() > LOCATION_MAX {
        return Err(format!("the redirect's target is {} bytes long", location.len()));
    }
    let location =
        std::str::from_utf8(location.as_bytes()).map_err(|_| "the redirect's target is no text")?;
    // The parser's own words hold nothing of the URL, so that no secret of a target gets into a log.
    let to = from.join(location).map_err(|error| format!("the redirect's target: {error}"))?;
    let to = check(to).map_err(|why| format!("redirect: {why}"))?;
    if from.scheme() == "https" && to.scheme() == "http" {
        return Err("redirect from https to http".to_owned());
    }
    Ok(Some(to))
}

/// Leaves of the headers what may go from one URL to the next.
pub(super) fn strip(from: &Url, to: &Url, headers: &mut HeaderMap) {
    if from.origin() != to.origin() {
        let all = std::mem::take(headers);
        for name in &TRAVELS {
            for value in all.get_all(name) {
                headers.append(name, value.clone());
            }
        }
    }
}

/// Whether a redirect to this URL would leave the public network without asking a name server.
pub(super) fn is_private_literal(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => !is_public(address.into()),
        Some(Host::Ipv6(address)) => !is_public(address.into()),
        Some(Host::Domain(_)) | None => false,
    }
}

/// Whether an address is one of the Internet's, as far as is known without asking: not of this
/// machine, of a local network, of a cloud's metadata service, or reserved.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let shared = |[a, b, c, _]: [u8; 4]| match (a, b) {
        // "This network", carrier NAT, protocol assignments, benchmarks, reserved.
        (0 | 240..=255, _) | (100, 64..=127) | (198, 18 | 19) => true,
        (192, 0) => c == 0,
        _ => false,
    };
    !(address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_documentation()
        || shared(address.octets()))
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let octets = address.octets();
    let v4_at = |at: usize| Ipv4Addr::new(octets[at], octets[at + 1], octets[at + 2], octets[at + 3]);
    match address.segments() {
        // Mapped, compatible (with :: and ::1), and the two prefixes that translate to IPv4.
        [0, 0, 0, 0, 0, 0xffff | 0, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(v4_at(12)),
        [0x2002, ..] => is_public_v4(v4_at(2)),
        // 2000::/3 is all that was ever given out; 2001:db8::/32 is for books.
        [first, second, ..] => first & 0xe000 == 0x2000 && (first, second) != (0x2001, 0xdb8),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn go(from: &str, location: &str) -> Result<Option<Url>, String> {
        let headers = [(LOCATION, HeaderValue::from_bytes(location.as_bytes()).unwrap())];
        target(&url(from), StatusCode::FOUND, &headers.into_iter().collect())
    }

    #[test]
    fn targets_are_resolved_against_where_they_were_said() {
        let cases = [
            ("http://a/x/y?q=1", "z", "http://a/x/z"),
            ("http://a/x/y", "/z?k#part", "http://a/z?k"),
            ("https://a/x", "//b/y", "https://b/y"),
            ("http://a/x", "https://b:444/y", "https://b:444/y"),
            ("http://a/x", "/caf\u{e9}", "http://a/caf%C3%A9"),
        ];
        for (from, location, to) in cases {
            assert_eq!(go(from, location).unwrap().unwrap().as_str(), to);
        }
    }

    #[test]
    fn targets_that_lead_astray_are_refused() {
        let long = format!("/{}", "x".repeat(LOCATION_MAX));
        for (from, location, why) in [
            ("https://a/", "http://a/", "https to http"),
            ("http://a/", "file:///etc/passwd", "scheme file"),
            ("http://a/", "ftp://a/", "scheme ftp"),
            ("http://a/", "http://user@a/", "user name"),
            ("http://a/", "http://:pw@a/", "password"),
            ("http://a/", "http://", "empty host"),
            ("http://a/", &long, "bytes long"),
        ] {
            let said = go(from, location).unwrap_err();
            assert!(said.contains(why), "{location}: {said}");
        }
        let two = [(LOCATION, HeaderValue::from_static("/a")), (LOCATION, HeaderValue::from_static("/b"))];
        assert!(target(&url("http://a/"), StatusCode::FOUND, &two.into_iter().collect()).is_err());
    }

    #[test]
    fn other_replies_are_no_redirects() {
        let headers: HeaderMap = [(LOCATION, HeaderValue::from_static("/y"))].into_iter().collect();
        for status in [200, 201, 300, 304, 305, 401] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(target(&url("http://a/"), status, &headers), Ok(None));
        }
        assert_eq!(target(&url("http://a/"), StatusCode::FOUND, &HeaderMap::new()), Ok(None));
    }

    #[test]
    fn secrets_stay_on_their_origin() {
        let all =
            ["authorization", "cookie", "proxy-authorization", "x-api-key", "range", "if-range", "accept"];
        let full: HeaderMap =
            all.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("v"))).collect();
        let after = |to: &str| {
            let mut headers = full.clone();
            strip(&url("http://a:80/x"), &url(to), &mut headers);
            headers.len()
        };
        assert_eq!(after("http://a/y"), all.len());
        for other in ["http://b/y", "https://a/y", "http://a:81/y", "http://a.b/y"] {
            assert_eq!(after(other), 3, "{other}");
        }
    }

    #[test]
    fn addresses_are_told_apart() {
        let public = [
            "1.1.1.1",
            "93.184.216.34",
            "192.0.1.1",
            "2606:4700::1111",
            "::ffff:1.1.1.1",
            "64:ff9b::101:101",
        ];
        let private = [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "198.18.0.1",
            "192.0.0.1",
            "::",
            "::1",
            "fe80::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
            "2001:db8::1",
        ];
        for text in public {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in private {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        assert!(is_private_literal(&url("http://[::1]/")) && is_private_literal(&url("http://0x7f000001/")));
        assert!(!is_private_literal(&url("http://localhost/")));
    }
}
