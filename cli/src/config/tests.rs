use super::keys::{KEYS, example, sections};
use super::*;

fn uncommented(example: &str) -> String {
    let is_key = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    let lines = example.lines().map(|line| if is_key(line) { &line[1..] } else { line });
    lines.collect::<Vec<_>>().join("\n")
}

fn wrong(text: &str) -> (Option<usize>, String) {
    let Wrong { line, text } = parse(text).expect_err("a mistake");
    (line, text)
}

#[test]
fn the_example_is_valid_as_it_is_and_with_every_key_set() {
    assert_eq!(parse(&example()), Ok(Config::default()));
    let config = parse(&uncommented(&example())).expect("valid");
    let table = toml::Table::try_from(&config).expect("a table");
    for key in &KEYS {
        assert!(table[key.section].get(key.name).is_some(), "{}.{} is not read", key.section, key.name);
    }
    let fields: usize = table.values().map(|section| section.as_table().expect("a section").len()).sum();
    assert_eq!(fields, KEYS.len(), "a key is not documented");
    assert_eq!(sections().count(), table.len());
}

#[test]
fn documented_defaults_are_the_engine_s() {
    let options = Config::default().session.options(Path::new("/s"));
    let default = |name: &str| KEYS.iter().find(|key| key.name == name).expect("a key").default.to_owned();
    assert_eq!(default("concurrent"), options.concurrent.to_string());
    assert_eq!(default("retention"), format!("\"{}\"", Span(options.retention)));
    assert_eq!(default("attempts"), longhaul::ATTEMPTS_MAX_DEFAULT.to_string());
    assert_eq!(default("priority"), longhaul::PRIORITY_DEFAULT.to_string());
    assert_eq!(options.per_host.or(options.uploads).or(options.downloads), None);
    assert_eq!((options.limit_rate, options.stage_budget), (None, None));
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_the_nearest() {
    let (line, text) = wrong("[session]\nconcurrent = 3\n\nper-hosts = 2\n");
    assert_eq!(line, Some(4));
    assert_eq!(text, "unknown key per-hosts; did you mean per-host?");
    let (line, text) = wrong("# all\n[sesion]\nconcurrent = 3\n");
    assert_eq!((line, text.as_str()), (Some(2), "unknown section sesion; did you mean session?"));
    let (_, text) = wrong("concurrent = 3\n");
    assert!(text.starts_with("unknown section concurrent"), "{text}");
    let (_, text) = wrong("[output]\nzzz = 1\n");
    assert!(text.contains("haul config --example"), "{text}");
    let (line, _) = wrong("transfer.limits-rate = '5M'\n");
    assert_eq!(line, Some(1));
}

#[test]
fn wrong_values_are_refused_with_their_line() {
    for (text, line) in [
        ("[session]\nconcurrent = 0\n", Some(2)),
        ("[session]\nlimit-rate = 'fast'\n", Some(2)),
        ("[session]\nretention = -1\n", Some(2)),
        ("[transfer]\nprotocol = 'ftp'\n", Some(2)),
        ("[transfer\n", Some(1)),
        ("session = 3\n", Some(1)),
        ("[transfer]\npriority = 10\n", None),
        ("[transfer]\nsegments = 65\n", None),
        ("[connection]\ncert-key = 'k'\n", None),
    ] {
        assert_eq!(wrong(text).0, line, "{text}");
    }
}

#[test]
fn values_have_units_or_none() {
    let config =
        parse("[session]\nlimit-rate = 4096\nstage-budget = '1.5GiB'\nretention = '1w'\n").expect("valid");
    assert_eq!(config.session.limit_rate, Some(Rate(4096)));
    assert_eq!(config.session.stage_budget, Some(Size(3 << 29)));
    let options = config.session.options(Path::new("/s"));
    assert_eq!(options.retention.as_secs(), 7 * 86_400);
    assert_eq!(
        parse("[session]\nlimit-rate = 0\n").expect("valid").session.options(Path::new("/s")).limit_rate,
        None
    );
    for (size, shown) in [(3 << 29, "1536MiB"), (10_000_000, "10000000"), (0, "0"), (1 << 40, "1TiB")] {
        assert_eq!(Size(size).to_string(), shown);
        assert_eq!(shown.parse(), Ok(Size(size)));
    }
}

#[test]
fn the_command_line_goes_before_the_file() {
    let file = parse("[session]\nconcurrent = 3\nuploads = 2\n").expect("valid").session;
    let over = SessionPart { concurrent: std::num::NonZeroUsize::new(9), ..SessionPart::default() };
    let options = file.under(&over).options(Path::new("/s"));
    assert_eq!((options.concurrent, options.uploads), (9, Some(2)));
}

#[test]
fn paths_are_those_of_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("haul.toml");
    fs::write(&file, "[connection]\ncacert = 'ca.pem'\nnetrc = '/etc/netrc'\n").expect("written");
    let config = read(&file).expect("valid").expect("there");
    assert_eq!(config.connection.cacert, Some(dir.path().join("ca.pem")));
    assert_eq!(config.connection.netrc, Some(PathBuf::from("/etc/netrc")));
    assert_eq!(config.file, Some(file));
    assert_eq!(
        place(Path::new("~/a"), Path::new("/c"), Some(Path::new("/home/me"))),
        Path::new("/home/me/a")
    );
    assert_eq!(read(&dir.path().join("none")).expect("no mistake"), None);
}

#[test]
fn a_mistake_names_the_file() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("haul.toml");
    fs::write(&file, "[session]\nconcurent = 3\n").expect("written");
    let failure = read(&file).expect_err("a mistake");
    assert_eq!(failure.exit(), crate::exit::Exit::Usage);
    let text = failure.to_string();
    assert!(text.ends_with("haul.toml: line 2: unknown key concurent; did you mean concurrent?"), "{text}");
}
