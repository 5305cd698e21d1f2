//! Handing jobs to a session and waiting for them: what `put` and `get` share.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use longhaul::control::{Request, Response};
use longhaul::{Checksum, CredentialRef, Direction, JobId, JobView, Submission, Transfer};
use url::Url;

use crate::connect::{Attached, Losses, Role, unexpected};
use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::signals::{Asked, Signals};
use crate::text::escape;
use crate::wait;

/// Options of both directions.
#[derive(Debug, Args)]
pub struct Options {
    /// The digest the whole file must have, as sha256:HEX (also sha1, sha512)
    #[arg(long, value_name = "ALG:HEX")]
    pub checksum: Option<Checksum>,
    /// Failures in a row without progress after which a job is suspended
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub attempts: u32,
    /// A file whose first line is the bearer token; read for each request, never journaled
    #[arg(long, value_name = "F", conflicts_with = "bearer_env")]
    pub bearer_file: Option<PathBuf>,
    /// An environment variable with the bearer token; the session's owner must have it
    #[arg(long, value_name = "VAR")]
    pub bearer_env: Option<String>,
}

impl Options {
    /// A submission with these options.
    pub fn dress(&self, submission: Submission) -> Result<Submission, Failure> {
        let (checksum, credential) = (self.checksum.clone(), self.credential()?);
        Ok(Submission { checksum, attempts_max: self.attempts, credential, ..submission })
    }

    fn credential(&self) -> Result<Option<CredentialRef>, Failure> {
        Ok(match (&self.bearer_file, &self.bearer_env) {
            (Some(file), _) => Some(CredentialRef::File(absolute(file)?)),
            (None, Some(name)) => Some(CredentialRef::Env(name.clone())),
            (None, None) => None,
        })
    }
}

/// The path as it reads from any directory: the session's owner may work in another one.
pub fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::usage(format!("{}: {error}", escape(&path.to_string_lossy()))))
}

/// Checks what can be seen of a URL from here.
pub fn check_url(text: &str) -> Result<(), Failure> {
    let wrong = |why: &str| Failure::usage(format!("{}: {why}", without_secrets(text)));
    let url = Url::parse(text).map_err(|error| wrong(&format!("this is no absolute URL ({error})")))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(wrong("only http and https URLs are understood"));
    }
    if url.fragment().is_some() {
        return Err(wrong("no server sees what follows a #; write %23 if it belongs to the name"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("a URL must not hold credentials; use --bearer-file or --bearer-env"));
    }
    Ok(())
}

/// The URL for a message: without what might be a password or a signature.
fn without_secrets(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    let shown = match (text.split_once("://"), text.rfind('@')) {
        (Some((scheme, _)), Some(at)) => format!("{scheme}://…{}", &text[at..]),
        (None, Some(at)) => format!("…{}", &text[at..]),
        (_, None) => text.to_owned(),
    };
    escape(&shown).into_owned()
}

/// Submits all, then waits for what was accepted.
pub async fn submit_and_wait(context: &Context, submissions: Vec<Submission>) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    let mut session = Attached::open(&context.dir, Role::Owner).await?;
    let ended = carry(&mut session, submissions, context, &mut signals).await;
    session.leave(ended).await
}

async fn carry(
    session: &mut Attached,
    submissions: Vec<Submission>,
    context: &Context,
    signals: &mut Signals,
) -> Result<Exit, Failure> {
    let mut accepted: Vec<JobView> = Vec::new();
    let mut refused = Exit::Done;
    for submission in submissions {
        // Only asked between two: a submission that is under way is short, and its answer matters.
        match signals.seen() {
            Some(Asked::Interrupt | Asked::Terminate) if accepted.is_empty() => return Ok(Exit::Interrupted),
            Some(_) => {
                output::complain(format_args!("not submitted: {}", local_name(&submission.transfer)));
                refused = refused.and(Exit::Failed);
                continue;
            }
            None => {}
        }
        check_credential(session, &submission, context)?;
        let known: Vec<JobId> = accepted.iter().map(|view| view.id).collect();
        match submit(session, &submission, &known).await {
            Ok(view) => accepted.push(view),
            Err(failure) if failure.exit() == Exit::Failed => {
                output::complain(&failure);
                refused = refused.and(Exit::Failed);
            }
            Err(failure) => return Err(failure),
        }
    }
    if accepted.is_empty() {
        return Ok(refused);
    }
    Ok(wait::wait(session, accepted, context, signals).await?.and(refused))
}

