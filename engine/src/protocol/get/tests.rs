//! A lying server (tables), an honest one that breaks off and changes (property), the form on disk.

use bytes::Bytes;
use http::header::ACCEPT_ENCODING;
use http::{HeaderName, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::state::Validator;
use super::*;
use crate::job::{Checksum, HttpOptions, Token};
use crate::ports::{NetErrorKind, WallMs};
use crate::protocol::Send;

const URL: &str = "https://files.example/a.bin?sig=secret";
const TAG: (&str, &str) = ("etag", "\"one\"");
const SHA: &str = "sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:";

fn facts(checksum: Option<&Checksum>) -> Facts<'_> {
    Facts {
        url: URL,
        size: None,
        name: "a.bin",
        token: Token([7; 16]),
        checksum,
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
    Input::Reply {
        lane: 0,
        reply: Reply { status, headers: map, url: URL.to_owned(), framed: true, body: Bytes::new() },
    }
}

fn lost() -> Input {
    Input::Lost { lane: 0, kind: NetErrorKind::Broken, why: "cut".to_owned() }
}

fn synced(from: u64, to: u64, last: bool) -> Input {
    Input::Synced { lane: 0, extent: from..to, last }
}

/// Steps and checks what must hold of every step.
fn advance(facts: &Facts<'_>, state: &State, input: &Input) -> Step<State> {
    let step = Get::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < 8 << 10, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    assert!(step.size.is_none_or(|size| step.done <= size), "{} of {:?}", step.done, step.size);
    assert!(!format!("{:?}", step.state).contains("secret"), "{:?}", step.state);
    step
}

fn version(validator: Option<Validator>, total: Option<u64>) -> Version {
    Version {
        validator,
        total,
        digest: None,
        name: None,
        url: "https://files.example/a.bin".to_owned(),
        framed: true,
    }
}

fn part(total: Option<u64>, have: u64) -> Partial {
    let tag = Some(Validator::Tag("\"one\"".to_owned()));
    Partial { version: version(tag, total), tally: Tally::default(), have }
}

fn word(next: &Next) -> String {
    match next {
        Next::Go(effects) => effects.iter().map(word_of).collect::<Vec<_>>().join(" "),
        Next::Retry(_) => "retry".to_owned(),
        Next::Done(_) => "done".to_owned(),
        Next::Fail(cause) => cause.name().to_owned(),
        Next::Suspend(cause) => cause.name().to_owned(),
    }
}

fn word_of(effect: &Effect) -> String {
    match effect {
        Effect::Send(send) => {
            let range = send.headers.get(RANGE).map(|range| range.to_str().unwrap().replace("bytes=", " "));
            assert_eq!(send.headers.contains_key(RANGE), send.headers.contains_key(IF_RANGE));
            assert_eq!(send.headers[ACCEPT_ENCODING], "identity");
            assert_eq!(send.url, URL);
            format!("{}{}", send.method, range.unwrap_or_default())
        }
        Effect::Store { offset, limit: Some(limit), .. } => format!("store {offset}+{limit}"),
        Effect::Store { offset, limit: None, .. } => format!("store {offset}+"),
        Effect::Digest(algorithm) => algorithm.name().to_owned(),
        Effect::Truncate(len) => format!("cut {len}"),
        Effect::Reserve(_) | Effect::Pause { .. } => panic!("one stream needs no {effect:?}"),
    }
}

/// Status, headers, what follows.
type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str);

