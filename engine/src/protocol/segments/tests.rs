//! Lying servers (tables), lanes that fail, mirrors that disagree, the form on disk; honest servers in `model`.

use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, IF_RANGE, RANGE};
use http::{HeaderName, HeaderValue, StatusCode};
use proptest::prelude::*;

use super::state::{At, Lane, Source, Standing};
use super::*;
use crate::job::{Checksum, HttpOptions, Token};
use crate::ports::{NetErrorKind, WallMs};
use crate::protocol::get::Version;
use crate::protocol::get::state::Validator;

mod model;

/// A reply's status and headers, and what is to come of them.
type Answer<'a, T> = (u16, &'a [(&'a str, &'a str)], T);
type Judged<'a> = (u16, &'a [(&'a str, &'a str)], bool, bool);

const URL: &str = "https://files.example/a.bin?sig=secret";
const MIRRORS: [&str; 2] = ["https://one.example/a.bin?sig=secret", "https://two.example/a.bin"];
const MIB: u64 = 1 << 20;
const TAG: (&str, &str) = ("etag", "\"one\"");
const EIGHT: (&str, &str) = ("content-length", "8388608");

fn facts(checksum: Option<&Checksum>) -> Facts<'_> {
    Facts {
        url: URL,
        size: None,
        name: "a.bin",
        token: Token([7; 16]),
        checksum,
        now: WallMs(1_800_000_000_000),
        lanes: 4,
        mirrors: &[],
        http: &HttpOptions::PLAIN,
    }
}

fn mirrors(count: usize) -> Vec<String> {
    MIRRORS[..count].iter().map(|url| (*url).to_owned()).collect()
}