/// A variable that is missing here is missing in the owner when that is us; of another owner's
/// environment we know nothing.
fn check_credential(session: &Attached, submission: &Submission, context: &Context) -> Result<(), Failure> {
    let Some(CredentialRef::Env(name)) = &submission.credential else { return Ok(()) };
    if !session.owns() {
        context.note(format_args!("the token is taken from {} as the session's owner has it", escape(name)));
    } else if std::env::var_os(name).is_none() {
        return Err(Failure::usage(format!("environment variable {} is not set", escape(name))));
    }
    Ok(())
}

/// Submits one job, exactly once.
///
/// When the owner goes away before it answers, the job may or may not be in the journal. The next
/// owner is asked for a job like it that is younger than our request; only if there is none, the job
/// is submitted again.
async fn submit(session: &mut Attached, wanted: &Submission, known: &[JobId]) -> Result<JobView, Failure> {
    let since_ms = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
    let request = Request::Submit { submission: Box::new(wanted.clone()) };
    let mut losses = Losses::default();
    loop {
        match session.try_call(&request).await {
            Ok(Response::Submitted { job, .. }) => return Ok(*job),
            Ok(other) => return Err(unexpected(other)),
            Err(lost) => session.survive(lost, &mut losses).await?,
        }
        let young = |view: &JobView| u128::from(view.submitted_at.0) >= since_ms && !known.contains(&view.id);
        let jobs = session.list(None).await?;
        if let Some(view) = jobs.into_iter().find(|view| young(view) && is_like(view, wanted)) {
            return Ok(view);
        }
    }
}

/// Whether a job may be what was submitted. Views show URLs in their normal form without the query,
/// which may be a secret; an upload's source is shown with symbolic links resolved.
fn is_like(view: &JobView, wanted: &Submission) -> bool {
    let bare = |url: &str| url.split('?').next().and_then(|url| Url::parse(url).ok());
    match &wanted.transfer {
        Transfer::Upload { source, .. } => {
            let source = source.canonicalize().unwrap_or_else(|_| source.clone());
            view.direction == Direction::Upload
                && view.source == source.to_string_lossy()
                && bare(&view.target) == bare(&wanted.url)
        }
        Transfer::Download { destination, .. } => {
            let destination = std::path::absolute(destination).unwrap_or_else(|_| destination.clone());
            let parent = destination.parent().and_then(|parent| parent.canonicalize().ok());
            let resolved = destination
                .canonicalize()
                .ok()
                .filter(|path| path.is_dir())
                .or_else(|| parent.zip(destination.file_name()).map(|(parent, name)| parent.join(name)));
            view.direction == Direction::Download
                && bare(&view.source) == bare(&wanted.url)
                && resolved.is_some_and(|path| view.target == path.to_string_lossy())
        }
    }
}

fn local_name(transfer: &Transfer) -> String {
    let path = match transfer {
        Transfer::Upload { source, .. } => source,
        Transfer::Download { destination, .. } => destination,
    };
    escape(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use longhaul::JobState;

    use super::*;
    use crate::report::tests::job;

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
    }

    #[test]
    fn a_lost_submission_is_recognised() {
        let view = job(JobState::Queued, None);
        let upload = |source: &str, url: &str| Submission::upload(source, url);
        assert!(is_like(&view, &upload("/films/movie.mp4", "http://host/files/?token=x")));
        assert!(is_like(&view, &upload("/films/movie.mp4", "HTTP://HOST:80/files/")));
        assert!(!is_like(&view, &upload("/films/other.mp4", "http://host/files/")));
        assert!(!is_like(&view, &upload("/films/movie.mp4", "http://host/other/")));
    }
}
