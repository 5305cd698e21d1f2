//! The configuration file: what it sets, what it must not, and how it tells of mistakes.

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;

use crate::support::files::{KIB, MIB, make};
use crate::support::haul::{Haul, arg, text, values};
use crate::support::proxy::{Proxy, Way};
use crate::support::scripted::{Answer, Reply, Scripted};
use crate::support::seed::Rng;
use crate::support::servers::Server;

const NOWHERE: &str = "http://127.0.0.1:9/files/";

fn write(haul: &Haul, content: &str) -> PathBuf {
    let path = haul.dir().join("haul.toml");
    fs::write(&path, content).expect("write a configuration");
    path
}

/// A job that waits, as `show` has it.
#[track_caller]
fn waiting(haul: &Haul, first: &[&str], more: &[&str]) -> serde_json::Value {
    let source = haul.source("data.bin");
    make(&source, KIB, 1);
    let words = [first, &["put", "--not-before", "+20h"], more, &[arg(&source), NOWHERE]].concat();
    let job = haul.detach(&words).remove(0);
    haul.show(&job).expect("the job is shown")
}

#[test]
fn the_command_line_goes_before_the_file() {
    let haul = Haul::new();
    let config = write(&haul, "[transfer]\npriority = 2\nprotocol = \"tus\"\n");
    let config = arg(&config);
    let daemon = haul.daemon();
    let of = |job: &serde_json::Value| (job["priority"].as_u64(), text(job, "protocol").to_owned());
    assert_eq!(of(&waiting(&haul, &["--config", config], &[])), (Some(2), "tus".into()));
    let over = ["--priority", "7", "--protocol", "put"];
    assert_eq!(of(&waiting(&haul, &["--config", config], &over)), (Some(7), "put".into()));
    assert_eq!(of(&waiting(&haul, &["--no-config"], &[])), (Some(5), "auto".into()));

    // In its usual place it counts without a word; a named one that is not there is a mistake.
    let usual = haul.dir().join("home/.config/longhaul");
    fs::create_dir_all(&usual).expect("a directory");
    fs::copy(config, usual.join("config.toml")).expect("copy the configuration");
    assert_eq!(of(&waiting(&haul, &[], &[])), (Some(2), "tus".into()));
    assert_eq!(of(&waiting(&haul, &["--no-config"], &[])), (Some(5), "auto".into()));
    let absent = haul.run(&["--config", "/not/there.toml", "ls"]).expect(2);
    assert!(absent.stderr.contains("/not/there.toml"), "{}", absent.stderr);
    daemon.terminate().expect(0);
}

#[test]
fn mistakes_are_named_by_file_and_line() {
    let haul = Haul::new();
    for (content, line, word) in [
        ("[transfer]\n\nprioritee = 2\n", "line 3", "priority"),
        ("[session]\nconcurrent = 1\n\n[transfers]\n", "line 4", "transfer"),
        ("[transfer]\npriority = \"high\"\n", "line 2", ""),
        ("[transfer]\npriority = 12\n", "", "priority"),
        ("[session]\nconcurrent = 0\n", "line 2", ""),
        ("[session]\nretention = \"soon\"\n", "line 2", ""),
        ("[transfer]\nstage = \"never\"\n", "line 2", ""),
        ("[transfer\n", "line 1", ""),
    ] {
        let path = write(&haul, content);
        for command in [&["ls"][..], &["put", "x", NOWHERE], &["daemon"], &["config"]] {
            let done = haul.run(&[&["--config", arg(&path)], command].concat()).expect(2);
            for part in ["haul.toml", line, word] {
                assert!(done.stderr.contains(part), "no {part:?} for {content:?}: {}", done.stderr);
            }
        }
    }
    assert!(haul.jobs().is_empty() && !haul.session().exists(), "something was begun");
}