fn reply(lane: u16, status: u16, headers: &[(&str, &str)]) -> Input {
    let mut map = HeaderMap::new();
    for &(name, value) in headers {
        map.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    let body = Bytes::new();
    Input::Reply { lane, reply: Reply { status, headers: map, url: URL.to_owned(), framed: true, body } }
}

fn part(lane: u16, range: &str, tag: &str) -> Input {
    reply(lane, 206, &[("content-range", &format!("bytes {range}")), ("etag", tag)])
}

fn lost(lane: u16) -> Input {
    Input::Lost { lane, kind: NetErrorKind::Broken, why: "cut".to_owned() }
}

fn synced(lane: u16, from: u64, to: u64, last: bool) -> Input {
    Input::Synced { lane, extent: from..to, last }
}

fn sha256_header(byte: u8) -> String {
    use base64::Engine as _;
    format!("sha-256=:{}:", base64::engine::general_purpose::STANDARD.encode([byte; 32]))
}

/// Steps and checks what must hold of every step.
fn advance(facts: &Facts<'_>, state: &State, input: &Input) -> Step<State> {
    let step = Segments::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < 6 << 10, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    assert!(step.size.is_none_or(|size| step.done <= size), "{} of {:?}", step.done, step.size);
    assert!(!format!("{:?} {:?}", step.state, step.note).contains("secret"), "{step:?}");
    step
}

fn word(next: &Next) -> String {
    match next {
        Next::Go(effects) => effects.iter().map(word_of).collect::<Vec<_>>().join(" "),
        Next::Retry(retry) if retry.offline => "offline".to_owned(),
        Next::Retry(_) => "retry".to_owned(),
        Next::Done(_) => "done".to_owned(),
        Next::Fail(cause) => cause.name().to_owned(),
        Next::Suspend(cause) => cause.name().to_owned(),
    }
}

/// `lane:`, `?` where If-Range is sent, `m` for a mirror's number; positions in MiB where they are whole.
fn word_of(effect: &Effect) -> String {
    let place = |at: u64| if at.is_multiple_of(MIB) { format!("{}M", at / MIB) } else { at.to_string() };
    match effect {
        Effect::Send(send) => {
            assert_eq!(send.headers[ACCEPT_ENCODING], "identity");
            assert!(send.follow_redirects && send.sink == Sink::Hold);
            let mirror = MIRRORS.iter().position(|url| *url == send.url);
            assert!(mirror.is_some() || send.url == URL);
            let mirror = mirror.map_or_else(String::new, |at| format!("m{}", at + 1));
            let condition = if send.headers.contains_key(IF_RANGE) { "?" } else { "" };
            let range = send.headers.get(RANGE).map(|range| {
                let (from, last) = range.to_str().unwrap()[6..].split_once('-').unwrap();
                let to = last.parse().map_or_else(|_| String::new(), |last: u64| place(last + 1));
                format!(" {}-{to}{condition}", place(from.parse().unwrap()))
            });
            format!("{}:GET{mirror}{}", send.lane, range.unwrap_or_default())
        }
        Effect::Store { lane, offset, limit, within } => {
            let within = if *within { "" } else { " alone" };
            format!("{lane}:store {}+{}{within}", place(*offset), limit.map_or_else(String::new, place))
        }
        Effect::Pause { lane, attempts, .. } => format!("{lane}:pause {attempts}"),
        Effect::Digest(algorithm) => algorithm.name().to_owned(),
        Effect::Truncate(len) => format!("cut {len}"),
        Effect::Reserve(len) => format!("reserve {}", place(*len)),
    }
}

/// Eight MiB in four chunks: lane 0 stores the first, the others have asked.
fn split(facts: &Facts<'_>) -> Step<State> {
    advance(facts, &Segments::new(facts), &reply(0, 200, &[EIGHT, TAG]))
}

fn work(step: &Step<State>) -> &Work {
    let State::Working(work) = &step.state else { panic!("{:?}", step.state) };
    work
}

#[test]
fn a_file_that_is_worth_it_is_split_and_the_first_body_is_its_first_chunk() {
    let whole = "reserve 8M 0:store 0M+2M 1:GET 2M-4M? 2:GET 4M-6M? 3:GET 6M-8M?";
    let rows: &[(&[(&str, &str)], &str)] = &[
        (&[EIGHT, TAG], whole),
        (&[EIGHT, TAG, ("accept-ranges", "bytes")], whole),
        (
            &[("content-length", "4194304"), TAG],
            "reserve 4M 0:store 0M+1M 1:GET 1M-2M? 2:GET 2M-3M? 3:GET 3M-4M?",
        ),
        (&[EIGHT, TAG, ("accept-ranges", "none")], "cut 0 0:store 0M+8M alone"),
        (&[EIGHT, ("etag", "W/\"one\"")], "cut 0 0:store 0M+8M alone"),
        (&[EIGHT], "cut 0 0:store 0M+8M alone"),
        (&[TAG], "cut 0 0:store 0M+ alone"),
        (&[("content-length", "4194303"), TAG], "cut 0 0:store 0M+4194303 alone"),
        (&[("content-length", "0"), TAG], "cut 0 0:store 0M+0M alone"),
        (&[EIGHT, EIGHT, TAG], "protocol"),
        (&[("content-length", "-1"), TAG], "protocol"),
        (&[EIGHT, TAG, ("content-encoding", "gzip")], "protocol"),
    ];
    for (headers, expected) in rows {
        let step = advance(&facts(None), &Segments::new(&facts(None)), &reply(0, 200, headers));
        assert_eq!(word(&step.next), *expected, "{headers:?}");
        let single = matches!(step.state, State::Single { .. });
        assert_eq!(Segments::chosen(&step.state), single.then_some(ProtocolId::Get));
        assert!(step.note.is_some() || matches!(step.next, Next::Fail(_)), "{headers:?}");
    }
    let one = Facts { lanes: 1, ..facts(None) };
    assert_eq!(word(&split(&one).next), "cut 0 0:store 0M+8M alone");
    for (status, expected) in [
        (204, "protocol"),
        (206, "protocol"),
        (401, "auth"),
        (404, "rejected"),
        (416, "rejected"),
        (503, "retry"),
    ] {
        let step = advance(&facts(None), &Segments::new(&facts(None)), &reply(0, status, &[]));
        assert_eq!(word(&step.next), expected, "{status}");
    }
}

#[test]
fn a_lead_s_answer_is_taken_only_as_asked_and_of_the_same_file() {
    let asked = split(&facts(None));
    let range = |range: &'static str| [("content-range", range), TAG];
    let rows: &[Answer<'_, &str>] = &[
        (206, &range("bytes 2097152-4194303/8388608"), "1:store 2M+2M"),
        (206, &range("bytes 2097152-3145727/8388608"), "1:store 2M+1M"),
        (206, &range("bytes 2097152-4194303/*"), "1:store 2M+2M"),
        // Lies and confusion: the whole is asked for, in one stream.
        (206, &range("bytes 2097152-4194304/8388608"), "single"),
        (206, &range("bytes 2097153-4194303/8388608"), "single"),
        (206, &range("bytes 0-4194303/8388608"), "single"),
        (206, &range("bytes 2097152-8388607/8388608"), "single"),
        (206, &range("bytes 4194304-6291455/8388608"), "single"),
        (206, &range("octets 2097152-4194303/8388608"), "single"),
        (206, &range("bytes */8388608"), "single"),
        (206, &[TAG], "single"),
        (206, &[("content-type", "multipart/byteranges; boundary=x"), TAG], "single"),
        (
            206,
            &[("content-range", "bytes 2097152-4194303/8388608"), TAG, ("content-encoding", "gzip")],
            "single",
        ),
        (206, &[("content-range", "bytes 2097152-4194303/8388608"), TAG, ("content-length", "5")], "single"),
        (206, &[("content-range", "bytes 2097152-4194303/8388608")], "single"),
        (206, &[("content-range", "bytes 2097152-4194303/8388608"), ("etag", "W/\"one\"")], "single"),
        (200, &[EIGHT, TAG], "single"),
        // Another file.
        (206, &[("content-range", "bytes 2097152-4194303/8388608"), ("etag", "\"two\"")], "changed"),
        (206, &range("bytes 2097152-4194303/8388609"), "changed"),
        (200, &[("content-length", "8388609"), TAG], "changed"),
        (200, &[EIGHT, ("etag", "\"two\"")], "changed"),
        (200, &[EIGHT], "changed"),
        (412, &[], "changed"),
        (416, &[("content-range", "bytes */8388608"), TAG], "changed"),
        // What has nothing to do with the file.
        (503, &[], ""),
        (500, &[], "1:pause 0"),
        (403, &[], "auth"),
        (404, &[], "rejected"),
        (204, &[], "protocol"),
    ];
    for (status, headers, expected) in rows {
        let step = advance(&facts(None), &asked.state, &reply(1, *status, headers));
        let found = match (&step.state, &step.next) {
            (State::Single { source: 0, get: get::State::Asking { tally } }, Next::Retry(_)) => {
                assert!(tally.whole && step.done == 0);
                "single".to_owned()
            }
            (State::Asking { tally, .. }, Next::Retry(_)) => {
                assert!(tally.changed == 1 && step.done == 0 && step.size.is_none());
                "changed".to_owned()
            }
            (State::Working(_), next) => word(next),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, *expected, "{status} {headers:?}");
    }
    let dated = [
        EIGHT,
        ("last-modified", "Wed, 25 Jun 2014 16:00:00 GMT"),
        ("date", "Wed, 25 Jun 2014 16:01:00 GMT"),
    ];
    let asked = advance(&facts(None), &Segments::new(&facts(None)), &reply(0, 200, &dated));
    let silent = reply(1, 206, &[("content-range", "bytes 2097152-4194303/8388608")]);
    assert_eq!(word(&advance(&facts(None), &asked.state, &silent).next), "1:store 2M+2M");
}

#[test]
fn a_file_may_change_three_times() {
    let mut state = Segments::new(&facts(None));
    let mut words = Vec::new();
    for _ in 0..4 {
        let step = advance(&facts(None), &state, &reply(0, 200, &[EIGHT, TAG]));
        let step = advance(&facts(None), &step.state, &reply(2, 412, &[]));
        words.push(word(&step.next));
        if words.len() < 4 {
            let step = advance(&facts(None), &step.state, &Input::Restarted);
            assert_eq!(word(&step.next), "0:GET");
            state = step.state;
        }
    }
    assert_eq!(words, ["retry", "retry", "retry", "remote-changed"]);
}

#[test]
fn a_lane_goes_on_to_the_next_chunk_and_the_last_one_ends_it() {
    let facts = Facts { lanes: 2, ..facts(None) };
    let length = (128 * MIB).to_string();
    let step = advance(&facts, &Segments::new(&facts), &reply(0, 200, &[("content-length", &length), TAG]));
    assert_eq!(word(&step.next), "reserve 128M 0:store 0M+16M 1:GET 16M-32M?");
    let step = advance(&facts, &step.state, &synced(0, 0, 3 * MIB, false));
    assert_eq!((word(&step.next).as_str(), step.done), ("", 3 * MIB));
    let step = advance(&facts, &step.state, &synced(0, 3 * MIB, 16 * MIB, true));
    assert_eq!(word(&step.next), "0:GET 32M-48M?");
    // A shorter range than asked for: the rest is another request.
    let step = advance(&facts, &step.state, &part(0, "33554432-34603007/134217728", "\"one\""));
    let step = advance(&facts, &step.state, &synced(0, 32 * MIB, 33 * MIB, true));
    assert_eq!(word(&step.next), "0:GET 33M-48M?");
    // The process dies: each chunk goes on from what is durable, and what is whole is not asked again.
    let killed = advance(&facts, &step.state, &Input::Restarted);
    assert_eq!(word(&killed.next), "0:GET 16M-32M? 1:GET 33M-48M?");
    assert_eq!(killed.done, 17 * MIB);
    let none = split(&facts);
    assert_eq!(word(&advance(&facts, &none.state, &Input::Restarted).next), "0:GET");

    let mut whole = work(&step).clone();
    whole.have = (0..8).map(|chunk| if chunk == 1 { 16 * MIB - 5 } else { 16 * MIB }).collect();
    let lane = Lane { at: At::Storing { chunk: 1, until: 32 * MIB }, source: Some(0), failures: 0 };
    whole.lanes = vec![Lane::FRESH, lane];
    let state = State::Working(Box::new(whole));
    let step = advance(&facts, &state, &synced(1, 32 * MIB - 5, 32 * MIB, true));
    assert_eq!(step.next, Next::Done(Proof { size: 128 * MIB, evidence: "length".to_owned() }));
    // All is durable, but the exchange is not over.
    let step = advance(&facts, &state, &synced(1, 32 * MIB - 5, 32 * MIB, false));
    assert_eq!(word(&step.next), "");
    assert_eq!(word(&advance(&facts, &step.state, &synced(1, 32 * MIB, 32 * MIB, true)).next), "done");
    assert_eq!(word(&advance(&facts, &step.state, &Input::Restarted).next), "done");
    for astray in [
        synced(1, 32 * MIB - 4, 32 * MIB, true),
        synced(1, 32 * MIB - 5, 32 * MIB + 1, true),
        synced(0, 0, 1, false),
        synced(9, 0, 1, false),
    ] {
        assert!(Segments::step(&facts, &state, &astray).is_err(), "{astray:?}");
    }
}

#[test]
fn a_lane_that_fails_waits_alone_and_when_all_fail_the_attempt_has() {
    let facts = Facts { lanes: 2, ..facts(None) };
    let step = split(&facts);
    assert_eq!(word(&step.next), "reserve 8M 0:store 0M+4M 1:GET 4M-8M?");
    let step = advance(&facts, &step.state, &lost(1));
    assert_eq!(word(&step.next), "1:pause 0");
    let all = advance(&facts, &step.state, &lost(0));
    assert_eq!(word(&all.next), "retry");
    let step = advance(&facts, &step.state, &Input::Woken { lane: 1 });
    assert_eq!(word(&step.next), "1:GET 4M-8M?");
    let step = advance(&facts, &step.state, &part(1, "4194304-8388607/8388608", "\"one\""));
    let step = advance(&facts, &step.state, &synced(1, 4 * MIB, 5 * MIB, false));
    let step = advance(&facts, &step.state, &lost(1));
    assert_eq!(word(&step.next), "1:pause 0", "progress makes up for failures");
    let step = advance(&facts, &step.state, &Input::Woken { lane: 1 });
    assert_eq!(word(&step.next), "1:GET 5M-8M?");
    let offline = Input::Lost { lane: 1, kind: NetErrorKind::Offline, why: String::new() };
    let step = advance(&facts, &step.state, &offline);
    let offline = Input::Lost { lane: 0, kind: NetErrorKind::Offline, why: String::new() };
    assert_eq!(word(&advance(&facts, &step.state, &offline).next), "offline");
    let tls = Input::Lost { lane: 0, kind: NetErrorKind::Tls, why: String::new() };
    assert_eq!(word(&advance(&facts, &step.state, &tls).next), "protocol");
}

#[test]
fn a_server_that_serves_few_at_once_gets_few() {
    let facts = facts(None);
    let mut step = split(&facts);
    let mut notes = 0;
    for lane in 1..4 {
        step = advance(&facts, &step.state, &reply(lane, 429, &[("retry-after", "99")]));
        assert_eq!(word(&step.next), "", "the other lanes go on");
        notes += u8::from(step.note.is_some());
    }
    assert_eq!((notes, work(&step).sources[0].most), (1, 1));
    // The one that is left does it all.
    let step = advance(&facts, &step.state, &synced(0, 0, 2 * MIB, true));
    assert_eq!(word(&step.next), "0:GET 2M-4M?");
    // Where there is no other, a throttled lane waits, and the attempt counts.
    let alone = advance(&facts, &step.state, &reply(0, 503, &[]));
    assert_eq!(word(&alone.next), "retry");
    let again = advance(&facts, &alone.state, &Input::Restarted);
    assert_eq!(word(&again.next), "0:GET 2M-4M? 1:GET 4M-6M?", "a restart tries twice as many");

    // Connections that break again and again while others hold: the same.
    let mut step = split(&facts);
    for attempts in 0..3 {
        step = advance(&facts, &step.state, &lost(3));
        assert_eq!(word(&step.next), format!("3:pause {attempts}"));
        step = advance(&facts, &step.state, &Input::Woken { lane: 3 });
        assert_eq!(word(&step.next), "3:GET 6M-8M?");
    }
    step = advance(&facts, &step.state, &lost(3));
    assert_eq!((word(&step.next).as_str(), work(&step).sources[0].most), ("", 3));
}

#[test]
fn a_mirror_takes_part_only_when_it_has_the_same_file() {
    let mirrors = mirrors(1);
    let asked = Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![1; 32] };
    let plain = Facts { lanes: 2, mirrors: &mirrors, ..facts(None) };
    let checked = Facts { checksum: Some(&asked), ..plain };
    let (same, other) = (sha256_header(1), sha256_header(2));
    let ours = ("content-range", "bytes 4194304-8388607/8388608");
    let theirs = ("etag", "\"their-own\"");
    let rows: &[Judged<'_>] = &[
        // Status, headers; taken without a digest to compare at the end; taken with one.
        (206, &[ours, TAG], true, true),
        (206, &[ours, theirs], false, true),
        (206, &[ours], false, true),
        (206, &[ours, ("etag", "W/\"one\"")], false, true),
        (206, &[ours, theirs, ("repr-digest", &same)], false, true),
        (206, &[ours, TAG, ("repr-digest", &other)], true, false),
        (206, &[("content-range", "bytes 4194304-8388607/*"), TAG], false, false),
        (206, &[("content-range", "bytes 4194304-8388607/8388609"), TAG], false, false),
        (206, &[("content-range", "bytes 4194303-8388607/8388608"), TAG], false, false),
        (206, &[ours, TAG, ("content-encoding", "br")], false, false),
        (206, &[TAG], false, false),
        (200, &[EIGHT, TAG], false, false),
        (416, &[], false, false),
        (404, &[], false, false),
        (401, &[], false, false),
    ];
    for (facts, with_digest) in [(&plain, false), (&checked, true)] {
        let step = split(facts);
        assert_eq!(word(&step.next), "reserve 8M 0:store 0M+4M 1:GETm1 4M-8M");
        for (status, headers, without, with) in rows {
            let taken = if with_digest { *with } else { *without };
            let after = advance(facts, &step.state, &reply(1, *status, headers));
            let expected = if taken { "1:store 4M+4M" } else { "1:pause 0" };
            assert_eq!(word(&after.next), expected, "{status} {headers:?} {with_digest}");
            assert!(after.note.is_some(), "it is said what became of the mirror");
            let standing = work(&after).sources[1].standing;
            assert_eq!(matches!(standing, Standing::Agreed { .. }), taken);
            assert_eq!((standing == Standing::Dropped, work(&after).mixed), (!taken, taken));
            if !taken {
                let after = advance(facts, &after.state, &Input::Woken { lane: 1 });
                assert_eq!(word(&after.next), "1:GET 4M-8M?", "the primary does it");
            }
        }
        let busy = advance(facts, &step.state, &reply(1, 503, &[]));
        assert_eq!(
            (word(&busy.next).as_str(), work(&busy).sources[1].standing),
            ("1:pause 0", Standing::Untried)
        );
    }
}

