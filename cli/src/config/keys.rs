//! Every key of the configuration file, once: what it means, its default, and an example.

use std::fmt::Write as _;

/// A key.
#[derive(Debug)]
pub struct Key {
    /// Its table.
    pub section: &'static str,
    /// Its name in that table.
    pub name: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// What holds without it, in words or as a TOML value.
    pub default: &'static str,
    /// A value, as TOML.
    pub example: &'static str,
}

const fn key(
    section: &'static str,
    name: &'static str,
    default: &'static str,
    example: &'static str,
    doc: &'static str,
) -> Key {
    Key { section, name, doc, default, example }
}

/// All of them, by section.
pub const KEYS: [Key; 22] = [
    key("session", "concurrent", "8", "4", "Jobs that move at the same time."),
    key("session", "per-host", "no limit", "2", "Of these, jobs to or from one host."),
    key("session", "uploads", "no limit", "3", "Of these, uploads."),
    key("session", "downloads", "no limit", "3", "Of these, downloads."),
    key(
        "session",
        "limit-rate",
        "no limit",
        "\"10MiB\"",
        "Bytes a second of all jobs together; 0: no limit.",
    ),
    key(
        "session",
        "stage-budget",
        "a tenth of the free space",
        "\"20GiB\"",
        "Room for copies of files on their way up.",
    ),
    key("session", "retention", "\"30d\"", "\"90d\"", "How long jobs that have ended are kept."),
    key(
        "transfer",
        "attempts",
        "10",
        "20",
        "Failures in a row without progress after which a job is suspended.",
    ),
    key("transfer", "limit-rate", "no limit", "\"500k\"", "Bytes a second of each job; 0: no limit."),
    key("transfer", "priority", "5", "2", "From 0 (last) to 9 (first)."),
    key("transfer", "parallel", "1", "4", "Parts of an upload side by side, where the server can join them."),
    key("transfer", "segments", "1", "4", "Segments of a download side by side."),
    key("transfer", "protocol", "\"auto\"", "\"tus\"", "How uploads travel: auto, tus, put or form."),
    key(
        "transfer",
        "stage",
        "\"auto\"",
        "\"copy\"",
        "How a file is kept safe from changes while it travels: auto, copy or none.",
    ),
    key(
        "connection",
        "proxy",
        "that of the environment",
        "\"socks5h://127.0.0.1:9050\"",
        "A proxy (http, https, socks5, socks5h), or \"none\" for none at all. A name and password in it are kept \
         secret.",
    ),
    key(
        "connection",
        "cacert",
        "the system's alone",
        "\"~/certs/ca.pem\"",
        "Certificates (PEM) that are trusted besides the system's.",
    ),
    key("connection", "cert", "none", "\"~/certs/client.pem\"", "A client certificate (PEM)."),
    key(
        "connection",
        "cert-key",
        "in the file of the certificate",
        "\"~/certs/client.key\"",
        "The client certificate's key (PEM).",
    ),
    key(
        "connection",
        "netrc",
        "none",
        "\"~/.netrc\"",
        "A netrc file with names and passwords of hosts. Other credentials of a command go before it.",
    ),
    key("connection", "user-agent", "haul's own", "\"uploader/2.1\"", "The User-Agent header."),
    key(
        "connection",
        "headers",
        "none",
        "[\"X-Tenant: films\"]",
        "Headers of every request. One of the same name on the command line goes before it. Those that are \
         secret by their name are kept out of the journal; whoever reads this file sees them.",
    ),
    key(
        "output",
        "progress",
        "\"auto\"",
        "\"lines\"",
        "auto (a bar on a terminal, lines elsewhere), lines or none.",
    ),
];

/// The sections, in their order.
pub fn sections() -> impl Iterator<Item = &'static str> {
    let mut last = "";
    KEYS.iter()
        .map(|key| key.section)
        .filter(move |section| std::mem::replace(&mut last, section) != *section)
}

/// Width of the example's comments.
const WIDTH: usize = 100;

/// A file that says all there is to say, with every key commented out.
pub fn example() -> String {
    let mut text = "\
# haul's configuration: defaults for its options. The command line goes before it; what is commented out
# here is an example, not the default. Relative paths are relative to this file's directory. Sizes and
# rates: 4096, \"10M\", \"1.5GiB\"; spans: \"90s\", \"2h30m\", \"30d\". Unknown keys are refused.
"
    .to_owned();
    for section in sections() {
        let _ = writeln!(text, "\n[{section}]"); // writing to a String cannot fail
        for key in KEYS.iter().filter(|key| key.section == section) {
            for line in wrapped(key.doc) {
                let _ = writeln!(text, "# {line}");
            }
            let _ = writeln!(text, "# Default: {}", key.default);
            let _ = writeln!(text, "#{} = {}", key.name, key.example);
        }
    }
    text
}

fn wrapped(text: &str) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        if let Some(line) = lines.last_mut() {
            if line.is_empty() {
                line.push_str(word);
            } else if line.len() + word.len() < WIDTH {
                line.push(' ');
                line.push_str(word);
            } else {
                lines.push(word.to_owned());
            }
        }
    }
    lines
}
