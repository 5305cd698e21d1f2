//! A lying server (tables), hostile URLs, and the form on disk. The honest server is in `model`.

mod model;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use proptest::prelude::*;

use super::state::{KEPT_MAX, LIST_MAX, Urls, WHOLE_MAX};
use super::*;
use crate::job::{ChecksumAlgorithm, HttpOptions, Token};
use crate::ports::{NetErrorKind, WallMs};
use crate::protocol::tus::Probe;

const TARGET: &str = "https://files.example/uploads";
const MIB: u64 = 1 << 20;
const JOINS: &[(&str, &str)] = &[("tus-extension", "creation,concatenation,termination")];
const PLAIN: Server = Server { checksum: None, with_upload: false, termination: true };

fn facts(size: u64, lanes: u16) -> Facts<'static> {
    Facts {
        url: TARGET,
        size: Some(size),
        name: "a b.bin",
        token: Token([7; 16]),
        checksum: None,
        now: WallMs(1_800_000_000_000),
        lanes,
        mirrors: &[],
        http: &HttpOptions::PLAIN,
    }
}

fn reply(lane: u16, status: u16, headers: &[(&str, &str)]) -> Input {
    let mut map = HeaderMap::new();
    for &(name, value) in headers {
        map.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    let url = TARGET.to_owned();
    Input::Reply { lane, reply: Reply { status, headers: map, url, framed: true, body: Bytes::new() } }
}

fn lost(lane: u16, kind: NetErrorKind) -> Input {
    Input::Lost { lane, kind, why: "cut".to_owned() }
}

/// Steps and checks what must hold of every step.
fn advance(facts: &Facts<'_>, state: &State, input: &Input) -> Step<State> {
    let step = TusParts::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < 7 << 10, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    assert!(step.done <= step.size.unwrap(), "{} of {:?}", step.done, step.size);
    if let State::Sending { set } = &step.state {
        for (at, part) in set.parts.iter().enumerate() {
            assert!(part.acked <= part.sent && part.sent <= set.len(at, step.size.unwrap()), "{part:?}");
            assert!(part.doing != Doing::Whole || part.acked == set.len(at, step.size.unwrap()));
        }
    }
    for send in sends(&step.next) {
        assert_eq!(send.headers["tus-resumable"], "1.0.0");
        assert!(!send.follow_redirects);
        if send.method == Method::PATCH {
            assert!(!matches!(input, Input::Restarted), "a restart never sends bytes first");
            let known = known(&step.state).any(|url| url == send.url);
            assert!(known || matches!(step.state, State::Single(_)), "bytes go to a URL that is journaled");
        }
        let list = send.headers.get("upload-concat").map_or(0, HeaderValue::len);
        assert!(list <= LIST_MAX + "final;".len(), "a header of {list} bytes");
    }
    step
}

fn known(state: &State) -> impl Iterator<Item = &str> {
    let (set, whole) = match state {
        State::Sending { set }
        | State::Joining { set, .. }
        | State::Freeing { set, then: Then::Fewer(_) | Then::Cancelled { .. } } => (Some(set), None),
        State::Proving { set, whole, .. } | State::Freeing { set, then: Then::Proven { whole, .. } } => {
            (Some(set), Some(whole))
        }
        State::Discovering | State::Single(_) | State::Complete { .. } | State::Gone { .. } => (None, None),
    };
    set.into_iter().flat_map(|set| set.urls.0.iter().flatten()).chain(whole).map(String::as_str)
}

fn sends(next: &Next) -> Vec<&crate::protocol::Send> {
    let Next::Go(effects) = next else { return Vec::new() };
    let sends = effects.iter().filter_map(|effect| match effect {
        Effect::Send(send) => Some(&**send),
        Effect::Pause { .. } => None,
        other => panic!("{other:?}"),
    });
    sends.collect()
}

/// `METHOD@lane range, …`, or how it ends.
fn word(next: &Next) -> String {
    match next {
        Next::Go(effects) => {
            let words = effects.iter().map(|effect| match effect {
                Effect::Send(send) => match &send.body {
                    Body::File { range, .. } => {
                        format!("{}@{} {}-{}", send.method, send.lane, range.start, range.end)
                    }
                    Body::Empty | Body::Bytes(_) | Body::Form { .. } => {
                        format!("{}@{}", send.method, send.lane)
                    }
                },
                Effect::Pause { lane, attempts, .. } => format!("pause@{lane} {attempts}"),
                other => panic!("{other:?}"),
            });
            words.collect::<Vec<_>>().join(", ")
        }
        Next::Retry(_) => "retry".to_owned(),
        Next::Done(_) => "done".to_owned(),
        Next::Fail(cause) => cause.name().to_owned(),
        Next::Suspend(cause) => cause.name().to_owned(),
    }
}

fn url(at: usize) -> String {
    format!("{TARGET}/{at}")
}

/// Three parts of 100 bytes: the first whole, the second as asked for, the third not begun.
fn set(doing: Doing) -> Set {
    let mut set = Set::new(PLAIN, 0, 3);
    set.parts[0] = Part { acked: 100, sent: 100, doing: Doing::Whole, ..Part::NEW };
    set.parts[1] = Part { acked: 10, sent: 60, doing, ..Part::NEW };
    for at in 0..2 {
        set.urls.0[at] = Some(url(at));
    }
    set
}

fn whole_set() -> Set {
    let mut set = set(Doing::Whole);
    set.parts = vec![Part { acked: 100, sent: 100, doing: Doing::Whole, ..Part::NEW }; 3];
    set.urls.0[2] = Some(url(2));
    set
}

/// Status, headers, what follows.
type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str);