#[test]
fn the_example_is_a_configuration() {
    let haul = Haul::new();
    let example = haul.run(&["config", "--example"]).expect(0).stdout;
    let path = write(&haul, &example);
    haul.run(&["--config", arg(&path), "ls"]).expect(0);
    haul.run(&["--config", arg(&path), "config"]).expect(0);

    // Every key that it documents, each alone and all together.
    let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ") && line.contains(" = ");
    let (mut whole, mut section, mut keys) = (String::new(), "", Vec::new());
    for line in example.lines() {
        if line.starts_with('[') {
            section = line;
        }
        if is_key(line) {
            keys.push((section, &line[1..]));
        }
        whole.push_str(if is_key(line) { &line[1..] } else { line });
        whole.push('\n');
    }
    assert!(keys.len() >= 20, "{keys:?}");
    for (section, key) in &keys {
        let alone = if key.starts_with("cert-key") { "cert = \"c.pem\"\n" } else { "" };
        let path = write(&haul, &format!("{section}\n{alone}{key}\n"));
        haul.run(&["--config", arg(&path), "config"]).expect(0);
    }
    let path = write(&haul, &whole);
    let shown = haul.run(&["--config", arg(&path), "config"]).expect(0).stdout;
    for (_, key) in keys {
        let name = key.split(' ').next().expect("a name");
        assert!(shown.contains(name), "{name} is not shown:\n{shown}");
    }
    assert!(shown.contains("haul.toml"), "where it comes from is not shown:\n{shown}");
    let json = haul.run(&["--json", "--config", arg(&path), "config"]).expect(0).stdout;
    assert_eq!(values(&json).len(), 1, "{json}");
}

/// Headers and the user agent reach the server; those of the command line go before those of the file.
#[test]
fn headers_of_the_file_are_sent() {
    let haul = Haul::new();
    let server = Scripted::alone(|_| Answer::Reply(Reply::new(404)));
    let config =
        "[connection]\nuser-agent = \"configured/1\"\nheaders = [\"X-Tenant: films\", \"X-Second: two\"]\n";
    let path = write(&haul, config);
    let first = ["--config", arg(&path), "get"];
    haul.run(&[&first[..], &[&server.url("/a")]].concat()).expect(1);
    haul.run(&[&first[..], &["-H", "x-tenant: music", "-A", "said/2", &server.url("/b")]].concat()).expect(1);
    let seen = server.seen();
    let of = |path: &str, name: &str| {
        let request = seen.iter().find(|request| request.target.ends_with(path)).expect("a request");
        request.header(name).map(str::to_owned)
    };
    let got = |path| ["user-agent", "x-tenant", "x-second"].map(|name| of(path, name).unwrap_or_default());
    assert_eq!(got("/a"), ["configured/1", "films", "two"]);
    assert_eq!(got("/b"), ["said/2", "music", "two"]);
}

/// What is for the session counts for whoever owns it, and its own options go before it.
#[test]
fn limits_of_the_file_hold() {
    let mut rng = Rng::for_test("limits_of_the_file_hold");
    let haul = Haul::new();
    let server = Server::tus_node(&haul.store());
    let proxy = Proxy::slow(server.addr(), MIB / 2);
    let sources: Vec<_> = (0..3)
        .map(|number| {
            let path = haul.source(&format!("file-{number}.bin"));
            make(&path, MIB, rng.next());
            arg(&path).to_owned()
        })
        .collect();
    let config = write(&haul, "[session]\nconcurrent = 1\n");
    let most = Mutex::new(0);
    for (options, bound) in [(&[][..], 1), (&["--concurrent", "2"], 2)] {
        let words = [&["--config", arg(&config), "daemon"], options].concat();
        let mut daemon = haul.spawn(&words);
        daemon.line("the daemon is ready", |line| (line.trim() == "ready").then_some(()));
        let files: Vec<_> = sources.iter().map(String::as_str).collect();
        let jobs = haul.detach(&[&["put"], &files[..], &[&proxy.url("/files/")]].concat());
        let sent = proxy.bytes(Way::Up);
        for step in 1..4 {
            proxy.until_bytes(Way::Up, sent + step * MIB / 4);
            let listed = haul.jobs();
            let sending = listed.iter().filter(|job| text(job, "state") == "sending").count();
            assert!(sending <= bound, "{sending} at once: {listed:?}");
            let mut most = most.lock().expect("not poisoned");
            *most = sending.max(*most);
        }
        proxy.throttle(0);
        for job in jobs {
            haul.until_state(&job, &["completed"]);
        }
        proxy.throttle(MIB / 2);
        daemon.terminate().expect(0);
    }
    assert_eq!(*most.lock().expect("not poisoned"), 2, "the option did not go before the file");
}
