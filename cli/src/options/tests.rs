use clap::Parser;
use longhaul::{CredentialRef, Submission};

use super::*;
use crate::config::ConnectionPart;
use crate::exit::Exit;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn options(words: &[&str]) -> Options {
    Line::try_parse_from([&["haul"], words].concat()).expect("a command line").options
}

fn made(words: &[&str], config: &Config) -> Result<Submission, Failure> {
    options(words).template(config, None, Submission::upload("/f", "http://host/"))
}

fn dressed(words: &[&str]) -> Submission {
    made(words, &Config::default()).expect("a submission")
}

#[test]
fn urls_are_checked_and_never_shown_with_secrets() {
    assert!(check_url("https://host/path?x=1").is_ok());
    for wrong in [
        "",
        "host/path",
        "ftp://host/x",
        "http://",
        "http://me:pw@host/x",
        "http://me@host/?sig=pw",
        "http://host/a#b",
    ] {
        let failure = check_url(wrong).expect_err(wrong);
        assert_eq!(failure.exit(), Exit::Usage);
        assert!(!failure.to_string().contains("pw"), "{failure}");
    }
    assert!(check_url("http://me@host/").expect_err("userinfo").to_string().contains("-u NAME"));
}

#[test]
fn secret_headers_are_kept_apart() {
    let made =
        dressed(&["-H", "X-Album: a", "-H", "Cookie: c=1", "--secret-header", "X-Plain: p", "-A", "me/1"]);
    assert_eq!(made.headers, [("X-Album".into(), "a".into()), ("User-Agent".into(), "me/1".into())]);
    let names: Vec<_> = made.secrets.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["Cookie", "X-Plain"]);
    assert!(!format!("{made:?}").contains("c=1"));
}

#[test]
fn a_user_is_basic_authentication() {
    let made = dressed(&["-u", "Aladdin:open sesame"]);
    let (name, value) = &made.secrets.headers[0];
    // RFC 7617, section 2.
    assert_eq!(
        (name.as_str(), value.expose().as_str()),
        ("Authorization", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    );
    assert_eq!(made.credential, None);
}

#[test]
fn one_credential_is_enough() {
    for words in
        [["-u", "a:b", "-n", ""], ["-n", "--bearer-env", "X", ""], ["--bearer-file", "f", "-u", "a:b"]]
    {
        let words = words.iter().copied().filter(|word| !word.is_empty());
        assert!(Line::try_parse_from(std::iter::once("haul").chain(words)).is_err());
    }
    let twice = ["-H", "Authorization: x", "-u", "a:b"];
    assert_eq!(made(&twice, &Config::default()).expect_err("twice").exit(), Exit::Usage);
    let twice = ["-H", "Authorization: x", "--bearer-env", "X"];
    assert_eq!(made(&twice, &Config::default()).expect_err("twice").exit(), Exit::Usage);
    assert!(Line::try_parse_from(["haul", "--cert-key", "k"]).is_err());
}

#[test]
fn a_proxy_s_password_is_kept_apart() {
    let made = dressed(&["--proxy", "socks5h://me:p%40w@127.0.0.1:1080"]);
    assert_eq!(made.transport.proxy.as_deref(), Some("socks5h://127.0.0.1:1080"));
    assert_eq!(made.secrets.proxy_user.expect("a user").expose(), "me:p@w");
    let made = dressed(&["--proxy", "host:3128", "-U", "you:x"]);
    assert_eq!(made.transport.proxy.as_deref(), Some("http://host:3128"));
    assert_eq!(made.secrets.proxy_user.expect("a user").expose(), "you:x");
    assert_eq!(dressed(&["--proxy", "none"]).transport.proxy.as_deref(), Some(""));
    assert_eq!(dressed(&[]).transport.proxy, None);
    for wrong in ["ftp://host", "http://", "http://me:pw@host/path"] {
        let failure = made_wrong(&["--proxy", wrong]);
        assert!(!failure.contains("pw"), "{failure}");
    }
}

fn made_wrong(words: &[&str]) -> String {
    let failure = made(words, &Config::default()).expect_err("a mistake");
    assert_eq!(failure.exit(), Exit::Usage);
    failure.to_string()
}

#[test]
fn the_command_line_goes_before_the_configuration() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = |name: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, "x").expect("written");
        path
    };
    let config = Config {
        connection: ConnectionPart {
            proxy: Some("http://proxy".into()),
            netrc: Some(file("netrc")),
            cert: Some(file("cert")),
            cert_key: Some(file("key")),
            user_agent: Some("file/1".into()),
            headers: Some(vec!["X-A: file".into(), "X-B: file".into(), "X-Token: t".into()]),
            ..ConnectionPart::default()
        },
        ..Config::default()
    };
    let by_file = made(&[], &config).expect("a submission");
    assert_eq!(by_file.transport.proxy.as_deref(), Some("http://proxy"));
    assert_eq!(by_file.credential, Some(CredentialRef::Netrc(dir.path().join("netrc"))));
    assert_eq!(by_file.transport.key_file, Some(dir.path().join("key")));
    assert_eq!(by_file.headers.len(), 3);
    let mine = file("mine");
    let words = [
        "--proxy",
        "none",
        "-u",
        "a:b",
        "-E",
        mine.to_str().expect("UTF-8"),
        "-H",
        "x-a: line",
        "-A",
        "line/1",
    ];
    let by_line = made(&words, &config).expect("a submission");
    assert_eq!(by_line.transport.proxy.as_deref(), Some(""));
    assert_eq!(by_line.credential, None);
    // The file's key does not fit another certificate.
    assert_eq!((by_line.transport.cert_file, by_line.transport.key_file), (Some(mine), None));
    let expected = [("X-B", "file"), ("x-a", "line"), ("User-Agent", "line/1")];
    assert_eq!(by_line.headers, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let names: Vec<_> = by_line.secrets.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["X-Token", "Authorization"]);
}

#[test]
fn files_that_cannot_be_read_are_told_at_once() {
    for option in ["--cacert", "--cert", "--netrc-file"] {
        assert!(made_wrong(&[option, "/nowhere/at/all"]).contains("/nowhere/at/all"));
        assert!(made_wrong(&[option, "/tmp"]).contains("directory"));
    }
}

#[test]
fn times_and_limits_reach_the_job() {
    let made =
        dressed(&["--limit-rate", "100k", "--priority", "7", "--not-before", "+1h", "--deadline", "+2h"]);
    assert_eq!((made.limit_rate, made.priority, made.attempts_max), (Some(102_400), 7, 10));
    let span = made.deadline.expect("set").0 - made.not_before.expect("set").0;
    assert!((3_590_000..=3_610_000).contains(&span), "{span}");
    assert!(made_wrong(&["--not-before", "+2h", "--deadline", "+1h"]).contains("--deadline"));
    assert!(made_wrong(&["--deadline", "2001-01-01T00:00:00Z"]).contains("over"));
    let mut config = Config::default();
    config.transfer.limit_rate = Some(Rate(5));
    config.transfer.priority = Some(1);
    assert_eq!(self::made(&[], &config).expect("made").limit_rate, Some(5));
    let made = self::made(&["--limit-rate", "0", "--priority", "9"], &config).expect("made");
    assert_eq!((made.limit_rate, made.priority), (None, 9));
    assert!(Line::try_parse_from(["haul", "--priority", "10"]).is_err());
}