fn table(state: &State, rows: &[Row<'_>]) {
    for (status, headers, expected) in rows {
        let step = advance(&facts(None), state, &reply(*status, headers));
        assert_eq!(word(&step.next), *expected, "{status} {headers:?} in {state:?}");
    }
}

#[test]
fn the_first_answer_is_a_whole_plain_file() {
    table(
        &Get::new(&facts(None)),
        &[
            (200, &[("content-length", "100"), TAG], "cut 0 store 0+100"),
            (200, &[("content-length", "0")], "cut 0 store 0+0"),
            (200, &[TAG], "cut 0 store 0+"),
            (200, &[("content-length", "-1")], "protocol"),
            (200, &[("content-length", "9223372036854775809")], "protocol"),
            (200, &[("content-length", "1"), ("content-length", "2")], "protocol"),
            (200, &[("content-encoding", "gzip")], "protocol"),
            (200, &[("content-encoding", "identity"), ("content-length", "5")], "cut 0 store 0+5"),
            (204, &[], "protocol"),
            (203, &[("content-length", "100")], "protocol"),
            (206, &[("content-range", "bytes 0-99/100")], "protocol"),
            (304, &[], "protocol"),
            (401, &[], "auth"),
            (403, &[], "auth"),
            (404, &[], "rejected"),
            (416, &[], "rejected"),
            (507, &[], "rejected"),
            (500, &[], "retry"),
            (429, &[], "retry"),
        ],
    );
}

#[test]
fn a_range_is_taken_only_as_asked_and_of_the_same_file() {
    let range = |range: &'static str| [("content-range", range), TAG];
    let resuming = State::Resuming { part: part(Some(100), 40) };
    table(
        &resuming,
        &[
            (206, &range("bytes 40-99/100"), "store 40+60"),
            (206, &range("bytes 40-59/100"), "store 40+20"),
            (206, &range("bytes 40-99/*"), "store 40+60"),
            (206, &range("bytes 40-100/*"), "protocol"),
            (206, &range("bytes 41-99/100"), "protocol"),
            (206, &range("bytes 0-99/100"), "protocol"),
            (206, &range("bytes 40-100/100"), "protocol"),
            (206, &range("bytes 40-39/100"), "protocol"),
            (206, &range("bytes +40-99/100"), "protocol"),
            (206, &range("bytes 40 -99/100"), "protocol"),
            (206, &range("bytes  40-99/100"), "protocol"),
            (206, &range("bytes 40-99/18446744073709551716"), "protocol"),
            (206, &range("octets 40-99/100"), "protocol"),
            (206, &range("bytes */100"), "protocol"),
            (206, &[TAG], "protocol"),
            (
                206,
                &[("content-range", "bytes 40-99/100"), ("content-range", "bytes 40-99/100"), TAG],
                "protocol",
            ),
            (206, &[("content-range", "bytes 40-99/100"), ("content-length", "61"), TAG], "protocol"),
            (206, &[("content-range", "bytes 40-99/100"), ("content-encoding", "gzip"), TAG], "protocol"),
            (206, &[("content-type", "multipart/byteranges; boundary=x"), TAG], "protocol"),
            // Another file, or one that cannot be told from another.
            (206, &range("bytes 40-199/200"), "GET"),
            (206, &[("content-range", "bytes 40-99/100"), ("etag", "\"two\"")], "GET"),
            (206, &[("content-range", "bytes 40-99/100"), ("etag", "W/\"one\"")], "GET"),
            (206, &[("content-range", "bytes 40-99/100")], "GET"),
            (200, &[("content-length", "100"), TAG], "cut 0 store 0+100"),
            (200, &[("content-length", "50"), ("etag", "\"two\"")], "cut 0 store 0+50"),
            (416, &[("content-range", "bytes */40")], "GET"),
            (416, &[], "GET"),
            (412, &[], "GET"),
            (403, &[], "auth"),
            (404, &[], "rejected"),
            (503, &[], "retry"),
        ],
    );
    let open = State::Resuming { part: part(None, 40) };
    table(
        &open,
        &[
            (416, &[("content-range", "bytes */40")], "done"),
            (416, &[("content-range", "bytes */40"), ("etag", "\"two\"")], "GET"),
            (416, &[("content-range", "bytes */41")], "GET"),
            (416, &[], "HEAD"),
            (416, &[("content-range", "garbage")], "HEAD"),
            (206, &[("content-range", "bytes 40-99/100"), TAG], "store 40+60"),
        ],
    );
    table(
        &State::Checking { part: part(None, 40) },
        &[
            (200, &[("content-length", "40"), TAG], "done"),
            (200, &[("content-length", "40")], "GET"),
            (200, &[("content-length", "41"), TAG], "GET"),
            (200, &[TAG], "GET"),
            (405, &[], "GET"),
            (503, &[], "retry"),
            (401, &[], "auth"),
        ],
    );
}

#[test]
fn only_strong_validators_resume() {
    let date = ("date", "Wed, 25 Jun 2014 16:01:00 GMT");
    let resumed: &[(&[(&str, &str)], &str)] = &[
        (&[TAG], "cut 40 GET 40-"),
        (&[("last-modified", "Wed, 25 Jun 2014 16:00:00 GMT"), date], "cut 40 GET 40-"),
        (&[("last-modified", "Wed, 25 Jun 2014 16:00:01 GMT"), date], "GET"),
        (&[("last-modified", "Wed, 25 Jun 2014 16:00:00 GMT")], "GET"),
        (&[("last-modified", "Wed, 25 Jun 2014 16:00:00 GMT"), date, ("etag", "W/\"one\"")], "GET"),
        (&[("last-modified", "Wed, 25 Jun 2014 16:00:00 GMT"), date, ("etag", "garbage")], "GET"),
        (&[("etag", "W/\"one\"")], "GET"),
        (&[("etag", "one")], "GET"),
        (&[TAG, TAG], "GET"),
        (&[TAG, ("accept-ranges", "none")], "GET"),
        (&[], "GET"),
    ];
    for (headers, expected) in resumed {
        let headers: Vec<_> = headers.iter().copied().chain([("content-length", "100")]).collect();
        let step = advance(&facts(None), &Get::new(&facts(None)), &reply(200, &headers));
        let step = advance(&facts(None), &step.state, &synced(0, 40, false));
        let step = advance(&facts(None), &step.state, &lost());
        assert_eq!(word(&step.next), "retry");
        assert_eq!(
            word(&advance(&facts(None), &step.state, &Input::Restarted).next),
            *expected,
            "{headers:?}"
        );
    }
}

#[test]
fn a_server_that_does_not_resume_is_asked_for_the_whole_from_then_on() {
    let resuming = State::Resuming { part: part(Some(100), 40) };
    let step = advance(&facts(None), &resuming, &reply(200, &[("content-length", "100"), TAG]));
    assert_eq!((step.done, word(&step.next).as_str()), (0, "cut 0 store 0+100"));
    let step = advance(&facts(None), &step.state, &synced(0, 99, false));
    assert_eq!(word(&advance(&facts(None), &step.state, &Input::Restarted).next), "GET");
    let mut tired = part(Some(100), 40);
    tired.tally = Tally { whole: true, restarts: RESTARTS_MAX - 1, ..Tally::default() };
    let step = advance(&facts(None), &State::Receiving { part: tired, until: Some(100) }, &Input::Restarted);
    let Next::Suspend(SuspendCause::Server { attempts, .. }) = step.next else { panic!("{step:?}") };
    assert_eq!(attempts, RESTARTS_MAX);
    assert_eq!(word(&advance(&facts(None), &step.state, &Input::Restarted).next), "GET");
}

#[test]
fn a_file_may_change_three_times() {
    let mut state = State::Resuming { part: part(Some(100), 40) };
    let mut words = Vec::new();
    for tag in ["\"b\"", "\"c\"", "\"d\"", "\"e\""] {
        let step = advance(&facts(None), &state, &reply(200, &[("content-length", "100"), ("etag", tag)]));
        words.push(word(&step.next));
        let Next::Go(_) = step.next else { break };
        let step = advance(&facts(None), &step.state, &synced(0, 10, false));
        state = advance(&facts(None), &step.state, &Input::Restarted).state;
    }
    let whole = "cut 0 store 0+100";
    assert_eq!(words, [whole, whole, whole, "remote-changed"]);
}

#[test]
fn every_digest_is_compared_and_a_spoiled_file_fetched_once_more() {
    let asked = Checksum { algorithm: ChecksumAlgorithm::Sha1, digest: vec![1; 20] };
    let facts = facts(Some(&asked));
    let digested = |algorithm: ChecksumAlgorithm, byte| Input::Digested {
        algorithm,
        digest: vec![byte; algorithm.digest_len()],
    };
    let whole = || {
        let headers = [
            ("content-length", "4"),
            ("repr-digest", SHA),
            ("content-disposition", "attachment; filename=../n"),
        ];
        let step = advance(&facts, &Get::new(&facts), &reply(200, &headers));
        advance(&facts, &step.state, &synced(0, 4, true))
    };
    let step = whole();
    assert_eq!(word(&step.next), "sha256");
    assert_eq!(word(&advance(&facts, &step.state, &Input::Restarted).next), "sha256");
    assert!(Get::step(&facts, &step.state, &digested(ChecksumAlgorithm::Sha512, 0)).is_err());
    let served = advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 0));
    assert_eq!(word(&served.next), "sha1");
    assert_eq!(
        word(&advance(&facts, &served.state, &digested(ChecksumAlgorithm::Sha1, 2)).next),
        "checksum-mismatch"
    );
    let done = advance(&facts, &served.state, &digested(ChecksumAlgorithm::Sha1, 1));
    let evidence = "length, sha256 as served, sha1 as asked for".to_owned();
    assert_eq!(done.next, Next::Done(Proof { size: 4, evidence }));
    assert_eq!(Get::served_name(&done.state), Some("n"));

    let again = advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 9));
    assert_eq!((word(&again.next).as_str(), again.done), ("GET", 0));
    let step = advance(&facts, &again.state, &reply(200, &[("content-length", "4"), ("repr-digest", SHA)]));
    let step = advance(&facts, &step.state, &synced(0, 4, true));
    let spoiled = advance(&facts, &step.state, &digested(ChecksumAlgorithm::Sha256, 9));
    assert_eq!(word(&spoiled.next), "checksum-mismatch");
}