#[test]
fn a_mirror_that_changes_under_way_is_noticed() {
    let mirrors = mirrors(1);
    let asked = Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![1; 32] };
    let facts = Facts { lanes: 2, mirrors: &mirrors, ..facts(Some(&asked)) };
    let step = split(&facts);
    let step = advance(&facts, &step.state, &part(1, "4194304-5242879/8388608", "\"theirs\""));
    let step = advance(&facts, &step.state, &synced(1, 4 * MIB, 5 * MIB, true));
    assert_eq!(word(&step.next), "1:GETm1 5M-8M", "their tag is not the lead's: no If-Range");
    let same = advance(&facts, &step.state, &part(1, "5242880-8388607/8388608", "\"theirs\""));
    assert_eq!(word(&same.next), "1:store 5M+3M");
    for changed in [
        part(1, "5242880-8388607/8388608", "\"new\""),
        part(1, "5242880-8388607/8388608", "\"one\""),
        reply(1, 206, &[("content-range", "bytes 5242880-8388607/8388608")]),
    ] {
        let after = advance(&facts, &step.state, &changed);
        assert_eq!(
            (word(&after.next).as_str(), work(&after).sources[1].standing),
            ("1:pause 0", Standing::Dropped)
        );
    }
    // With the lead's own tag, If-Range is sent from then on.
    let step = split(&facts);
    let step = advance(&facts, &step.state, &part(1, "4194304-5242879/8388608", "\"one\""));
    let step = advance(&facts, &step.state, &synced(1, 4 * MIB, 5 * MIB, true));
    assert_eq!(word(&step.next), "1:GETm1 5M-8M?");
    // The lead's end is not the job's while a mirror has the file.
    let gone = advance(&facts, &step.state, &lost(0));
    let gone = advance(&facts, &gone.state, &Input::Woken { lane: 0 });
    assert_eq!(word(&gone.next), "0:GET 0M-4M?");
    let gone = advance(&facts, &gone.state, &reply(0, 404, &[]));
    assert_eq!(word(&gone.next), "0:pause 0");
    let gone = advance(&facts, &gone.state, &Input::Woken { lane: 0 });
    assert_eq!(word(&gone.next), "0:GETm1 0M-4M?");
}

