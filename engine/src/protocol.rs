//! The contract between the job machine and the protocols.
//!
//! A protocol is a pure state machine in a file of its own. It sees no socket, file, clock or
//! random number: inputs come in, a next state and what to do about it go out. Nothing that it asks
//! for happens before that next state is durable in the journal.
//!
//! ```text
//!            Begin, Restarted, Reply, Lost, Synced, Digested, Cancel
//!   runner ────────────────────────────────────────────────────────▶ step ─▶ Step { state, next }
//!      ▲                                                                            │
//!      └─ Go(effects) · Retry(hint) · Done(proof) · Fail(cause) · Suspend(cause) ◀──┘
//! ```
//!
//! Absent on purpose: when to retry (`schedule::retry`), credentials (added when a request is
//! performed, so that no secret is ever in a state), and concurrency (the runner's).

pub mod auto;
pub mod form;
pub mod get;
pub mod put;
pub mod segments;
pub mod tus;
pub mod tus_parts;
pub mod wire;

use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde::{Deserialize, Serialize};

use crate::job::{
    Checksum, ChecksumAlgorithm, Direction, FailCause, HttpOptions, Proof, SuspendCause, Token,
};
use crate::ports::{NetErrorKind, WallMs};

/// What a protocol may know of its job.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The URL the job was submitted with.
    pub url: &'a str,
    /// Bytes of an upload's snapshot; `None` for a download.
    pub size: Option<u64>,
    /// The file's own name: what an upload calls itself, where a protocol has a place for it.
    pub name: &'a str,
    /// The job's random 128 bits, to be found again on servers.
    pub token: Token,
    /// The checksum the user asked for.
    pub checksum: Option<&'a Checksum>,
    /// Wall time of this step.
    pub now: WallMs,
    /// Exchanges that may be in flight side by side, at least 1.
    pub lanes: u16,
    /// Other URLs of the same file.
    pub mirrors: &'a [String],
    /// What single protocols want to know.
    pub http: &'a HttpOptions,
}

/// What happened, as protocols see it.
#[derive(Clone, Debug)]
pub enum Input {
    /// First input of a new job.
    Begin,
    /// Nothing is in flight any more: the process restarted, the job was resumed, or a back-off
    /// ended. The answer is normally a probe.
    Restarted,
    /// A reply has arrived. For [`Sink::Hold`] the body is still on the wire: answer with
    /// [`Effect::Store`] to have it, anything else closes it.
    Reply {
        /// The lane of the [`Send`].
        lane: u16,
        /// The reply.
        reply: Reply,
    },
    /// A request went without (whole) reply; what it did at the server is not known, except for
    /// [`NetErrorKind::is_unsent`]. For a stored body: what came before was synced and told first.
    Lost {
        /// The lane of the [`Send`].
        lane: u16,
        /// How.
        kind: NetErrorKind,
        /// For people, without secrets.
        why: String,
    },
    /// Bytes of a stored body are durable in the part file.
    Synced {
        /// The lane of the [`Effect::Store`].
        lane: u16,
        /// The bytes, as offsets in the file; extents of one store come in order without a gap.
        extent: Range<u64>,
        /// The body has ended, and this was all of it.
        last: bool,
    },
    /// The answer to [`Effect::Digest`].
    Digested {
        /// The algorithm asked for.
        algorithm: ChecksumAlgorithm,
        /// The digest of the whole part file.
        digest: Vec<u8>,
    },
    /// A pause that [`Effect::Pause`] asked for is over. Pauses do not outlive [`Input::Restarted`].
    Woken {
        /// Its lane.
        lane: u16,
    },
    /// Abandon the remote session: free what the server holds. Answer `Done` or `Fail` when there is
    /// nothing (more) to free. Later inputs belong to the clean-up.
    Cancel,
}

/// A reply's head and, for [`Sink::Small`], its body.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Final status.
    pub status: StatusCode,
    /// Headers as received.
    pub headers: HeaderMap,
    /// URL that answered, after redirects.
    pub url: String,
    /// Whether a body that was cut off would be known for it.
    pub framed: bool,
    /// At most the sink's limit; empty for [`Sink::Hold`].
    pub body: Bytes,
}

/// A protocol's answer to one input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<S> {
    /// The state to journal.
    pub state: S,
    /// Bytes that the other side has confirmed (upload) or that are durable here (download).
    pub done: u64,
    /// The whole size, once known.
    pub size: Option<u64>,
    /// What to do once the state is durable.
    pub next: Next,
    /// A line for the job's history, where the step is worth one.
    pub note: Option<String>,
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Carry these out (none: wait for what is in flight).
    Go(Vec<Effect>),
    /// Nothing is to stay in flight; back off, then [`Input::Restarted`].
    Retry(Retry),
    /// The object is there, and this shows it. For a download: the part file is whole and verified;
    /// the runner publishes it. After [`Input::Cancel`]: nothing is left at the server.
    Done(Proof),
    /// The end; the runner frees what is held (with [`Input::Cancel`] for the remote part).
    Fail(FailCause),
    /// Cannot go on without help; keeps everything. [`Input::Restarted`] follows a resume.
    Suspend(SuspendCause),
}