#[test]
fn one_hash_serves_two_digests_of_one_kind() {
    let asked = Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![0; 32] };
    let facts = facts(Some(&asked));
    let step =
        advance(&facts, &Get::new(&facts), &reply(200, &[("content-length", "0"), ("repr-digest", SHA)]));
    let step = advance(&facts, &step.state, &synced(0, 0, true));
    let digest = Input::Digested { algorithm: ChecksumAlgorithm::Sha256, digest: vec![0; 32] };
    assert_eq!(word(&advance(&facts, &step.state, &digest).next), "done");
}

#[test]
fn the_end_of_a_body_is_judged_by_what_was_announced() {
    let end = |total, until, to| {
        let state = State::Receiving { part: part(total, 40), until };
        word(&advance(&facts(None), &state, &synced(40, to, true)).next)
    };
    assert_eq!(end(Some(100), Some(100), 100), "done");
    assert_eq!(end(Some(100), Some(100), 99), "retry");
    assert_eq!(end(Some(100), Some(60), 60), "cut 60 GET 60-");
    assert_eq!(end(None, None, 55), "done");
    assert_eq!(end(None, Some(60), 60), "cut 60 GET 60-");
    assert_eq!(end(None, Some(60), 59), "retry");
    let receiving = State::Receiving { part: part(Some(100), 40), until: Some(100) };
    for wrong in [synced(41, 50, false), synced(40, 101, false), synced(0, 50, false)] {
        assert!(Get::step(&facts(None), &receiving, &wrong).is_err(), "{wrong:?}");
    }
    // All is there: nothing is asked. Nothing is there, as it should be: the part file may not know.
    let whole = State::Receiving { part: part(Some(100), 100), until: Some(100) };
    assert_eq!(word(&advance(&facts(None), &whole, &Input::Restarted).next), "done");
    let empty = State::Receiving { part: part(Some(0), 0), until: Some(0) };
    assert_eq!(word(&advance(&facts(None), &empty, &Input::Restarted).next), "GET");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let receiving = State::Receiving { part: part(Some(100), 40), until: Some(100) };
    let done = State::Complete { size: 1, evidence: String::new(), name: None };
    for (state, input) in [
        (&receiving, Input::Begin),
        (&receiving, reply(200, &[])),
        (&done, lost()),
        (&done, synced(0, 1, true)),
        (&State::Resuming { part: part(None, 1) }, synced(1, 2, true)),
    ] {
        assert!(Get::step(&facts(None), state, &input).is_err(), "{input:?} in {state:?}");
    }
    assert_eq!(word(&advance(&facts(None), &receiving, &Input::Cancel).next), "done");
    assert_eq!(word(&advance(&facts(None), &done, &Input::Restarted).next), "done");
}

