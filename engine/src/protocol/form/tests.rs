//! A lying server (table), an honest one that loses things (property), the bytes of a form, and the form on disk.

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::job::{self, ChecksumAlgorithm, HttpOptions, Token};
use crate::ports::WallMs;

const TARGET: &str = "https://files.example/upload";
const HEX: &str = "07070707070707070707070707070707";

fn keyed() -> HttpOptions {
    HttpOptions { idempotent_post: true, ..HttpOptions::PLAIN }
}

fn facts(http: &HttpOptions) -> Facts<'_> {
    Facts {
        url: TARGET,
        size: Some(100),
        name: "a b.bin",
        token: Token([7; 16]),
        checksum: None,
        now: WallMs(1_800_000_000_000),
        lanes: 1,
        mirrors: &[],
        http,
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
    let step = Form::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < 1 << 10, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    let complete = matches!(step.state, State::Complete { .. });
    assert_eq!(step.done, if complete { facts.size.unwrap() } else { 0 });
    assert_eq!(matches!(step.next, Next::Go(_)), matches!(step.state, State::Posting { .. }));
    if matches!(step.next, Next::Go(_)) {
        let send = sent(&step);
        assert_eq!(
            (&send.method, send.url.as_str(), send.follow_redirects),
            (&Method::POST, facts.url, false)
        );
        assert!(matches!(send.body, Body::Form { .. }), "never the bare file");
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

fn word(next: &Next) -> &'static str {
    match next {
        Next::Go(_) => "POST",
        Next::Retry(_) => "retry",
        Next::Done(_) => "done",
        Next::Fail(cause) => cause.name(),
        Next::Suspend(cause) => cause.name(),
    }
}

#[test]
fn what_a_reply_means_depends_on_whether_there_is_a_key() {
    let posting = State::Posting { before: 0 };
    for (status, plain, with_key) in [
        (200, "done", "done"),
        (201, "done", "done"),
        (202, "done", "done"),
        (204, "done", "done"),
        (303, "done", "done"),
        (301, "rejected", "rejected"),
        (302, "rejected", "rejected"),
        (307, "rejected", "rejected"),
        (308, "rejected", "rejected"),
        (100, "protocol", "protocol"),
        (400, "rejected", "rejected"),
        (401, "auth", "auth"),
        (403, "auth", "auth"),
        (404, "rejected", "rejected"),
        (408, "retry", "retry"),
        (409, "rejected", "retry"),
        (413, "rejected", "rejected"),
        (422, "rejected", "rejected"),
        (425, "retry", "retry"),
        (429, "retry", "retry"),
        (500, "rejected", "retry"),
        (501, "rejected", "rejected"),
        (502, "outcome-unknown", "retry"),
        (503, "retry", "retry"),
        (504, "outcome-unknown", "retry"),
        (507, "rejected", "rejected"),
        (999, "protocol", "protocol"),
    ] {
        let location = [("location", "https://files.example/7")];
        let said =
            |http: &HttpOptions| word(&advance(&facts(http), &posting, &reply(status, &location)).next);
        assert_eq!((said(&HttpOptions::PLAIN), said(&keyed())), (plain, with_key), "{status}");
    }
}

#[test]
fn a_lost_answer_is_unknown_unless_nobody_saw_the_question_or_there_is_a_key() {
    let posting = State::Posting { before: 0 };
    for (kind, plain, with_key) in [
        (NetErrorKind::Connect, "retry", "retry"),
        (NetErrorKind::Offline, "retry", "retry"),
        (NetErrorKind::Timeout, "outcome-unknown", "retry"),
        (NetErrorKind::Broken, "outcome-unknown", "retry"),
        (NetErrorKind::Body, "outcome-unknown", "retry"),
        (NetErrorKind::Tls, "protocol", "protocol"),
        (NetErrorKind::Refused, "protocol", "protocol"),
    ] {
        let said = |http: &HttpOptions| word(&advance(&facts(http), &posting, &lost(kind)).next);
        assert_eq!((said(&HttpOptions::PLAIN), said(&keyed())), (plain, with_key), "{kind:?}");
    }
    let restarted =
        |http: &HttpOptions, state: &State| word(&advance(&facts(http), state, &Input::Restarted).next);
    assert_eq!(restarted(&HttpOptions::PLAIN, &posting), "outcome-unknown");
    assert_eq!(restarted(&keyed(), &posting), "POST");
    assert_eq!(restarted(&HttpOptions::PLAIN, &State::Ready { before: 1 }), "POST");
}

#[test]
fn causes_say_what_happened() {
    let (plain, posting) = (HttpOptions::PLAIN, State::Posting { before: 0 });
    let fails = |input: &Input| match advance(&facts(&plain), &posting, input).next {
        Next::Fail(cause) => cause.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        fails(&Input::Restarted),
        "the outcome is unknown: no answer to POST, so that the server may have the file; it is not sent \
         twice: it was interrupted"
    );
    assert!(
        fails(&reply(502, &[])).ends_with("a gateway at files.example answered 502, not the server itself")
    );
    assert!(fails(&reply(307, &[("location", "/b")])).contains("a redirect of a form is not followed"));
    let done = advance(&facts(&plain), &posting, &reply(201, &[]));
    assert_eq!(done.next, Next::Done(Proof { size: 100, evidence: "POST answered 201".to_owned() }));
    let again = advance(&facts(&keyed()), &State::Posting { before: 1 }, &reply(200, &[]));
    let Next::Done(proof) = again.next else { panic!("{again:?}") };
    assert_eq!(proof.evidence, "POST answered 200, to a POST repeated with its Idempotency-Key");
    let busy = advance(&facts(&keyed()), &posting, &reply(409, &[("retry-after", "7")]));
    let Next::Retry(retry) = busy.next else { panic!("{busy:?}") };
    assert_eq!(retry.after, Some(std::time::Duration::from_secs(7)));
}

/// Head and tail of the form, as text.
fn form(http: &HttpOptions, name: &str) -> (String, String, HeaderMap) {
    let facts = Facts { name, ..facts(http) };
    let step = advance(&facts, &Form::new(&facts), &Input::Begin);
    let again = advance(&facts, &State::Ready { before: 3 }, &Input::Restarted);
    assert_eq!(sent(&step), sent(&again), "every POST is the same");
    let Body::Form { head, tail } = &sent(&step).body else { panic!("{step:?}") };
    let text = |bytes: &Vec<u8>| String::from_utf8(bytes.clone()).unwrap();
    (text(head), text(tail), sent(&step).headers.clone())
}

#[test]
fn a_form_without_wishes_is_the_file_alone() {
    let (head, tail, headers) = form(&HttpOptions::PLAIN, "dir/a b.bin");
    assert_eq!(headers["content-type"], format!("multipart/form-data; boundary=haul-{HEX}").as_str());
    assert!(!headers.contains_key("idempotency-key"));
    assert_eq!(
        head,
        format!(
            "--haul-{HEX}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a b.bin\"\r\n\
             Content-Type: application/octet-stream\r\n\r\n"
        )
    );
    assert_eq!(tail, format!("\r\n--haul-{HEX}--\r\n"));
    assert_eq!(form(&keyed(), "a").2["idempotency-key"], format!("\"{HEX}\"").as_str());
}

#[test]
fn fields_come_first_and_cannot_break_out() {
    let fields = [("title", "Ü \"x\"\n"), ("a\"\r\nb\rc\0", "1\r\n2\r3\n4"), ("", "")];
    let fields = fields.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let field = "up\"load\n".to_owned();
    let http = HttpOptions {
        form: Some(job::Form { field, fields }),
        content_type: Some("video/mp4".to_owned()),
        ..HttpOptions::PLAIN
    };
    let (head, ..) = form(&http, "x\"; filename=\"y\r\n\r\nz\u{7}.mp4");
    let part = format!("--haul-{HEX}\r\nContent-Disposition: form-data; name=");
    assert_eq!(
        head,
        format!(
            "{part}\"title\"\r\n\r\nÜ \"x\"\r\n\r\n\
             {part}\"a%22%0D%0Ab%0D%0Ac_\"\r\n\r\n1\r\n2\r\n3\r\n4\r\n\
             {part}\"\"\r\n\r\n\r\n\
             {part}\"up%22load%0D%0A\"; filename=\"x%22; filename=%22y%0D%0A%0D%0Az_.mp4\"\r\n\
             Content-Type: video/mp4\r\n\r\n"
        )
    );
    for (name, expected) in [("", "file"), ("a/", "a"), ("a/b/c", "c")] {
        assert!(form(&HttpOptions::PLAIN, name).0.contains(&format!("filename=\"{expected}\"")), "{name}");
    }
    let http = HttpOptions { content_type: Some("a\r\nb: c".to_owned()), ..HttpOptions::PLAIN };
    let facts = facts(&http);
    assert_eq!(word(&advance(&facts, &Form::new(&facts), &Input::Begin).next), "local-io");
}

#[test]
fn no_text_has_the_boundary_in_it() {
    let texts = [format!("x--haul-{HEX}-"), format!("haul-{HEX}")];
    let fields = texts.map(|text| ("k".to_owned(), text)).to_vec();
    let http = HttpOptions { form: Some(job::Form { field: "f".to_owned(), fields }), ..HttpOptions::PLAIN };
    let (head, tail, headers) = form(&http, "a");
    assert_eq!(headers["content-type"], format!("multipart/form-data; boundary=haul-{HEX}--").as_str());
    assert_eq!(tail, format!("\r\n--haul-{HEX}----\r\n"));
    assert_eq!(head.matches(&format!("--haul-{HEX}--\r\n")).count(), 3);
}

#[test]
fn there_is_nothing_to_free() {
    let (plain, complete) = (HttpOptions::PLAIN, State::Complete { size: 100, evidence: "e".to_owned() });
    let facts = facts(&plain);
    for state in [State::Ready { before: 0 }, State::Ready { before: 1 }, State::Posting { before: 0 }] {
        let step = advance(&facts, &state, &Input::Cancel);
        assert_eq!((word(&step.next), &step.state), ("done", &State::Gone { cause: FailCause::Cancelled }));
        assert_eq!(word(&advance(&facts, &step.state, &Input::Restarted).next), "cancelled");
    }
    assert_eq!(advance(&facts, &complete, &Input::Cancel).state, complete);
    assert_eq!(word(&advance(&facts, &complete, &Input::Restarted).next), "done");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let (plain, posting) = (HttpOptions::PLAIN, State::Posting { before: 0 });
    let facts = facts(&plain);
    for (state, input) in [
        (&posting, &Input::Begin),
        (&posting, &Input::Synced { lane: 0, extent: 0..1, last: false }),
        (&posting, &Input::Digested { algorithm: ChecksumAlgorithm::Sha1, digest: Vec::new() }),
        (&posting, &Input::Woken { lane: 0 }),
        (&State::Ready { before: 0 }, &reply(200, &[])),
        (&State::Gone { cause: FailCause::Cancelled }, &reply(200, &[])),
        (&State::Complete { size: 1, evidence: String::new() }, &lost(NetErrorKind::Broken)),
    ] {
        assert!(Form::step(&facts, state, input).is_err(), "{input:?} in {state:?}");
    }
    let Input::Reply { reply, .. } = reply(204, &[]) else { unreachable!() };
    assert!(Form::step(&facts, &posting, &Input::Reply { lane: 1, reply }).is_err());
    assert!(Form::step(&Facts { size: None, ..facts }, &Form::new(&facts), &Input::Begin).is_err());
}

/// A server that takes forms.
#[derive(Debug, Default)]
struct Model {
    /// POSTs that came whole and were processed.
    processed: u32,
    /// POSTs of which something arrived.
    reached: u32,
    /// Processed with the key.
    known: bool,
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Refused,
    /// Whether the body arrived whole; the reply is lost.
    Cut(bool),
    /// The same, and the process dies.
    Killed(bool),
    Busy,
    /// Not looked at.
    Throttled,
    /// Processed or not, and a gateway says 504.
    Gateway(bool),
    /// The server fails after or before it processed it.
    Broken(bool),
    /// Held and resumed while nothing is in flight.
    Held,
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        2 => Just(Fate::Well),
        2 => Just(Fate::Refused),
        1 => any::<bool>().prop_map(Fate::Cut),
        1 => any::<bool>().prop_map(Fate::Killed),
        2 => Just(Fate::Busy),
        2 => Just(Fate::Throttled),
        1 => any::<bool>().prop_map(Fate::Gateway),
        1 => any::<bool>().prop_map(Fate::Broken),
        2 => Just(Fate::Held),
    ]
}

