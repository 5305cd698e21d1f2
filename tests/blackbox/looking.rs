//! Lists, the feed of events, histories, and what is there to be read: for people, for pipes and for scripts.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::files::{KIB, MIB, make};
use crate::support::haul::{Haul, arg, text, values};
use crate::support::process::Running;
use crate::support::proxy::{Proxy, Way};
use crate::support::seed::Rng;
use crate::support::servers::Server;
use crate::support::session::ids;
use crate::support::wait::until;

/// More than one page of the control socket has.
const MANY: usize = 1_100;
const NOWHERE: &str = "http://127.0.0.1:9/files/";

/// `count` small files in `in/NAME`.
fn small_files(haul: &Haul, name: &str, count: usize) -> String {
    let dir = haul.source(name);
    fs::create_dir(&dir).expect("a directory");
    for number in 0..count {
        fs::write(dir.join(format!("file-{number:05}.bin")), [1; 8]).expect("a small file");
    }
    arg(&dir).to_owned()
}

#[test]
fn lists_of_many_jobs() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    make(&haul.store().join("there.bin"), KIB, 1);
    let dir = small_files(&haul, "many", MANY);
    let daemon = haul.daemon();
    let many = haul.detach(&["put", "-r", "--group", "many", "--not-before", "+20h", &dir, NOWHERE]);
    assert_eq!(many.len(), MANY);
    haul.run(&["get", &server.url("/there.bin")]).expect(0);
    haul.run(&["get", "--group", "few", &server.url("/absent.bin")]).expect(1);
    haul.run(&["pause", "7-9"]).expect(0);
    let ls = |words: &[&str]| haul.run(&[&["ls"], words].concat()).expect(0);
    let lines = |words: &[&str]| ls(words).stdout.lines().map(str::to_owned).collect::<Vec<_>>();

    // All of them, over more pages than one, in rising order; a table has the newest.
    let all: Vec<u64> = (1..=MANY as u64 + 2).collect();
    assert_eq!(ids(&haul.jobs()), all);
    assert_eq!(ids(&values(&ls(&["--json-lines"]).stdout)), all);
    let table = ls(&[]);
    assert_eq!(table.stdout.lines().count(), 101, "{}", table.stdout);
    assert!(
        table.stderr.contains("100") && table.stderr.contains(&all.len().to_string()),
        "{}",
        table.stderr
    );
    assert_eq!(lines(&["--limit", "0"]).len(), all.len() + 1);
    let newest: Vec<String> = all[all.len() - 5..].iter().map(ToString::to_string).collect();
    assert_eq!(lines(&["--ids", "--limit", "5"]), newest);
    assert_eq!(lines(&["--ids", "--limit", "1050"]).len(), 1050);

    // By state, by group, by time.
    assert_eq!(lines(&["-1", "--state", "suspended"]), ["7", "8", "9"]);
    assert_eq!(lines(&["-1", "--state", "ended"]), newest[3..]);
    assert_eq!(lines(&["-1", "--state", "completed", "--state", "failed"]), newest[3..]);
    assert_eq!(lines(&["-1", "--state", "failed", "--group", "many"]), [""; 0]);
    assert_eq!(lines(&["-1", "--group", "few"]), newest[4..]);
    assert_eq!(lines(&["-1", "--since", "1d"]).len(), all.len());
    assert_eq!(lines(&["-1", "--since", "2099-01-01T00:00:00Z"]), [""; 0]);
    assert_eq!(lines(&["--columns", "state,id", "7"]), ["STATE      ID", "suspended   7"]);
    assert_eq!(lines(&["--columns", "id", "--state", "failed"]).len(), 2);
    let everything =
        "id,state,done,size,progress,percent,file,target,route,cause,group,priority,protocol,age,key";
    assert_eq!(lines(&["--columns", everything, "1-3"]).len(), 4);

    let summary = ls(&["--summary"]).stdout;
    let count: BTreeMap<&str, usize> = summary
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(name, count)| (name, count.trim().parse().expect("a number")))
        .collect();
    let some = ["queued", "suspended", "completed", "failed", "all"].map(|name| count[name]);
    assert_eq!(some, [MANY - 3, 3, 1, 1, MANY + 2]);
    let done = haul.run(&["--json", "ls", "--summary", "--group", "many"]).expect(0);
    let counts = values(&done.stdout).remove(0);
    assert_eq!((counts["queued"].as_u64(), counts["failed"].as_u64()), (Some(MANY as u64 - 3), Some(0)));

    // A reader that has seen enough is no error.
    let piped = haul.command_under("sh", &["-c", "\"$0\" \"$@\" | head -n 3"], &["ls", "--limit", "0"]);
    let piped = Running::spawn(piped).wait().expect(0);
    assert_eq!((piped.stdout.lines().count(), piped.stderr.as_str()), (3, ""));
    daemon.terminate().expect(0);
    // The same from the journal, with nobody there to ask.
    assert_eq!(ids(&haul.jobs()), all);
    assert_eq!(lines(&["-1", "--state", "suspended"]), ["7", "8", "9"]);
}