/// An honest server of one file, whose content may change.
#[derive(Clone, Copy, Debug)]
struct Model {
    content: u8,
    len: usize,
    strong: bool,
    ranges: bool,
    tells_length: bool,
    /// Most bytes of one 206.
    most: usize,
}

impl Model {
    fn bytes(&self) -> Vec<u8> {
        (0..self.len)
            .map(|at| (at as u8).wrapping_mul(3).wrapping_add(self.content.wrapping_mul(101)))
            .collect()
    }

    /// The head, and the body that goes with it.
    fn handle(&self, send: &Send) -> (Input, Vec<u8>) {
        let tag = format!("{}\"{}\"", if self.strong { "" } else { "W/" }, self.content);
        let bytes = self.bytes();
        let from = send.headers.get(RANGE).filter(|_| self.ranges && send.headers[IF_RANGE] == tag.as_str());
        let from =
            from.map(|range| range.to_str().unwrap()[6..].trim_end_matches('-').parse::<usize>().unwrap());
        let total = if self.tells_length { self.len.to_string() } else { "*".to_owned() };
        match from {
            Some(from) if from >= self.len => {
                (reply(416, &[("content-range", &format!("bytes */{}", self.len))]), Vec::new())
            }
            Some(from) => {
                let to = self.len.min(from + self.most);
                let range = format!("bytes {from}-{}/{total}", to - 1);
                (reply(206, &[("content-range", &range), ("etag", &tag)]), bytes[from..to].to_vec())
            }
            None if self.tells_length || send.method == Method::HEAD => {
                (reply(200, &[("content-length", &self.len.to_string()), ("etag", &tag)]), bytes)
            }
            None => (reply(200, &[("etag", &tag)]), bytes),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Kind,
    Lost,
    /// So many bytes arrive, of which so many are synced; then the connection breaks.
    Cut(usize, usize),
    /// The same, and the process dies.
    Killed(usize, usize),
    Busy,
    Changed,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Kind),
        1 => Just(Fate::Lost),
        3 => (0usize..300, 0usize..300).prop_map(|(wrote, synced)| Fate::Cut(wrote, synced)),
        3 => (0usize..300, 0usize..300).prop_map(|(wrote, synced)| Fate::Killed(wrote, synced)),
        1 => Just(Fate::Busy),
        1 => Just(Fate::Changed),
    ]
}

