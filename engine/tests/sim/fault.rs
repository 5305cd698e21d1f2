//! What can go wrong, how often it does in a seed, and how often it did.

use std::collections::BTreeMap;

use super::rng::Rng;

macro_rules! faults {
    ($( $(#[$doc:meta])* $name:ident ),+ $(,)?) => {
        /// One kind of trouble.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Fault { $( $(#[$doc])* $name ),+ }

        impl Fault {
            /// Every kind: the tests assert that each has fired.
            pub const ALL: &'static [Self] = &[ $( Self::$name ),+ ];
        }
    };
}

faults! {
    /// The process is killed; the machine goes on.
    Kill,
    /// The machine loses power.
    Cut,
    /// Either of them before the session has opened.
    CrashInRecovery,
    /// The session is closed in good order, half way.
    Shutdown,
    /// The wall clock jumps by a day, between two lives or in one.
    ClockJump,
    /// The machine sleeps for hours.
    Suspended,
    /// There is no way to a host for a while, and somebody asks.
    Offline,
    /// No connection.
    ConnectRefused,
    /// The connection breaks while the request is sent.
    ResetUp,
    /// It breaks while the reply is read.
    ResetDown,
    /// The server has done it; its reply is lost.
    ReplyLost,
    /// Nothing moves any more while the request is sent.
    StallUp,
    /// Nothing moves any more while the reply is read.
    StallDown,
    /// A middle box sends the request twice.
    Duplicate,
    /// 500 instead of an answer.
    Status500,
    /// 503 or 429 with Retry-After.
    Throttled,
    /// A gateway's 502 or 504 after the server has done it.
    GatewayTimeout,
    /// 409 to a PATCH.
    Conflict,
    /// 423 while an older request is thought to run.
    Locked,
    /// Bytes of a broken request reach the upload late.
    LateBytes,
    /// The server restarts and has kept only what it confirmed.
    ServerRestart,
    /// The server has lost bytes that it confirmed.
    LostConfirmed,
    /// The server has dropped an unfinished upload.
    SessionLost,
    /// A 200 in answer to a range.
    RangeIgnored,
    /// The remote file is replaced.
    RemoteReplaced,
    /// A PUT or a look is redirected.
    Redirected,
    /// A server says 200 to a PUT and stores nothing.
    NotStored,
    /// A PUT that breaks off leaves what came of it.
    Fragment,
    /// A mirror gives another file, or none.
    OddMirror,
    /// The disk is full.
    NoSpace,
    /// A directory may not be written.
    NoAccess,
    /// A file system is mounted read-only.
    ReadOnly,
    /// The source's file system is away, and somebody looks for it.
    SourceAway,
    /// A file of secrets cannot be written.
    SecretsError,
    /// A read fails.
    ReadError,
    /// A write fails after a part of it.
    WriteError,
    /// An fsync fails, and its pages are gone.
    SyncError,
    /// A create, rename, unlink or fsync of a directory fails.
    NameError,
    /// A journal write fails.
    JournalApply,
    /// A journal flush fails.
    JournalFlush,
    /// An export beside a checkpoint fails; that is no reason to stop.
    JournalExport,
    /// The user writes to a source.
    SourceWritten,
    /// The user writes to a source at the instant it is read.
    SourceRaced,
    /// The user cuts a source short.
    SourceTruncated,
    /// The user deletes a source.
    SourceDeleted,
    /// The user puts a file where a download is to go.
    DestinationTaken,
    /// The user cuts a part file short.
    PartTruncated,
    /// The user deletes a part file.
    PartDeleted,
}

/// How often each kind fires in one seed, per thousand chances.
#[derive(Clone, Debug)]
pub struct Rates(BTreeMap<Fault, u64>);

impl Rates {
    /// About half of the kinds, each at a rate of its own; in some seeds none.
    pub fn draw(rng: &mut Rng) -> Self {
        let calm = rng.chance(50);
        let storm = if rng.chance(250) { 2 } else { 1 };
        let rates = Fault::ALL.iter().map(|&fault| {
            let most = match fault {
                Fault::ReadError | Fault::WriteError | Fault::SyncError | Fault::NameError => 50,
                Fault::JournalApply | Fault::JournalFlush => 12,
                Fault::SourceRaced => 100,
                Fault::LostConfirmed | Fault::SessionLost => 200,
                Fault::SecretsError => 300,
                Fault::RangeIgnored | Fault::LateBytes | Fault::JournalExport => 450,
                _ => 200 * storm,
            };
            let on = !calm && rng.chance(450);
            (fault, if on { rng.within(4, most) } else { 0 })
        });
        Self(rates.collect())
    }

    pub fn of(&self, fault: Fault) -> u64 {
        self.0.get(&fault).copied().unwrap_or(0)
    }
}

/// How often each kind has fired, and what came of it all.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    pub faults: BTreeMap<Fault, u64>,
    /// Jobs by how they ended.
    pub ends: BTreeMap<String, u64>,
    /// Suspensions by cause.
    pub suspensions: BTreeMap<String, u64>,
    /// Completed jobs by protocol, and other things that must have happened.
    pub seen: BTreeMap<String, u64>,
    pub jobs: u64,
    pub lives: u64,
    pub requests: u64,
}

impl Tally {
    pub fn count(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    /// Something has happened that is worth counting.
    pub fn see(&mut self, what: impl Into<String>) {
        *self.seen.entry(what.into()).or_default() += 1;
    }

    pub fn any(&self, faults: &[Fault]) -> bool {
        faults.iter().any(|&fault| self.count(fault) > 0)
    }

    pub fn add(&mut self, other: &Self) {
        let sum = |into: &mut BTreeMap<String, u64>, from: &BTreeMap<String, u64>| {
            for (name, count) in from {
                *into.entry(name.clone()).or_default() += count;
            }
        };
        for (&fault, count) in &other.faults {
            *self.faults.entry(fault).or_default() += count;
        }
        sum(&mut self.ends, &other.ends);
        sum(&mut self.suspensions, &other.suspensions);
        sum(&mut self.seen, &other.seen);
        self.jobs += other.jobs;
        self.lives += other.lives;
        self.requests += other.requests;
    }
}
