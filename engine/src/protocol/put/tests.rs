//! A lying server (tables), honest ones of several kinds that lose things (property), and the form on disk.

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::job::{Checksum, HttpOptions, Token};
use crate::ports::WallMs;

const TARGET: &str = "https://files.example/dir/a.bin";
const STATE_MAX: usize = 5 << 10;

fn facts(size: u64) -> Facts<'static> {
    Facts {
        url: TARGET,
        size: Some(size),
        name: "a b.bin",
        token: Token([7; 16]),
        checksum: None,
        now: WallMs(1_800_000_000_000),
        lanes: 1,
        mirrors: &[],
        http: &HttpOptions::PLAIN,
    }
}

fn reply(status: u16, headers: &[(&str, &str)]) -> Input {
    let mut map = HeaderMap::new();
    for &(name, value) in headers {
        map.append(HeaderName::try_from(name).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let status = StatusCode::from_u16(status).unwrap();
    let url = TARGET.to_owned();
    Input::Reply { lane: 0, reply: Reply { status, headers: map, url, framed: true, body: Bytes::new() } }
}

fn lost(kind: NetErrorKind) -> Input {
    Input::Lost { lane: 0, kind, why: "cut".to_owned() }
}

/// Steps and checks what must hold of every step.
fn advance(facts: &Facts<'_>, state: &State, input: &Input) -> Step<State> {
    let step = Put::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < STATE_MAX, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    let complete = matches!(step.state, State::Complete { .. });
    assert_eq!(step.done, if complete { facts.size.unwrap() } else { 0 });
    assert_eq!(Put::remote(&step.state), None);
    if let Next::Go(effects) = &step.next {
        let [Effect::Send(send)] = effects.as_slice() else { panic!("{effects:?}") };
        assert!(!send.follow_redirects);
        let looks = send.method == Method::HEAD || !matches!(input, Input::Restarted | Input::Begin);
        assert!(looks, "a restart never sends bytes first");
        let whole = Body::File { range: 0..facts.size.unwrap(), digest: None };
        let body = if send.method == Method::PUT && whole != (Body::File { range: 0..0, digest: None }) {
            whole
        } else {
            Body::Empty
        };
        assert_eq!(send.body, body);
    }
    step
}

fn sent(step: &Step<State>) -> &Send {
    match &step.next {
        Next::Go(effects) => match effects.as_slice() {
            [Effect::Send(send)] => send,
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    }
}

fn word(next: &Next) -> String {
    match next {
        Next::Go(effects) => match effects.as_slice() {
            [Effect::Send(send)] => send.method.to_string(),
            other => panic!("{other:?}"),
        },
        Next::Retry(_) => "retry".to_owned(),
        Next::Done(_) => "done".to_owned(),
        Next::Fail(cause) => cause.name().to_owned(),
        Next::Suspend(cause) => cause.name().to_owned(),
    }
}

fn fails(step: &Step<State>) -> String {
    match &step.next {
        Next::Fail(cause) => cause.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Status, headers, what follows.
type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str);

fn table(facts: &Facts<'_>, state: &State, rows: &[Row<'_>]) {
    for (status, headers, expected) in rows {
        let step = advance(facts, state, &reply(*status, headers));
        assert_eq!(word(&step.next), *expected, "{status} {headers:?} in {state:?}");
    }
}

fn old(length: u64) -> Before {
    Before::Object(Seen {
        length: Some(length),
        etag: Some("\"old\"".to_owned()),
        modified: Some(WallMs(784_111_777_000)),
    })
}

fn task(before: Before, doubt: bool) -> Task {
    Task { before, doubt, ..Task::default() }
}

fn checking(before: Before, answer: Answer) -> State {
    State::Checking { task: task(before, true), answer, by: Look::Head }
}

fn accepted(etag: Option<&str>) -> Answer {
    Answer::Accepted { status: 201, etag: etag.map(ToOwned::to_owned) }
}

const LENGTH: (&str, &str) = ("content-length", "100");
const OLD: (&str, &str) = ("etag", "\"old\"");
const NEW: (&str, &str) = ("etag", "\"new\"");
const OLD_DATE: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT");
const NEW_DATE: (&str, &str) = ("last-modified", "Sun, 06 Nov 1994 08:49:38 GMT");

#[test]
fn the_look_before_goes_on_to_put_unless_it_may_work_later() {
    table(
        &facts(100),
        &Put::new(&facts(100)),
        &[
            (404, &[], "PUT"),
            (410, &[], "PUT"),
            (200, &[LENGTH, OLD], "PUT"),
            (204, &[("content-length", "0")], "PUT"),
            (200, &[OLD], "GET"),
            (200, &[LENGTH, ("content-encoding", "gzip")], "GET"),
            (401, &[], "GET"),
            (403, &[], "GET"),
            (405, &[], "GET"),
            (501, &[], "GET"),
            (400, &[], "GET"),
            (302, &[("location", "/login")], "GET"),
            (429, &[], "retry"),
            (500, &[], "retry"),
            (503, &[("retry-after", "9")], "retry"),
            (200, &[("content-length", "-1")], "protocol"),
            (200, &[LENGTH, LENGTH], "protocol"),
        ],
    );
    let by = State::Looking { task: Task::default(), by: Look::Range };
    let rows: [(Row<'_>, Before); 9] = [
        ((206, &[("content-range", "bytes 0-0/7"), OLD], "PUT"), seen(Some(7))),
        ((206, &[("content-range", "bytes 0-0/*"), OLD], "PUT"), seen(None)),
        ((206, &[("content-range", "bytes 1-1/7"), OLD], "PUT"), seen(None)),
        ((200, &[LENGTH, OLD], "PUT"), seen(Some(100))),
        ((416, &[("content-range", "bytes */0"), OLD], "PUT"), seen(Some(0))),
        ((416, &[OLD], "PUT"), Before::Unknown),
        ((403, &[], "PUT"), Before::Unknown),
        ((404, &[], "PUT"), Before::Absent),
        ((405, &[], "PUT"), Before::Unknown),
    ];
    for (row, before) in rows {
        table(&facts(100), &by, &[row]);
        let step = advance(&facts(100), &by, &reply(row.0, row.1));
        let State::Putting { task } = step.state else { panic!("{step:?}") };
        assert_eq!(task.before, before, "{row:?}");
    }
}

fn seen(length: Option<u64>) -> Before {
    Before::Object(Seen { length, etag: Some("\"old\"".to_owned()), modified: None })
}

#[test]
fn a_put_is_believed_by_nothing_but_a_look() {
    let putting = State::Putting { task: task(Before::Absent, false) };
    table(
        &facts(100),
        &putting,
        &[
            (200, &[NEW], "HEAD"),
            (201, &[], "HEAD"),
            (202, &[], "HEAD"),
            (204, &[], "HEAD"),
            (301, &[("location", "/b")], "rejected"),
            (302, &[("location", "/b")], "rejected"),
            (303, &[("location", "/b")], "rejected"),
            (304, &[], "rejected"),
            (307, &[("location", "/b")], "PUT"),
            (308, &[("location", "https://other.example/b?sig=1")], "PUT"),
            (307, &[], "protocol"),
            (307, &[("location", "http://files.example/b")], "protocol"),
            (307, &[("location", "file:///etc/passwd")], "protocol"),
            (307, &[("location", "https://me@files.example/b")], "protocol"),
            (307, &[("location", "https://127.0.0.1/b")], "protocol"),
            (307, &[("location", "https://169.254.169.254/b")], "protocol"),
            (307, &[("location", "https://[::1]/b")], "protocol"),
            (307, &[("location", "https://localhost/b")], "protocol"),
            (307, &[("location", "/b"), ("location", "/c")], "protocol"),
            (401, &[], "auth"),
            (403, &[], "auth"),
            (404, &[], "rejected"),
            (405, &[], "rejected"),
            (408, &[], "retry"),
            (409, &[], "rejected"),
            (411, &[], "rejected"),
            (412, &[], "rejected"),
            (413, &[], "rejected"),
            (429, &[], "retry"),
            (500, &[], "retry"),
            (502, &[], "retry"),
            (503, &[], "retry"),
            (504, &[], "retry"),
            (507, &[], "rejected"),
            (101, &[], "protocol"),
        ],
    );
    for (status, doubt) in [(500, true), (502, true), (504, true), (503, false), (429, false), (401, false)] {
        let step = advance(&facts(100), &putting, &reply(status, &[]));
        let lost = matches!(&step.state, State::Checking { answer: Answer::Lost, .. });
        assert_eq!(lost, doubt, "{status}");
        assert!(doubt || matches!(step.state, State::Looking { .. }), "{status}");
    }
    for (kind, doubt) in [
        (NetErrorKind::Connect, false),
        (NetErrorKind::Offline, false),
        (NetErrorKind::Broken, true),
        (NetErrorKind::Timeout, true),
        (NetErrorKind::Body, true),
    ] {
        let step = advance(&facts(100), &putting, &lost(kind));
        assert_eq!(matches!(step.state, State::Checking { .. }), doubt, "{kind:?}");
        assert_eq!(word(&step.next), "retry");
    }
}

#[test]
fn an_accepted_put_is_complete_only_when_the_object_shows_it() {
    let (facts, absent) = (facts(100), checking(Before::Absent, accepted(None)));
    table(
        &facts,
        &absent,
        &[
            (200, &[LENGTH], "done"),
            (200, &[LENGTH, NEW], "done"),
            (200, &[("content-length", "99")], "GET"),
            (200, &[], "GET"),
            (404, &[], "GET"),
            (403, &[], "GET"),
            (500, &[], "retry"),
            (307, &[("location", "/b")], "HEAD"),
            (307, &[("location", "//127.0.0.1/b")], "outcome-unknown"),
            (200, &[("content-length", "1e2")], "outcome-unknown"),
        ],
    );
    table(
        &facts,
        &checking(old(100), accepted(Some("\"new\""))),
        &[
            (200, &[LENGTH, NEW], "done"),
            (200, &[LENGTH, OLD, NEW_DATE], "done"),
            (200, &[LENGTH, OLD, OLD_DATE], "retry"),
            (200, &[LENGTH, OLD], "retry"),
            (200, &[LENGTH], "retry"),
            // The tag that PUT told, and not the one of before: a size is not needed to know it again.
            (200, &[NEW], "done"),
            (200, &[OLD, NEW_DATE], "GET"),
        ],
    );
    // A server that answers PUT as it answers GET tells the old object's tag.
    table(
        &facts,
        &checking(old(100), accepted(Some("\"old\""))),
        &[(200, &[LENGTH, OLD, OLD_DATE], "retry")],
    );
    table(
        &facts,
        &checking(old(30), accepted(None)),
        &[(200, &[("content-length", "30"), OLD], "GET"), (200, &[LENGTH, NEW], "done")],
    );
    table(
        &facts,
        &checking(Before::Unknown, accepted(Some("\"new\""))),
        &[
            (200, &[LENGTH, NEW], "done"),
            (200, &[LENGTH, OLD], "retry"),
            (200, &[LENGTH, ("etag", "W/\"new\"")], "retry"),
        ],
    );
}

#[test]
fn what_get_does_not_show_either_is_said_plainly() {
    let by = |answer: Answer| State::Checking { task: task(old(30), true), answer, by: Look::Range };
    let facts = facts(100);
    let said = |answer: Answer, status: u16, headers: &[(&str, &str)]| {
        fails(&advance(&facts, &by(answer), &reply(status, headers)))
    };
    let gone = said(accepted(None), 404, &[]);
    assert_eq!(
        gone,
        "the server broke the protocol: files.example answered PUT with 201 and did not store the file: \
         nothing is there, 100 bytes were sent"
    );
    let short = said(accepted(None), 206, &[("content-range", "bytes 0-0/30")]);
    assert!(short.contains("30 bytes are there, 100 bytes were sent"), "{short}");
    let hidden = said(accepted(None), 403, &[]);
    assert!(
        hidden.starts_with("the outcome is unknown: PUT was answered 201") && hidden.contains("--no-verify")
    );
    let untold = said(accepted(None), 200, &[]);
    assert!(untold.contains("no size is told") && untold.contains("--no-verify"), "{untold}");
    table(
        &facts,
        &by(accepted(None)),
        &[
            (206, &[("content-range", "bytes 0-0/100"), NEW], "done"),
            (200, &[LENGTH, NEW], "done"),
            (206, &[("content-range", "bytes 0-0/100"), ("content-encoding", "br"), NEW], "outcome-unknown"),
            (503, &[], "retry"),
        ],
    );
    // Not heard of, and nobody may look: PUT is idempotent.
    table(&facts, &by(Answer::Lost), &[(403, &[], "PUT"), (404, &[], "PUT"), (200, &[], "PUT")]);
    table(&facts, &by(Answer::Refused), &[(403, &[], "outcome-unknown"), (404, &[], "outcome-unknown")]);

    let http = HttpOptions { verify: false, ..HttpOptions::PLAIN };
    let believing = Facts { http: &http, ..facts };
    let step = advance(&believing, &by(accepted(None)), &reply(403, &[]));
    let Next::Done(proof) = step.next else { panic!("{step:?}") };
    assert_eq!(proof.evidence, "PUT 201, believed without a look (GET is answered 403)");
    // What can be seen is not overlooked for that.
    assert_eq!(word(&advance(&believing, &by(accepted(None)), &reply(404, &[])).next), "protocol");
}

#[test]
fn a_lost_answer_is_made_up_for_by_a_look_or_by_another_put() {
    table(
        &facts(100),
        &checking(Before::Absent, Answer::Lost),
        &[
            (200, &[LENGTH], "done"),
            (404, &[], "PUT"),
            (200, &[("content-length", "50")], "PUT"),
            (200, &[], "GET"),
            (405, &[], "GET"),
            (503, &[], "retry"),
        ],
    );
    table(
        &facts(100),
        &checking(old(30), Answer::Lost),
        &[(200, &[LENGTH, NEW], "done"), (200, &[("content-length", "30"), OLD], "PUT")],
    );
    // It may stand in the middle of being written in place.
    table(
        &facts(100),
        &checking(old(100), Answer::Lost),
        &[(200, &[LENGTH, NEW], "PUT"), (200, &[LENGTH, OLD], "PUT")],
    );
    table(&facts(100), &checking(Before::Unknown, Answer::Lost), &[(200, &[LENGTH, NEW], "PUT")]);
    let putting = State::Putting { task: task(Before::Absent, false) };
    let step = advance(&facts(100), &putting, &Input::Restarted);
    let step = advance(&facts(100), &step.state, &reply(200, &[LENGTH]));
    let Next::Done(proof) = step.next else { panic!("{step:?}") };
    assert_eq!(
        proof,
        Proof { size: 100, evidence: "PUT (answer lost), HEAD length = size, absent before".to_owned() }
    );
}

#[test]
fn a_412_after_a_put_in_doubt_may_be_our_own_doing() {
    let doubtful = State::Putting { task: task(Before::Absent, true) };
    let step = advance(&facts(100), &doubtful, &reply(412, &[]));
    assert_eq!(word(&step.next), "HEAD");
    table(&facts(100), &step.state, &[(200, &[LENGTH, NEW], "done"), (404, &[], "GET")]);
    table(
        &facts(100),
        &checking(old(100), Answer::Refused),
        &[(200, &[LENGTH, NEW], "done"), (200, &[LENGTH, OLD, OLD_DATE], "outcome-unknown")],
    );
    let http = HttpOptions { if_match: Some("\"x\"".to_owned()), ..HttpOptions::PLAIN };
    let first = State::Putting { task: task(Before::Unknown, false) };
    let step = advance(&Facts { http: &http, ..facts(100) }, &first, &reply(412, &[]));
    assert_eq!(
        fails(&step),
        "the server refused: 412 If-Match: the object there is not the one that may be replaced (files.example)"
    );
}

#[test]
fn conditions_are_sent_and_not_left_to_the_server_alone() {
    let begin = Put::new(&facts(100));
    let http = |if_match: Option<&str>, if_none_match: Option<&str>| HttpOptions {
        if_match: if_match.map(ToOwned::to_owned),
        if_none_match: if_none_match.map(ToOwned::to_owned),
        content_type: Some("video/mp4".to_owned()),
        ..HttpOptions::PLAIN
    };
    let rows = [
        (http(None, Some("*")), "PUT", "rejected"),
        (http(Some("*"), None), "rejected", "PUT"),
        (http(Some("\"old\""), None), "rejected", "PUT"),
        (http(Some("\"a\", \"old\""), None), "rejected", "PUT"),
        (http(Some("\"other\""), None), "rejected", "rejected"),
        (http(None, Some("\"old\"")), "PUT", "rejected"),
        (http(None, Some("\"other\"")), "PUT", "PUT"),
        (http(None, Some("a\r\nb: c")), "local-io", "local-io"),
    ];
    for (http, absent, there) in rows {
        let facts = Facts { http: &http, ..facts(100) };
        table(&facts, &begin, &[(404, &[], absent), (200, &[LENGTH, OLD], there)]);
    }
    let http = http(Some("\"old\""), None);
    let step = advance(&Facts { http: &http, ..facts(100) }, &begin, &reply(200, &[LENGTH, OLD]));
    let headers = &sent(&step).headers;
    assert_eq!(
        (&headers["if-match"], &headers["content-type"]),
        (&HeaderValue::from_static("\"old\""), &HeaderValue::from_static("video/mp4"),)
    );
    assert_eq!(step.note.as_deref(), Some("an object of 100 bytes stands there; PUT replaces it"));
    let step = advance(&facts(100), &begin, &reply(404, &[]));
    assert_eq!(sent(&step).headers["content-type"], "application/octet-stream");
}

#[test]
fn the_same_second_is_waited_out_once() {
    let facts = facts(100);
    let same = reply(200, &[LENGTH, OLD, OLD_DATE]);
    let mut step = advance(&facts, &checking(old(100), accepted(None)), &same);
    let Next::Retry(retry) = &step.next else { panic!("{step:?}") };
    assert_eq!(retry.after, Some(NEXT_SECOND));
    step = advance(&facts, &step.state, &Input::Restarted);
    assert_eq!(word(&step.next), "HEAD");
    step = advance(&facts, &step.state, &same);
    assert_eq!(word(&step.next), "PUT");
    step = advance(&facts, &step.state, &reply(201, &[]));
    assert_eq!(word(&advance(&facts, &step.state, &reply(200, &[LENGTH, OLD, NEW_DATE])).next), "done");
    let said = fails(&advance(&facts, &step.state, &same));
    assert!(
        said.contains("outcome is unknown") && said.contains("nothing shows that it was replaced"),
        "{said}"
    );
}

#[test]
fn what_was_not_known_before_is_known_before_the_second_put() {
    let (facts, first) = (facts(100), reply(200, &[LENGTH, OLD]));
    let mut step = advance(&facts, &checking(Before::Unknown, accepted(None)), &first);
    assert_eq!(word(&step.next), "retry");
    step = advance(&facts, &advance(&facts, &step.state, &Input::Restarted).state, &first);
    assert_eq!(word(&step.next), "PUT");
    step = advance(&facts, &step.state, &reply(200, &[]));
    table(&facts, &step.state, &[(200, &[LENGTH, NEW], "done"), (200, &[LENGTH, OLD], "outcome-unknown")]);
    let http = HttpOptions { verify: false, ..HttpOptions::PLAIN };
    table(
        &Facts { http: &http, ..facts },
        &checking(Before::Unknown, accepted(None)),
        &[(200, &[LENGTH], "done")],
    );
}

#[test]
fn a_202_has_time() {
    let facts = facts(100);
    let answer = Answer::Accepted { status: 202, etag: None };
    let mut state = checking(Before::Absent, answer);
    for _ in 0..LATE_MAX {
        let closer = advance(&facts, &state, &reply(404, &[]));
        assert_eq!(word(&closer.next), "GET");
        let step = advance(&facts, &closer.state, &reply(404, &[]));
        assert_eq!(word(&step.next), "retry");
        state = advance(&facts, &step.state, &Input::Restarted).state;
    }
    let closer = advance(&facts, &state, &reply(404, &[]));
    assert_eq!(word(&advance(&facts, &closer.state, &reply(404, &[])).next), "protocol");
}

#[test]
fn a_digest_decides_where_it_is_told() {
    let checksum: Checksum = format!("sha256:{}", "00".repeat(32)).parse().unwrap();
    let facts = Facts { checksum: Some(&checksum), ..facts(100) };
    let right = ("repr-digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:");
    let wrong = ("repr-digest", "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=:");
    table(
        &facts,
        &checking(old(100), accepted(None)),
        &[
            (200, &[LENGTH, OLD, right], "done"),
            (200, &[LENGTH, NEW, wrong], "checksum-mismatch"),
            (200, &[("content-length", "99"), right], "GET"),
        ],
    );
    table(
        &facts,
        &checking(Before::Unknown, Answer::Lost),
        &[(200, &[LENGTH, right], "done"), (200, &[LENGTH, wrong], "PUT")],
    );
    let step = advance(&facts, &Put::new(&facts), &Input::Begin);
    assert_eq!(sent(&step).headers["want-repr-digest"], "sha-256=10");
    assert_eq!(sent(&step).headers["accept-encoding"], "identity");
}

#[test]
fn redirects_are_followed_so_far_and_begin_anew_with_each_attempt() {
    let facts = facts(100);
    let mut step = advance(&facts, &Put::new(&facts), &Input::Begin);
    for hop in 1..=HOPS_MAX {
        let location = format!("https://node{hop}.example/x?sig={hop}");
        step = advance(&facts, &step.state, &reply(307, &[("location", &location)]));
        assert_eq!((word(&step.next).as_str(), sent(&step).url.as_str()), ("HEAD", location.as_str()));
    }
    assert_eq!(word(&advance(&facts, &step.state, &reply(308, &[("location", "/y")])).next), "protocol");
    let home = advance(&facts, &step.state, &Input::Restarted);
    assert_eq!(sent(&home).url, TARGET);
    let put = advance(&facts, &step.state, &reply(404, &[]));
    assert_eq!((word(&put.next).as_str(), sent(&put).url.as_str()), ("PUT", "https://node5.example/x?sig=5"));
    let check = advance(&facts, &put.state, &reply(201, &[]));
    assert_eq!(sent(&check).url, TARGET);
    let lost = advance(&facts, &put.state, &lost(NetErrorKind::Broken));
    assert_eq!(sent(&advance(&facts, &lost.state, &Input::Restarted)).url, TARGET);
    // A private network's own servers may send one on.
    let inside = Facts { url: "http://10.0.0.1/a", ..facts };
    let step = advance(&inside, &Put::new(&inside), &reply(307, &[("location", "http://10.0.0.2/a")]));
    assert_eq!(sent(&step).url, "http://10.0.0.2/a");
    let away = State::Putting { task: task(Before::Absent, false) };
    let said = fails(&advance(&facts, &away, &reply(301, &[("location", "/b?secret=1")])));
    assert!(said.contains("https://files.example/b?…") && !said.contains("secret"), "{said}");
}

#[test]
fn names_are_put_below_a_url_that_ends_in_a_slash() {
    let at = |url: &'static str, name: &'static str| {
        let facts = Facts { url, name, ..facts(1) };
        let step = advance(&facts, &Put::new(&facts), &Input::Begin);
        match &step.next {
            Next::Go(_) => sent(&step).url.clone(),
            _ => fails(&step),
        }
    };
    for (url, name, object) in [
        ("http://h/a", "b", "http://h/a"),
        ("http://h/a?x=/", "b", "http://h/a?x=/"),
        ("http://h", "b", "http://h/b"),
        ("http://h/a/", "b c.bin", "http://h/a/b%20c.bin"),
        ("http://h/a/?k=v", "b", "http://h/a/b?k=v"),
        ("http://h/a/", "d1/d2/ü?#%.txt", "http://h/a/d1/d2/%C3%BC%3F%23%25.txt"),
        ("http://h/a/", "a\\..\\b", "http://h/a/a%5C..%5Cb"),
        ("http://h/a/", "%2e%2e", "http://h/a/%252e%252e"),
        ("http://h/a/", "...", "http://h/a/..."),
    ] {
        assert_eq!(at(url, name), object, "{url} {name}");
    }
    for name in ["", ".", "..", "a/../b", "/a", "a/", "a//b", "a\0b", "a\r\nb"] {
        assert!(at("http://h/a/", name).contains("has a part that no URL should have"), "{name:?}");
    }
    assert!(at("nonsense", "a").contains("cannot be used"));
}

#[test]
fn there_is_nothing_to_free() {
    let cancel = |state: &State| {
        let step = advance(&facts(100), state, &Input::Cancel);
        assert_eq!(word(&step.next), "done");
        step
    };
    let Next::Done(proof) = cancel(&Put::new(&facts(100))).next else { unreachable!() };
    assert_eq!(proof.evidence, "nothing was sent");
    let gone = cancel(&State::Putting { task: Task::default() });
    assert_eq!(gone.state, State::Gone { cause: FailCause::Cancelled });
    assert_eq!(word(&advance(&facts(100), &gone.state, &Input::Restarted).next), "cancelled");
    cancel(&checking(Before::Absent, Answer::Lost));
    let complete = State::Complete { size: 100, evidence: "e".to_owned() };
    assert_eq!(cancel(&complete).state, complete);
    assert_eq!(word(&advance(&facts(100), &complete, &Input::Restarted).next), "done");
    let nameless = Facts { url: "http://h/", name: "..", ..facts(100) };
    assert_eq!(word(&advance(&nameless, &Put::new(&nameless), &Input::Cancel).next), "done");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let done = State::Complete { size: 100, evidence: String::new() };
    let putting = State::Putting { task: Task::default() };
    for (state, input) in [
        (&putting, &Input::Begin),
        (&putting, &Input::Synced { lane: 0, extent: 0..1, last: false }),
        (&putting, &Input::Digested { algorithm: ChecksumAlgorithm::Sha1, digest: Vec::new() }),
        (&putting, &Input::Woken { lane: 0 }),
        (&done, &reply(200, &[])),
        (&done, &lost(NetErrorKind::Broken)),
    ] {
        assert!(Put::step(&facts(100), state, input).is_err(), "{input:?} in {state:?}");
    }
    let Input::Reply { reply, .. } = reply(204, &[]) else { unreachable!() };
    assert!(Put::step(&facts(100), &putting, &Input::Reply { lane: 1, reply }).is_err());
    assert!(Put::step(&Facts { size: None, ..facts(0) }, &Put::new(&facts(0)), &Input::Begin).is_err());
}

/// What stands at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Old(u64),
    /// The first bytes of ours.
    Fragment(u64),
    /// So many bytes of ours over the old.
    Mixed(u64, u64),
    Ours,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Whole or not at all.
    Atomic,
    /// What came of a cut body replaces the old.
    Fragment,
    /// Written over the old in place, cut to length at the end.
    InPlace,
    /// 200, and nothing stored.
    Nothing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Looks {
    Both,
    /// HEAD 405.
    Get,
    /// HEAD 404, whatever there is.
    Blind,
    /// HEAD tells 0, whatever there is.
    Zero,
    /// 403 until there is something.
    HiddenAbsence,
    /// 403.
    None,
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    manner: Manner,
    looks: Looks,
    /// A tag that is new with every write.
    tags: bool,
    dates: bool,
    /// The reply to PUT has the tag (of what stands there: as an answer to GET has it).
    tells: bool,
}

/// A server of one object.
#[derive(Clone, Debug)]
struct Model {
    kind: Kind,
    size: u64,
    object: Option<Content>,
    writes: u64,
    written_s: u64,
    now_s: u64,
}

impl Model {
    fn length(&self) -> Option<u64> {
        self.object.map(|content| match content {
            Content::Old(length) | Content::Fragment(length) | Content::Mixed(_, length) => length,
            Content::Ours => self.size,
        })
    }

    fn write(&mut self, content: Content) {
        self.object = Some(content);
        self.writes += 1;
        self.written_s = self.now_s;
    }

    /// Takes a PUT of which so many bytes arrive.
    fn put(&mut self, room: u64) {
        let old = match self.object {
            Some(Content::Old(length) | Content::Mixed(_, length)) => Some(length),
            Some(Content::Fragment(_) | Content::Ours) | None => None,
        };
        let cut = room < self.size;
        match (self.kind.manner, cut, old) {
            (Manner::Nothing, ..) | (Manner::Atomic, true, _) => {}
            (Manner::Atomic | Manner::Fragment | Manner::InPlace, false, _) => self.write(Content::Ours),
            (Manner::InPlace, true, Some(length)) => self.write(Content::Mixed(room, length.max(room))),
            // Over our own bytes our own bytes change nothing but the date.
            (Manner::InPlace, true, None) if self.object == Some(Content::Ours) => self.write(Content::Ours),
            (Manner::Fragment | Manner::InPlace, true, _) => self.write(Content::Fragment(room)),
        }
    }

    fn headers(&self) -> Vec<(&'static str, String)> {
        let mut headers = Vec::new();
        if self.kind.tags && self.object.is_some() {
            headers.push(("etag", format!("\"{}\"", self.writes)));
        }
        if self.kind.dates && self.object.is_some() {
            let date = wire::format_date(WallMs(1_700_000_000_000 + self.written_s * 1000));
            headers.push(("last-modified", date));
        }
        headers
    }

    fn look(&self, head: bool) -> Input {
        let looks = self.kind.looks;
        let mut headers = self.headers();
        let absent = self.object.is_none();
        let length = self.length().unwrap_or(0);
        let status = match (looks, head) {
            (Looks::None, _) => 403,
            (Looks::HiddenAbsence, _) if absent => 403,
            (Looks::Get, true) => 405,
            (Looks::Blind, true) => 404,
            _ if absent => 404,
            (Looks::Zero, true) => {
                headers.push(("content-length", "0".to_owned()));
                200
            }
            (_, true) => {
                headers.push(("content-length", length.to_string()));
                200
            }
            (_, false) if length == 0 => {
                headers.push(("content-range", "bytes */0".to_owned()));
                416
            }
            (_, false) => {
                headers.push(("content-range", format!("bytes 0-0/{length}")));
                206
            }
        };
        Self::reply(status, &headers)
    }

    fn reply(status: u16, headers: &[(&'static str, String)]) -> Input {
        let headers: Vec<(&str, &str)> =
            headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        reply(status, &headers)
    }

    /// Handles a request of whose body `room` bytes arrive; `None`: no whole request arrived.
    fn handle(&mut self, send: &Send, room: u64) -> Option<Input> {
        if send.method != Method::PUT {
            return Some(self.look(send.method == Method::HEAD));
        }
        self.put(room);
        let headers = if self.kind.tells { self.headers() } else { Vec::new() };
        (room >= self.size).then(|| Self::reply(200, &headers))
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Refused,
    Cut(u64),
    Killed(u64),
    Busy,
    /// Processed, and a gateway says 504.
    Gateway,
}

fn fate() -> impl Strategy<Value = (Fate, u64)> {
    let fate = prop_oneof![
        4 => Just(Fate::Well),
        1 => Just(Fate::Refused),
        2 => (0u64..150).prop_map(Fate::Cut),
        2 => (0u64..150).prop_map(Fate::Killed),
        1 => Just(Fate::Busy),
        1 => Just(Fate::Gateway),
    ];
    (fate, 0u64..2)
}

fn kind() -> impl Strategy<Value = Kind> {
    let manner =
        prop::sample::select(vec![Manner::Atomic, Manner::Fragment, Manner::InPlace, Manner::Nothing]);
    let looks = prop::sample::select(vec![
        Looks::Both,
        Looks::Both,
        Looks::Get,
        Looks::Blind,
        Looks::Zero,
        Looks::HiddenAbsence,
        Looks::None,
    ]);
    (manner, looks, any::<bool>(), any::<bool>(), any::<bool>())
        .prop_map(|(manner, looks, tags, dates, tells)| Kind { manner, looks, tags, dates, tells })
}

/// What a fate makes of a request; `None`: the process died.
fn meet(model: &mut Model, send: &Send, fate: Fate) -> Option<Input> {
    match fate {
        Fate::Well => model.handle(send, u64::MAX),
        Fate::Refused => Some(lost(NetErrorKind::Connect)),
        Fate::Busy => Some(reply(503, &[("retry-after", "1")])),
        Fate::Gateway => {
            model.handle(send, u64::MAX);
            Some(reply(504, &[]))
        }
        Fate::Cut(room) => {
            model.handle(send, room);
            Some(lost(NetErrorKind::Broken))
        }
        Fate::Killed(room) => {
            model.handle(send, room);
            None
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_put_ends_and_is_complete_only_if_the_file_is_there(
        kind in kind(),
        size in 0u64..120,
        before in prop_oneof![Just(None), Just(Some(None)), (0u64..120).prop_map(|length| Some(Some(length)))],
        verify: bool,
        fates in vec(fate(), 0..30),
    ) {
        let http = HttpOptions { verify, ..HttpOptions::PLAIN };
        let facts = Facts { http: &http, ..facts(size) };
        // The old object has the file's own size every third time.
        let object = before.map(|length| Content::Old(length.unwrap_or(size)));
        let mut model = Model { kind, size, object, writes: 0, written_s: 0, now_s: 0 };
        let mut step = advance(&facts, &Put::new(&facts), &Input::Begin);
        // Then the network turns kind, and the upload must end.
        for (fate, tick) in fates.into_iter().chain([(Fate::Well, 0); 24]) {
            model.now_s += tick;
            step = match step.next.clone() {
                Next::Done(_) | Next::Fail(_) => break,
                Next::Suspend(cause) => panic!("{cause}"),
                Next::Retry(retry) => {
                    model.now_s += retry.after.map_or(0, |after| after.as_secs());
                    advance(&facts, &step.state, &Input::Restarted)
                }
                Next::Go(_) => {
                    let send = sent(&step).clone();
                    let input = meet(&mut model, &send, fate).unwrap_or(Input::Restarted);
                    advance(&facts, &step.state, &input)
                }
            };
        }
        let (honest, seen) = (kind.manner != Manner::Nothing, kind.looks != Looks::None);
        let tellable = kind.tags || kind.dates;
        match step.next {
            Next::Done(proof) => {
                prop_assert_eq!(proof.size, size);
                // Of an empty file there is nothing that could be missing.
                let there = model.object == Some(Content::Ours) || size == 0 && model.length() == Some(0);
                // What --no-verify asks for: the server's word, where there is nothing to hold against it.
                let believed = !verify && matches!(kind.looks, Looks::None | Looks::HiddenAbsence | Looks::Blind | Looks::Zero);
                prop_assert!(there || believed && !honest, "{} of {:?}", proof.evidence, model);
            }
            Next::Fail(FailCause::OutcomeUnknown(_)) => {
                prop_assert!(!honest || !seen && verify || !tellable, "{:?}", model);
            }
            Next::Fail(FailCause::Protocol(_)) => prop_assert!(!honest && seen, "{:?}", model),
            other => prop_assert!(false, "ended with {:?} at {:?}", other, step.state),
        }
    }

    #[test]
    fn no_reply_makes_it_panic_or_believe_without_a_size(
        status in 100u16..1000,
        name in prop::sample::select(vec!["content-length", "content-range", "etag", "last-modified", "location", "repr-digest", "retry-after", "content-encoding"]),
        value in "[ -~]{0,30}",
        number in any::<u64>(),
        numeric: bool,
        at in 0usize..6,
        by in prop::sample::select(vec![Look::Head, Look::Range]),
    ) {
        let state = match at {
            0 => State::Looking { task: Task::default(), by },
            1 => State::Putting { task: task(Before::Absent, false) },
            2 => State::Putting { task: task(old(100), true) },
            3 => State::Checking { task: task(Before::Absent, true), answer: accepted(None), by },
            4 => State::Checking { task: task(old(100), true), answer: Answer::Lost, by },
            _ => State::Checking { task: task(old(100), true), answer: Answer::Refused, by },
        };
        let value = if numeric { number.to_string() } else { value };
        let step = advance(&facts(100), &state, &reply(status, &[(name, &value)]));
        if matches!(step.next, Next::Done(_)) {
            prop_assert_eq!((name, value.as_str()), ("content-length", "100"));
        }
    }
}

#[test]
fn a_state_is_small_whatever_the_server_says() {
    let url = format!("https://files.example/{}", "a".repeat(wire::URL_MAX - 22));
    let tag = format!("\"{}\"", "t".repeat(254));
    let step = advance(&facts(100), &Put::new(&facts(100)), &reply(307, &[("location", &url)]));
    assert_eq!(sent(&step).url, url);
    let step = advance(&facts(100), &step.state, &reply(200, &[LENGTH, ("etag", &tag), OLD_DATE]));
    let State::Putting { task } = step.state else { panic!("{step:?}") };
    assert!(task.at.is_some() && matches!(&task.before, Before::Object(seen) if seen.etag.is_some()));
    let answer = Answer::Accepted { status: 201, etag: Some(tag.clone()) };
    let step = advance(
        &facts(100),
        &State::Checking { task, answer, by: Look::Head },
        &reply(307, &[("location", &url)]),
    );
    assert!(matches!(step.state, State::Checking { task: Task { at: Some(_), .. }, .. }));
    let long = format!("\"{}\"", "t".repeat(300));
    let step = advance(&facts(100), &Put::new(&facts(100)), &reply(200, &[LENGTH, ("etag", &long)]));
    assert!(matches!(
        step.state,
        State::Putting { task: Task { before: Before::Object(Seen { etag: None, .. }), .. } }
    ));
}

#[test]
fn the_form_on_disk_stands_still() {
    let object =
        Before::Object(Seen { length: Some(1), etag: Some("t".to_owned()), modified: Some(WallMs(2)) });
    let full = Task {
        before: object,
        by: Look::Range,
        at: Some("u".to_owned()),
        hops: 3,
        doubt: true,
        same: 4,
        late: 5,
    };
    let absent = task(Before::Absent, false);
    let accepted = Answer::Accepted { status: 201, etag: Some("e".to_owned()) };
    let by = Look::Head;
    let states = [
        State::Looking { task: Task::default(), by },
        State::Looking { task: absent.clone(), by: Look::Range },
        State::Putting { task: full.clone() },
        State::Checking { task: absent.clone(), answer: Answer::Lost, by },
        State::Checking { task: absent.clone(), answer: accepted, by },
        State::Checking { task: absent, answer: Answer::Refused, by },
        State::Complete { size: 8, evidence: "e".to_owned() },
        State::Gone { cause: FailCause::Cancelled },
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
000000000000000000000000000000000000000000
000000000100000000000000000000000001000000
010000000200000001010000000000000001010000000000000074010200000000000000010000000101000000000000007503010405
02000000010000000000000000000000000000000000000000
020000000100000000000000000000000001000000c9000101000000000000006500000000
02000000010000000000000000000000000200000000000000
030000000800000000000000010000000000000065
0400000000000000";
