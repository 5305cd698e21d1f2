//! Order, fairness and limits.

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(100);

fn wish() -> Wish {
    Wish { rank: Rank::New, priority: 5, host: HostId(0), direction: Direction::Upload, copy: 0 }
}

fn begun() -> Wish {
    Wish { rank: Rank::Begun, ..wish() }
}

fn copying(copy: u64) -> Wish {
    Wish { copy, ..wish() }
}

fn schedule(concurrent: usize, budget: u64) -> Schedule {
    Schedule::new(Slots::of(concurrent), budget)
}

fn ids(schedule: &mut Schedule) -> Vec<u64> {
    schedule.admit(NOW).into_iter().map(|job| job.0).collect()
}

#[test]
fn begun_jobs_come_first_and_then_the_oldest() {
    let mut schedule = schedule(3, 0);
    for id in 1..=3 {
        schedule.ready(JobId(id), wish());
    }
    schedule.ready(JobId(9), begun());
    assert_eq!(ids(&mut schedule), [9, 1, 2]);
    assert_eq!(ids(&mut schedule), [0; 0]);
    schedule.remove(JobId(1));
    assert_eq!(ids(&mut schedule), [3]);
}

#[test]
fn a_waiting_job_frees_its_slot_until_it_is_due() {
    let mut schedule = schedule(1, 0);
    schedule.ready(JobId(1), wish());
    schedule.ready(JobId(2), wish());
    assert_eq!(ids(&mut schedule), [1]);
    schedule.wait(JobId(1), NOW + Duration::from_secs(1));
    assert_eq!(ids(&mut schedule), [2]);
    assert_eq!(schedule.next_due(NOW), Some(NOW + Duration::from_secs(1)));
    assert_eq!(schedule.due(NOW), []);
    assert_eq!(schedule.due(NOW + Duration::from_secs(1)), [JobId(1)]);
    assert!(!schedule.is_running(JobId(1)), "it has no place until it is given one");
}

#[test]
fn copies_wait_for_the_budget_and_hold_up_nobody_else() {
    let mut schedule = schedule(8, 100);
    schedule.ready(JobId(1), copying(60));
    schedule.ready(JobId(2), copying(60));
    schedule.ready(JobId(3), copying(30));
    schedule.ready(JobId(4), wish());
    let mut first = ids(&mut schedule);
    first.sort_unstable();
    assert_eq!(first, [1, 3, 4]);
    assert_eq!(schedule.waits_for(JobId(2), NOW), Some(Wait::Copy));
    schedule.hold_copy(JobId(1), 0);
    assert_eq!(ids(&mut schedule), [2]);
}

#[test]
fn a_copy_above_the_whole_budget_runs_alone() {
    let mut schedule = schedule(8, 100);
    schedule.ready(JobId(1), copying(1000));
    schedule.ready(JobId(2), copying(10));
    assert_eq!(ids(&mut schedule), [1]);
    schedule.hold_copy(JobId(1), 0);
    assert_eq!(ids(&mut schedule), [2]);
}

#[test]
fn a_large_copy_is_not_passed_over_for_ever() {
    let mut schedule = schedule(2, 100);
    schedule.ready(JobId(1), copying(50));
    assert_eq!(ids(&mut schedule), [1]);
    schedule.ready(JobId(2), copying(90));
    let mut small = 0;
    for id in 3..1000 {
        schedule.ready(JobId(id), copying(10));
        let admitted = ids(&mut schedule);
        if admitted.is_empty() {
            break;
        }
        small += 1;
        schedule.remove(JobId(id));
        schedule.hold_copy(JobId(id), 0);
    }
    assert_eq!(small, PASSES_MAX, "then the small ones wait for it");
    schedule.remove(JobId(1));
    schedule.hold_copy(JobId(1), 0);
    assert_eq!(ids(&mut schedule)[0], 2);
}

#[test]
fn priorities_share_by_weight_and_none_is_stuck() {
    let mut schedule = schedule(1, 0);
    for id in 0..2000 {
        let priority = if id % 2 == 0 { 9 } else { 6 };
        schedule.ready(JobId(id), Wish { priority, ..wish() });
    }
    schedule.ready(JobId(5000), Wish { priority: 0, ..wish() });
    let (mut high, mut low_at) = (0, None);
    for turn in 0..900 {
        let [id] = ids(&mut schedule)[..] else { panic!("one slot") };
        schedule.remove(JobId(id));
        high += u64::from(id % 2 == 0 && id != 5000);
        if id == 5000 {
            low_at = Some(turn);
        }
    }
    assert!((780..=810).contains(&high), "8 of 9, not {high} of 900");
    assert!(low_at.is_some(), "the lowest is slow, not stuck");
}