impl Model {
    fn process(&mut self, send: &Send) -> Input {
        let key = send.headers.get("idempotency-key");
        if key.is_none() || !self.known {
            self.processed += 1;
        }
        self.known |= key.is_some();
        reply(201, &[])
    }

    /// What a fate makes of a request; `None`: the process died.
    fn meet(&mut self, send: &Send, fate: Fate) -> Option<Input> {
        let whole = match fate {
            Fate::Refused => return Some(lost(NetErrorKind::Connect)),
            Fate::Busy => return Some(reply(503, &[])),
            Fate::Throttled => return Some(reply(429, &[("retry-after", "1")])),
            Fate::Well | Fate::Held => true,
            Fate::Cut(whole) | Fate::Killed(whole) | Fate::Gateway(whole) | Fate::Broken(whole) => whole,
        };
        self.reached += 1;
        let answer = if whole { Some(self.process(send)) } else { None };
        match fate {
            Fate::Well | Fate::Held => answer,
            Fate::Cut(_) => Some(lost(NetErrorKind::Broken)),
            Fate::Gateway(_) => Some(reply(504, &[])),
            Fate::Broken(_) => Some(reply(500, &[])),
            Fate::Killed(_) | Fate::Refused | Fate::Busy | Fate::Throttled => None,
        }
    }
}

