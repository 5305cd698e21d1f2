//! `haul config`

use std::fmt::Write as _;

use clap::Args;
use serde::Serialize;

use crate::config::keys::{self, KEYS, Key};
use crate::config::{self, Config};
use crate::exit::{Exit, Failure};
use crate::options::connection;
use crate::output::{self, Context};
use crate::text::escape;

#[derive(Debug, Args)]
pub struct Show {
    /// Print a configuration file with every key, each explained and commented out
    #[arg(long)]
    pub example: bool,
}

/// A key as `--json` has it.
#[derive(Serialize)]
struct Row {
    key: String,
    value: Option<toml::Value>,
    default: &'static str,
    from: &'static str,
}

/// All of it as `--json` has it.
#[derive(Serialize)]
struct Whole {
    file: Option<String>,
    keys: Vec<Row>,
}

pub fn run(context: &Context, show: &Show) -> Result<Exit, Failure> {
    if show.example {
        return output::print(&keys::example()).map(|()| Exit::Done);
    }
    let config = config::get();
    let config = &Config { connection: connection::shown(&config.connection), ..config.clone() };
    let table = toml::Table::try_from(config)
        .map_err(|error| Failure::failed(format!("cannot write the configuration: {error}")))?;
    if context.json {
        let row = |key: &Key| Row {
            key: format!("{}.{}", key.section, key.name),
            value: value(&table, key).cloned(),
            default: key.default.trim_matches('"'),
            from: if value(&table, key).is_some() { "file" } else { "default" },
        };
        let file = config.file.as_ref().map(|file| file.to_string_lossy().into_owned());
        output::print_json(&Whole { file, keys: KEYS.iter().map(row).collect() })?;
    } else {
        output::print(&listing(config, &table))?;
    }
    Ok(Exit::Done)
}

fn value<'a>(table: &'a toml::Table, key: &Key) -> Option<&'a toml::Value> {
    table.get(key.section)?.get(key.name)
}

/// What holds, as a file that says the same.
fn listing(config: &Config, table: &toml::Table) -> String {
    let mut text = match (&config.file, config::usual_place()) {
        (Some(file), _) => format!("# From {}\n", escape(&file.to_string_lossy())),
        (None, Some(place)) => {
            format!(
                "# No configuration file was read; its usual place is {}\n",
                escape(&place.to_string_lossy())
            )
        }
        (None, None) => "# No configuration file was read.\n".to_owned(),
    };
    for section in keys::sections() {
        let _ = writeln!(text, "\n[{section}]"); // writing to a String cannot fail
        for key in KEYS.iter().filter(|key| key.section == section) {
            let _ = match value(table, key) {
                // A value of the file may hold what a terminal takes for a command; TOML escapes it.
                Some(value) => writeln!(text, "{} = {value}  # from the file", key.name),
                None => writeln!(text, "#{} = {}  # default", key.name, key.default),
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConnectionPart;

    #[test]
    fn the_listing_says_what_holds_and_whence() {
        let mut config = Config { file: Some("/c/config.toml".into()), ..Config::default() };
        config.session.concurrent = std::num::NonZeroUsize::new(3);
        config.session.limit_rate = Some(config::Rate(10 << 20));
        let table = toml::Table::try_from(&config).expect("a table");
        let text = listing(&config, &table);
        for line in [
            "# From /c/config.toml",
            "[session]",
            "concurrent = 3  # from the file",
            "limit-rate = \"10MiB\"  # from the file",
            "#per-host = no limit  # default",
            "#stage = \"auto\"  # default",
        ] {
            assert!(text.lines().any(|given| given == line), "{line}\n{text}");
        }
        let again: Config = toml::from_str(&text).expect("a file");
        assert_eq!(again.session, config.session);
    }

    #[test]
    fn secrets_are_not_shown() {
        let part = ConnectionPart {
            proxy: Some("http://me:pw@proxy:3128".into()),
            headers: Some(vec!["X-Tenant: films".into(), "X-Api-Key: pw".into(), "pw".into()]),
            ..ConnectionPart::default()
        };
        let shown = connection::shown(&part);
        assert_eq!(shown.proxy.as_deref(), Some("http://…@proxy:3128"));
        assert_eq!(shown.headers.expect("headers"), ["X-Tenant: films", "X-Api-Key: …", "…"]);
    }
}