#[test]
fn an_idle_priority_saves_up_no_claim() {
    let mut schedule = schedule(1, 0);
    for id in 0..500 {
        schedule.ready(JobId(id), wish());
        ids(&mut schedule);
        schedule.remove(JobId(id));
    }
    for id in 1000..1020 {
        schedule.ready(JobId(id), wish());
        schedule.ready(JobId(id + 1000), Wish { priority: 4, ..wish() });
    }
    let mut fives = 0;
    for _ in 0..18 {
        let [id] = ids(&mut schedule)[..] else { panic!("one slot") };
        fives += u64::from(id < 2000);
        schedule.remove(JobId(id));
    }
    assert!((11..=13).contains(&fives), "2 of 3, not {fives} of 18");
}

#[test]
fn hosts_take_turns_and_have_limits_of_their_own() {
    let mut schedule = Schedule::new(Slots { per_host: 2, ..Slots::of(10) }, 0);
    for id in 0..20 {
        schedule.ready(JobId(id), Wish { host: HostId(u32::from(id >= 10)), ..wish() });
    }
    assert_eq!(ids(&mut schedule), [0, 10, 1, 11]);
    assert_eq!(schedule.waits_for(JobId(2), NOW), Some(Wait::Host));
    schedule.remove(JobId(10));
    assert_eq!(ids(&mut schedule), [12]);
}

#[test]
fn directions_have_limits_of_their_own() {
    let mut schedule = Schedule::new(Slots { uploads: 1, ..Slots::of(3) }, 0);
    for id in 0..6 {
        let direction = if id < 3 { Direction::Upload } else { Direction::Download };
        schedule.ready(JobId(id), Wish { direction, ..wish() });
    }
    assert_eq!(ids(&mut schedule), [0, 3, 4]);
    assert_eq!(schedule.waits_for(JobId(1), NOW), Some(Wait::Direction));
}

#[test]
fn a_host_that_is_away_is_tried_by_one_job_when_it_is_due() {
    let mut schedule = schedule(4, 0);
    let there = Wish { host: HostId(1), ..wish() };
    for id in 0..4 {
        schedule.ready(JobId(id), wish());
    }
    schedule.ready(JobId(9), there);
    schedule.host_down(HostId(0), NOW + Duration::from_secs(5));
    assert_eq!(ids(&mut schedule), [9]);
    assert_eq!(schedule.waits_for(JobId(0), NOW), Some(Wait::Network));
    assert_eq!(schedule.next_due(NOW), Some(NOW + Duration::from_secs(5)));
    let later = NOW + Duration::from_secs(5);
    assert_eq!(schedule.admit(later), [JobId(0)]);
    assert_eq!(schedule.admit(later), [], "one probe");
    schedule.host_up(HostId(0));
    assert_eq!(schedule.admit(later), [JobId(1), JobId(2)]);
}

#[test]
fn a_full_disk_holds_up_what_needs_space_and_nothing_else() {
    let mut schedule = schedule(8, 100);
    schedule.ready(JobId(1), copying(10));
    schedule.ready(JobId(2), wish());
    schedule.ready(JobId(3), Wish { direction: Direction::Download, ..wish() });
    schedule.ready(JobId(4), Wish { rank: Rank::Begun, direction: Direction::Download, ..wish() });
    let later = NOW + Duration::from_secs(5);
    schedule.disk_full(Direction::Upload, later);
    schedule.disk_full(Direction::Download, later);
    assert_eq!(ids(&mut schedule), [4, 2]);
    assert_eq!(schedule.waits_for(JobId(1), NOW), Some(Wait::Space));
    assert_eq!(schedule.next_due(NOW), Some(later));
    assert_eq!(schedule.admit(later).len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Ready(u64, Wish),
    Wait(u64, u64),
    Remove(u64),
    Occupy(u64, u32),
    Free(u64),
    Down(u32, u64),
    Up(u32),
    Admit(u64),
}

fn any_wish() -> impl Strategy<Value = Wish> {
    (any::<bool>(), 0u8..10, 0u32..4, any::<bool>(), prop_oneof![Just(0u64), 1u64..120]).prop_map(
        |(is_begun, priority, host, up, copy)| Wish {
            rank: if is_begun { Rank::Begun } else { Rank::New },
            priority,
            host: HostId(host),
            direction: if up { Direction::Upload } else { Direction::Download },
            copy,
        },
    )
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..30, any_wish()).prop_map(|(job, wish)| Step::Ready(job, wish)),
        1 => (0u64..30, 0u64..50).prop_map(|(job, due)| Step::Wait(job, due)),
        2 => (0u64..30).prop_map(Step::Remove),
        1 => (0u64..30, 0u32..4).prop_map(|(job, host)| Step::Occupy(job, host)),
        2 => (0u64..30).prop_map(Step::Free),
        1 => (0u32..4, 0u64..50).prop_map(|(host, due)| Step::Down(host, due)),
        1 => (0u32..4).prop_map(Step::Up),
        4 => (0u64..50).prop_map(Step::Admit),
    ]
}

