//! The lifecycle's table, and what each ending leaves to do.

use http::{HeaderMap, StatusCode};
use proptest::prelude::*;

use super::*;
use crate::job::record::Jobs;
use crate::job::{Fingerprint, JobSpec, JobState, SnapshotMethod, StageMode, Token};
use crate::ports::NetErrorKind;
use crate::protocol::{ProtocolId, Reply};

const NOW: WallMs = WallMs(1_700_000_000_000);

fn fingerprint(size: u64) -> Fingerprint {
    Fingerprint { dev: 1, ino: 2, size, mtime_ns: 3, ctime_ns: 4, links: 1, regular: true }
}

fn spec(direction: Direction) -> JobSpec {
    let upload = direction == Direction::Upload;
    let protocol = if upload { ProtocolId::Tus } else { ProtocolId::Get };
    JobSpec {
        stage: StageMode::Auto,
        source: upload.then(|| fingerprint(10)),
        attempts_max: 3,
        ..JobSpec::new(protocol, "http://host/files/".to_owned(), "/data/file".into(), Token([7; 16]))
    }
}

/// One job, stepped and applied as the runner does it.
struct Bench {
    jobs: Jobs,
    effects: Vec<Effect>,
}

impl Bench {
    fn new(direction: Direction) -> Self {
        let mut jobs = Jobs::default();
        let spec = Box::new(spec(direction));
        jobs.apply(Record::Submitted { id: JobId(1), at: NOW, spec }).expect("a first job");
        Self { jobs, effects: Vec::new() }
    }

    fn job(&self) -> &Job {
        &self.jobs.map[&JobId(1)]
    }

    fn give(&mut self, input: Input) -> bool {
        let Some(transition) = step(self.job(), input, Context { now: NOW, seed: 5 }) else { return false };
        self.effects = transition.effects;
        self.jobs.apply(transition.record).expect("step makes only legal moves");
        true
    }

    fn admit(&mut self) {
        assert!(self.give(Input::Admitted { restarted: false }));
    }

    fn staged(method: SnapshotMethod) -> Self {
        let mut bench = Self::new(Direction::Upload);
        bench.admit();
        assert_eq!(bench.effects, [Effect::Stage]);
        assert!(bench.give(Input::Snapped(Snapshot { method, size: 10, file: fingerprint(10) })));
        bench
    }

    fn sending(method: SnapshotMethod) -> Self {
        let mut bench = Self::staged(method);
        bench.admit();
        assert_eq!(bench.job().state(), JobState::Sending);
        bench
    }

    fn lose(&mut self) {
        let why = "connection refused".to_owned();
        let lost = protocol::Input::Lost { lane: 0, kind: NetErrorKind::Connect, why };
        assert!(self.give(Input::Protocol(lost)));
    }
}

#[test]
fn states_follow_the_documented_way() {
    let mut bench = Bench::new(Direction::Upload);
    assert_eq!(bench.job().state(), JobState::Queued);
    bench.admit();
    assert_eq!(bench.job().state(), JobState::Queued, "staging owns nothing that people know of");
    bench.give(Input::Snapped(Snapshot { method: SnapshotMethod::Copy, size: 10, file: fingerprint(10) }));
    assert_eq!(bench.job().state(), JobState::Staged);
    bench.admit();
    assert!(
        matches!(bench.effects[..], [Effect::Protocol(protocol::Effect::Send(_))]),
        "{:?}",
        bench.effects
    );
}

#[test]
fn a_lost_reply_backs_off_and_too_many_in_a_row_suspend() {
    let mut bench = Bench::sending(SnapshotMethod::Copy);
    for attempt in 1..3 {
        bench.lose();
        let core = &bench.job().core;
        assert_eq!((core.attempts, core.attempts_total), (attempt, attempt));
        assert!(core.retry_at.is_some_and(|at| at >= NOW), "the deadline is durable");
        assert_eq!(bench.effects, [Effect::Halt]);
        assert_eq!(bench.job().state(), JobState::Sending);
        bench.admit();
    }
    bench.lose();
    assert_eq!(bench.job().state(), JobState::Suspended);
    assert!(matches!(bench.job().core.suspended, Some(SuspendCause::Server { attempts: 3, .. })));
    assert!(bench.job().core.has_copy(), "a suspended job keeps its snapshot");
    assert!(bench.give(Input::Resume));
    assert_eq!((bench.job().state(), bench.job().core.attempts), (JobState::Sending, 0));
}