/// Without its colours, as a terminal shows it.
fn plain(text: &str) -> String {
    let (mut plain, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => while chars.next().is_some_and(|c| !c.is_ascii_alphabetic()) {},
            '\r' => {}
            c => plain.push(c),
        }
    }
    plain
}

#[test]
fn a_terminal_gets_colours_and_lines_that_fit() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    let (long, wide) = ("a long name ".repeat(12), "日本語".repeat(20));
    for name in [long.trim(), &wide] {
        make(&haul.source(name), KIB, 1);
    }
    let daemon = haul.daemon();
    for name in [long.trim(), &wide] {
        haul.detach(&["put", "--not-before", "+20h", arg(&haul.source(name)), NOWHERE]);
    }
    haul.run(&["get", &server.url(&format!("/{}", "absent".repeat(20)))]).expect(1);
    for columns in [40, 60, 132] {
        for words in [&["ls"][..], &["ls", "--long"], &["ls", "--columns", "file,target,cause,key"]] {
            let shown = haul.run_on_a_terminal(columns, &[], words).expect(0).stdout;
            assert!(shown.contains("\u{1b}["), "no colours on a terminal: {shown:?}");
            for line in plain(&shown).lines() {
                let width: usize =
                    line.chars().map(|c| if c < '\u{1100}' || c == '…' || c == '→' { 1 } else { 2 }).sum();
                assert!(width <= columns, "{width} columns of {columns} ({words:?}): {line}");
            }
        }
    }
    let colours = |env: &[(&str, &str)], words: &[&str]| {
        haul.run_on_a_terminal(100, env, words).expect(0).stdout.contains('\u{1b}')
    };
    assert!(colours(&[], &["ls"]));
    assert!(!colours(&[("NO_COLOR", "1")], &["ls"]));
    assert!(!colours(&[("TERM", "dumb")], &["ls"]));
    assert!(!colours(&[], &["--color", "never", "ls"]));
    assert!(colours(&[("NO_COLOR", "1")], &["--color", "always", "ls"]));
    for words in [&["ls"][..], &["ls", "--summary"], &["show", "1"], &["log", "1"], &["--json", "ls"]] {
        assert!(!haul.run(words).expect(0).stdout.contains('\u{1b}'), "{words:?} colours a pipe");
    }
    assert!(haul.run(&["--color", "always", "ls"]).expect(0).stdout.contains('\u{1b}'));
    daemon.terminate().expect(0);
}

/// On a terminal, `watch` draws until all has ended, and leaves the terminal as it was.
#[test]
fn watch_draws_on_a_terminal() {
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), 2 * MIB);
    let source = haul.source("data.bin");
    make(&source, 3 * MIB, Rng::for_test("watch_draws_on_a_terminal").next());
    let daemon = haul.daemon();
    let job = haul.detach(&["put", arg(&source), &proxy.url("/files/")]).remove(0);
    proxy.until_bytes(Way::Up, MIB / 4);
    let shown = haul.run_on_a_terminal(100, &[], &["watch", &job]).expect(0).stdout;
    assert!(plain(&shown).contains("data.bin") && shown.contains('\u{1b}'), "{shown:?}");
    let (hidden, seen) = (shown.rfind("\u{1b}[?25l"), shown.rfind("\u{1b}[?25h"));
    assert!(seen >= hidden, "the cursor stays hidden: {shown:?}");
    daemon.terminate().expect(0);
}