/// A runner in small: the part file, and what is on the wire for it.
struct Runner {
    file: Vec<u8>,
    body: Vec<u8>,
}

impl Runner {
    /// Carries effects out under a fate; gives the inputs that come of it.
    fn run(&mut self, model: &Model, effects: &[Effect], fate: Fate) -> Vec<Input> {
        let mut inputs = Vec::new();
        for effect in effects {
            match effect {
                Effect::Truncate(len) => self.file.truncate(*len as usize),
                Effect::Digest(_) => panic!("no digest was told"),
                Effect::Reserve(_) | Effect::Pause { .. } => panic!("one stream needs no {effect:?}"),
                Effect::Send(send) => match fate {
                    Fate::Lost => inputs.push(lost()),
                    Fate::Busy => inputs.push(reply(503, &[])),
                    Fate::Kind | Fate::Cut(..) | Fate::Killed(..) | Fate::Changed => {
                        let (head, body) = model.handle(send);
                        self.body = body;
                        inputs.push(head);
                    }
                },
                Effect::Store { offset, limit, .. } => {
                    let offset = *offset as usize;
                    let whole = self.body.len();
                    assert!(limit.is_none_or(|limit| limit as usize == whole));
                    let (wrote, synced) = match fate {
                        Fate::Cut(wrote, synced) | Fate::Killed(wrote, synced) if wrote < whole => {
                            (wrote, synced.min(wrote))
                        }
                        _ => (whole, whole),
                    };
                    assert!(self.file.len() <= offset, "stored over what is there");
                    self.file.extend_from_slice(&self.body[..wrote]);
                    inputs.push(super::tests::synced(
                        offset as u64,
                        (offset + synced) as u64,
                        synced == whole,
                    ));
                    if wrote < whole {
                        // What was written and not synced is anything after a crash.
                        self.file[offset + synced..].fill(0xee);
                        inputs.push(if matches!(fate, Fate::Killed(..)) { Input::Restarted } else { lost() });
                    }
                }
            }
        }
        inputs
    }
}

