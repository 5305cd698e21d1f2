//! A lying server (tables), an honest one that loses things (property), and the form on disk.

use bytes::Bytes;
use http::StatusCode;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::job::{ChecksumAlgorithm, HttpOptions, Token};
use crate::ports::WallMs;
use crate::protocol::{Effect, Send};

const TARGET: &str = "https://files.example/uploads";
const URL: &str = "https://files.example/uploads/7";
const CREATED: &[(&str, &str)] = &[("location", "/uploads/7")];

fn facts(size: u64) -> Facts<'static> {
    let token = Token([7; 16]);
    Facts {
        url: TARGET,
        size: Some(size),
        name: "a b.bin",
        token,
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
    Input::Reply {
        lane: 0,
        reply: Reply { status, headers: map, url: URL.to_owned(), framed: true, body: Bytes::new() },
    }
}

fn lost(kind: NetErrorKind) -> Input {
    Input::Lost { lane: 0, kind, why: "cut".to_owned() }
}

/// Steps and checks what must hold of every step.
fn advance(facts: &Facts<'_>, state: &State, input: &Input) -> Step<State> {
    let step = Tus::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < 8 << 10, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    assert!(step.done <= step.size.unwrap(), "{} of {:?}", step.done, step.size);
    if let Next::Go(effects) = &step.next {
        let [Effect::Send(send)] = effects.as_slice() else { panic!("{effects:?}") };
        assert_eq!(send.headers["tus-resumable"], "1.0.0");
        assert!(!send.follow_redirects);
        let resumes = !matches!(input, Input::Restarted) || send.method != Method::PATCH;
        assert!(resumes, "a restart never sends bytes first");
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

const PLAIN: Server = Server { checksum: None, with_upload: false, termination: true };

fn session(acked: u64, sent: u64, tail: bool) -> Session {
    Session { url: URL.to_owned(), server: PLAIN, tally: Tally::default(), acked, sent, tail, expires: None }
}

fn creating() -> State {
    State::Creating { server: PLAIN, tally: Tally::default(), asked: true }
}

fn sending() -> State {
    State::Sending { session: session(10, 100, true), to: 100 }
}

fn probe(why: Probe) -> State {
    State::Probing { session: session(10, 60, false), why }
}

fn word(next: &Next) -> String {
    match next {
        Next::Go(effects) => match effects.as_slice() {
            [Effect::Send(send)] => match &send.body {
                Body::File { range, .. } => format!("{} {}-{}", send.method, range.start, range.end),
                Body::Empty | Body::Bytes(_) | Body::Form { .. } => send.method.to_string(),
            },
            other => panic!("{other:?}"),
        },
        Next::Retry(_) => "retry".to_owned(),
        Next::Done(_) => "done".to_owned(),
        Next::Fail(cause) => cause.name().to_owned(),
        Next::Suspend(cause) => cause.name().to_owned(),
    }
}

/// Status, headers, what follows.
type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str);

fn table(state: &State, rows: &[Row<'_>]) {
    for (status, headers, expected) in rows {
        let step = advance(&facts(100), state, &reply(*status, headers));
        assert_eq!(word(&step.next), *expected, "{status} {headers:?} in {state:?}");
    }
}

#[test]
fn what_a_server_offers_is_believed_only_as_far_as_it_goes() {
    table(
        &State::Discovering,
        &[
            (
                204,
                &[("tus-version", "1.0.0"), ("tus-extension", "creation,creation-with-upload")],
                "POST 0-99",
            ),
            (
                204,
                &[
                    ("tus-extension", "creation,creation-with-upload,checksum"),
                    ("tus-checksum-algorithm", "sha1"),
                ],
                "POST",
            ),
            (200, &[], "POST"),
            (204, &[("tus-version", "0.2.2")], "protocol"),
            (204, &[("tus-version", "1.0.0, 0.2.2"), ("tus-max-size", "99")], "rejected"),
            (204, &[("tus-max-size", "100")], "POST"),
            (204, &[("tus-max-size", "-1")], "POST"),
            (405, &[], "POST"),
            (404, &[], "POST"),
            (403, &[], "POST"),
            (501, &[], "POST"),
            (503, &[], "retry"),
            (429, &[], "retry"),
        ],
    );
}

#[test]
fn a_creation_is_answered_by_a_url_of_the_same_origin_or_not_at_all() {
    let long = format!("/{}", "a".repeat(5000));
    table(
        &creating(),
        &[
            (201, CREATED, "PATCH 0-100"),
            (201, &[("location", "https://files.example/elsewhere")], "PATCH 0-100"),
            (201, &[], "protocol"),
            (200, CREATED, "protocol"),
            (302, CREATED, "protocol"),
            (201, &[("location", "/7"), ("location", "/8")], "protocol"),
            (201, &[("location", "https://evil.example/7")], "protocol"),
            (201, &[("location", "//evil.example/7")], "protocol"),
            (201, &[("location", "\\\\evil.example/7")], "protocol"),
            (201, &[("location", "http://files.example/7")], "protocol"),
            (201, &[("location", "https://files.example:444/7")], "protocol"),
            (201, &[("location", "https://me:secret@files.example/7")], "protocol"),
            (201, &[("location", "file:///etc/passwd")], "protocol"),
            (201, &[("location", &long)], "protocol"),
            (201, &[("location", "")], "protocol"),
            (401, &[], "auth"),
            (403, &[], "auth"),
            (404, &[], "rejected"),
            (412, &[], "rejected"),
            (413, &[], "rejected"),
            (507, &[], "rejected"),
            (505, &[], "rejected"),
            (500, &[], "retry"),
            (408, &[], "retry"),
        ],
    );
}

#[test]
fn an_answer_to_patch_is_taken_only_within_what_was_sent() {
    table(
        &sending(),
        &[
            (204, &[("upload-offset", "100")], "HEAD"),
            (200, &[("upload-offset", "100")], "HEAD"),
            (204, &[("upload-offset", "50")], "PATCH 50-100"),
            (204, &[("upload-offset", "10")], "retry"),
            (204, &[("upload-offset", "9")], "protocol"),
            (204, &[("upload-offset", "101")], "protocol"),
            (204, &[("upload-offset", "18446744073709551616")], "protocol"),
            (204, &[("upload-offset", "-1")], "protocol"),
            (204, &[("upload-offset", "+50")], "protocol"),
            (204, &[("upload-offset", "1e1")], "protocol"),
            (204, &[("upload-offset", "5 0")], "protocol"),
            (204, &[("upload-offset", "50, 50")], "protocol"),
            (204, &[("upload-offset", "")], "protocol"),
            (204, &[("upload-offset", "50"), ("upload-offset", "50")], "protocol"),
            (204, &[], "HEAD"),
            (409, &[], "HEAD"),
            (403, &[], "HEAD"),
            (401, &[], "auth"),
            (404, &[], "POST"),
            (410, &[], "POST"),
            (423, &[], "retry"),
            (460, &[], "retry"),
            (400, &[], "rejected"),
            (413, &[], "rejected"),
            (415, &[], "rejected"),
            (412, &[], "rejected"),
            (301, CREATED, "protocol"),
            (503, &[("retry-after", "999999999")], "retry"),
            (502, &[], "retry"),
            (507, &[], "rejected"),
        ],
    );
}

#[test]
fn an_answer_to_head_is_taken_only_within_what_was_ever_sent() {
    let offset = |at: &'static str| [("upload-offset", at), ("upload-length", "100")];
    table(
        &probe(Probe::Resume),
        &[
            (200, &offset("10"), "PATCH 10-100"),
            (200, &offset("60"), "PATCH 60-100"),
            (204, &offset("0"), "PATCH 0-100"),
            (200, &offset("61"), "protocol"),
            (200, &offset("100"), "protocol"),
            (200, &offset("9223372036854775809"), "protocol"),
            (200, &[("upload-offset", "10"), ("upload-length", "99")], "protocol"),
            (200, &[("upload-offset", "10"), ("upload-length", "x")], "protocol"),
            (200, &[("upload-offset", "10")], "PATCH 10-100"),
            (200, &[("upload-offset", "10"), ("upload-offset", "10")], "protocol"),
            (200, &[("upload-length", "100")], "protocol"),
            (403, &[], "auth"),
            (404, &[], "POST"),
            (423, &[], "retry"),
            (500, &[], "retry"),
            (405, &[], "rejected"),
        ],
    );
    table(&probe(Probe::Doubt), &[(200, &offset("10"), "retry"), (200, &offset("20"), "PATCH 20-100")]);
    table(&probe(Probe::Forbidden), &[(200, &offset("10"), "auth"), (200, &offset("20"), "PATCH 20-100")]);
    let whole = State::Probing { session: session(10, 100, true), why: Probe::Forbidden };
    table(
        &whole,
        &[(200, &offset("100"), "done"), (404, &[], "outcome-unknown"), (410, &[], "outcome-unknown")],
    );
    let proving = State::Proving { session: session(100, 100, true) };
    table(
        &proving,
        &[
            (200, &offset("100"), "done"),
            (200, &[("upload-offset", "100")], "done"),
            (200, &offset("50"), "PATCH 50-100"),
            (200, &[("upload-offset", "100"), ("upload-length", "101")], "protocol"),
            (200, &[], "protocol"),
            (404, &[], "done"),
            (410, &[], "done"),
            (500, &[], "retry"),
            (401, &[], "auth"),
        ],
    );
}

#[test]
fn delete_is_repeated_until_nothing_is_left_or_says_what_is() {
    let cancelling = State::Cancelling { session: session(10, 60, false) };
    table(
        &cancelling,
        &[
            (204, &[], "done"),
            (200, &[], "done"),
            (404, &[], "done"),
            (410, &[], "done"),
            (423, &[], "retry"),
            (503, &[], "retry"),
            (403, &[], "protocol"),
            (405, &[], "protocol"),
        ],
    );
    let refused = advance(&facts(100), &cancelling, &reply(405, &[]));
    assert_eq!(Tus::remote(&refused.state), Some(URL));
    let freed = advance(&facts(100), &cancelling, &reply(204, &[]));
    assert_eq!(Tus::remote(&freed.state), None);

    let cancel = |state: &State| word(&advance(&facts(100), state, &Input::Cancel).next);
    assert_eq!(cancel(&State::Discovering), "done");
    assert_eq!(cancel(&creating()), "done");
    assert_eq!(cancel(&sending()), "DELETE");
    assert_eq!(cancel(&cancelling), "DELETE");
    let server = Server { termination: false, ..PLAIN };
    let kept = State::Probing { session: Session { server, ..session(10, 60, false) }, why: Probe::Resume };
    let kept = advance(&facts(100), &kept, &Input::Cancel);
    assert_eq!(word(&kept.next), "protocol");
    assert_eq!(Tus::remote(&kept.state), Some(URL));
}

#[test]
fn rewinds_and_lost_sessions_are_bounded() {
    let (mut state, mut words) = (sending(), Vec::new());
    for _ in 0..4 {
        let step = advance(&facts(100), &state, &reply(404, &[]));
        words.push(word(&step.next));
        state = if word(&step.next) == "POST" {
            advance(&facts(100), &step.state, &reply(201, CREATED)).state
        } else {
            step.state
        };
    }
    assert_eq!(words, ["POST", "POST", "POST", "expired"]);
    assert_eq!(word(&advance(&facts(100), &state, &Input::Restarted).next), "expired");

    let (mut state, mut words) =
        (State::Probing { session: session(50, 60, false), why: Probe::Resume }, Vec::new());
    for offset in ["40", "30", "20", "10"] {
        let step = advance(&facts(100), &state, &reply(200, &[("upload-offset", offset)]));
        words.push(word(&step.next));
        state = advance(&facts(100), &step.state, &Input::Restarted).state;
    }
    assert_eq!(words, ["PATCH 40-100", "PATCH 30-100", "PATCH 20-100", "protocol"]);
}

#[test]
fn checked_pieces_are_eight_mebibytes_and_go_on_unchecked_where_the_algorithm_is_unknown() {
    let facts = facts(20 << 20);
    let server = Server { checksum: Some(ChecksumAlgorithm::Sha1), ..PLAIN };
    let state = State::Creating { server, tally: Tally::default(), asked: true };
    let first = advance(&facts, &state, &reply(201, CREATED));
    assert_eq!(word(&first.next), "PATCH 0-8388608");
    let Body::File { digest: Some(digest), .. } = &sent(&first).body else { panic!("no digest") };
    assert_eq!((digest.name, digest.prefix), ("upload-checksum", "sha1 "));
    let second = advance(&facts, &first.state, &reply(204, &[("upload-offset", "8388608")]));
    assert_eq!(word(&second.next), "PATCH 8388608-16777216");
    let spoiled = advance(&facts, &second.state, &reply(460, &[]));
    assert_eq!(word(&spoiled.next), "retry");
    let unchecked = advance(&facts, &second.state, &reply(400, &[]));
    assert_eq!(word(&unchecked.next), "PATCH 8388608-20905984");
    assert_eq!(word(&advance(&facts, &unchecked.state, &reply(400, &[])).next), "rejected");
}

#[test]
fn a_creation_names_the_file_and_the_job() {
    let step = advance(&Facts { name: "a\r\nb", ..facts(0) }, &State::Discovering, &reply(405, &[]));
    let token = "MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDcwNzA3MDc=";
    assert_eq!(sent(&step).headers["upload-metadata"], format!("filename YV9fYg==,haul-token {token}"));
    assert_eq!(sent(&step).headers["upload-length"], "0");
    let empty = advance(&facts(0), &step.state, &reply(201, CREATED));
    assert_eq!(word(&empty.next), "HEAD");
    let proven =
        advance(&facts(0), &empty.state, &reply(200, &[("upload-offset", "0"), ("upload-length", "0")]));
    let Next::Done(proof) = proven.next else { panic!("{proven:?}") };
    assert_eq!(proof, Proof { size: 0, evidence: "HEAD offset = length".to_owned() });
}

#[test]
fn a_lost_creation_is_counted_unless_nobody_saw_it() {
    for (kind, orphans) in [(NetErrorKind::Connect, 0), (NetErrorKind::Broken, 1), (NetErrorKind::Timeout, 1)]
    {
        let step = advance(&facts(100), &creating(), &lost(kind));
        assert_eq!(word(&step.next), "retry");
        let State::Creating { tally, asked: false, .. } = step.state else { panic!("{step:?}") };
        assert_eq!(tally.orphans, orphans);
        assert_eq!(word(&advance(&facts(100), &step.state, &Input::Restarted).next), "POST");
    }
    let State::Creating { tally, .. } = advance(&facts(100), &creating(), &Input::Restarted).state else {
        panic!()
    };
    assert_eq!(tally.orphans, 1);
    assert_eq!(word(&advance(&facts(100), &sending(), &lost(NetErrorKind::Tls)).next), "protocol");
}

#[test]
fn expiry_is_kept_and_still_asked_for_afterwards() {
    let expires = [("location", "/uploads/7"), ("upload-expires", "Wed, 25 Jun 2014 16:00:00 GMT")];
    let step = advance(&facts(100), &creating(), &reply(201, &expires));
    let State::Sending { session, .. } = &step.state else { panic!("{step:?}") };
    assert_eq!(session.expires, Some(WallMs(1_403_712_000_000)));
    assert_eq!(word(&advance(&facts(100), &step.state, &Input::Restarted).next), "HEAD");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let done = State::Complete { size: 100, evidence: String::new() };
    let synced = Input::Synced { lane: 0, extent: 0..1, last: false };
    let digested = Input::Digested { algorithm: ChecksumAlgorithm::Sha1, digest: Vec::new() };
    for (state, input) in [
        (&sending(), &Input::Begin),
        (&sending(), &synced),
        (&sending(), &digested),
        (&done, &reply(200, &[])),
        (&done, &lost(NetErrorKind::Broken)),
        (&State::Creating { server: PLAIN, tally: Tally::default(), asked: false }, &reply(201, CREATED)),
    ] {
        assert!(Tus::step(&facts(100), state, input).is_err(), "{input:?} in {state:?}");
    }
    let Input::Reply { reply, .. } = reply(204, &[]) else { unreachable!() };
    assert!(Tus::step(&facts(100), &sending(), &Input::Reply { lane: 1, reply }).is_err());
    assert!(Tus::step(&Facts { size: None, ..facts(0) }, &State::Discovering, &Input::Begin).is_err());
}

/// An honest server of one target.
#[derive(Clone, Debug)]
struct Model {
    extensions: &'static str,
    forgets_complete: bool,
    forbids_complete: bool,
    /// Bytes and length of each upload; `None` once it is gone.
    uploads: Vec<Option<(u64, u64)>>,
    objects: u32,
}

impl Model {
    /// Handles a request of whose body `room` bytes arrive; `None`: no whole request arrived.
    fn handle(&mut self, send: &Send, room: u64) -> Option<Input> {
        let header = |name: &str| send.headers[name].to_str().unwrap().parse::<u64>().unwrap();
        let range = match &send.body {
            Body::File { range, .. } => range.clone(),
            Body::Empty | Body::Bytes(_) | Body::Form { .. } => 0..0,
        };
        let cut = range.end - range.start > room;
        let arrived = (range.end - range.start).min(room);
        let at = send.url.rsplit('/').next().and_then(|id| id.parse::<usize>().ok());
        let checked = self.extensions.contains("checksum");
        match send.method {
            Method::OPTIONS if self.extensions.is_empty() => Some(reply(405, &[])),
            Method::OPTIONS => Some(reply(
                204,
                &[("tus-extension", self.extensions), ("tus-checksum-algorithm", "sha1,sha256")],
            )),
            Method::POST => {
                self.uploads.push(Some((arrived, header("upload-length"))));
                self.settle(self.uploads.len() - 1);
                let location = format!("/uploads/{}", self.uploads.len() - 1);
                let offset = arrived.to_string();
                (!cut).then(|| reply(201, &[("location", &location), ("upload-offset", &offset)]))
            }
            _ => {
                let Some((offset, length)) = at.and_then(|at| self.uploads[at]) else {
                    return Some(reply(404, &[]));
                };
                let at = at?;
                match send.method {
                    Method::HEAD => {
                        let (offset, length) = (offset.to_string(), length.to_string());
                        Some(reply(200, &[("upload-offset", &offset), ("upload-length", &length)]))
                    }
                    Method::DELETE => {
                        self.uploads[at] = None;
                        Some(reply(204, &[]))
                    }
                    Method::PATCH if offset == length && self.forbids_complete => Some(reply(403, &[])),
                    Method::PATCH if header("upload-offset") != offset => Some(reply(409, &[])),
                    Method::PATCH => {
                        let kept = if checked && cut { 0 } else { arrived };
                        self.uploads[at] = Some((offset + kept, length));
                        self.settle(at);
                        let offset = (offset + kept).to_string();
                        (!cut).then(|| reply(204, &[("upload-offset", &offset)]))
                    }
                    _ => panic!("{send:?}"),
                }
            }
        }
    }

    fn settle(&mut self, at: usize) {
        if let Some((offset, length)) = self.uploads[at]
            && offset == length
        {
            self.objects += 1;
            if self.forgets_complete {
                self.uploads[at] = None;
            }
        }
    }

    fn held(&self, url: &str) -> Option<u64> {
        let at: usize = url.rsplit('/').next()?.parse().ok()?;
        self.uploads[at].map(|(offset, _)| offset)
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    /// All goes well.
    Kind,
    /// The server sees nothing.
    Refused,
    /// The server sees so many bytes of the body at most, and the reply is lost.
    Cut(u64),
    /// The same, and the process dies.
    Killed(u64),
    /// The server is busy.
    Busy,
    /// The server forgets unfinished uploads.
    Amnesia,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Kind),
        1 => (0u64..200_000).prop_map(Fate::Killed),
        1 => Just(Fate::Refused),
        3 => (0u64..300).prop_map(Fate::Cut),
        3 => (0u64..300).prop_map(Fate::Killed),
        1 => Just(Fate::Busy),
        1 => Just(Fate::Amnesia),
    ]
}

/// The input that a fate makes of a request; `None`: the process died.
fn meet(model: &mut Model, send: &Send, fate: Fate) -> Option<Input> {
    match fate {
        Fate::Refused => Some(lost(NetErrorKind::Connect)),
        Fate::Busy => Some(reply(503, &[("retry-after", "1")])),
        Fate::Kind | Fate::Amnesia => model.handle(send, u64::MAX),
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
    #[test]
    fn an_upload_ends_complete_whatever_is_lost(
        size in prop_oneof![0u64..256, TAIL - 2..3 * TAIL],
        extensions in prop::sample::select(vec![
            "", "creation,termination", "creation,creation-with-upload", "creation,checksum,termination",
        ]),
        forgets_complete: bool,
        forbids_complete: bool,
        fates in vec(fate(), 0..40),
    ) {
        let facts = facts(size);
        let mut model = Model { extensions, forgets_complete, forbids_complete, uploads: Vec::new(), objects: 0 };
        let mut step = advance(&facts, &Tus::new(&facts), &Input::Begin);
        let (mut forgotten, mut tail) = (0, false);
        // Then the network turns kind, and the upload must end.
        for fate in fates.into_iter().chain([Fate::Kind; 12]) {
            step = match step.next.clone() {
                Next::Done(_) | Next::Fail(_) => break,
                Next::Suspend(cause) => panic!("{cause}"),
                Next::Retry(_) => advance(&facts, &step.state, &Input::Restarted),
                Next::Go(_) => {
                    let send = sent(&step).clone();
                    tail |= matches!(&send.body, Body::File { range, .. } if range.end == size);
                    if matches!(fate, Fate::Amnesia) && forgotten < LOST_MAX {
                        forgotten += 1;
                        model.uploads.iter_mut().filter(|upload| upload.is_some_and(|(at, of)| at < of)).for_each(|upload| *upload = None);
                    }
                    let input = meet(&mut model, &send, fate).unwrap_or(Input::Restarted);
                    advance(&facts, &step.state, &input)
                }
            };
            if let Some(held) = Tus::remote(&step.state).and_then(|url| model.held(url)) {
                prop_assert!(step.done <= held, "believed {} of {held}", step.done);
            }
        }
        match step.next {
            Next::Done(proof) => {
                prop_assert_eq!(proof.size, size);
                // An empty creation whose reply is lost is an object of no bytes.
                prop_assert!(model.objects == 1 || size == 0 && model.objects >= 1, "{:?}", model);
            }
            // Honest only if the server forgot the upload, and its reply was lost. Amnesia about an
            // unfinished upload whose tail was under way looks the same from here.
            Next::Fail(FailCause::OutcomeUnknown(_)) => prop_assert!(tail && (forgets_complete || forgotten > 0)),
            other => prop_assert!(false, "ended with {:?} at {:?}", other, step.state),
        }
    }

    #[test]
    fn no_reply_makes_it_panic_or_believe_too_much(
        status in 100u16..1000,
        name in prop::sample::select(vec!["upload-offset", "upload-length", "location", "tus-max-size", "retry-after", "upload-expires"]),
        value in "[ -~]{0,30}",
        number in any::<u64>(),
        numeric: bool,
        at in 0usize..5,
    ) {
        let states = [State::Discovering, creating(), sending(), probe(Probe::Resume), State::Proving { session: session(100, 100, true) }];
        let value = if numeric { number.to_string() } else { value };
        let input = reply(status, &[("upload-offset", "20"), (name, &value)]);
        let step = advance(&facts(100), &states[at], &input);
        if let State::Sending { session, to } = &step.state {
            prop_assert!(session.acked < *to && *to <= 100);
        }
    }
}

#[test]
fn the_form_on_disk_stands_still() {
    let tally = Tally { lost: 1, rewinds: 2, orphans: 3 };
    let server = Server { checksum: Some(ChecksumAlgorithm::Sha256), with_upload: true, termination: true };
    let session = Session {
        url: "u".to_owned(),
        server,
        tally,
        acked: 4,
        sent: 5,
        tail: true,
        expires: Some(WallMs(6)),
    };
    let states = [
        State::Discovering,
        State::Creating { server, tally, asked: true },
        State::Sending { session: session.clone(), to: 7 },
        State::Probing { session: session.clone(), why: Probe::Doubt },
        State::Proving { session: session.clone() },
        State::Complete { size: 8, evidence: "e".to_owned() },
        State::Cancelling { session },
        State::Gone { acked: 9, cause: FailCause::Expired(4) },
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
00000000
010000000101000000010101000000020000000300000001
020000000100000000000000750101000000010101000000020000000300000004000000000000000500000000000000010106000000000000000700000000000000
0300000001000000000000007501010000000101010000000200000003000000040000000000000005000000000000000101060000000000000001000000
04000000010000000000000075010100000001010100000002000000030000000400000000000000050000000000000001010600000000000000
050000000800000000000000010000000000000065
06000000010000000000000075010100000001010100000002000000030000000400000000000000050000000000000001010600000000000000
0700000009000000000000000500000004000000";

#[test]
fn a_vanished_upload_is_begun_anew_unless_its_tail_was_under_way() {
    let facts = facts(10 * TAIL);
    let body = advance(&facts, &creating(), &reply(201, CREATED));
    assert_eq!(word(&body.next), format!("PATCH 0-{}", 9 * TAIL));
    let probe = advance(&facts, &body.state, &Input::Restarted);
    assert_eq!(word(&advance(&facts, &probe.state, &reply(404, &[])).next), "POST");
    let tail = advance(&facts, &body.state, &reply(204, &[("upload-offset", &(9 * TAIL).to_string())]));
    assert_eq!(word(&tail.next), format!("PATCH {}-{}", 9 * TAIL, 10 * TAIL));
    let probe = advance(&facts, &tail.state, &Input::Restarted);
    assert_eq!(word(&advance(&facts, &probe.state, &reply(404, &[])).next), "outcome-unknown");
    // Nobody saw it, so that nobody can have completed it.
    let probe = advance(&facts, &tail.state, &lost(NetErrorKind::Connect));
    let probe = advance(&facts, &probe.state, &Input::Restarted);
    assert_eq!(word(&advance(&facts, &probe.state, &reply(410, &[])).next), "POST");
}

#[test]
fn an_offset_that_stands_still_ends_the_doubt_about_the_tail() {
    let doubt = State::Probing { session: session(10, 100, true), why: Probe::Doubt };
    let stuck = advance(&facts(100), &doubt, &reply(200, &[("upload-offset", "10")]));
    assert_eq!(word(&stuck.next), "retry");
    let again = advance(&facts(100), &stuck.state, &Input::Restarted);
    assert_eq!(word(&advance(&facts(100), &again.state, &reply(404, &[])).next), "POST");
}

#[test]
fn what_was_once_sent_may_turn_up_later() {
    let mib = |count: u64| (count << 20).to_string();
    let facts = facts(40 << 20);
    let server = Server { checksum: Some(ChecksumAlgorithm::Sha256), ..PLAIN };
    let session = Session { server, ..session(16 << 20, 24 << 20, false) };
    let lower = State::Probing { session, why: Probe::Resume };
    let lower = advance(&facts, &lower, &reply(200, &[("upload-offset", &mib(0))]));
    assert_eq!(word(&lower.next), "PATCH 0-8388608");
    let probe = advance(&facts, &lower.state, &Input::Restarted);
    let higher = advance(&facts, &probe.state, &reply(200, &[("upload-offset", &mib(20))]));
    assert_eq!(word(&higher.next), format!("PATCH {}-{}", 20 << 20, 28 << 20));
    assert_eq!(
        word(&advance(&facts, &probe.state, &reply(200, &[("upload-offset", &mib(25))])).next),
        "protocol"
    );
}