/// The events that a feed has printed.
fn events(output: &str) -> Vec<Value> {
    let whole = &output[..output.rfind('\n').map_or(0, |end| end + 1)];
    whole.lines().map(|line| serde_json::from_str(line).expect("one JSON value a line")).collect()
}

fn number(event: &Value) -> Option<u64> {
    event["number"].as_u64()
}

fn is_of(event: &Value, job: &str) -> bool {
    event["job"]["id"].as_u64() == job.parse().ok()
}

/// Waits until the feed has told of a job's end.
#[track_caller]
fn until_told(feed: &Running, job: &str, state: &str) {
    until("the feed tells of the job", || {
        let told = events(&feed.stdout());
        let is_it = |event: &&Value| is_of(event, job) && event["job"]["state"] == state;
        told.iter().find(is_it).map(drop)
    });
}

/// A feed goes on over owners; whoever comes back with a number misses nothing, or is told that it did.
#[test]
fn events_have_numbers_and_outlive_their_owner() {
    let mut rng = Rng::for_test("events_have_numbers_and_outlive_their_owner");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let source = haul.source("data.bin");
    make(&source, 100 * KIB, rng.next());
    let put = || haul.detach(&["put", arg(&source), &server.url("/files/")]).remove(0);
    let daemon = haul.daemon();
    let first = put();
    haul.until_state(&first, &["completed"]);
    let feed = haul.spawn(&["--json", "watch", "--after", "0"]);
    until_told(&feed, &first, "completed");
    let second = put();
    until_told(&feed, &second, "completed");
    daemon.kill();
    let daemon = haul.daemon();
    let third = put();
    until_told(&feed, &third, "completed");
    feed.interrupt();
    let told = events(&feed.wait().expect(130).stdout);

    let numbers: Vec<u64> = told.iter().filter_map(number).collect();
    assert!(numbers.is_sorted_by(|one, next| one < next), "numbers do not rise: {numbers:?}");
    let states = |told: &[Value], job: &str| -> Vec<String> {
        let of = told.iter().filter(|event| is_of(event, job));
        let mut states: Vec<_> = of.map(|event| text(&event["job"], "state").to_owned()).collect();
        states.dedup();
        states
    };
    for job in [&first, &second, &third] {
        let states = states(&told, job);
        let has_all = ["sending", "completed"].iter().all(|state| states.iter().any(|seen| seen == state));
        let missed = told.iter().any(|event| event.get("missed").is_some());
        assert!(has_all || missed, "job {job}: {states:?} and nothing was said of missing events");
    }
    assert_eq!(states(&told, &third).last().map(String::as_str), Some("completed"));

    // Back with a number of this owner's time: exactly what came after it.
    let of_third: Vec<u64> = told.iter().filter(|event| is_of(event, &third)).filter_map(number).collect();
    let after = of_third[0];
    let feed = haul.spawn(&["--json", "watch", "--after", &after.to_string()]);
    until_told(&feed, &third, "completed");
    feed.interrupt();
    let again: Vec<u64> = events(&feed.wait().expect(130).stdout).iter().filter_map(number).collect();
    assert_eq!(again, of_third[1..], "what follows event {after}");

    // Back with a number of an owner that was killed: the missing are told of, or there.
    let old = numbers[1];
    let feed = haul.spawn(&["--json", "watch", "--after", &old.to_string()]);
    until_told(&feed, &third, "completed");
    feed.interrupt();
    let late = events(&feed.wait().expect(130).stdout);
    let seen: Vec<u64> = late.iter().filter_map(number).collect();
    let expected: Vec<u64> = numbers.iter().copied().filter(|&number| number > old).collect();
    let missed = late.iter().any(|event| event.get("missed").is_some());
    assert!(missed || seen == expected, "after {old}: {seen:?} instead of {expected:?}, and nothing said");
    daemon.terminate().expect(0);
}