#[test]
fn a_suspended_job_hears_nothing_but_resume_and_cancel() {
    let mut bench = Bench::sending(SnapshotMethod::Copy);
    assert!(bench.give(Input::Suspend(SuspendCause::Requested)));
    assert_eq!(bench.effects, [Effect::Halt]);
    assert!(!bench.give(Input::Admitted { restarted: true }), "no restart wakes it");
    assert!(!bench.give(Input::Suspend(SuspendCause::Requested)));
    assert!(!bench.give(Input::Suspend(SuspendCause::NoSpace("x".to_owned()))), "its cause stays the user's");
    assert!(bench.give(Input::Resume));
    assert!(!bench.give(Input::Resume));
}

#[test]
fn a_pause_replaces_a_suspension_that_would_clear_itself() {
    let mut bench = Bench::sending(SnapshotMethod::Copy);
    assert!(bench.give(Input::Suspend(SuspendCause::NoSpace("full".to_owned()))));
    assert!(bench.give(Input::Suspend(SuspendCause::Requested)));
    assert_eq!(bench.job().core.suspended, Some(SuspendCause::Requested));
}

#[test]
fn the_outcome_is_named_before_anything_is_freed() {
    let mut bench = Bench::staged(SnapshotMethod::Copy);
    assert!(bench.give(Input::Cancel));
    assert_eq!(bench.effects, [Effect::Halt, Effect::Free]);
    assert!(matches!(bench.job().core.phase, Phase::Ending { remote: None, .. }));
    assert_eq!(bench.job().state(), JobState::Sending, "not failed while it holds a copy");
    bench.admit();
    assert_eq!(bench.effects, [Effect::Free], "a restart finishes the clean-up");
    assert!(bench.give(Input::FreeFailed("disk on fire".to_owned())));
    assert!(bench.job().core.retry_at.is_some());
    assert_eq!(bench.job().state(), JobState::Sending, "never ended with an orphan");
    assert!(bench.give(Input::Freed));
    assert_eq!(bench.job().core.phase, Phase::Ended(Outcome::Failed(FailCause::Cancelled)));
}

#[test]
fn a_failed_clean_up_moves_only_a_job_that_is_being_cleaned_up() {
    let mut bench = Bench::sending(SnapshotMethod::Copy);
    assert!(!bench.give(Input::FreeFailed("late".to_owned())));
    assert!(bench.give(Input::Suspend(SuspendCause::Requested)));
    assert!(!bench.give(Input::FreeFailed("late".to_owned())));
    assert_eq!(bench.job().core.retry_at, None);
}

#[test]
fn a_job_that_owns_nothing_is_cancelled_at_once() {
    let mut bench = Bench::new(Direction::Upload);
    assert!(bench.give(Input::Cancel));
    assert_eq!(bench.effects, [Effect::Halt]);
    assert_eq!(bench.job().state(), JobState::Failed);
}

#[test]
fn a_cancel_in_the_middle_of_staging_frees_what_may_exist() {
    let mut bench = Bench::new(Direction::Upload);
    bench.admit();
    assert!(bench.give(Input::Cancel));
    assert_eq!(bench.effects, [Effect::Halt, Effect::Free]);
}

#[test]
fn a_changed_source_fails_and_never_completes() {
    let mut bench = Bench::sending(SnapshotMethod::InPlace);
    assert!(bench.give(Input::LocalFault(LocalFault::SourceChanged("it was written to".to_owned()))));
    let failed = |core: &Core| {
        matches!(&core.phase, Phase::Ended(Outcome::Failed(FailCause::SourceChanged(_))))
            || matches!(
                &core.phase,
                Phase::Ending { outcome: Outcome::Failed(FailCause::SourceChanged(_)), .. }
            )
    };
    assert!(failed(&bench.job().core));
}

#[test]
fn a_lost_part_file_begins_anew() {
    let mut bench = Bench::new(Direction::Download);
    bench.admit();
    bench.give(Input::PartMade(Part { path: "/data/.file.haul".into(), dev: 1, ino: 9 }));
    bench.admit();
    assert!(bench.give(Input::LocalFault(LocalFault::PartLost("gone".to_owned()))));
    let core = &bench.job().core;
    assert_eq!((core.state(), core.done, &core.part), (JobState::Queued, 0, &None));
}

#[test]
fn a_lost_part_file_is_freed_with_its_job() {
    let mut bench = Bench::new(Direction::Download);
    bench.admit();
    bench.give(Input::PartMade(Part { path: "/data/.file.haul".into(), dev: 1, ino: 9 }));
    bench.admit();
    bench.give(Input::LocalFault(LocalFault::PartLost("cut short".to_owned())));
    assert!(bench.give(Input::Cancel));
    assert!(bench.effects.contains(&Effect::Free), "it may still lie there: {:?}", bench.effects);
}

