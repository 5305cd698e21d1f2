//! Strictness, header by header; nothing panics.

use bytes::Bytes;
use proptest::prelude::*;

use super::name::safe_name;
use super::*;

const NOW: WallMs = WallMs(1_403_712_000_000); // Wed, 25 Jun 2014 16:00:00 GMT

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for &(name, value) in pairs {
        map.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    map
}

fn reply(status: u16, pairs: &[(&str, &str)], body: &str) -> Reply {
    let status = StatusCode::from_u16(status).unwrap();
    let url = "https://u:p@host.example:8080/x?sig=secret".to_owned();
    Reply {
        status,
        headers: headers(pairs),
        url,
        framed: true,
        body: Bytes::copy_from_slice(body.as_bytes()),
    }
}

#[test]
fn numbers_are_digits_and_nothing_else() {
    let read = |value| content_length(&headers(&[("content-length", value)])).ok().flatten();
    assert_eq!(read("0"), Some(0));
    assert_eq!(read("0042"), Some(42));
    assert_eq!(read("9223372036854775808"), Some(1 << 63));
    for wrong in [
        "",
        "-1",
        "+1",
        "1e9",
        "0x10",
        " 1",
        "1 ",
        "1,1",
        "9223372036854775809",
        "18446744073709551616",
        "１",
    ] {
        assert!(content_length(&headers(&[("content-length", wrong)])).is_err(), "{wrong:?}");
    }
    assert_eq!(content_length(&headers(&[])), Ok(None));
    assert!(content_length(&headers(&[("content-length", "1"), ("content-length", "1")])).is_err());
}