/// A request for another attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// The server's own wish (Retry-After), unclamped.
    pub after: Option<Duration>,
    /// The server throttles (429, 503): slower back-off.
    pub throttled: bool,
    /// There was no way to the server: no attempt is counted, and the way is tried until there is one.
    pub offline: bool,
    /// For people: what went wrong, without secrets.
    pub why: String,
}

impl Retry {
    /// An ordinary failure.
    pub fn because(why: impl Into<String>) -> Self {
        Self { after: None, throttled: false, offline: false, why: why.into() }
    }
}

/// What a protocol can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a request.
    Send(Box<Send>),
    /// Store the held body of this lane in the part file from `offset` on. `limit` bytes at most
    /// are taken; a body that goes on past it is cut there and counts as ended if exactly that
    /// much was expected.
    Store {
        /// The lane.
        lane: u16,
        /// First byte's place in the part file.
        offset: u64,
        /// Bytes expected, when known.
        limit: Option<u64>,
        /// The part file has its whole length already ([`Effect::Reserve`]), and other lanes write to it: what lies
        /// after `offset` stays.
        within: bool,
    },
    /// Wait as long as a job would that failed `attempts` times before in a row, then [`Input::Woken`]. Other lanes go
    /// on meanwhile.
    Pause {
        /// The lane that has nothing in flight.
        lane: u16,
        /// Failures of the lane before this one, in a row.
        attempts: u32,
        /// What the server wishes.
        retry: Retry,
    },
    /// Hash the whole part file.
    Digest(ChecksumAlgorithm),
    /// Cut the part file to this length (0: start over).
    Truncate(u64),
    /// Empty the part file and give it this length, durably.
    Reserve(u64),
}

/// A request as a protocol words it. Credentials and User-Agent are added when it is performed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Send {
    /// Which of a job's parallel exchanges this is; one is in flight per lane.
    pub lane: u16,
    /// The method.
    pub method: Method,
    /// Absolute URL.
    pub url: String,
    /// Protocol headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Body,
    /// Where the reply's body goes.
    pub sink: Sink,
    /// Follow redirects (GET and HEAD only).
    pub follow_redirects: bool,
}

/// A request's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// None.
    Empty,
    /// These bytes.
    Bytes(Vec<u8>),
    /// A range of the snapshot.
    File {
        /// The bytes.
        range: Range<u64>,
        /// Hash the range first and put the digest into this header.
        digest: Option<DigestHeader>,
    },
    /// The snapshot between two texts: a form. The snapshot is whole.
    Form {
        /// What comes before the file.
        head: Vec<u8>,
        /// What comes after it.
        tail: Vec<u8>,
    },
}

/// A header whose value is the digest of the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DigestHeader {
    /// Header name, lower case.
    pub name: &'static str,
    /// What comes before the base64 of the digest, such as `"sha1 "`.
    pub prefix: &'static str,
    /// What comes after it.
    pub suffix: &'static str,
    /// The algorithm.
    pub algorithm: ChecksumAlgorithm,
}

/// Where a reply's body goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Into memory, at most this many bytes; more is cut off and the connection closed.
    Small(usize),
    /// Nowhere yet: for a 2xx the head is told first, and [`Effect::Store`] decides. Other
    /// statuses behave like `Small(64 KiB)`.
    Hold,
}

/// An input that cannot follow from a state: a bug or a lying server. The job fails; no retry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StepError(pub String);

impl StepError {
    /// Words an impossible pair. Only the state's name: a session URL in it is a bearer secret.
    pub fn unexpected(state: &impl fmt::Debug, input: &Input) -> Self {
        let state = format!("{state:?}");
        let name = state.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        Self(format!("{} cannot follow {name}", input.name()))
    }
}

impl Input {
    /// The input's bare name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Begin => "Begin",
            Self::Restarted => "Restarted",
            Self::Reply { .. } => "Reply",
            Self::Lost { .. } => "Lost",
            Self::Synced { .. } => "Synced",
            Self::Digested { .. } => "Digested",
            Self::Woken { .. } => "Woken",
            Self::Cancel => "Cancel",
        }
    }
}

