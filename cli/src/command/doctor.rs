//! `haul doctor [--repair]`, `haul doctor export`, `haul doctor import`

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use longhaul::doctor::{self, Export, Imported, Repair, Report, Severity};

use crate::connect;
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::style::{self, Ink};
use crate::text::escape;

/// The foot of the help.
pub const NOTES: &str = "\
Repair never deletes what is damaged: the journal, and staging copies that no restored job owns, are moved to
quarantine-TIME in the session's directory. Restored jobs hold still until they are resumed: the server may be
further than the restored journal knew. A journal of a newer version is not touched. In a sound session, what jobs
that have ended have left (staging copies, secrets, part files) is removed.

Exported are the unfinished jobs: {\"format\": \"longhaul-jobs\", \"version\": 1, \"jobs\": [{\"view\", \"missing\", \"job\"}]},
where \"view\" is for people, \"missing\" names what a job needs that is not in the file (secrets never are), and \"job\" is
what is imported. Addresses are whole, and a signed one is as good as a key: keep the file to yourself.

Exit codes: 0 sound, 1 something needs attention or was lost, 78 the journal is damaged or of a newer version";

const STOP_FIRST: &str = "stop it first; it found the journal sound when it began";

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Doctor {
    /// Put aside what is damaged and restore what can be read; remove what ended jobs have left
    #[arg(long)]
    pub repair: bool,
    /// Only say what would be done
    #[arg(long, requires = "repair")]
    pub dry_run: bool,
    #[command(subcommand)]
    pub task: Option<Task>,
}

#[derive(Debug, Subcommand)]
pub enum Task {
    /// Write the unfinished jobs as JSON
    Export {
        /// A new file; - or nothing for standard output
        #[arg(value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Take jobs from an export: each as a new job that holds still
    Import {
        /// The file; - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

pub async fn run(context: &Context, doctor: &Doctor) -> Result<Exit, Failure> {
    match &doctor.task {
        Some(Task::Export { file }) => export(context, file.as_deref()).await,
        Some(Task::Import { file }) => import(context, file).await,
        None if doctor.repair => repair(context, doctor.dry_run).await,
        None => examine(context).await,
    }
}

async fn examine(context: &Context) -> Result<Exit, Failure> {
    let report = connect::past_visitors(async || doctor::examine(&context.dir).await).await;
    let report = report.map_err(|failure| failure.if_owned(STOP_FIRST))?;
    if context.json {
        output::print_json(&report)?;
    } else {
        output::print(&block(&report))?;
    }
    Ok(verdict(&report))
}

async fn repair(context: &Context, dry_run: bool) -> Result<Exit, Failure> {
    let repaired = connect::past_visitors(async || doctor::repair(&context.dir, dry_run).await).await;
    let repair = repaired.map_err(|failure| failure.if_owned(STOP_FIRST))?;
    if context.json {
        output::print_json(&repair)?;
    } else {
        output::print(&repair_block(&repair, context))?;
    }
    Ok(if !repair.rebuilt || dry_run {
        verdict(&repair.before)
    } else if repair.lost.is_empty() {
        Exit::Done
    } else {
        Exit::Failed
    })
}

fn verdict(report: &Report) -> Exit {
    match (report.damaged, report.healthy) {
        (true, _) => Exit::Damaged,
        (false, true) => Exit::Done,
        (false, false) => Exit::Failed,
    }
}

fn block(report: &Report) -> String {
    let paint = style::stdout();
    let mut text = String::new();
    let width = report.facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0) + 2;
    // Writing to a String cannot fail.
    for (name, value) in &report.facts {
        let _ = writeln!(text, "{:<width$}{}", escape(name), escape(value));
    }
    text.push_str(&findings(report));
    let verdict = if report.healthy { "healthy" } else { "not healthy" };
    let _ = writeln!(text, "\n{}", paint.ink(if report.healthy { Ink::Good } else { Ink::Bad }, verdict));
    text
}

fn findings(report: &Report) -> String {
    let paint = style::stdout();
    report.findings.iter().fold(String::new(), |mut text, finding| {
        let ink = match finding.severity {
            Severity::Note => Ink::Faint,
            Severity::Warning => Ink::Held,
            Severity::Error => Ink::Bad,
        };
        let severity = paint.ink(ink, &finding.severity.to_string());
        let _ = writeln!(text, "\n{severity}: {}", escape(&finding.text));
        let _ = writeln!(text, "  what to do: {}", escape(&finding.remedy));
        text
    })
}

fn repair_block(repair: &Repair, context: &Context) -> String {
    let mut text = String::new();
    if repair.dry_run {
        text.push_str("nothing was changed; this is what a repair does:\n");
    }
    for did in &repair.did {
        let _ = writeln!(text, "{}", escape(did));
    }
    for lost in &repair.lost {
        let _ = writeln!(text, "{}: {}", style::stdout().ink(Ink::Bad, "lost"), escape(lost));
    }
    for view in &repair.restored {
        let _ = writeln!(text, "{}", crate::report::result_line(view));
    }
    if !repair.restored.is_empty() && !repair.dry_run {
        let resume = context.again("resume ID");
        let _ = writeln!(text, "nothing is sent before you say so, for one job or for --all: {resume}");
    }
    if !repair.rebuilt {
        text.push_str(&findings_that_stay(repair));
        if repair.did.is_empty() {
            text.push_str("there is nothing to repair\n");
        }
    }
    text
}

/// What a repair cannot deal with.
fn findings_that_stay(repair: &Repair) -> String {
    let mut rest = repair.before.clone();
    rest.findings.retain(|finding| finding.severity != Severity::Note);
    findings(&rest)
}

async fn export(context: &Context, file: Option<&Path>) -> Result<Exit, Failure> {
    let exported = connect::past_visitors(async || doctor::export(&context.dir).await).await;
    let export = exported.map_err(|failure| failure.if_owned("stop it first: its jobs are moving"))?;
    let mut text = serde_json::to_string(&export)
        .map_err(|error| Failure::failed(format!("cannot write JSON: {error}")))?;
    text.push('\n');
    match file.filter(|file| *file != Path::new("-")) {
        Some(file) => write_new(file, &text).map_err(|error| about(file, &error))?,
        None => output::print(&text)?,
    }
    for (id, what) in export.missing() {
        context.note(format_args!("job {id} also needs {}", escape(what)));
    }
    context.note(format_args!("exported {} unfinished jobs", export.jobs().count()));
    Ok(Exit::Done)
}

/// Writes a file that nobody else can read, durably, and never over another one.
fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn about(path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("{}: {error}", escape(&path.to_string_lossy())))
}

async fn import(context: &Context, file: &Path) -> Result<Exit, Failure> {
    let mut text = String::new();
    if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut text).map_err(|error| about(file, &error))?;
    } else {
        text = std::fs::read_to_string(file).map_err(|error| about(file, &error))?;
    }
    let wrong = |error| Failure::failed(format!("{}: {error}", escape(&file.to_string_lossy())));
    let export = Export::parse(&text).map_err(wrong)?;
    let imported = connect::past_visitors(async || doctor::import(&context.dir, export.clone()).await).await;
    let results = imported.map_err(|failure| failure.if_owned("stop it first"))?;
    if context.json {
        output::print_json(&results)?;
    } else {
        let lines: String = results.iter().map(import_lines).collect();
        output::print(&lines)?;
    }
    let resume = context.again("resume --all");
    if results.iter().any(|result| result.to.is_some()) {
        context.note(format_args!(
            "the jobs hold still, and must not go on where they came from as well; go on here with: {resume}"
        ));
    }
    Ok(if results.iter().all(|result| result.to.is_some()) { Exit::Done } else { Exit::Failed })
}

