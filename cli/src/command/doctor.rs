//! `haul doctor`

use std::fmt::Write as _;

use longhaul::doctor::{Report, examine};

use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::text::escape;

pub async fn run(context: &Context) -> Result<Exit, Failure> {
    let report = connect::past_visitors(async || examine(&context.dir).await).await;
    let report = report
        .map_err(|failure| failure.if_owned("stop it first; it found the journal sound when it began"))?;
    if context.json {
        output::print_json(&report)?;
    } else {
        output::print(&block(&report))?;
    }
    Ok(verdict(&report))
}

fn verdict(report: &Report) -> Exit {
    match (report.damaged, report.healthy) {
        (true, _) => Exit::Damaged,
        (false, true) => Exit::Done,
        (false, false) => Exit::Failed,
    }
}

fn block(report: &Report) -> String {
    let mut text = String::new();
    let width = report.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    // Writing to a String cannot fail.
    for (name, value) in &report.facts {
        let _ = writeln!(text, "{:<width$}{}", escape(name), escape(value));
    }
    for finding in &report.findings {
        let _ = writeln!(text, "\n{}: {}", finding.severity, escape(&finding.text));
        let _ = writeln!(text, "  what to do: {}", escape(&finding.remedy));
    }
    let _ = writeln!(text, "\n{}", if report.healthy { "healthy" } else { "not healthy" });
    text
}