/// One protocol.
pub trait Protocol {
    /// What is journaled. Small: a whole state is written at every step.
    type State: Clone + fmt::Debug + PartialEq + Eq + Serialize + for<'a> Deserialize<'a>;
    /// How people name it.
    const NAME: &'static str;
    /// Which way it moves files.
    const DIRECTION: Direction;
    /// The state in which a new job gets [`Input::Begin`].
    fn new(facts: &Facts<'_>) -> Self::State;
    /// Advances by one input; says what to do, does nothing.
    fn step(facts: &Facts<'_>, state: &Self::State, input: &Input) -> Result<Step<Self::State>, StepError>;
    /// The name to publish a download under, if the server gave one (already safe).
    fn served_name(_state: &Self::State) -> Option<&str> {
        None
    }
    /// What would be left at the server if the session were forgotten, for people.
    fn remote(_state: &Self::State) -> Option<&str> {
        None
    }
    /// What the state becomes once it is known that the server cannot have the whole of the request under way; `None`:
    /// that makes no difference.
    fn unsent(_state: &Self::State) -> Option<Self::State> {
        None
    }
    /// Which protocol is spoken, for one that leaves the choice to what it finds.
    fn chosen(_state: &Self::State) -> Option<ProtocolId> {
        None
    }
}

macro_rules! registry {
    ($( $(#[$doc:meta])* $tag:literal => $variant:ident($protocol:ty) ),+ $(,)?) => {
        /// Which protocol a job speaks. The numbers are on disk and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(into = "u8", try_from = "u8")]
        #[non_exhaustive]
        pub enum ProtocolId { $( $(#[$doc])* $variant ),+ }

        impl From<ProtocolId> for u8 {
            fn from(id: ProtocolId) -> u8 { match id { $( ProtocolId::$variant => $tag ),+ } }
        }

        impl TryFrom<u8> for ProtocolId {
            type Error = String;
            fn try_from(tag: u8) -> Result<Self, String> {
                match tag {
                    $( $tag => Ok(Self::$variant), )+
                    other => Err(format!("protocol {other} is not known to this version")),
                }
            }
        }

        impl ProtocolId {
            /// Every registered protocol.
            pub const ALL: &'static [Self] = &[ $( Self::$variant ),+ ];
            /// How people name it.
            pub fn name(self) -> &'static str { match self { $( Self::$variant => <$protocol>::NAME ),+ } }
            /// Which way it moves files.
            pub fn direction(self) -> Direction { match self { $( Self::$variant => <$protocol>::DIRECTION ),+ } }
            /// The state of a job that has not begun.
            pub fn start(self, facts: &Facts<'_>) -> State {
                match self { $( Self::$variant => State::$variant(<$protocol>::new(facts)) ),+ }
            }
        }

        /// The journaled state of one job's protocol.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum State { $( $(#[$doc])* $variant(<$protocol as Protocol>::State) ),+ }

        impl State {
            /// Which protocol's.
            pub fn protocol(&self) -> ProtocolId { match self { $( Self::$variant(_) => ProtocolId::$variant ),+ } }

            /// Advances by one input.
            ///
            /// # Errors
            ///
            /// [`StepError`]: the input cannot follow from this state.
            pub fn step(&self, facts: &Facts<'_>, input: &Input) -> Result<Step<State>, StepError> {
                match self { $( Self::$variant(state) => {
                    let step = <$protocol>::step(facts, state, input)?;
                    Ok(Step { state: Self::$variant(step.state), done: step.done, size: step.size, next: step.next, note: step.note })
                } ),+ }
            }

            /// The name the server gave a download.
            pub fn served_name(&self) -> Option<&str> { match self { $( Self::$variant(state) => <$protocol>::served_name(state) ),+ } }

            /// What would be left at the server if the session were forgotten.
            pub fn remote(&self) -> Option<&str> { match self { $( Self::$variant(state) => <$protocol>::remote(state) ),+ } }

            /// What the state becomes once it is known that the server cannot have the whole of the request under way.
            pub fn unsent(&self) -> Option<State> { match self { $( Self::$variant(state) => <$protocol>::unsent(state).map(Self::$variant) ),+ } }

            /// Which protocol was found to be spoken.
            pub fn chosen(&self) -> Option<ProtocolId> { match self { $( Self::$variant(state) => <$protocol>::chosen(state) ),+ } }
        }

        // By hand, so that the registry's tag, not the order of the variants, is what is on disk.
        impl Serialize for State {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                match self { $( Self::$variant(state) => ($tag as u8, state).serialize(serializer) ),+ }
            }
        }

        impl<'de> Deserialize<'de> for State {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Tagged;
                impl<'de> serde::de::Visitor<'de> for Tagged {
                    type Value = State;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("a protocol's tag and state") }
                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<State, A::Error> {
                        use serde::de::Error;
                        let short = || A::Error::custom("protocol state is cut short");
                        let tag: ProtocolId = seq.next_element()?.ok_or_else(short)?;
                        match tag { $( ProtocolId::$variant => Ok(State::$variant(seq.next_element()?.ok_or_else(short)?)) ),+ }
                    }
                }
                deserializer.deserialize_tuple(2, Tagged)
            }
        }
    };
}

registry! {
    /// tus 1.0 upload.
    1 => Tus(tus::Tus),
    /// Ranged HTTP download.
    2 => Get(get::Get),
    /// PUT of a whole file.
    3 => Put(put::Put),
    /// POST of a form with the file in it.
    4 => Form(form::Form),
    /// tus where the server speaks it, else PUT.
    6 => Auto(auto::Auto),
    /// tus 1.0 upload in parallel parts.
    5 => TusParts(tus_parts::TusParts),
    /// Ranged HTTP download, several ranges side by side.
    7 => Segments(segments::Segments),
}

impl fmt::Display for ProtocolId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