proptest! {
    #[test]
    fn a_form_is_processed_once_or_its_outcome_is_said_to_be_unknown(
        with_key: bool,
        fates in vec(fate(), 0..30),
    ) {
        let http = HttpOptions { idempotent_post: with_key, ..HttpOptions::PLAIN };
        let facts = facts(&http);
        let mut model = Model::default();
        let mut step = advance(&facts, &Form::new(&facts), &Input::Begin);
        let first = sent(&step).clone();
        // Then the network turns kind, and the upload must end.
        for fate in fates.into_iter().chain([Fate::Well; 3]) {
            step = match step.next.clone() {
                Next::Done(_) | Next::Fail(_) => break,
                Next::Suspend(cause) => panic!("{cause}"),
                Next::Retry(_) => advance(&facts, &step.state, &Input::Restarted),
                Next::Go(_) => {
                    prop_assert!(with_key || model.reached == 0, "sent again after it may have been processed");
                    prop_assert_eq!(sent(&step), &first);
                    let input = model.meet(&first, fate).unwrap_or(Input::Restarted);
                    advance(&facts, &step.state, &input)
                }
            };
        }
        prop_assert!(model.processed <= 1, "{:?}", model);
        match step.next {
            Next::Done(proof) => {
                prop_assert_eq!(proof.size, 100);
                prop_assert_eq!(model.processed, 1);
            }
            Next::Fail(FailCause::OutcomeUnknown(_)) => prop_assert!(!with_key && model.reached == 1),
            // The server's own word that it failed, for what it is worth.
            Next::Fail(FailCause::Rejected { status: 500, .. }) => prop_assert!(!with_key && model.reached == 1),
            other => prop_assert!(false, "ended with {:?} at {:?}", other, step.state),
        }
    }

    #[test]
    fn no_reply_makes_it_panic_or_believe_anything_but_a_yes(status in 100u16..1000, with_key: bool, value in "[ -~]{0,30}") {
        let http = HttpOptions { idempotent_post: with_key, ..HttpOptions::PLAIN };
        let headers = [("location", value.as_str()), ("retry-after", &value)];
        let step = advance(&facts(&http), &State::Posting { before: 0 }, &reply(status, &headers));
        prop_assert_eq!(matches!(step.next, Next::Done(_)), (200..300).contains(&status) || status == 303);
    }
}

#[test]
fn the_form_on_disk_stands_still() {
    let states = [
        State::Ready { before: 1 },
        State::Posting { before: 2 },
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
0000000001000000
0100000002000000
020000000800000000000000010000000000000065
0300000000000000";