/// `7 → 12  keeps 400 bytes in its part file`
fn import_lines(result: &Imported) -> String {
    let what = escape(&result.what);
    let mut lines = match result.to {
        Some(to) => format!("{} → {to}  {what}\n", result.from),
        None => format!("{}  {}: {what}\n", result.from, style::stdout().ink(Ink::Bad, "not taken")),
    };
    if !result.missing.is_empty() {
        let missing: Vec<_> = result.missing.iter().map(|missing| escape(missing)).collect();
        let _ = writeln!(lines, "    it needs {}", missing.join(", "));
    }
    lines
}

#[cfg(test)]
mod tests {
    use longhaul::JobId;

    use super::*;
    use crate::report::tests::context;

    #[test]
    fn the_verdict_is_the_exit_code() {
        let report = |damaged, healthy| Report { damaged, healthy, ..Report::default() };
        assert_eq!(verdict(&report(true, false)), Exit::Damaged);
        assert_eq!(verdict(&report(false, true)), Exit::Done);
        assert_eq!(verdict(&report(false, false)), Exit::Failed);
    }

    #[test]
    fn an_import_tells_each_job_on_its_lines() {
        let mut result = Imported {
            from: JobId(7),
            to: Some(JobId(12)),
            what: "begins\nanew".into(),
            missing: vec!["a".into(), "b".into()],
        };
        assert_eq!(import_lines(&result), "7 → 12  begins\\nanew\n    it needs a, b\n");
        (result.to, result.missing) = (None, Vec::new());
        assert_eq!(import_lines(&result), "7  not taken: begins\\nanew\n");
    }

    #[tokio::test]
    async fn a_file_is_never_overwritten_and_round_trips() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let context = Context { dir: dir.path().join("none"), quiet: true, ..context("none") };
        let file = dir.path().join("jobs.json");
        assert_eq!(export(&context, Some(&file)).await.expect("written"), Exit::Done);
        assert!(export(&context, Some(&file)).await.is_err());
        assert_eq!(import(&context, &file).await.expect("read"), Exit::Done);
    }
}