#[test]
fn a_mirror_that_only_fails_is_dropped() {
    let mirrors = mirrors(1);
    let facts = Facts { lanes: 2, mirrors: &mirrors, ..facts(None) };
    let mut step = split(&facts);
    for attempts in 0..3 {
        step = advance(&facts, &step.state, &lost(1));
        assert_eq!(word(&step.next), format!("1:pause {attempts}"));
        step = advance(&facts, &step.state, &Input::Woken { lane: 1 });
        assert_eq!(word(&step.next), "1:GETm1 4M-8M");
    }
    step = advance(&facts, &step.state, &lost(1));
    assert_eq!(work(&step).sources[1].standing, Standing::Dropped);
    step = advance(&facts, &step.state, &Input::Woken { lane: 1 });
    assert_eq!(word(&step.next), "1:GET 4M-8M?");
    // One lane asks the other source after each attempt that failed.
    let one = Facts { lanes: 1, ..facts };
    let step = split(&one);
    assert_eq!(word(&step.next), "reserve 8M 0:store 0M+8M");
    let step = advance(&one, &step.state, &synced(0, 0, MIB, false));
    let step = advance(&one, &step.state, &lost(0));
    assert_eq!(word(&step.next), "retry");
    assert_eq!(word(&advance(&one, &step.state, &Input::Restarted).next), "0:GETm1 1M-8M");
}

