//! Handing jobs to a session and waiting for them: what `put` and `get` share.
//!
//! ```text
//! items ─▶ one or several? ─▶ Dresser ─▶ Batches ─▶ Submit, SubmitAll ─▶ accepted ids ─▶ wait, or --detach: told
//! ```
//!
//! A file that cannot be taken is told and does not hold up the others. An answer that was lost is asked for again,
//! of the next owner too: keys make that safe.

use std::fmt::Write as _;

use longhaul::control::{Acceptance, Request, Response};
use longhaul::{CredentialRef, JobId, Submission};
use serde::Serialize;

use crate::batch::{self, Batches, Dresser, Item};
use crate::connect::{Attached, Role, unexpected};
use crate::detach;
use crate::exit::{Exit, Failure};
use crate::options::Options;
use crate::output::{self, Context};
use crate::signals::{Asked, Signals};
use crate::text::escape;
use crate::wait::{self, Crowd};

/// A command's jobs before they are any.
pub struct Wanted<'a> {
    /// What they have in common.
    pub template: Submission,
    /// How they were asked for.
    pub options: &'a Options,
    /// No two files may have one name at one URL.
    pub distinct: bool,
}

/// What `--detach --json` prints.
#[derive(Serialize)]
struct Detached<'a> {
    accepted: &'a [JobId],
    group: Option<&'a str>,
}

/// What became of a command's files.
struct Accepted {
    ids: Vec<JobId>,
    /// Of these, there before under the same key.
    existing: usize,
    group: Option<String>,
    /// How the others ended.
    exit: Exit,
}

/// Submits all, then waits for what was accepted, or with `--detach` tells it.
pub async fn run(
    context: &Context,
    wanted: Wanted<'_>,
    items: impl Iterator<Item = Result<Item, Failure>>,
) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    if wanted.options.detach {
        let guest = detach::guest(&context.dir).await?;
        let mut session = Attached::open(&context.dir, Role::Guest).await?;
        let accepted = submit(&mut session, wanted, items, context, &signals).await?;
        drop(guest);
        return tell(context, &accepted);
    }
    let mut session = Attached::open(&context.dir, Role::Owner).await?;
    let ended = async {
        let accepted = submit(&mut session, wanted, items, context, &signals).await?;
        if accepted.ids.is_empty() {
            return Ok(accepted.exit);
        }
        let crowd = Crowd { ids: accepted.ids, group: accepted.group };
        Ok(wait::wait_for(&mut session, crowd, context, &mut signals).await?.and(accepted.exit))
    }
    .await;
    session.leave(ended).await
}

async fn submit(
    session: &mut Attached,
    wanted: Wanted<'_>,
    mut items: impl Iterator<Item = Result<Item, Failure>>,
    context: &Context,
    signals: &Signals,
) -> Result<Accepted, Failure> {
    check_credential(session, &wanted.template, context)?;
    // Two are enough to know that there are several.
    let first: Vec<_> = items.by_ref().take(2).collect();
    let several = first.len() > 1;
    let Options { key, group, .. } = wanted.options;
    let group = match group {
        Some(group) => Some(group.clone()),
        None if several => Some(batch::group(key.as_deref())?),
        None => None,
    };
    let template = Submission { group: group.clone(), ..wanted.template };
    let mut dresser = Dresser::new(template, key.clone(), several, wanted.distinct)?;
    let submissions = first.into_iter().chain(items).map(|item| item.and_then(|item| dresser.dress(item)));
    let mut accepted = Accepted { ids: Vec::new(), existing: 0, group, exit: Exit::Done };
    for batch in Batches::new(submissions) {
        // Only asked between two: a request that is under way is short, and its answer matters.
        if let Some(asked) = signals.seen() {
            accepted.stop(asked)?;
            break;
        }
        accepted.note(batch.failures, batch.broken)?;
        accepted.take(session, batch.submissions).await?;
    }
    match (accepted.existing, &accepted.ids[..]) {
        (0, _) => {}
        (_, [id]) => context.note(format_args!("job {id} is there already, under the same key")),
        (count, _) => {
            context.note(format_args!("{count} of the jobs are there already, under the same keys"));
        }
    }
    if accepted.ids.len() > 1 && !(wanted.options.detach || context.json) {
        let (count, group) = (accepted.ids.len(), accepted.group.as_deref().unwrap_or_default());
        context.note(format_args!("{count} jobs accepted, group {}", escape(group)));
    }
    Ok(accepted)
}