fn table(lane: u16, state: &State, rows: &[Row<'_>]) {
    for (status, headers, expected) in rows {
        let step = advance(&facts(300, 3), state, &reply(lane, *status, headers));
        assert_eq!(word(&step.next), *expected, "{status} {headers:?} in {state:?}");
    }
}

#[test]
fn parts_are_chosen_where_they_help_and_one_stream_elsewhere() {
    type Case = (u64, u16, &'static [(&'static str, &'static str)], u16, &'static str);
    let rows: &[Case] = &[
        (4 * MIB, 4, JOINS, 204, "4 parts side by side"),
        (4 * MIB, 2, JOINS, 204, "2 parts side by side"),
        (2 * MIB, 9, JOINS, 204, "2 parts side by side"),
        (2 * MIB - 1, 9, JOINS, 204, "one stream: the file is small"),
        (0, 9, JOINS, 204, "one stream: the file is small"),
        (1 << 40, 1000, JOINS, 200, "64 parts side by side"),
        (4 * MIB, 1, JOINS, 204, "one stream: no more was asked for"),
        (4 * MIB, 4, &[("tus-extension", "creation")], 204, "one stream: the server joins no parts"),
        (
            4 * MIB,
            4,
            &[("tus-extension", "concatenation-unfinished")],
            204,
            "one stream: the server joins no parts",
        ),
        (4 * MIB, 4, &[], 204, "one stream: the server joins no parts"),
        (4 * MIB, 4, JOINS, 405, "one stream: the server joins no parts"),
    ];
    for &(size, lanes, headers, status, note) in rows {
        let facts = facts(size, lanes);
        let options = advance(&facts, &TusParts::new(&facts), &Input::Begin);
        assert_eq!(word(&options.next), "OPTIONS@0");
        let answer = reply(0, status, headers);
        let step = advance(&facts, &options.state, &answer);
        assert_eq!(step.note.as_deref(), Some(note));
        assert_eq!(word(&step.next), "POST@0", "the first part is created alone");
        let chosen = if note.starts_with("one") { ProtocolId::Tus } else { ProtocolId::TusParts };
        assert_eq!(TusParts::chosen(&step.state), Some(chosen));
        let Input::Reply { reply, .. } = &answer else { panic!() };
        assert_eq!(TusParts::offered(&facts, reply).unwrap(), step, "somebody else's OPTIONS does as well");
    }
    let busy = advance(&facts(MIB, 2), &State::Discovering, &reply(0, 503, JOINS));
    assert_eq!(word(&busy.next), "retry");
    let small = reply(0, 204, &[("tus-extension", "concatenation"), ("tus-max-size", "99")]);
    assert_eq!(word(&advance(&facts(4 * MIB, 2), &State::Discovering, &small).next), "rejected");
}

#[test]
fn the_ranges_are_the_whole_file_once() {
    for (size, count) in [(2 * MIB, 2), (10_000_001, 7), (1 << 41, 64), (64 * MIB + 63, 64)] {
        let set = Set::new(PLAIN, 0, count);
        let mut end = 0;
        for at in 0..usize::from(count) {
            let range = set.range(at, size);
            assert_eq!(range.start, end);
            assert!(range.end - range.start >= size / u64::from(count));
            end = range.end;
        }
        assert_eq!(end, size);
    }
}

#[test]
fn four_parts_go_their_way_and_become_one_object() {
    let facts = facts(4 * MIB + 3, 4);
    let mut step = advance(&facts, &State::Discovering, &reply(0, 204, JOINS));
    let first = sends(&step.next)[0].clone();
    assert_eq!(
        (first.headers["upload-concat"].as_bytes(), first.headers["upload-length"].as_bytes()),
        (&b"partial"[..], &b"1048576"[..])
    );
    assert!(!first.headers.contains_key("upload-metadata"));
    step = advance(&facts, &step.state, &reply(0, 201, &[("location", "/uploads/0")]));
    assert_eq!(word(&step.next), "PATCH@0 0-1048576, POST@1, POST@2, POST@3");
    assert_eq!(sends(&step.next)[3].headers["upload-length"], "1048579");
    for lane in [2, 1, 3] {
        let location = format!("/uploads/{lane}");
        step = advance(&facts, &step.state, &reply(lane, 201, &[("location", &location)]));
        let start = u64::from(lane) * MIB;
        let end = if lane == 3 { 4 * MIB + 3 } else { start + MIB };
        assert_eq!(word(&step.next), format!("PATCH@{lane} {start}-{end}"));
    }
    for (lane, done) in [(3, MIB + 3), (0, 2 * MIB + 3), (1, 3 * MIB + 3)] {
        let offset = if lane == 3 { "1048579" } else { "1048576" };
        step = advance(&facts, &step.state, &reply(lane, 204, &[("upload-offset", offset)]));
        assert_eq!((word(&step.next).as_str(), step.done), ("", done));
    }
    step = advance(&facts, &step.state, &reply(2, 204, &[("upload-offset", "1048576")]));
    assert_eq!(word(&step.next), "POST@0");
    let join = &sends(&step.next)[0].headers;
    let list: Vec<String> = (0..4).map(url).collect();
    assert_eq!(join["upload-concat"], format!("final;{}", list.join(" ")));
    assert!(join.contains_key("upload-metadata") && !join.contains_key("upload-length"));
    step = advance(&facts, &step.state, &reply(0, 201, &[("location", "/uploads/9")]));
    assert_eq!((word(&step.next).as_str(), TusParts::remote(&step.state)), ("HEAD@0", Some(url(9).as_str())));
    let size = (4 * MIB + 3).to_string();
    step =
        advance(&facts, &step.state, &reply(0, 200, &[("upload-offset", &size), ("upload-length", &size)]));
    assert_eq!(word(&step.next), "DELETE@0, DELETE@1, DELETE@2, DELETE@3");
    for lane in 0..4 {
        assert!(matches!(step.next, Next::Go(_)));
        step = advance(&facts, &step.state, &reply(lane, if lane == 1 { 404 } else { 204 }, &[]));
    }
    let Next::Done(proof) = step.next else { panic!("{step:?}") };
    let evidence = "HEAD offset = length, 4 parts joined".to_owned();
    assert_eq!(proof, Proof { size: 4 * MIB + 3, evidence });
    assert_eq!(TusParts::remote(&step.state), None);
}

#[test]
fn an_answer_to_a_part_s_creation_is_a_url_of_the_same_origin_or_nothing() {
    let creating = State::Sending {
        set: {
            let mut set = set(Doing::Creating);
            set.urls.0[1] = None;
            set.parts[1] = Part { doing: Doing::Creating, ..Part::NEW };
            set.parts[2].doing = Doing::Resting;
            set
        },
    };
    table(
        1,
        &creating,
        &[
            (201, &[("location", "/uploads/1")], "PATCH@1 100-200"),
            (201, &[], "protocol"),
            (201, &[("location", "https://evil.example/7")], "protocol"),
            (201, &[("location", "https://me:secret@files.example/7")], "protocol"),
            (200, &[("location", "/uploads/1")], "protocol"),
            (302, &[("location", "/uploads/1")], "protocol"),
            (400, &[], "rejected"),
            (413, &[], "rejected"),
            (507, &[], "rejected"),
            (401, &[], "auth"),
            (500, &[], "pause@1 0"),
            (503, &[("retry-after", "999999999")], "pause@1 0"),
        ],
    );
    let first = advance(&facts(4 * MIB, 4), &State::Discovering, &reply(0, 204, JOINS)).state;
    for status in [400, 403, 404, 413, 500, 501] {
        let step = advance(&facts(4 * MIB, 4), &first, &reply(0, status, &[]));
        let expected = match status {
            403 => "auth",
            500 => "pause@0 0",
            _ => "POST@0",
        };
        assert_eq!(word(&step.next), expected, "{status} to the first part");
        assert_eq!(matches!(step.state, State::Single(_)), expected == "POST@0");
    }
}

#[test]
fn an_answer_to_patch_is_taken_only_within_what_was_sent() {
    table(
        1,
        &State::Sending { set: set(Doing::Sending) },
        &[
            (204, &[("upload-offset", "60")], "PATCH@1 160-200"),
            (204, &[("upload-offset", "50")], "PATCH@1 150-200"),
            (204, &[("upload-offset", "10")], "pause@1 0"),
            (204, &[("upload-offset", "9")], "protocol"),
            (204, &[("upload-offset", "61")], "protocol"),
            (204, &[("upload-offset", "100")], "protocol"),
            (204, &[("upload-offset", "18446744073709551616")], "protocol"),
            (204, &[("upload-offset", "-1")], "protocol"),
            (204, &[("upload-offset", "50"), ("upload-offset", "50")], "protocol"),
            (204, &[], "HEAD@1"),
            (409, &[], "HEAD@1"),
            (403, &[], "HEAD@1"),
            (401, &[], "auth"),
            (404, &[], "POST@1"),
            (410, &[], "POST@1"),
            (423, &[], "pause@1 0"),
            (460, &[], "pause@1 0"),
            (400, &[], "rejected"),
            (415, &[], "rejected"),
            (301, &[("location", "/uploads/1")], "protocol"),
            (502, &[], "pause@1 0"),
            (507, &[], "rejected"),
        ],
    );
}

#[test]
fn an_answer_to_head_is_taken_only_within_what_was_ever_sent() {
    let offset = |at: &'static str| [("upload-offset", at), ("upload-length", "100")];
    let probing = |why| State::Sending { set: set(Doing::Probing(why)) };
    table(
        1,
        &probing(Probe::Resume),
        &[
            (200, &offset("10"), "PATCH@1 110-200"),
            (200, &offset("60"), "PATCH@1 160-200"),
            (204, &offset("0"), "PATCH@1 100-200"),
            (200, &offset("61"), "protocol"),
            (200, &offset("100"), "protocol"),
            (200, &[("upload-offset", "10"), ("upload-length", "300")], "protocol"),
            (200, &[("upload-offset", "10")], "PATCH@1 110-200"),
            (200, &[("upload-offset", "10"), ("upload-offset", "10")], "protocol"),
            (200, &[("upload-length", "100")], "protocol"),
            (403, &[], "auth"),
            (404, &[], "POST@1"),
            (423, &[], "pause@1 0"),
            (500, &[], "pause@1 0"),
            (405, &[], "rejected"),
        ],
    );
    table(
        1,
        &probing(Probe::Doubt),
        &[(200, &offset("10"), "pause@1 0"), (200, &offset("20"), "PATCH@1 120-200")],
    );
    table(
        1,
        &probing(Probe::Forbidden),
        &[(200, &offset("10"), "auth"), (200, &offset("20"), "PATCH@1 120-200")],
    );
    let mut last = whole_set();
    last.parts[1].doing = Doing::Probing(Probe::Resume);
    last.parts[1].acked = 10;
    table(1, &State::Sending { set: last.clone() }, &[(200, &offset("100"), "POST@0"), (404, &[], "POST@1")]);
    last.finals = 1;
    table(
        1,
        &State::Sending { set: last },
        &[(200, &offset("100"), "POST@0"), (404, &[], "outcome-unknown"), (410, &[], "outcome-unknown")],
    );
}

#[test]
fn the_request_to_join_is_only_repeated_when_it_was_refused_or_is_counted() {
    let joining = State::Joining { set: whole_set(), asked: true };
    table(
        0,
        &joining,
        &[
            (201, &[("location", "/uploads/9")], "HEAD@0"),
            (201, &[], "outcome-unknown"),
            (201, &[("location", "https://evil.example/9")], "outcome-unknown"),
            (200, &[("location", "/uploads/9")], "outcome-unknown"),
            (400, &[], "HEAD@0, HEAD@1, HEAD@2"),
            (404, &[], "HEAD@0, HEAD@1, HEAD@2"),
            (302, &[], "HEAD@0, HEAD@1, HEAD@2"),
            (403, &[], "auth"),
            (423, &[], "retry"),
            (503, &[], "retry"),
            (500, &[], "retry"),
        ],
    );
    let facts = facts(300, 3);
    for (input, finals, after) in [
        (reply(0, 503, &[]), None, "POST@0"),
        (reply(0, 504, &[]), Some(1), "HEAD@0, HEAD@1, HEAD@2"),
        (lost(0, NetErrorKind::Connect), None, "POST@0"),
        (lost(0, NetErrorKind::Timeout), Some(1), "HEAD@0, HEAD@1, HEAD@2"),
        (lost(0, NetErrorKind::Broken), Some(1), "HEAD@0, HEAD@1, HEAD@2"),
    ] {
        let step = advance(&facts, &joining, &input);
        assert_eq!(word(&step.next), "retry", "{input:?}");
        let counted = match &step.state {
            State::Sending { set } => Some(set.finals),
            State::Joining { asked: false, .. } => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(counted, finals, "{input:?}");
        assert_eq!(word(&advance(&facts, &step.state, &Input::Restarted).next), after, "{input:?}");
    }

    // Refused, and every part is what it should be: that is the server's last word.
    let mut step = advance(&facts, &joining, &reply(0, 400, &[]));
    for lane in 0..3 {
        step = advance(&facts, &step.state, &reply(lane, 200, &[("upload-offset", "100")]));
    }
    assert_eq!(word(&step.next), "POST@0");
    assert_eq!(word(&advance(&facts, &step.state, &reply(0, 400, &[])).next), "rejected");

    // The process dies, the parts are all there: joined again, and the proof says what that may have left.
    let mut step = advance(&facts, &joining, &Input::Restarted);
    assert_eq!(word(&step.next), "HEAD@0, HEAD@1, HEAD@2");
    for lane in 0..3 {
        step = advance(&facts, &step.state, &reply(lane, 200, &[("upload-offset", "100")]));
    }
    step = advance(&facts, &step.state, &reply(0, 201, &[("location", "/uploads/9")]));
    step = advance(&facts, &step.state, &reply(0, 200, &[("upload-offset", "300")]));
    for lane in 0..3 {
        step = advance(&facts, &step.state, &reply(lane, 204, &[]));
    }
    let Next::Done(proof) = step.next else { panic!("{step:?}") };
    let evidence = "HEAD offset = size (no length told), 3 parts joined; a lost final may have left a second object of full size";
    assert_eq!(proof.evidence, evidence);
}

#[test]
fn the_whole_is_proven_by_its_offset_alone_and_not_awaited_for_ever() {
    let proving = State::Proving { set: whole_set(), whole: url(9), tries: 0 };
    table(
        0,
        &proving,
        &[
            (200, &[("upload-offset", "300"), ("upload-length", "300")], "DELETE@0, DELETE@1, DELETE@2"),
            (204, &[("upload-offset", "300")], "DELETE@0, DELETE@1, DELETE@2"),
            (200, &[("upload-length", "300")], "retry"),
            (200, &[("upload-offset", "299"), ("upload-length", "300")], "retry"),
            (200, &[], "retry"),
            (200, &[("upload-offset", "300"), ("upload-length", "301")], "protocol"),
            (200, &[("upload-offset", "301")], "protocol"),
            (200, &[("upload-offset", "300"), ("upload-length", "x")], "protocol"),
            (404, &[], "outcome-unknown"),
            (410, &[], "outcome-unknown"),
            (403, &[], "auth"),
            (500, &[], "retry"),
            (405, &[], "rejected"),
        ],
    );
    let mut state = proving;
    for _ in 0..PROVE_MAX {
        let step = advance(&facts(300, 3), &state, &reply(0, 200, &[]));
        assert_eq!(word(&step.next), "retry");
        let again = advance(&facts(300, 3), &step.state, &Input::Restarted);
        assert_eq!(word(&again.next), "HEAD@0");
        state = again.state;
    }
    assert_eq!(word(&advance(&facts(300, 3), &state, &reply(0, 200, &[])).next), "protocol");
}

#[test]
fn a_lane_that_fails_pauses_alone_until_it_fails_too_often() {
    let facts = facts(300, 3);
    let mut state = State::Sending { set: set(Doing::Sending) };
    for attempts in 0..FAILS_MAX {
        let step = advance(&facts, &state, &lost(1, NetErrorKind::Broken));
        assert_eq!(word(&step.next), format!("pause@1 {attempts}"));
        let step = advance(&facts, &step.state, &Input::Woken { lane: 1 });
        assert_eq!(word(&step.next), "HEAD@1");
        // It answers, but the offset stands still: no progress, and no end of the row.
        let step = advance(&facts, &step.state, &reply(1, 200, &[("upload-offset", "10")]));
        assert_eq!(word(&step.next), "PATCH@1 110-200");
        state = step.state;
    }
    let step = advance(&facts, &state, &lost(1, NetErrorKind::Broken));
    assert_eq!(word(&step.next), "retry");
    let step = advance(&facts, &step.state, &Input::Restarted);
    assert_eq!(word(&step.next), "HEAD@1, POST@2", "what is whole is not asked for");
    let step = advance(&facts, &step.state, &reply(1, 500, &[]));
    assert_eq!(word(&step.next), "pause@1 0", "a new attempt of the job, a new row");

    let sending = State::Sending { set: set(Doing::Sending) };
    let away = advance(&facts, &sending, &lost(1, NetErrorKind::Offline));
    assert!(matches!(&away.next, Next::Retry(retry) if retry.offline));
    assert_eq!(word(&advance(&facts, &sending, &lost(1, NetErrorKind::Tls)).next), "protocol");
}

#[test]
fn rewinds_and_lost_parts_are_bounded_for_each_part() {
    let facts = facts(300, 3);
    let (mut state, mut words) = (State::Sending { set: set(Doing::Sending) }, Vec::new());
    for _ in 0..4 {
        let step = advance(&facts, &state, &reply(1, 404, &[]));
        words.push(word(&step.next));
        if word(&step.next) != "POST@1" {
            state = step.state;
            break;
        }
        let mut step = advance(&facts, &step.state, &reply(1, 201, &[("location", "/uploads/1")]));
        if let State::Sending { set } = &mut step.state {
            set.parts[2].doing = Doing::Resting;
        }
        state = step.state;
    }
    assert_eq!(words, ["POST@1", "POST@1", "POST@1", "expired"]);
    assert_eq!(word(&advance(&facts, &state, &Input::Cancel).next), "DELETE@0", "the others are freed");

    let mut lower = set(Doing::Probing(Probe::Resume));
    lower.parts[1].acked = 50;
    let (mut state, mut words) = (State::Sending { set: lower }, Vec::new());
    for offset in ["40", "30", "20", "10"] {
        let step = advance(&facts, &state, &reply(1, 200, &[("upload-offset", offset)]));
        words.push(word(&step.next));
        state = advance(&facts, &step.state, &Input::Restarted).state;
    }
    assert_eq!(words, ["PATCH@1 140-200", "PATCH@1 130-200", "PATCH@1 120-200", "protocol"]);
}

#[test]
fn what_cannot_be_deleted_never_undoes_completion_and_is_named() {
    let then = Then::Proven { whole: url(9), evidence: "proof".to_owned() };
    let mut freeing = whole_set();
    for part in &mut freeing.parts {
        part.doing = Doing::Freeing;
    }
    let facts = facts(300, 3);
    let mut step =
        advance(&facts, &State::Freeing { set: freeing.clone(), then: then.clone() }, &reply(0, 405, &[]));
    step = advance(&facts, &step.state, &reply(2, 204, &[]));
    for attempts in 0..FAILS_MAX {
        step = advance(&facts, &step.state, &reply(1, 503, &[]));
        assert_eq!(word(&step.next), format!("pause@1 {attempts}"));
        step = advance(&facts, &step.state, &Input::Woken { lane: 1 });
        assert_eq!(word(&step.next), "DELETE@1");
    }
    step = advance(&facts, &step.state, &lost(1, NetErrorKind::Broken));
    let Next::Done(proof) = step.next else { panic!("{step:?}") };
    assert_eq!(
        proof.evidence,
        format!("proof; 2 uploads are left, the first at {TARGET}/0, not to be deleted")
    );

    let away = advance(
        &facts,
        &State::Freeing { set: freeing.clone(), then: then.clone() },
        &lost(0, NetErrorKind::Offline),
    );
    assert_eq!(word(&away.next), "retry");
    assert_eq!(word(&advance(&facts, &away.state, &Input::Restarted).next), "DELETE@0, DELETE@1, DELETE@2");

    freeing.server.termination = false;
    let kept = advance(&facts, &State::Freeing { set: freeing, then }, &Input::Restarted);
    let Next::Done(proof) = kept.next else { panic!("{kept:?}") };
    assert!(proof.evidence.contains("3 uploads are left"), "{}", proof.evidence);
}

#[test]
fn giving_up_frees_all_that_is_known_and_names_the_rest() {
    let facts = facts(300, 3);
    let cancel = |state: &State| advance(&facts, state, &Input::Cancel);
    assert_eq!(word(&cancel(&State::Discovering).next), "done");
    assert_eq!(word(&cancel(&State::Sending { set: Set::new(PLAIN, 0, 3) }).next), "done");
    assert_eq!(word(&cancel(&State::Sending { set: set(Doing::Sending) }).next), "DELETE@0, DELETE@1");

    // The whole goes before its parts: it may still need them.
    let proven = Then::Proven { whole: url(9), evidence: String::new() };
    for state in [
        State::Proving { set: whole_set(), whole: url(9), tries: 3 },
        State::Freeing { set: whole_set(), then: proven },
    ] {
        let step = cancel(&state);
        assert_eq!(word(&step.next), "DELETE@3");
        assert_eq!(sends(&step.next)[0].url, url(9));
        let refused = advance(&facts, &step.state, &reply(3, 405, &[]));
        assert_eq!(word(&refused.next), "DELETE@0, DELETE@1, DELETE@2");
        let mut step = advance(&facts, &step.state, &reply(3, 204, &[]));
        assert_eq!(word(&step.next), "DELETE@0, DELETE@1, DELETE@2");
        for lane in 0..3 {
            step = advance(&facts, &step.state, &reply(lane, 204, &[]));
        }
        assert_eq!(word(&step.next), "done");
    }

    // Nobody knows of a whole: it cannot be freed, and nobody may say that nothing is left.
    let mut step = cancel(&State::Joining { set: whole_set(), asked: true });
    assert_eq!(word(&step.next), "DELETE@0, DELETE@1, DELETE@2");
    for lane in 0..3 {
        step = advance(&facts, &step.state, &reply(lane, 204, &[]));
    }
    assert_eq!(word(&step.next), "protocol");

    let mut step = cancel(&State::Sending { set: set(Doing::Sending) });
    step = advance(&facts, &step.state, &reply(1, 405, &[]));
    step = advance(&facts, &step.state, &reply(0, 204, &[]));
    assert_eq!(
        (word(&step.next).as_str(), TusParts::remote(&step.state)),
        ("protocol", Some(url(1).as_str()))
    );
    let mut kept = set(Doing::Sending);
    kept.server.termination = false;
    let step = cancel(&State::Sending { set: kept });
    assert_eq!(
        (word(&step.next).as_str(), TusParts::remote(&step.state)),
        ("protocol", Some(url(0).as_str()))
    );
}

#[test]
fn long_urls_leave_room_for_fewer_parts_or_for_one() {
    let facts = facts(100 * MIB, 64);
    for (name, parts) in [(10, 64), (36, 64), (100, 29), (186, 16), (700, 4), (1100, 2), (1700, 0), (4000, 0)]
    {
        let name = "n".repeat(name);
        let first = advance(&facts, &State::Discovering, &reply(0, 204, JOINS)).state;
        let created = reply(0, 201, &[("location", &format!("/uploads/{name}"))]);
        let mut step = advance(&facts, &first, &created);
        if word(&step.next) == "DELETE@0" {
            step = advance(&facts, &step.state, &reply(0, 204, &[]));
        }
        let begun = match &step.state {
            State::Sending { set } => set.parts.len(),
            State::Single(_) => 0,
            other => panic!("{other:?}"),
        };
        assert_eq!(begun, parts, "a name of {} bytes", name.len());
    }
}

#[test]
fn a_server_whose_urls_grow_comes_to_an_end_and_into_every_record() {
    let facts = facts(100 * MIB, 64);
    let mut step = advance(&facts, &State::Discovering, &reply(0, 204, JOINS));
    let (mut id, mut begun) = (0, Vec::new());
    for _ in 0..2000 {
        match &step.state {
            State::Sending { set } if begun.last() != Some(&set.parts.len()) => begun.push(set.parts.len()),
            State::Single(_) => break,
            _ => {}
        }
        let input = match &step.next {
            Next::Retry(_) => Input::Restarted,
            _ => match &step.state {
                State::Sending { set } => {
                    let lane = set.parts.iter().position(|part| part.doing == Doing::Creating).unwrap();
                    id += 1;
                    // Nothing in common but the directory, and far too long from the second on.
                    let name =
                        id.to_string().repeat(if id % 5 == 1 { 3 } else { 3900 / id.to_string().len() });
                    reply(lane as u16, 201, &[("location", &format!("/uploads/{name}"))])
                }
                State::Freeing { set, .. } => {
                    let lane = set.parts.iter().position(|part| part.doing == Doing::Freeing).unwrap();
                    reply(lane as u16, 204, &[])
                }
                other => panic!("{other:?}"),
            },
        };
        step = advance(&facts, &step.state, &input);
    }
    let State::Single(tus::State::Creating { tally, .. }) = step.state else { panic!("{begun:?}") };
    assert!(begun.windows(2).all(|pair| pair[0] > pair[1]), "{begun:?}");
    assert!(tally.orphans > 0, "what could not be kept is counted");
}

#[test]
fn a_url_that_has_no_room_at_all_is_counted_as_lost() {
    let mut much = Set::new(PLAIN, 0, 3);
    much.urls.0[0] = Some(format!("{TARGET}/{}", "a".repeat(3000)));
    much.parts[1].doing = Doing::Creating;
    for (len, orphans) in [(1000, 0), (4000, 1)] {
        let created = reply(1, 201, &[("location", &format!("/uploads/{}", "b".repeat(len)))]);
        let step = advance(&facts(3 * MIB, 3), &State::Sending { set: much.clone() }, &created);
        let State::Freeing { set, then: Then::Fewer(_) } = step.state else { panic!("{step:?}") };
        assert_eq!((set.orphans, set.urls.0[1].is_none()), (orphans, orphans == 1));
    }
}

#[test]
fn the_largest_state_fits_its_bound() {
    let mut set = Set::new(PLAIN, u32::MAX, PARTS_MAX);
    set.expires = Some(WallMs(u64::MAX));
    let fill = |set: &mut Set, len: usize| {
        for (at, url) in set.urls.0.iter_mut().enumerate() {
            *url = Some(format!("{}{}", (b'0' + at as u8) as char, "x".repeat(len)));
        }
    };
    let len = (0..KEPT_MAX)
        .take_while(|&len| {
            fill(&mut set, len);
            set.urls.is_kept()
        })
        .last()
        .unwrap();
    fill(&mut set, len);
    assert!(set.urls.kept() > KEPT_MAX - 64);
    for part in &mut set.parts {
        *part = Part {
            acked: 1 << 50,
            sent: u64::MAX,
            doing: Doing::Probing(Probe::Doubt),
            fails: 255,
            lost: 255,
            rewinds: 255,
        };
    }
    set.finals = 9;
    for part in &mut set.parts {
        part.doing = Doing::Whole;
    }
    let joining = State::Joining { set: set.clone(), asked: true };
    let facts = facts(u64::MAX >> 1, PARTS_MAX);
    let long = reply(0, 201, &[("location", &format!("/{}", "w".repeat(WHOLE_MAX)))]);
    let unknown = TusParts::step(&facts, &joining, &long).unwrap();
    assert_eq!(word(&unknown.next), "outcome-unknown", "it cannot be kept");
    let whole = "w".repeat(WHOLE_MAX);
    let evidence = set.note("HEAD offset = size (no length told), 64 parts joined".to_owned());
    let states = [
        State::Proving { set: set.clone(), whole: whole.clone(), tries: 0 },
        State::Freeing { set: set.clone(), then: Then::Proven { whole: whole.clone(), evidence } },
        State::Freeing {
            set: {
                set.urls.0.push(Some(whole));
                set.parts.push(set.parts[0]);
                set
            },
            then: Then::Cancelled { whole: true },
        },
    ];
    for state in states {
        let len = bincode::serialize(&state).unwrap().len();
        assert!(len < 7 << 10, "{len}");
    }
}

#[test]
fn checked_pieces_are_eight_mebibytes_within_each_part() {
    let facts = facts(40 * MIB, 2);
    let mut set = Set::new(Server { checksum: Some(ChecksumAlgorithm::Sha1), ..PLAIN }, 0, 2);
    set.parts[0].doing = Doing::Creating;
    let step = advance(&facts, &State::Sending { set }, &reply(0, 201, &[("location", "/uploads/0")]));
    assert_eq!(word(&step.next), "PATCH@0 0-8388608, POST@1");
    let step = advance(&facts, &step.state, &reply(1, 201, &[("location", "/uploads/1")]));
    assert_eq!(word(&step.next), "PATCH@1 20971520-29360128");
    let Body::File { digest: Some(digest), .. } = &sends(&step.next)[0].body else { panic!("no digest") };
    assert_eq!((digest.name, digest.prefix), ("upload-checksum", "sha1 "));
    let step = advance(&facts, &step.state, &reply(0, 204, &[("upload-offset", "8388608")]));
    assert_eq!(word(&step.next), "PATCH@0 8388608-16777216");
    let unchecked = advance(&facts, &step.state, &reply(1, 400, &[]));
    assert_eq!(word(&unchecked.next), "PATCH@1 20971520-41943040");
    assert_eq!(word(&advance(&facts, &unchecked.state, &reply(1, 400, &[])).next), "rejected");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let facts = facts(300, 3);
    let sending = State::Sending { set: set(Doing::Sending) };
    let joining = State::Joining { set: whole_set(), asked: true };
    let done = State::Complete { size: 300, evidence: String::new() };
    for (state, input) in [
        (&sending, Input::Begin),
        (&sending, reply(0, 204, &[])),
        (&sending, reply(2, 204, &[])),
        (&sending, reply(3, 204, &[])),
        (&sending, lost(0, NetErrorKind::Broken)),
        (&sending, lost(u16::MAX, NetErrorKind::Broken)),
        (&sending, Input::Woken { lane: 1 }),
        (&sending, Input::Woken { lane: 9 }),
        (&sending, Input::Synced { lane: 0, extent: 0..1, last: false }),
        (&joining, reply(1, 201, &[])),
        (&joining, Input::Woken { lane: 0 }),
        (&State::Joining { set: whole_set(), asked: false }, reply(0, 201, &[])),
        (&State::Freeing { set: whole_set(), then: Then::Fewer(2) }, reply(0, 204, &[])),
        (&done, reply(0, 200, &[])),
    ] {
        let error = TusParts::step(&facts, state, &input).expect_err("cannot follow");
        assert!(!error.to_string().contains("://"), "{error}");
    }
    let sizeless = Facts { size: None, ..facts };
    assert!(TusParts::step(&sizeless, &State::Discovering, &Input::Begin).is_err());
}

proptest! {
    #[test]
    fn urls_come_back_as_they_were(urls in prop::collection::vec(prop::option::of("(a|é|/){0,6}[a-z]{0,3}"), 0..9)) {
        let urls = Urls(urls);
        let stored = bincode::serialize(&urls).unwrap();
        prop_assert!(stored.len() <= 8 + urls.kept(), "{} of {}", stored.len(), urls.kept());
        prop_assert_eq!(bincode::deserialize::<Urls>(&stored).unwrap(), urls);
    }

    #[test]
    fn no_reply_makes_it_panic_or_believe_too_much(
        status in 100u16..1000,
        name in prop::sample::select(vec!["upload-offset", "upload-length", "location", "tus-max-size", "retry-after", "upload-expires"]),
        value in "[ -~]{0,30}",
        number in any::<u64>(),
        numeric: bool,
        at in 0usize..8,
    ) {
        let sending = |doing| State::Sending { set: set(doing) };
        let freeing = |then| { let mut set = set(Doing::Freeing); set.parts[0].doing = Doing::Left; State::Freeing { set, then } };
        let (lane, state) = [
            (0, State::Discovering),
            (1, sending(Doing::Creating)),
            (1, sending(Doing::Sending)),
            (1, sending(Doing::Probing(Probe::Resume))),
            (0, State::Joining { set: whole_set(), asked: true }),
            (0, State::Proving { set: whole_set(), whole: url(9), tries: 0 }),
            (1, freeing(Then::Fewer(2))),
            (1, freeing(Then::Cancelled { whole: false })),
        ][at].clone();
        let value = if numeric { number.to_string() } else { value };
        let input = reply(lane, status, &[("upload-offset", "20"), (name, &value)]);
        let step = advance(&facts(300, 3), &state, &input);
        prop_assert!(!matches!(step.next, Next::Done(proof) if proof.size > 0));
    }
}

#[test]
fn the_form_on_disk_stands_still() {
    let server = Server { checksum: Some(ChecksumAlgorithm::Sha256), with_upload: true, termination: true };
    let mut set = Set::new(server, 1, 2);
    (set.finals, set.expires, set.checked) = (2, Some(WallMs(3)), true);
    set.urls = Urls(vec![Some("http://h/a1".to_owned()), Some("http://h/a2".to_owned())]);
    set.parts[0] =
        Part { acked: 4, sent: 5, doing: Doing::Probing(Probe::Doubt), fails: 6, lost: 7, rewinds: 8 };
    let states = [
        State::Discovering,
        State::Single(tus::State::Discovering),
        State::Sending { set: set.clone() },
        State::Joining { set: Set::new(server, 0, 0), asked: true },
        State::Proving { set: Set::new(server, 0, 0), whole: "w".to_owned(), tries: 9 },
        State::Freeing {
            set: Set::new(server, 0, 0),
            then: Then::Proven { whole: "w".to_owned(), evidence: "e".to_owned() },
        },
        State::Freeing { set: Set::new(server, 0, 0), then: Then::Fewer(10) },
        State::Freeing { set: Set::new(server, 0, 0), then: Then::Cancelled { whole: true } },
        State::Complete { size: 11, evidence: "e".to_owned() },
        State::Gone { acked: 12, cause: FailCause::Expired(4) },
    ];
    let hex = |bytes: Vec<u8>| bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let mut form: Vec<String> = states.iter().map(|state| hex(bincode::serialize(state).unwrap())).collect();
    let doing = [
        Doing::Due,
        Doing::Resting,
        Doing::Creating,
        Doing::Sending,
        Doing::Whole,
        Doing::Freeing,
        Doing::Left,
    ];
    form.push(doing.iter().map(|doing| hex(bincode::serialize(doing).unwrap())).collect());
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(form, golden, "a journal of another version could not be read:\n{}", form.join("\n"));
}

const GOLDEN: &str = "\
00000000
0100000000000000
020000000101000000010101000000020000000103000000000000000102000000000000000100000b00000000000000687474703a2f2f682f6131010a0001000000000000003202000000000000000400000000000000050000000000000004000000010000000607080000000000000000000000000000000000000000000000
0300000001010000000101000000000000000000000000000000000000000000000000000001
0400000001010000000101000000000000000000000000000000000000000000000000000001000000000000007709
0500000001010000000101000000000000000000000000000000000000000000000000000000000000010000000000000077010000000000000065
05000000010100000001010000000000000000000000000000000000000000000000000000010000000a00
050000000101000000010100000000000000000000000000000000000000000000000000000200000001
060000000b00000000000000010000000000000065
070000000c000000000000000500000004000000
00000000010000000200000003000000050000000600000007000000";