proptest! {
    #[test]
    fn a_download_ends_whole_whatever_breaks(
        len in 0usize..256,
        (strong, ranges, tells_length) in any::<(bool, bool, bool)>(),
        most in prop::sample::select(vec![7usize, 100, 1000]),
        fates in vec(fate(), 0..40),
    ) {
        let facts = facts(None);
        let mut model = Model { content: 0, len, strong, ranges, tells_length, most };
        let mut runner = Runner { file: Vec::new(), body: Vec::new() };
        let mut versions = vec![model.bytes()];
        let mut step = advance(&facts, &Get::new(&facts), &Input::Begin);
        // Then the network turns kind, and the download must end.
        for fate in fates.into_iter().chain([Fate::Kind; 100]) {
            if matches!(fate, Fate::Changed) && versions.len() <= CHANGED_MAX as usize {
                model.content += 1;
                versions.push(model.bytes());
            }
            let inputs = match &step.next {
                Next::Done(_) => break,
                Next::Fail(cause) => panic!("{cause}"),
                Next::Suspend(cause) => panic!("{cause}"),
                Next::Retry(_) => vec![Input::Restarted],
                Next::Go(effects) => runner.run(&model, effects, fate),
            };
            prop_assert!(!inputs.is_empty(), "stalls in {:?}", step);
            for input in inputs {
                // A loss after the last byte is news of nothing.
                if matches!(step.next, Next::Done(_)) { break; }
                step = advance(&facts, &step.state, &input);
                let durable = &runner.file[..runner.file.len().min(step.done as usize)];
                prop_assert_eq!(durable.len() as u64, step.done, "believed more than there is");
                prop_assert!(versions.iter().any(|version| version.starts_with(durable)), "mixed versions");
            }
        }
        let Next::Done(proof) = &step.next else { panic!("ended with {step:?}") };
        prop_assert_eq!(proof.size, runner.file.len() as u64);
        prop_assert!(versions.contains(&runner.file), "no version that ever was");
    }

    #[test]
    fn no_reply_makes_it_panic_or_claim_too_much(
        status in 100u16..1000,
        name in prop::sample::select(vec![
            "content-range", "content-length", "etag", "last-modified", "repr-digest", "content-disposition",
            "content-encoding", "content-type", "accept-ranges", "retry-after",
        ]),
        value in prop_oneof!["[ -~]{0,30}", "bytes [0-9]{1,3}-[0-9]{1,3}/[0-9*]{1,3}"],
        total in proptest::option::of(40u64..200),
        at in 0usize..3,
    ) {
        let part = part(total, 40);
        let states = [Get::new(&facts(None)), State::Resuming { part: part.clone() }, State::Checking { part }];
        let step = advance(&facts(None), &states[at], &reply(status, &[TAG, (name, &value)]));
        if let State::Receiving { part, until: Some(until) } = &step.state {
            prop_assert!(part.have <= *until && part.version.total.is_none_or(|total| *until <= total));
        }
    }
}

/// HTTP/1.0: a server that dies half-way and one that is done look the same on the wire.
#[test]
fn a_body_that_ends_with_its_connection_is_not_believed_without_a_length() {
    let unframed = Partial {
        version: Version { framed: false, ..version(None, None) },
        tally: Tally::default(),
        have: 5,
    };
    let receiving = State::Receiving { part: Partial { have: 0, ..unframed.clone() }, until: None };
    let ended = Input::Synced { lane: 0, extent: 0..5, last: true };
    let step = Get::step(&facts(None), &receiving, &ended).unwrap();
    assert_eq!(step.state, State::Checking { part: unframed.clone() });
    let silent = Get::step(&facts(None), &step.state, &reply(200, &[])).unwrap();
    assert!(matches!(silent.next, Next::Fail(FailCause::OutcomeUnknown(_))), "{:?}", silent.next);
    let longer = Get::step(&facts(None), &step.state, &reply(200, &[("content-length", "9")])).unwrap();
    assert!(!matches!(longer.next, Next::Done(_)), "half a file is not complete");
}