#[test]
fn a_source_that_does_not_give_the_whole_is_followed_by_the_next() {
    let mirrors = mirrors(2);
    let facts = Facts { mirrors: &mirrors, ..facts(None) };
    let ends: &[([Input; 3], &str)] = &[
        ([reply(0, 404, &[]), reply(0, 410, &[]), reply(0, 403, &[])], "rejected"),
        ([reply(0, 401, &[]), reply(0, 404, &[]), reply(0, 404, &[])], "auth"),
        ([reply(0, 404, &[]), reply(0, 503, &[]), reply(0, 404, &[])], "retry"),
        ([lost(0), reply(0, 404, &[]), reply(0, 206, &[])], "retry"),
        ([reply(0, 200, &[("content-encoding", "gzip")]), lost(0), lost(0)], "retry"),
        (
            std::array::from_fn(|_| Input::Lost { lane: 0, kind: NetErrorKind::Offline, why: String::new() }),
            "offline",
        ),
    ];
    for (inputs, expected) in ends {
        let mut step = advance(&facts, &Segments::new(&facts), &Input::Begin);
        let mut words = vec![word(&step.next)];
        for input in inputs {
            step = advance(&facts, &step.state, input);
            words.push(word(&step.next));
        }
        assert_eq!(words, ["0:GET", "0:GETm1", "0:GETm2", expected]);
        if !matches!(step.next, Next::Fail(_)) {
            assert_eq!(word(&advance(&facts, &step.state, &Input::Restarted).next), "0:GET");
        }
    }
    // The one that gives it is the lead; the primary has to agree like a mirror.
    let step = advance(&facts, &Segments::new(&facts), &reply(0, 500, &[]));
    let step = advance(&facts, &step.state, &reply(0, 200, &[EIGHT, TAG]));
    assert_eq!(word(&step.next), "reserve 8M 0:store 0M+2M 1:GETm2 2M-4M 2:GET 4M-6M 3:GETm1 6M-8M?");
    let step = advance(&facts, &step.state, &part(2, "4194304-6291455/8388608", "\"two\""));
    assert_eq!(word(&step.next), "2:pause 0");
    // In one stream it stays with who gave it.
    let step = advance(&facts, &Segments::new(&facts), &reply(0, 500, &[]));
    let step = advance(&facts, &step.state, &reply(0, 200, &[("content-length", "9"), TAG]));
    let step = advance(&facts, &step.state, &synced(0, 0, 4, false));
    assert_eq!(
        word(&advance(&facts, &step.state, &Input::Restarted).next),
        "cut 4 0:GETm1 4M-?".replace("4M-", "4-")
    );
}