#[test]
fn part_files_that_are_lost_again_and_again_end_the_job() {
    let mut bench = Bench::new(Direction::Download);
    for _ in 0..100 {
        if bench.job().state().is_terminal() || !bench.give(Input::Admitted { restarted: false }) {
            break;
        }
        bench.give(Input::PartMade(Part { path: "/data/.file.haul".into(), dev: 1, ino: 9 }));
        bench.give(Input::Admitted { restarted: false });
        bench.give(Input::LocalFault(LocalFault::PartLost("bad sector".to_owned())));
    }
    assert!(
        matches!(bench.job().core.phase, Phase::Ending { .. } | Phase::Ended(_)),
        "{:?}",
        bench.job().core.phase
    );
}

#[test]
fn credentials_that_are_gone_do_not_hold_a_clean_up() {
    let mut bench = Bench::sending(SnapshotMethod::Copy);
    let outcome = Outcome::Failed(FailCause::Cancelled);
    let Phase::Sending(state) = bench.job().core.phase.clone() else { panic!("not sending") };
    let core = Core { phase: Phase::Ending { outcome, remote: Some(state) }, ..bench.job().core.clone() };
    let what = None;
    let record = Record::Moved { id: JobId(1), at: NOW, what, core: Box::new(core) };
    bench.jobs.apply(record).expect("a legal move");
    assert!(!bench.give(Input::Suspend(SuspendCause::Requested)), "an ending job is not paused");
    assert!(bench.give(Input::Suspend(SuspendCause::Auth("the token file is gone".to_owned()))));
    assert!(bench.effects.contains(&Effect::Free));
}

#[test]
fn a_rename_under_way_is_not_paused() {
    let mut bench = Bench::new(Direction::Download);
    bench.admit();
    bench.give(Input::PartMade(Part { path: "/data/.file.haul".into(), dev: 1, ino: 9 }));
    bench.admit();
    let Phase::Sending(state) = bench.job().core.phase.clone() else { panic!("not sending") };
    let proof = Proof { size: 1, evidence: "length".to_owned() };
    let core = Core {
        phase: Phase::Publishing { state, proof, to: "/data/file".into() },
        ..bench.job().core.clone()
    };
    let record = Record::Moved { id: JobId(1), at: NOW, what: None, core: Box::new(core) };
    bench.jobs.apply(record).expect("a legal move");
    assert!(!bench.give(Input::Suspend(SuspendCause::Requested)));
    assert!(bench.give(Input::DestinationExists("/data/file".into())), "what holds it up can be named");
    assert!(bench.give(Input::Cancel));
}

#[test]
fn a_terminal_job_absorbs_every_input() {
    let mut bench = Bench::new(Direction::Upload);
    bench.give(Input::Cancel);
    for input in every_input() {
        assert!(!bench.give(input.clone()), "{input:?}");
    }
}

fn every_input() -> Vec<Input> {
    let reply = |status| Reply {
        status: StatusCode::from_u16(status).expect("a status"),
        headers: HeaderMap::new(),
        url: "http://host/files/".to_owned(),
        framed: true,
        body: bytes::Bytes::new(),
    };
    let mut inputs = vec![
        Input::Admitted { restarted: false },
        Input::Admitted { restarted: true },
        Input::Snapped(Snapshot { method: SnapshotMethod::Copy, size: 10, file: fingerprint(10) }),
        Input::PartMade(Part { path: "/data/.part".into(), dev: 1, ino: 9 }),
        Input::Published("/data/file".into()),
        Input::DestinationExists("/data/file".into()),
        Input::Freed,
        Input::FreeFailed("why".to_owned()),
        Input::Suspend(SuspendCause::Requested),
        Input::Suspend(SuspendCause::NoSpace("full".to_owned())),
        Input::Resume,
        Input::Cancel,
        Input::LocalFault(LocalFault::SourceChanged("why".to_owned())),
        Input::LocalFault(LocalFault::SourceIo("why".to_owned())),
        Input::LocalFault(LocalFault::NoSpace("why".to_owned())),
        Input::LocalFault(LocalFault::PartLost("why".to_owned())),
        Input::LocalFault(LocalFault::Transient("why".to_owned())),
        Input::LocalFault(LocalFault::Fatal("why".to_owned())),
        Input::LocalFault(LocalFault::PublishUnknown("why".to_owned())),
        Input::Protocol(protocol::Input::Synced { lane: 0, extent: 0..4, last: false }),
        Input::Protocol(protocol::Input::Synced { lane: 0, extent: 0..10, last: true }),
    ];
    inputs.extend(
        [200, 201, 204, 206, 302, 400, 401, 404, 409, 410, 416, 423, 429, 460, 500, 503]
            .map(|status| Input::Protocol(protocol::Input::Reply { lane: 0, reply: reply(status) })),
    );
    inputs.extend(
        [NetErrorKind::Connect, NetErrorKind::Timeout, NetErrorKind::Broken, NetErrorKind::Tls]
            .map(|kind| Input::Protocol(protocol::Input::Lost { lane: 0, kind, why: "why".to_owned() })),
    );
    inputs
}

