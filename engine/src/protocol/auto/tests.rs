//! The choice, that nothing is asked twice, and that what was chosen stays so; and the form on disk.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::job::{ChecksumAlgorithm, FailCause, HttpOptions, Token};
use crate::ports::{NetErrorKind, WallMs};
use crate::protocol::{Body, Effect, Send};

const TARGET: &str = "https://files.example/uploads/";
const VERSION: (&str, &str) = ("tus-version", "1.0.0");

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
    let step = Auto::step(facts, state, input).unwrap();
    let stored = bincode::serialize(&step.state).unwrap();
    assert!(stored.len() < 5 << 10, "a state of {} bytes", stored.len());
    assert_eq!(bincode::deserialize::<State>(&stored).unwrap(), step.state);
    let before = Auto::chosen(state);
    assert!(before.is_none() || Auto::chosen(&step.state) == before, "chosen once");
    assert_eq!(step.size, facts.size);
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

#[test]
fn the_question_is_one_that_tus_understands() {
    for input in [Input::Begin, Input::Restarted] {
        let step = advance(&facts(100), &Auto::new(&facts(100)), &input);
        let send = sent(&step);
        assert_eq!((&send.method, send.url.as_str()), (&Method::OPTIONS, TARGET));
        assert_eq!(send.headers["tus-resumable"], "1.0.0");
        assert_eq!(step.state, State::Asking);
    }
}

/// Status, headers, what follows.
type Row<'a> = (u16, &'a [(&'a str, &'a str)], &'a str);