#[test]
fn a_wrong_digest_is_tried_once_more_and_without_mirrors_if_they_took_part() {
    let mirrors = mirrors(1);
    let asked = Checksum { algorithm: ChecksumAlgorithm::Sha1, digest: vec![1; 20] };
    let facts = Facts { lanes: 2, mirrors: &mirrors, ..facts(Some(&asked)) };
    let digested = |algorithm: ChecksumAlgorithm, byte| Input::Digested {
        algorithm,
        digest: vec![byte; algorithm.digest_len()],
    };
    let whole = |from: &str| {
        let mut headers = vec![EIGHT, TAG, ("content-disposition", "attachment; filename=../n")];
        let served = sha256_header(2);
        headers.push(("repr-digest", &served));
        let step = advance(&facts, &Segments::new(&facts), &reply(0, 200, &headers));
        let step = advance(&facts, &step.state, &synced(0, 0, 4 * MIB, true));
        let step = if from == "mirror" {
            step
        } else {
            let step = advance(&facts, &step.state, &reply(1, 404, &[]));
            advance(&facts, &step.state, &Input::Woken { lane: 1 })
        };
        let lane = work(&step).lanes.iter().position(|lane| lane.chunk() == Some(1)).unwrap() as u16;
        let step = advance(&facts, &step.state, &part(lane, "4194304-8388607/8388608", "\"one\""));
        advance(&facts, &step.state, &synced(lane, 4 * MIB, 8 * MIB, true))
    };
    let step = whole("mirror");
    assert_eq!((word(&step.next).as_str(), step.done), ("sha256", 8 * MIB));
    assert_eq!(Segments::served_name(&step.state), Some("n"));
    assert_eq!(word(&advance(&facts, &step.state, &Input::Restarted).next), "sha256");
    assert_eq!(word(&advance(&facts, &step.state, &Input::Woken { lane: 1 }).next), "");
    assert!(Segments::step(&facts, &step.state, &digested(ChecksumAlgorithm::Sha512, 2)).is_err());
    let served = advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 2));
    assert_eq!(word(&served.next), "sha1");
    let done = advance(&facts, &served.state, &digested(ChecksumAlgorithm::Sha1, 1));
    let evidence = "length, sha256 as served, sha1 as asked for".to_owned();
    assert_eq!(done.next, Next::Done(Proof { size: 8 * MIB, evidence }));
    assert_eq!(word(&advance(&facts, &done.state, &Input::Restarted).next), "done");

    for wrong in [
        advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 9)),
        advance(&facts, &served.state, &digested(ChecksumAlgorithm::Sha1, 9)),
    ] {
        assert!(matches!(wrong.state, State::Single { source: 0, .. }) && wrong.done == 0);
        assert_eq!(word(&wrong.next), "retry");
        let alone = advance(&facts, &wrong.state, &Input::Restarted);
        let alone = advance(&facts, &alone.state, &reply(0, 200, &[EIGHT, TAG]));
        let alone = advance(&facts, &alone.state, &synced(0, 0, 8 * MIB, true));
        let end = advance(&facts, &alone.state, &digested(ChecksumAlgorithm::Sha1, 9));
        assert_eq!(word(&end.next), "checksum-mismatch");
    }
    let step = whole("primary");
    let again = advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 9));
    assert_eq!((word(&again.next).as_str(), again.done), ("0:GET", 0));
    let served = advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 2));
    let end = advance(&facts, &served.state, &digested(ChecksumAlgorithm::Sha1, 9));
    assert_eq!(word(&end.next), "checksum-mismatch");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let facts = facts(None);
    let working = split(&facts).state;
    let done = State::Complete { size: 1, evidence: String::new(), name: None };
    for (state, input) in [
        (&working, Input::Begin),
        (&working, reply(0, 206, &[])),
        (&working, reply(77, 206, &[])),
        (&working, lost(77)),
        (&working, synced(1, 2 * MIB, 3 * MIB, false)),
        (&Segments::new(&facts), reply(1, 200, &[])),
        (&Segments::new(&facts), synced(0, 0, 1, true)),
        (&done, lost(0)),
        (&done, synced(0, 0, 1, true)),
    ] {
        assert!(Segments::step(&facts, state, &input).is_err(), "{input:?} in {state:?}");
    }
    assert_eq!(word(&advance(&facts, &working, &Input::Cancel).next), "done");
    assert_eq!(word(&advance(&facts, &working, &Input::Woken { lane: 77 }).next), "");
}