#[test]
fn content_ranges_are_of_one_form() {
    let read = |value| content_range(&headers(&[("content-range", value)]));
    let part = |first, last, total| Ok(Some(ContentRange::Part { first, last, total }));
    assert_eq!(read("bytes 0-0/1"), part(0, 0, Some(1)));
    assert_eq!(read("BYTES 5-9/*"), part(5, 9, None));
    assert_eq!(read("bytes */7"), Ok(Some(ContentRange::Unsatisfied { total: 7 })));
    assert_eq!(content_range(&headers(&[])), Ok(None));
    for wrong in [
        "",
        "bytes",
        "bytes ",
        "bytes 1-2",
        "bytes 2-1/3",
        "bytes 0-3/3",
        "bytes -1/3",
        "bytes 1-/3",
        "bytes */*",
        "bytes +0-1/2",
        "bytes 0--1/2",
        "bytes  0-1/2",
        "bytes 0 - 1/2",
        "bytes 0-1 /2",
        "bytes 0-1/2 ",
        "bytes=0-1/2",
        "bytes 0-1/2, bytes 3-4/5",
        "items 0-1/2",
        "bytes 0-9223372036854775808/*",
    ] {
        assert!(read(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn entity_tags_are_told_apart() {
    let read = |value: &str| etag(&headers(&[("etag", value)]));
    assert_eq!(read("\"a\""), Some(EntityTag::Strong("\"a\"".to_owned())));
    assert_eq!(read("\"\""), Some(EntityTag::Strong("\"\"".to_owned())));
    assert_eq!(read("W/\"a\""), Some(EntityTag::Weak("W/\"a\"".to_owned())));
    for wrong in ["", "a", "\"", "\"a", "a\"", "w/\"a\"", "\"a b\"", "\"a\"b\"", "\"a\", \"b\""] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
    assert_eq!(read(&format!("\"{}\"", "a".repeat(1100))), None);
    assert_eq!(etag(&headers(&[("etag", "\"a\""), ("etag", "\"a\"")])), None);
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let read = |value| retry_after(&headers(&[("retry-after", value)]), NOW).map(|span| span.as_secs());
    assert_eq!(read("120"), Some(120));
    assert_eq!(read("-5"), Some(0));
    assert_eq!(read("999999999999999999999999"), Some(u64::from(u32::MAX)));
    assert_eq!(read("Wed, 25 Jun 2014 16:01:00 GMT"), Some(60));
    assert_eq!(read("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
    for wrong in ["", "-", "soon", "1.5", "1e3"] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
    assert_eq!(format_date(NOW), "Wed, 25 Jun 2014 16:00:00 GMT");
    assert!(!format_date(WallMs(u64::MAX)).is_empty());
}

#[test]
fn digests_are_read_as_a_structured_dictionary() {
    let (short, long) = (STANDARD.encode([1; 32]), STANDARD.encode([2; 64]));
    let read = |value: &str| repr_digest(&headers(&[("repr-digest", value)])).map(|found| found.algorithm);
    assert_eq!(read(&format!("sha-256=:{short}:")), Some(ChecksumAlgorithm::Sha256));
    assert_eq!(read(&format!("sha-512=:{long}:, sha-256=:{short}:;q=1")), Some(ChecksumAlgorithm::Sha512));
    assert_eq!(read(&format!("md5=:AAAA:, sha-256=:{short}:")), Some(ChecksumAlgorithm::Sha256));
    for wrong in
        ["", "sha-256", "sha-256=:AAAA:", "sha-256=AAAA", "SHA-256=:AAAA:", "md5=:AAAA:", "md5=:!:", "=::"]
    {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
    assert_eq!(read(&format!("sha-256=:{short}:, broken")), None);
    let two = headers(&[
        ("repr-digest", &format!("sha-256=:{short}:")),
        ("repr-digest", &format!("sha-512=:{long}:")),
    ]);
    assert_eq!(repr_digest(&two).unwrap().digest, [2; 64]);
}

#[test]
fn a_location_stays_on_its_origin() {
    let read = |value| location(&headers(&[("location", value)]), "https://me:pw@host/a/b?q").ok().flatten();
    assert_eq!(read("/c#f").as_deref(), Some("https://host/c"));
    assert_eq!(read("c?x=1").as_deref(), Some("https://host/a/c?x=1"));
    assert_eq!(read("https://host:443/c").as_deref(), Some("https://host/c"));
    for wrong in [
        "//other/c",
        "http://host/c",
        "https://host:8443/c",
        "https://x@host/c",
        "ftp://host/c",
        "data:,x",
        "a\tb",
        "",
    ] {
        assert_eq!(read(wrong), None, "{wrong:?}");
    }
    assert!(same_origin("https://a/x", "https://a:443/y?z"));
    for other in ["http://a/x", "https://b/x", "https://a:1/", "data:,x", "no url"] {
        assert!(!same_origin("https://a/x", other), "{other}");
    }
    assert!(!same_origin("data:,x", "data:,x"));
}

#[test]
fn what_people_read_has_no_secret_in_it() {
    assert_eq!(redact("https://u:p@host:81/a/b?sig=secret#f"), "https://host:81/a/b?…");
    assert_eq!(redact("https://host/a"), "https://host/a");
    assert_eq!(redact("nonsense"), "(no URL)");
    let Verdict::Retry(retry) = classify(&reply(500, &[], "out\r\n\tof  \u{1b}[31mluck\u{202e}"), NOW) else {
        panic!()
    };
    assert_eq!(retry.why, "500 Internal Server Error from host.example:8080: out of [31mluck");
    let Verdict::Final(FailCause::Rejected { status: 404, detail }) =
        classify(&reply(404, &[], &"é".repeat(999)), NOW)
    else {
        panic!()
    };
    assert_eq!(detail, format!("Not Found from host.example:8080: {}", "é".repeat(200)));
    let Next::Fail(FailCause::Protocol(why)) = lost(NetErrorKind::Tls, "expired", "https://h/x?sig=secret")
    else {
        panic!()
    };
    assert_eq!(why, "TLS does not trust h: expired");
}

#[test]
fn statuses_are_sorted_by_the_table() {
    for status in 100..1000 {
        let expected = match status {
            408 | 425 | 429 | 500 | 502 | 503 | 504 => "retry",
            401 | 403 => "auth",
            400..=599 => "rejected",
            _ => "protocol",
        };
        let verdict = match classify(&reply(status, &[], ""), NOW) {
            Verdict::Retry(retry) => {
                assert_eq!(retry.throttled, matches!(status, 429 | 503), "{status}");
                "retry"
            }
            Verdict::Auth(_) => "auth",
            Verdict::Final(cause) => cause.name(),
        };
        assert_eq!(verdict, expected, "{status}");
    }
    for (kind, again) in [
        (NetErrorKind::Connect, true),
        (NetErrorKind::Timeout, true),
        (NetErrorKind::Broken, true),
        (NetErrorKind::Body, true),
        (NetErrorKind::Tls, false),
        (NetErrorKind::Refused, false),
    ] {
        assert_eq!(matches!(lost(kind, "", "https://h/"), Next::Retry(_)), again, "{kind:?}");
    }
}

#[test]
fn names_are_made_harmless() {
    let long = "é".repeat(200);
    for (given, safe) in [
        ("a b.txt", Some("a b.txt")),
        ("../../etc/cron.d/x", Some("x")),
        ("C:\\dir\\a.exe", Some("a.exe")),
        ("C:a.exe", Some("a.exe")),
        (" C: d:a.exe", Some("a.exe")),
        ("C:", None),
        ("a\r\n\0b\u{202e}.txt", Some("ab.txt")),
        (" a ", Some("a")),
        (".profile", Some(".profile")),
        (&long, Some(&"é".repeat(127))),
        ("", None),
        (".", None),
        ("..", None),
        ("...", None),
        ("a/", None),
        ("\u{1}", None),
        ("NUL", None),
        ("com1.txt", None),
        ("Lpt9", None),
        (".a.1-00.haul", None),
        (". .haul", None),
    ] {
        assert_eq!(safe_name(given).as_deref(), safe, "{given:?}");
    }
    for (url, name) in [
        ("https://h/d/a%20b.txt?x=/y#z", "a b.txt"),
        ("https://h/d/", "d"),
        ("https://h/", "download"),
        ("https://h", "download"),
        ("https://h/a%2f..%2f..%2fpasswd", "passwd"),
        ("https://h/%2e%2e%2f", "download"),
        ("https://h/%ff", "\u{fffd}"),
        ("no url", "download"),
    ] {
        assert_eq!(name_from_url(url), name, "{url}");
    }
}

#[test]
fn the_extended_name_is_preferred_and_no_server_hides_a_file() {
    for (value, name) in [
        ("attachment; filename=\"a b.txt\"", Some("a b.txt")),
        ("attachment; filename=a.txt; x=y", Some("a.txt")),
        ("attachment; filename=\"a\\\"b;c.txt\"", Some("a\"b;c.txt")),
        ("attachment; filename=\"x\"; filename*=UTF-8''%e2%82%ac.txt", Some("€.txt")),
        ("attachment; filename*=utf-8'en'a.txt; filename=x", Some("a.txt")),
        ("attachment; filename*=iso-8859-1''%e9", Some("é")),
        ("attachment; filename*=UTF-8''%ff; filename=x", Some("x")),
        ("attachment; filename*=UTF-16''a; filename=x", Some("x")),
        ("attachment; filename*=UTF-8''..; filename=x", Some("x")),
        ("attachment; FileName=\"a\"", Some("a")),
        ("attachment; flag; filename=a", Some("a")),
        ("attachment; filename=\"/etc/passwd\"", Some("passwd")),
        ("attachment; filename=\".bashrc\"", Some("bashrc")),
        ("attachment; filename=\"naïve\"", Some("naïve")),
        ("attachment; filename=\"open", Some("open")),
        ("attachment; filename=\"\"", None),
        ("attachment", None),
        ("filename=a", None),
        ("", None),
    ] {
        let found = served_name(&headers(&[("content-disposition", value)]));
        assert_eq!(found.as_deref(), name, "{value:?}");
    }
    let twice = ("content-disposition", "attachment; filename=a");
    assert_eq!(served_name(&headers(&[twice, twice])), None);
}

proptest! {
    #[test]
    fn no_header_panics_and_every_name_is_safe(bytes in proptest::collection::vec(any::<u8>(), 0..300), text in ".{0,300}") {
        let mut map = HeaderMap::new();
        if let Ok(value) = HeaderValue::from_bytes(&bytes) {
            for name in ["content-range", "content-length", "etag", "retry-after", "repr-digest", "location"] {
                map.insert(name, value.clone());
            }
            map.insert("content-disposition", HeaderValue::from_bytes(&[b"a; filename=", &bytes[..]].concat()).unwrap());
        }
        let _ = (content_range(&map), content_length(&map), etag(&map), retry_after(&map, NOW), repr_digest(&map));
        let _ = (strong_last_modified(&map), location(&map, &text), redact(&text), host(&text), http_date(&text));
        let names = [served_name(&map), safe_name(&text), Some(name_from_url(&format!("https://h/{text}")))];
        for name in names.into_iter().flatten() {
            prop_assert!((1..=255).contains(&name.len()), "{name:?}");
            prop_assert!(!name.contains(|letter: char| letter.is_control() || "/\\".contains(letter)), "{name:?}");
            prop_assert!(name != "." && name != ".." && safe_name(&name).as_deref() == Some(&name), "{name:?}");
        }
        prop_assert!(printable(&text, 20).chars().count() <= 20);
    }

    #[test]
    fn what_is_formatted_is_read_back(first in 0u64..1 << 40, more in 0u64..1 << 40, rest in 1u64..1 << 40) {
        let (last, total) = (first + more, first + more + rest);
        let read = content_range(&headers(&[("content-range", &format!("bytes {first}-{last}/{total}"))]));
        prop_assert_eq!(read, Ok(Some(ContentRange::Part { first, last, total: Some(total) })));
    }
}