#[test]
fn the_answer_decides_and_is_handed_on() {
    let resumable = ("tus-resumable", "1.0.0");
    let rows: &[(Row<'_>, Option<ProtocolId>)] = &[
        ((204, &[VERSION], "POST"), Some(ProtocolId::Tus)),
        ((200, &[resumable], "POST"), Some(ProtocolId::Tus)),
        ((204, &[VERSION, ("tus-max-size", "99")], "rejected"), Some(ProtocolId::Tus)),
        ((204, &[("tus-version", "0.2.2")], "protocol"), Some(ProtocolId::Tus)),
        ((200, &[("allow", "PUT")], "HEAD"), Some(ProtocolId::Put)),
        ((204, &[], "HEAD"), Some(ProtocolId::Put)),
        ((301, &[("location", "/b")], "HEAD"), Some(ProtocolId::Put)),
        ((400, &[], "HEAD"), Some(ProtocolId::Put)),
        ((401, &[], "HEAD"), Some(ProtocolId::Put)),
        ((403, &[VERSION], "HEAD"), Some(ProtocolId::Put)),
        ((404, &[], "HEAD"), Some(ProtocolId::Put)),
        ((405, &[], "HEAD"), Some(ProtocolId::Put)),
        ((501, &[], "HEAD"), Some(ProtocolId::Put)),
        ((507, &[], "HEAD"), Some(ProtocolId::Put)),
        ((408, &[], "retry"), None),
        ((429, &[VERSION], "retry"), None),
        ((500, &[], "retry"), None),
        ((503, &[("retry-after", "9")], "retry"), None),
    ];
    for ((status, headers, expected), chosen) in rows {
        let step = advance(&facts(100), &State::Asking, &reply(*status, headers));
        assert_eq!(
            (word(&step.next).as_str(), Auto::chosen(&step.state)),
            (*expected, *chosen),
            "{status} {headers:?}"
        );
        assert_eq!(step.note.is_some(), chosen.is_some());
    }
    let tus = advance(&facts(100), &State::Asking, &reply(204, &[VERSION]));
    assert_eq!(tus.note.as_deref(), Some("the server speaks tus"));
    let put = advance(&facts(100), &State::Asking, &reply(405, &[]));
    assert_eq!(put.note.as_deref(), Some("no tus here (OPTIONS answered 405): PUT"));
    assert_eq!(sent(&put).url, "https://files.example/uploads/a%20b.bin");
}

#[test]
fn without_an_answer_nothing_is_chosen() {
    for (kind, expected) in [
        (NetErrorKind::Connect, "retry"),
        (NetErrorKind::Offline, "retry"),
        (NetErrorKind::Broken, "retry"),
        (NetErrorKind::Timeout, "retry"),
        (NetErrorKind::Tls, "protocol"),
        (NetErrorKind::Refused, "protocol"),
    ] {
        let step = advance(&facts(100), &State::Asking, &lost(kind));
        assert_eq!((word(&step.next).as_str(), &step.state), (expected, &State::Asking), "{kind:?}");
    }
    let offline = advance(&facts(100), &State::Asking, &lost(NetErrorKind::Offline));
    assert!(matches!(offline.next, Next::Retry(retry) if retry.offline));
    assert_eq!(word(&advance(&facts(100), &State::Asking, &Input::Cancel).next), "done");
}

#[test]
fn what_is_left_at_the_server_is_what_the_chosen_one_left() {
    let step = advance(&facts(100), &State::Asking, &reply(204, &[VERSION]));
    assert_eq!(Auto::remote(&step.state), None);
    let step = advance(&facts(100), &step.state, &reply(201, &[("location", "/uploads/7")]));
    assert_eq!(Auto::remote(&step.state), Some("https://files.example/uploads/7"));
    assert_eq!(word(&advance(&facts(100), &step.state, &Input::Restarted).next), "HEAD");
    assert_eq!(word(&advance(&facts(100), &step.state, &Input::Cancel).next), "DELETE");
    let put = advance(&facts(100), &State::Asking, &reply(405, &[]));
    assert_eq!(Auto::remote(&put.state), None);
    assert_eq!(word(&advance(&facts(100), &put.state, &Input::Cancel).next), "done");
}

#[test]
fn what_cannot_follow_is_an_error_and_no_panic() {
    let Input::Reply { reply: told, .. } = reply(204, &[]) else { unreachable!() };
    let put = State::Put(Put::new(&facts(100)));
    for (state, input) in [
        (&State::Asking, &Input::Reply { lane: 1, reply: told }),
        (&State::Asking, &Input::Synced { lane: 0, extent: 0..1, last: false }),
        (&State::Asking, &Input::Digested { algorithm: ChecksumAlgorithm::Sha1, digest: Vec::new() }),
        (&State::Asking, &Input::Woken { lane: 0 }),
        (&put, &Input::Woken { lane: 0 }),
    ] {
        assert!(Auto::step(&facts(100), state, input).is_err(), "{input:?} in {state:?}");
    }
    assert!(Auto::step(&Facts { size: None, ..facts(0) }, &State::Asking, &Input::Begin).is_err());
}

/// A server of one object that speaks tus or PUT, by the letter.
#[derive(Debug)]
struct Model {
    tus: bool,
    size: u64,
    /// Bytes of the one upload, of which no second is begun here.
    uploads: Vec<u64>,
    object: Option<u64>,
}

impl Model {
    fn handle(&mut self, send: &Send) -> Input {
        let range = match &send.body {
            Body::File { range, .. } => range.clone(),
            Body::Empty | Body::Bytes(_) | Body::Form { .. } => 0..0,
        };
        let at = send.url.rsplit('/').next().and_then(|id| id.parse::<usize>().ok());
        match (send.method.as_str(), self.tus, at) {
            ("OPTIONS", true, _) => reply(204, &[VERSION, ("tus-extension", "creation,termination")]),
            ("OPTIONS", false, _) => reply(405, &[("allow", "PUT, GET, HEAD")]),
            ("POST", true, _) => {
                self.uploads.push(0);
                if self.size == 0 {
                    self.object = Some(0);
                }
                reply(201, &[("location", &format!("/uploads/{}", self.uploads.len() - 1))])
            }
            ("HEAD", true, Some(at)) => {
                let (offset, length) = (self.uploads[at].to_string(), self.size.to_string());
                reply(200, &[("upload-offset", &offset), ("upload-length", &length)])
            }
            ("PATCH", true, Some(at)) if self.uploads[at] != range.start => reply(409, &[]),
            ("PATCH", true, Some(at)) => {
                self.uploads[at] = range.end;
                if range.end == self.size {
                    self.object = Some(self.size);
                }
                reply(204, &[("upload-offset", &range.end.to_string())])
            }
            ("HEAD", false, None) => match self.object {
                Some(length) => reply(200, &[("content-length", &length.to_string())]),
                None => reply(404, &[]),
            },
            ("PUT", false, None) => {
                self.object = Some(range.end);
                reply(201, &[])
            }
            other => panic!("{other:?}"),
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Fate {
    Well,
    Refused,
    Cut,
    Killed,
    Busy,
}

proptest! {
    #[test]
    fn an_upload_ends_complete_whatever_is_spoken(
        tus: bool,
        size in 0u64..200_000,
        fates in vec(prop::sample::select(vec![Fate::Well, Fate::Refused, Fate::Cut, Fate::Killed, Fate::Busy]), 0..30),
    ) {
        let facts = facts(size);
        let mut model = Model { tus, size, uploads: Vec::new(), object: None };
        let mut step = advance(&facts, &Auto::new(&facts), &Input::Begin);
        let (mut asked, mut answered) = (0, 0);
        for fate in fates.into_iter().chain([Fate::Well; 10]) {
            step = match step.next.clone() {
                Next::Done(_) | Next::Fail(_) => break,
                Next::Suspend(cause) => panic!("{cause}"),
                Next::Retry(_) => advance(&facts, &step.state, &Input::Restarted),
                Next::Go(_) => {
                    let send = sent(&step).clone();
                    let options = u32::from(send.method == Method::OPTIONS);
                    asked += options;
                    let input = match fate {
                        Fate::Well => {
                            answered += options;
                            model.handle(&send)
                        }
                        Fate::Refused => lost(NetErrorKind::Connect),
                        Fate::Busy => reply(503, &[]),
                        Fate::Cut => {
                            model.handle(&send);
                            lost(NetErrorKind::Broken)
                        }
                        Fate::Killed => {
                            model.handle(&send);
                            Input::Restarted
                        }
                    };
                    advance(&facts, &step.state, &input)
                }
            };
        }
        let Next::Done(proof) = step.next else { panic!("ended with {step:?}") };
        prop_assert_eq!((proof.size, model.object), (size, Some(size)));
        prop_assert_eq!(Auto::chosen(&step.state), Some(if tus { ProtocolId::Tus } else { ProtocolId::Put }));
        prop_assert!(asked >= 1 && answered == 1, "asked again after an answer");
    }
}

#[test]
fn the_form_on_disk_stands_still() {
    let gone = put::State::Gone { cause: FailCause::Cancelled };
    let states = [State::Asking, State::Tus(tus::State::Discovering), State::Put(gone)];
    let hex = |state: &State| -> String {
        let bytes = bincode::serialize(state).unwrap();
        bytes.iter().fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
    };
    let form: Vec<String> = states.iter().map(hex).collect();
    assert_eq!(form, ["00000000", "0100000000000000", "020000000400000000000000"]);
    let registered = bincode::serialize(&crate::protocol::State::Auto(State::Asking)).unwrap();
    assert_eq!(registered, [6, 0, 0, 0, 0]);
}