fn version(tag: String) -> Version {
    Version {
        validator: Some(Validator::Tag(tag)),
        total: Some(3),
        digest: Some(Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![4] }),
        name: Some("n".to_owned()),
        url: "u".to_owned(),
        framed: true,
    }
}

#[test]
fn the_largest_state_is_within_its_bound() {
    let many: Vec<String> = (0..40).map(|at| format!("https://m{at}.example/{}", "p".repeat(2000))).collect();
    let facts = Facts { lanes: 500, mirrors: &many, ..facts(None) };
    let (tag, length) = (format!("\"{}\"", "t".repeat(1022)), (u64::MAX >> 2).to_string());
    let name = format!("attachment; filename={}", "n".repeat(3000));
    let digest = sha256_header(1);
    let headers = [
        ("content-length", length.as_str()),
        ("etag", &tag),
        ("content-disposition", &name),
        ("repr-digest", &digest),
    ];
    let Input::Reply { lane, mut reply } = reply(0, 200, &headers) else { unreachable!() };
    reply.url = format!("https://{}.example/{}", "h".repeat(240), "p".repeat(3000));
    let step = advance(&facts, &Segments::new(&facts), &Input::Reply { lane, reply });
    let found = work(&step);
    assert_eq!((found.have.len(), found.lanes.len(), found.sources.len()), (128, 32, 17));
}