impl Accepted {
    /// A signal came before all was submitted.
    fn stop(&mut self, asked: Asked) -> Result<(), Failure> {
        let exit = match asked {
            Asked::Interrupt => Exit::Interrupted,
            Asked::Terminate => Exit::Terminated,
        };
        if self.ids.is_empty() {
            return Err(Failure::new(exit, "nothing was submitted"));
        }
        let count = self.ids.len();
        output::complain(format_args!("only {count} jobs were submitted; the rest of the files was not"));
        self.exit = self.exit.and(Exit::Failed);
        Ok(())
    }

    /// Tells of files that are no jobs. A mistake in the command itself ends it, if nothing was accepted yet.
    fn note(&mut self, failures: Vec<Failure>, broken: bool) -> Result<(), Failure> {
        let count = failures.len();
        for (number, failure) in failures.into_iter().enumerate() {
            if broken && number + 1 == count && self.ids.is_empty() {
                return Err(failure);
            }
            self.refuse(&failure);
        }
        Ok(())
    }

    fn refuse(&mut self, failure: &Failure) {
        output::complain(failure);
        self.exit = self.exit.and(Exit::Failed);
    }

    async fn take(
        &mut self,
        session: &mut Attached,
        mut submissions: Vec<Submission>,
    ) -> Result<(), Failure> {
        let alone = submissions.len() == 1;
        let request = match submissions.pop() {
            None => return Ok(()),
            Some(one) if alone => Request::Submit { submission: Box::new(one) },
            Some(last) => {
                submissions.push(last);
                Request::SubmitAll { submissions }
            }
        };
        match session.call(&request).await? {
            Response::Submitted { job, existing } => {
                self.add(job.id, existing);
            }
            Response::Accepted { results } => {
                for result in results {
                    match result {
                        Acceptance::Accepted { id, existing } => {
                            self.add(id, existing);
                        }
                        Acceptance::Refused { kind, text } => self.judge(Failure::refused(&kind, text))?,
                        other => {
                            return Err(Failure::failed(format!("an answer of another kind: {other:?}")));
                        }
                    }
                }
            }
            other => self.judge(unexpected(other))?,
        }
        Ok(())
    }

    fn add(&mut self, id: JobId, existing: bool) {
        self.ids.push(id);
        self.existing += usize::from(existing);
    }

    /// A refusal of one file is told; of the journal, it is the end.
    fn judge(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.exit() != Exit::Failed {
            return Err(failure);
        }
        self.refuse(&failure);
        Ok(())
    }
}

fn tell(context: &Context, accepted: &Accepted) -> Result<Exit, Failure> {
    let Accepted { ids, group, exit, existing: _ } = accepted;
    if context.json {
        output::print_json(&Detached { accepted: ids, group: group.as_deref() })?;
        return Ok(*exit);
    }
    let mut text = String::new();
    if let Some(group) = group.as_ref().filter(|_| !ids.is_empty()) {
        text = format!("group {}\n", escape(group));
    }
    for id in ids {
        let _ = writeln!(text, "job {id}"); // writing to a String cannot fail
    }
    output::print(&text)?;
    Ok(*exit)
}

/// A variable that is missing here is missing in the owner when that is us; of another owner's
/// environment we know nothing.
fn check_credential(session: &Attached, template: &Submission, context: &Context) -> Result<(), Failure> {
    let Some(CredentialRef::Env(name)) = &template.credential else { return Ok(()) };
    if !session.owns() {
        context.note(format_args!("the token is taken from {} as the session's owner has it", escape(name)));
    } else if std::env::var_os(name).is_none() {
        return Err(Failure::usage(format!("environment variable {} is not set", escape(name))));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