/// Named jobs: it ends with them, by their exit code.
#[test]
fn watch_ends_with_its_jobs() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    make(&haul.store().join("there.bin"), KIB, 1);
    let daemon = haul.daemon();
    let good = haul.detach(&["get", &server.url("/there.bin")]).remove(0);
    haul.run(&["watch", &good]).expect(0);
    let bad = haul.detach(&["get", "--group", "bad", &server.url("/absent.bin")]).remove(0);
    haul.run(&["watch", "--group", "bad"]).expect(1);
    haul.run(&["watch", &good, &bad]).expect(1);
    haul.run(&["watch", "77"]).expect(1);
    daemon.terminate().expect(0);
}

#[test]
fn one_job_is_shown_with_all_about_it() {
    let haul = Haul::new();
    let server = Server::nginx(&haul.store(), "");
    let words = ["--group", "few", "--priority", "8", "--key", "mine", "--attempts", "2"];
    haul.run(&[&["get"], &words[..], &[&server.url("/absent.bin?sig=geheim")]].concat()).expect(1);
    let shown = haul.run(&["show", "1"]).expect(0).stdout;
    for part in ["failed", "few", "8", "mine", "404", "absent.bin"] {
        assert!(shown.contains(part), "no {part}:\n{shown}");
    }
    assert!(!shown.contains("geheim"), "a signature is shown:\n{shown}");
    let log = haul.run(&["--json", "log", "1"]).expect(0).stdout;
    assert!(!log.contains("geheim"), "a signature is in the history:\n{log}");
    let log = values(&log).remove(0);
    let entries = log["entries"].as_array().expect("entries");
    assert!(entries.len() >= 3 && entries.iter().all(Value::is_object), "{log}");
    assert_eq!(text(&log["job"], "state"), "failed");
    for words in [&["show", "2"], &["log", "2"]] {
        let done = haul.run(words).expect(1);
        assert!(done.stderr.contains('2'), "{}", done.stderr);
    }
}

fn installed(program: &str) -> bool {
    let there = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
    let there = there.is_ok_and(|output| output.status.success());
    if !there {
        println!("{program} is not installed: its syntax was not checked");
    }
    there
}

#[test]
fn completions_are_programs_of_their_shells() {
    let haul = Haul::new();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "-n"), ("elvish", ""), ("powershell", "")]
    {
        let text = haul.run(&["completions", shell]).expect(0).stdout;
        for word in ["haul", "not-before", "doctor", "idle-exit", "retry"] {
            assert!(text.contains(word), "{shell}: no {word}");
        }
        if !check.is_empty() && installed(shell) {
            let file = haul.dir().join(shell);
            fs::write(&file, &text).expect("write the completions");
            let mut command = Command::new(shell);
            command.arg(check).arg(&file).env("HOME", haul.dir());
            let done = Running::spawn(command).wait().expect(0);
            assert_eq!(done.stderr, "", "{shell} -n");
        }
    }
    haul.run(&["completions", "sh"]).expect(2);
}

#[test]
fn manual_pages_can_be_read() {
    let haul = Haul::new();
    let pages = haul.dir().join("man");
    haul.run(&["man", arg(&pages)]).expect(0);
    assert_eq!(
        haul.run(&["man"]).expect(0).stdout,
        fs::read_to_string(pages.join("haul.1")).expect("haul.1")
    );
    let names: Vec<_> = fs::read_dir(&pages).expect("list").flatten().map(|entry| entry.path()).collect();
    assert!(names.len() >= 18, "{names:?}");
    let has_groff = installed("groff");
    for path in &names {
        let text = fs::read_to_string(path).expect("a page");
        assert!(text.lines().any(|line| line.starts_with(".TH ")), "{}", path.display());
        if has_groff {
            let rendered = rendered(path);
            assert!(
                rendered.contains("NAME") && rendered.lines().count() > 10,
                "{}:\n{rendered}",
                path.display()
            );
        }
    }
}

/// As `man` shows it; a complaint fails the test.
#[track_caller]
fn rendered(page: &Path) -> String {
    let mut command = Command::new("groff");
    command.args(["-k", "-man", "-Tutf8", "-ww", "-rLL=100n", "-P-cbou"]).arg(page);
    let done = Running::spawn(command).wait().expect(0);
    assert_eq!(done.stderr, "", "groff on {}", page.display());
    plain(&done.stdout)
}
