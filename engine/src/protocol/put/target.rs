//! Where a PUT goes: the URL of the object, and where a redirect of it may lead.
//!
//! | step | rule |
//! |---|---|
//! | name | below a URL that ends in `/`; `.`, `..`, empty parts and control characters are refused, all but the unreserved is percent-encoded |
//! | redirect | 307, 308; `http` or `https`, never from `https` to `http`, no userinfo, at most 4 KiB |
//! | redirect to an address of this machine or a private network | only from such an address |
//!
//! Absent on purpose: names that resolve to such addresses. Names are looked up where connections are made.

use std::net::{IpAddr, Ipv4Addr};

use http::HeaderMap;
use http::header::LOCATION;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use url::{Host, Url};

use crate::protocol::wire;

/// What RFC 3986 calls unreserved stays as it is.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The URL of the object; the reason if there can be none.
pub(super) fn object(url: &str, name: &str) -> Result<String, String> {
    let mut parsed = Url::parse(url).map_err(|error| format!("the URL cannot be used: {error}"))?;
    if !parsed.path().ends_with('/') {
        return Ok(url.to_owned());
    }
    let mut path = parsed.path().to_owned();
    for (at, part) in name.split('/').enumerate() {
        if matches!(part, "" | "." | "..") || part.contains(char::is_control) {
            let name = wire::printable(name, 80);
            return Err(format!("the name “{name}” has a part that no URL should have; give another name"));
        }
        if at > 0 {
            path.push('/');
        }
        path.extend(utf8_percent_encode(part, RESERVED));
    }
    parsed.set_path(&path);
    Ok(parsed.into())
}

/// The target of a 307 or 308 of `base`; the reason if it must not be followed.
pub(super) fn redirected(headers: &HeaderMap, base: &str) -> Result<String, String> {
    let location = wire::text(headers, &LOCATION).map_err(|malformed| malformed.to_string())?;
    let location = location.filter(|text| !text.is_empty() && text.len() <= wire::URL_MAX);
    let location = location.ok_or("a redirect without a target, or with one longer than 4 KiB")?;
    let base = Url::parse(base).map_err(|_| "the URL asked has no base")?;
    let mut to = base.join(location).map_err(|_| "a redirect to what is no URL")?;
    if !matches!(to.scheme(), "http" | "https") {
        return Err("a redirect to another scheme than http and https".to_owned());
    }
    if base.scheme() == "https" && to.scheme() == "http" {
        return Err("a redirect from https to http".to_owned());
    }
    if !to.username().is_empty() || to.password().is_some() {
        return Err("a redirect to a URL with user information".to_owned());
    }
    if is_inside(&to) && !is_inside(&base) {
        return Err("a redirect to a private address".to_owned());
    }
    to.set_fragment(None);
    let to = String::from(to);
    if to.len() > wire::URL_MAX { Err("a redirect to a URL longer than 4 KiB".to_owned()) } else { Ok(to) }
}

/// Whether the host is, by what is written, of this machine or a private network.
fn is_inside(url: &Url) -> bool {
    let v4 = |address: Ipv4Addr| {
        address.is_loopback() || address.is_private() || address.is_link_local() || address.is_unspecified()
    };
    match url.host() {
        Some(Host::Domain(name)) => {
            let name = name.trim_end_matches('.');
            name == "localhost" || name.ends_with(".localhost")
        }
        Some(Host::Ipv4(address)) => v4(address),
        Some(Host::Ipv6(address)) => match address.to_canonical() {
            IpAddr::V4(address) => v4(address),
            // Loopback and unspecified, fc00::/7, fe80::/10.
            IpAddr::V6(address) => {
                let first = address.segments()[0];
                let local = address.is_loopback() || address.is_unspecified();
                local || first & 0xfe00 == 0xfc00 || first & 0xffc0 == 0xfe80
            }
        },
        None => false,
    }
}
