//! Numbered events, and who was away.

use longhaul::control::{Response, Selection};
use longhaul::{Event, EventStream, JobState, Submission};

use super::Bench;

const NOBODY: &str = "http://127.0.0.1:1/files/";

/// What there is to hear without waiting for more than the end of a session.
async fn rest(mut events: EventStream) -> Vec<Event> {
    let mut all = Vec::new();
    while let Some(told) = events.next().await {
        match told {
            Response::Event { event } => all.push(*event),
            other => panic!("{other:?}"),
        }
    }
    all
}

/// An event as it is told in every life: what moves meanwhile is in none of these.
fn facts(events: &[Event]) -> Vec<(u64, String, u64, JobState)> {
    events.iter().map(|event| (event.number, event.what.clone(), event.job.id.0, event.job.state)).collect()
}

#[tokio::test]
async fn who_comes_back_after_a_restart_hears_each_event_once() {
    let bench = Bench::new();
    let session = bench.open().await;
    let all = session.events();
    let movies = session.events_after(None, Selection::group("movies")).await;
    for number in 0..6 {
        let submission = Submission::upload(&bench.source, NOBODY);
        let submission = if number % 2 == 0 { submission.group("movies") } else { submission };
        let job = session.submit(submission).await.expect("accepted");
        job.suspend().await.expect("suspended");
        job.cancel().await.expect("cancelled");
        job.wait().await.expect("ends");
    }
    session.shutdown().await;
    let (first_life, movies) = (rest(all).await, rest(movies).await);
    assert!(first_life.windows(2).all(|pair| pair[0].number < pair[1].number), "{first_life:?}");
    let of_movies: Vec<Event> =
        first_life.iter().filter(|event| event.job.group.as_deref() == Some("movies")).cloned().collect();
    assert_eq!(movies, of_movies);

    // From every place: what had been heard is not heard again, and nothing else is left out.
    let session = bench.open().await;
    let mut resumed = Vec::new();
    for seen in 0..=first_life.len() {
        let after = seen.checked_sub(1).map_or(0, |last| first_life[last].number);
        resumed.push((seen, session.events_after(Some(after), Selection::all()).await));
    }
    let half = of_movies.len() / 2;
    let of_group = session.events_after(Some(of_movies[half - 1].number), Selection::group("movies")).await;
    let live = session.events();
    let job = session.upload(&bench.source, NOBODY).await.expect("accepted");
    job.cancel().await.expect("cancelled");
    job.wait().await.expect("ends");
    session.shutdown().await;

    let second_life = facts(&rest(live).await);
    let first_life = facts(&first_life);
    assert!(second_life[0].0 > first_life[first_life.len() - 1].0, "numbers rise over the restart");
    for (seen, stream) in resumed {
        let expected: Vec<_> = first_life[seen..].iter().chain(&second_life).cloned().collect();
        assert_eq!(facts(&rest(stream).await), expected, "after {seen} events");
    }
    assert_eq!(facts(&rest(of_group).await), facts(&of_movies[half..]));
}

#[tokio::test]
async fn who_was_away_for_too_long_is_told_so_and_hears_what_is_still_known() {
    let mut bench = Bench::new();
    bench.options = bench.options.clone().admit(false);
    let session = bench.open().await;
    let submissions = vec![Submission::upload(&bench.source, NOBODY); 1000];
    for _ in 0..5 {
        let _accepted = session.submit_all(submissions.clone()).await;
    }
    let mut too_old = session.events_after(Some(1), Selection::all()).await;
    assert!(matches!(too_old.next().await, Some(Response::Missed { .. })));
    let Some(Response::Event { event: oldest }) = too_old.next().await else { panic!("it goes on") };
    assert!(oldest.number > 1);
    let mut in_time = session.events_after(Some(oldest.number), Selection::all()).await;
    match in_time.next().await {
        Some(Response::Event { event }) => assert!(event.number > oldest.number),
        other => panic!("{other:?}"),
    }
    let mut never_was = session.events_after(Some(u64::MAX), Selection::all()).await;
    assert!(matches!(never_was.next().await, Some(Response::Missed { .. })));

    // Who does not listen while very much happens is told so as well.
    let mut slow = session.events();
    for _ in 0..5 {
        let _accepted = session.submit_all(submissions.clone()).await;
    }
    assert!(matches!(slow.next().await, Some(Response::Missed { events }) if events > 0));
    assert!(matches!(slow.next().await, Some(Response::Event { .. })));
    session.shutdown().await;
}