proptest! {
    #[test]
    fn chunks_cover_the_file_and_are_neither_tiny_nor_many(
        total in prop_oneof![state::SPLIT_MIN..64 << 20, state::SPLIT_MIN..u64::MAX >> 1],
        lanes in 1u16..=state::LANES_MAX,
    ) {
        let chunk = state::chunk_len(total, lanes);
        let count = total.div_ceil(chunk);
        prop_assert!(chunk.is_multiple_of(state::ALIGN) && chunk >= state::CHUNK_MIN);
        prop_assert!(count <= 4 * u64::from(lanes), "{} chunks", count);
        // Every lane has one, where the file has as many of the smallest.
        let worth = (total / (state::CHUNK_MIN + state::ALIGN)).min(u64::from(lanes));
        prop_assert!(count * 2 >= worth, "{} chunks for {} lanes", count, lanes);
    }

    #[test]
    fn no_reply_makes_it_panic_or_claim_too_much(
        status in prop_oneof![3 => Just(206u16), 1 => Just(200u16), 1 => 100u16..1000],
        name in prop::sample::select(vec![
            "content-range", "content-length", "etag", "last-modified", "repr-digest", "content-disposition",
            "content-encoding", "content-type", "accept-ranges", "retry-after",
        ]),
        value in prop_oneof!["[ -~]{0,30}", "bytes (4194304|[0-9]{1,7})-(8388607|[0-9]{1,8})/(8388608|[0-9*]{1,3})"],
        mirrored in any::<bool>(),
    ) {
        let mirrors = mirrors(1);
        let mirrors: &[String] = if mirrored { &mirrors } else { &[] };
        let facts = Facts { lanes: 2, mirrors, ..facts(None) };
        let step = split(&facts);
        let step = advance(&facts, &step.state, &reply(1, status, &[TAG, (name, &value)]));
        if let State::Working(work) = &step.state
            && let At::Storing { chunk, until } = work.lanes[1].at
        {
            prop_assert!(status == 206 && until <= work.span(chunk).end && until > work.span(chunk).start);
        }
    }
}

#[test]
fn the_form_on_disk_stands_still() {
    let tally = Tally { changed: 1, spoiled: true, whole: true, restarts: 2 };
    let lane = |at| Lane { at, source: Some(1), failures: 2 };
    let work = Work {
        version: version("t".to_owned()),
        tally,
        chunk: 2,
        have: vec![2, 1],
        lanes: vec![
            Lane::FRESH,
            lane(At::Asked { chunk: 1 }),
            lane(At::Storing { chunk: 1, until: 3 }),
            lane(At::Paused),
        ],
        sources: [
            Standing::Lead,
            Standing::Untried,
            Standing::Agreed { tagged: true, print: [5; 16] },
            Standing::Dropped,
        ]
        .map(|standing| Source { standing, most: 6 })
        .to_vec(),
        turn: 7,
        mixed: true,
        narrowed: true,
    };
    let turn = |no| Turn { source: 1, hope: true, reached: true, no: Some(no) };
    let states = [
        State::Asking { tally, turn: turn(Refusal::Auth("a".to_owned())) },
        State::Asking {
            tally,
            turn: turn(Refusal::Final(FailCause::Rejected { status: 4, detail: "d".to_owned() })),
        },
        State::Single { source: 1, get: get::State::Asking { tally } },
        State::Working(Box::new(work.clone())),
        State::Verifying { work: Box::new(work), check: Check::Asked },
        State::Complete { size: 3, evidence: "e".to_owned(), name: None },
    ];
    let hex = |state: &State| -> String {
        let bytes = bincode::serialize(state).unwrap();
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    };
    let form: Vec<String> = states.iter().map(hex).collect();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(form, golden, "a journal of another version could not be read:\n{}", form.join("\n"));
}

const GOLDEN: &str = "\
0000000001000000010102000000010001010100000000010000000000000061
0000000001000000010102000000010001010101000000030000000400010000000000000064
0100000001000000000001000000010102000000
02000000010000000001000000000000007401030000000000000001010000000100000000000000040101000000000000006e0100000000000000750101000000010102000000020000000000000002000000000000000200000000000000010000000000000004000000000000000000000000000000000100000001000101000200000002000000010003000000000000000101000200000003000000010100020000000400000000000000010000000600000000000600020000000105050505050505050505050505050505060003000000060007000101
03000000010000000001000000000000007401030000000000000001010000000100000000000000040101000000000000006e010000000000000075010100000001010200000002000000000000000200000000000000020000000000000001000000000000000400000000000000000000000000000000010000000100010100020000000200000001000300000000000000010100020000000300000001010002000000040000000000000001000000060000000000060002000000010505050505050505050505050505050506000300000006000700010101000000
04000000030000000000000001000000000000006500";