proptest! {
    /// Whatever comes, in whatever order: only legal moves (`give` applies them), `done` within `size`,
    /// terminal states absorb, a suspended job sends nothing, and a job can always be brought to an end.
    #[test]
    fn any_sequence_of_inputs_keeps_the_rules(
        upload: bool,
        picks in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let inputs = every_input();
        let mut bench = Bench::new(if upload { Direction::Upload } else { Direction::Download });
        for pick in picks {
            let before = bench.job().core.clone();
            let moved = bench.give(pick.get(&inputs).clone());
            let core = &bench.job().core;
            prop_assert!(core.size.is_none_or(|size| core.done <= size), "{core:?}");
            if before.state().is_terminal() {
                prop_assert!(!moved);
            }
            if moved && core.suspended.is_some() {
                let quiet = bench.effects.iter().all(|effect| *effect == Effect::Halt);
                prop_assert!(quiet, "a suspended job acts: {:?}", bench.effects);
            }
            prop_assert!(!(core.suspended.is_some() && core.retry_at.is_some()));
        }
        for _ in 0..8 {
            bench.give(Input::Resume);
            bench.give(Input::Cancel);
            bench.give(Input::Admitted { restarted: true });
            bench.give(Input::Protocol(protocol::Input::Lost {
                lane: 0, kind: NetErrorKind::Connect, why: String::new(),
            }));
            bench.give(Input::Freed);
            bench.give(Input::Published("/data/file".into()));
        }
        prop_assert!(bench.job().state().is_terminal(), "{:?}", bench.job().core);
    }
}

#[test]
fn to_come_as_far_as_before_is_no_progress() {
    let mut bench = Bench::new(Direction::Download);
    bench.admit();
    assert!(bench.give(Input::PartMade(Part { path: "/data/part".into(), dev: 1, ino: 2 })));
    bench.admit();
    // A server that cannot resume and always breaks off at the same byte.
    for attempt in 1..=3 {
        let reply = Reply {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(http::header::CONTENT_LENGTH, 10.into())]),
            url: "http://host/files/".to_owned(),
            framed: true,
            body: bytes::Bytes::new(),
        };
        assert!(bench.give(Input::Protocol(protocol::Input::Reply { lane: 0, reply })));
        let synced = protocol::Input::Synced { lane: 0, extent: 0..5, last: false };
        assert!(bench.give(Input::Protocol(synced)));
        let lost = protocol::Input::Lost { lane: 0, kind: NetErrorKind::Broken, why: "cut".to_owned() };
        assert!(bench.give(Input::Protocol(lost)));
        assert_eq!(bench.job().core.attempts_total, attempt);
        if bench.job().core.suspended.is_none() {
            bench.admit();
        }
    }
    let cause = bench.job().core.suspended.as_ref().map(SuspendCause::name);
    assert_eq!(cause, Some("server"), "it is not fetched for ever");
}

#[test]
fn without_a_way_waits_grow_and_one_line_tells_of_them() {
    let mut bench = Bench::sending(SnapshotMethod::Copy);
    let lines = bench.job().history.len();
    for tries in 1..=8 {
        let lost = protocol::Input::Lost { lane: 0, kind: NetErrorKind::Offline, why: "no route".to_owned() };
        assert!(bench.give(Input::Protocol(lost)));
        assert_eq!((bench.job().core.offline, bench.job().core.attempts_total), (tries, 0));
        bench.admit();
    }
    let waits = |job: &Job| job.history[lines..].iter().filter(|line| line.what.contains("network")).count();
    assert_eq!(waits(bench.job()), 1);
    let reply = Reply {
        status: StatusCode::SERVICE_UNAVAILABLE,
        headers: HeaderMap::new(),
        url: "http://host/files/".to_owned(),
        framed: true,
        body: bytes::Bytes::new(),
    };
    assert!(bench.give(Input::Protocol(protocol::Input::Reply { lane: 0, reply })));
    assert_eq!((bench.job().core.offline, bench.job().core.attempts_total), (0, 1), "somebody answered");
}