/// What nobody measures, a digest that is known beforehand proves; a wrong one may come of a cut, once.
#[test]
fn a_body_of_no_known_length_is_held_against_the_digest_that_was_asked_for() {
    let unframed = Partial {
        version: Version { framed: false, ..version(None, None) },
        tally: Tally::default(),
        have: 5,
    };
    let asked = Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![1; 32] };
    let facts = facts(Some(&asked));
    let checking = State::Checking { part: unframed };
    for answer in [reply(200, &[]), reply(405, &[])] {
        let verifying = Get::step(&facts, &checking, &answer).unwrap();
        assert!(matches!(verifying.state, State::Verifying { .. }), "{:?}", verifying.state);
        let hashed = |byte| Input::Digested { algorithm: ChecksumAlgorithm::Sha256, digest: vec![byte; 32] };
        let right = Get::step(&facts, &verifying.state, &hashed(1)).unwrap();
        assert!(matches!(right.next, Next::Done(_)), "{:?}", right.next);
        let wrong = Get::step(&facts, &verifying.state, &hashed(2)).unwrap();
        assert!(matches!(wrong.state, State::Asking { tally } if tally.spoiled), "{:?}", wrong.state);
    }
}

/// A server that refuses HEAD is not asked for its body for ever.
#[test]
fn a_body_of_no_known_length_is_not_asked_for_again_where_head_is_refused() {
    let unframed = Partial {
        version: Version { framed: false, ..version(None, None) },
        tally: Tally { whole: true, ..Tally::default() },
        have: 5,
    };
    let step = Get::step(&facts(None), &State::Checking { part: unframed }, &reply(405, &[])).unwrap();
    assert!(matches!(step.next, Next::Fail(FailCause::OutcomeUnknown(_))), "{:?}", step.next);
}

#[test]
fn the_form_on_disk_stands_still() {
    let tally = Tally { changed: 1, spoiled: true, whole: true, restarts: 2 };
    let version = Version {
        validator: Some(Validator::Modified("m".to_owned())),
        total: Some(3),
        digest: Some(Checksum { algorithm: ChecksumAlgorithm::Sha256, digest: vec![4] }),
        name: Some("n".to_owned()),
        url: "u".to_owned(),
        framed: true,
    };
    let part = Partial { version, tally, have: 2 };
    let states = [
        State::Asking { tally },
        State::Receiving { part: part.clone(), until: Some(3) },
        State::Resuming { part: part.clone() },
        State::Checking { part: part.clone() },
        State::Verifying { part, check: Check::Asked },
        State::Complete { size: 3, evidence: "e".to_owned(), name: None },
    ];
    let hex = |state: &State| -> String {
        bincode::serialize(state)
            .unwrap()
            .iter()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    };
    let form: Vec<String> = states.iter().map(hex).collect();
    let golden: Vec<&str> = GOLDEN.lines().collect();
    assert_eq!(form, golden, "a journal of another version could not be read:\n{}", form.join("\n"));
}

const GOLDEN: &str = "\
0000000001000000010102000000
01000000010100000001000000000000006d01030000000000000001010000000100000000000000040101000000000000006e01000000000000007501010000000101020000000200000000000000010300000000000000
02000000010100000001000000000000006d01030000000000000001010000000100000000000000040101000000000000006e01000000000000007501010000000101020000000200000000000000
03000000010100000001000000000000006d01030000000000000001010000000100000000000000040101000000000000006e01000000000000007501010000000101020000000200000000000000
04000000010100000001000000000000006d01030000000000000001010000000100000000000000040101000000000000006e0100000000000000750101000000010102000000020000000000000001000000
05000000030000000000000001000000000000006500";