fn check(schedule: &Schedule) -> Result<(), TestCaseError> {
    prop_assert!(schedule.copied == schedule.copies.values().sum::<u64>());
    let running: Vec<_> = schedule
        .place
        .values()
        .filter_map(|place| match place {
            Place::Running(host, direction) => Some((*host, *direction)),
            Place::Ready(_) | Place::Waiting(_) => None,
        })
        .collect();
    prop_assert_eq!(running.len(), schedule.running.all);
    for host in (0..4).map(HostId) {
        let count = running.iter().filter(|(at, _)| *at == host).count();
        prop_assert_eq!(count, schedule.running.of(host));
    }
    let queued: usize =
        schedule.classes.iter().flat_map(|class| class.queues.values()).map(|queue| queue.jobs.len()).sum();
    prop_assert_eq!(schedule.place.len(), queued + schedule.waiting.len() + running.len());
    for class in &schedule.classes {
        prop_assert_eq!(class.turns.len(), class.queues.len());
        prop_assert!(class.queues.values().all(|queue| !queue.jobs.is_empty()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn places_and_limits_hold_whatever_happens(
        steps in proptest::collection::vec(any_step(), 0..120),
        slots in (1usize..5, 1usize..4, 1usize..4, 1usize..4),
        budget in 0u64..100,
    ) {
        let slots = Slots { concurrent: slots.0, per_host: slots.1, uploads: slots.2, downloads: slots.3 };
        let mut schedule = Schedule::new(slots, budget);
        for step in steps {
            match step {
                Step::Ready(job, wish) => schedule.ready(JobId(job), wish),
                Step::Wait(job, due) => schedule.wait(JobId(job), Duration::from_secs(due)),
                Step::Remove(job) => schedule.remove(JobId(job)),
                Step::Occupy(job, host) => schedule.occupy(JobId(job), HostId(host), Direction::Upload),
                Step::Free(job) => schedule.hold_copy(JobId(job), 0),
                Step::Down(host, due) => schedule.host_down(HostId(host), Duration::from_secs(due)),
                Step::Up(host) => schedule.host_up(HostId(host)),
                Step::Admit(now) => {
                    let (all, held) = (schedule.running.all, schedule.copied);
                    let now = Duration::from_secs(now);
                    for job in schedule.due(now) {
                        schedule.ready(job, wish());
                    }
                    let admitted = schedule.admit(now);
                    prop_assert!(admitted.is_empty() || schedule.running.all <= slots.concurrent.max(all));
                    prop_assert!(schedule.copied <= budget.max(held));
                    // Nobody who could run is left standing while there is a slot.
                    if schedule.running.all < slots.concurrent {
                        for (job, place) in &schedule.place {
                            if let Place::Ready(wish) = place {
                                let why = schedule.waits_for(*job, now);
                                let behind_first = schedule.first_copy.is_some() && wish.copy > 0;
                                prop_assert!(why != Some(Wait::Slot) || behind_first, "job {job} of {why:?}");
                            }
                        }
                    }
                }
            }
            check(&schedule)?;
        }
    }

    /// Whatever is ready, and whatever its priority, it runs in the end.
    #[test]
    fn nobody_starves(wishes in proptest::collection::vec(any_wish(), 1..60), budget in 0u64..100) {
        let mut schedule = Schedule::new(Slots { per_host: 2, ..Slots::of(3) }, budget);
        let mut left = wishes.len();
        for (job, wish) in (0..).zip(wishes) {
            schedule.ready(JobId(job), wish);
        }
        let turns = left;
        for _ in 0..turns {
            for job in schedule.admit(NOW) {
                left -= 1;
                schedule.remove(job);
                schedule.hold_copy(job, 0);
            }
        }
        prop_assert_eq!(left, 0);
    }
}
