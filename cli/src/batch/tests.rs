use longhaul::control::{REQUEST_MAX, Request, SUBMIT_MAX};

use super::*;

fn item(label: &str) -> Item {
    let made = Submission::upload(format!("/f/{label}"), "http://host/");
    Item { transfer: made.transfer, url: made.url, name: None, label: label.to_owned() }
}

fn template() -> Submission {
    Submission::upload("", "").group("g")
}

fn batches(items: Vec<Result<Submission, Failure>>) -> Vec<Batch> {
    Batches::new(items.into_iter()).collect()
}

fn upload(name: &str) -> Submission {
    Submission::upload(name, "http://host/")
}

#[test]
fn a_hundred_thousand_files_come_in_portions_that_an_owner_takes() {
    let mut dresser = Dresser::new(template(), None, true, true).expect("random bytes");
    let items = (0..100_000).map(|number| dresser.dress(item(&format!("dir/{number}"))));
    let (mut all, mut requests) = (0, 0);
    for batch in Batches::new(items) {
        assert!(batch.submissions.len() <= COUNT_MAX.min(SUBMIT_MAX));
        all += batch.submissions.len();
        requests += 1;
        let request = Request::SubmitAll { submissions: batch.submissions };
        assert!(serde_json::to_vec(&request).expect("JSON").len() < REQUEST_MAX);
    }
    assert_eq!((all, requests), (100_000, 200));
}

#[test]
fn large_submissions_make_small_portions() {
    let large = || Ok(upload("f").header("X-Large", "x".repeat(300 << 10)));
    let sizes: Vec<_> = batches((0..5).map(|_| large()).collect())
        .iter()
        .inspect(|batch| {
            let request = Request::SubmitAll { submissions: batch.submissions.clone() };
            assert!(serde_json::to_vec(&request).expect("JSON").len() < REQUEST_MAX);
        })
        .map(|batch| batch.submissions.len())
        .collect();
    assert_eq!(sizes, [2, 2, 1]);
    // One that no request takes goes alone: its refusal must not be that of others.
    let huge = Ok(upload("huge").header("X-Huge", "x".repeat(2 << 20)));
    let sizes: Vec<_> = batches(vec![Ok(upload("a")), huge, Ok(upload("b"))])
        .iter()
        .map(|batch| batch.submissions.len())
        .collect();
    assert_eq!(sizes, [1, 1, 1]);
}

#[test]
fn a_file_that_fails_does_not_hold_up_the_others_but_a_mistake_ends_it() {
    let items = vec![
        Ok(upload("a")),
        Err(Failure::failed("no b")),
        Ok(upload("c")),
        Err(Failure::usage("nonsense")),
        Ok(upload("d")),
    ];
    let got = batches(items);
    assert_eq!(got.len(), 1);
    assert_eq!((got[0].submissions.len(), got[0].failures.len(), got[0].broken), (2, 2, true));
    assert!(batches(Vec::new()).is_empty());
    let got = batches(vec![Err(Failure::failed("no a"))]);
    assert_eq!((got.len(), got[0].failures.len(), got[0].broken), (1, 1, false));
}

#[test]
fn every_submission_has_a_key_and_repeats_of_a_command_have_others() {
    let keys = |dresser: &mut Dresser| -> Vec<String> {
        ["a", "b"].map(|label| dresser.dress(item(label)).expect("made").key.expect("a key")).into()
    };
    let mut first = Dresser::new(template(), None, true, true).expect("random bytes");
    let first = keys(&mut first);
    assert!(
        first[0].starts_with("auto-") && first[0].ends_with("/0") && first[1].ends_with("/1"),
        "{first:?}"
    );
    let mut second = Dresser::new(template(), None, true, true).expect("random bytes");
    assert_ne!(keys(&mut second), first);
    let mut named = Dresser::new(template(), Some("K".into()), true, true).expect("random bytes");
    assert_eq!(keys(&mut named), ["K/a", "K/b"]);
    let mut single = Dresser::new(template(), Some("K".into()), false, true).expect("random bytes");
    assert_eq!(single.dress(item("a")).expect("made").key.as_deref(), Some("K"));
}

#[test]
fn two_files_never_share_a_name_or_a_key() {
    let mut dresser = Dresser::new(template(), None, true, true).expect("random bytes");
    dresser.dress(item("a")).expect("made");
    assert!(dresser.dress(item("a")).expect_err("the same name").to_string().contains("same name"));
    dresser.dress(Item { url: "http://other/".into(), ..item("a") }).expect("elsewhere");
    let mut open = Dresser::new(template(), None, true, false).expect("random bytes");
    open.dress(item("a")).and_then(|_| open.dress(item("a"))).expect("tus keeps both");
    let mut keyed = Dresser::new(template(), Some("K".into()), true, false).expect("random bytes");
    keyed.dress(item("a")).expect("made");
    assert!(keyed.dress(item("a")).expect_err("the same key").to_string().contains("same key"));
}

#[test]
fn groups_are_random_unless_a_key_makes_them() {
    let one = group(None).expect("random bytes");
    assert!(one.len() == 8 && one.starts_with("g-"), "{one}");
    assert_eq!(group(Some("K")).expect("a group"), group(Some("K")).expect("a group"));
    assert_ne!(group(Some("K")).expect("a group"), group(Some("L")).expect("a group"));
}

#[test]
fn labels_of_urls_tell_no_secrets() {
    let label = |text: &str| url_label(&text.parse().expect("a URL"));
    assert_eq!(label("https://host/a/b.iso"), "host/a/b.iso");
    let signed = label("https://host/a?sig=pw");
    assert!(signed.starts_with("host/a?") && !signed.contains("pw"));
    assert_ne!(signed, label("https://host/a?sig=px"));
}
