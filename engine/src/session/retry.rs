//! Another attempt of a failed job: a new job, with a number of its own, that names its predecessor.
//!
//! What the user said is taken over; what was true of the world (the source's identity, the token, what the
//! server had) is not. A job has one successor at most, so that asking twice does not send twice.

use std::collections::BTreeMap;

use super::{Engine, Submission, UploadProtocol};
use crate::control::{Acceptance, PAGE_MAX, Query, Response, Selection, Skipped};
use crate::error::SessionClosed;
use crate::job::{Direction, FailCause, Job, JobId, JobState, Outcome, Phase};
use crate::protocol::ProtocolId;
use crate::run::{Order, staging};
use crate::secret::Secrets;

/// Jobs that are tried again in one go.
const SLICE: usize = 200;

/// Whether a failed job keeps what another attempt would need.
pub(crate) fn may_follow(job: &Job) -> bool {
    matches!(&job.core.phase, Phase::Ended(Outcome::Failed(cause)) if *cause != FailCause::Cancelled)
}

impl Engine {
    /// Tries failed jobs again; answered by the new ones.
    pub(super) async fn retry(&self, jobs: Selection) -> Response {
        let named = jobs.ids.clone();
        let (mut changed, mut skipped) = (Vec::new(), Vec::new());
        let candidates = match &named {
            Some(ids) => ids.clone(),
            None => match self.list(jobs.in_states([JobState::Failed])).await {
                Ok(failed) => failed.iter().map(|view| view.id).collect(),
                Err(closed) => return refused(closed),
            },
        };
        // Not knowing whether a job was tried again is no reason to send it twice.
        let followed = match self.followed(candidates.iter().min().copied()).await {
            Ok(followed) => followed,
            Err(closed) => return refused(closed),
        };
        for slice in candidates.chunks(SLICE) {
            let mut orders = Vec::new();
            for &id in slice {
                match self.again(id, &followed).await {
                    Ok(order) => orders.push((id, order)),
                    Err(why) if named.is_some() => skipped.push(Skipped { id, why }),
                    Err(_) => {}
                }
            }
            let (ids, orders): (Vec<JobId>, Vec<Order>) = orders.into_iter().unzip();
            match self.hand_in(orders).await {
                Ok(results) => {
                    for (id, result) in ids.into_iter().zip(results) {
                        match result {
                            Acceptance::Accepted { id, .. } => changed.push(id),
                            Acceptance::Refused { text, .. } => skipped.push(Skipped { id, why: text }),
                        }
                    }
                }
                Err(error) => {
                    return Response::Refused { kind: error.kind().to_owned(), text: error.to_string() };
                }
            }
        }
        skipped.truncate(PAGE_MAX);
        let count = changed.len() as u64;
        changed.truncate(PAGE_MAX);
        match self.list(Selection::ids(changed)).await {
            Ok(jobs) => Response::Changed { changed: count, jobs, skipped },
            Err(closed) => refused(closed),
        }
    }

    /// Which jobs have been tried again already, by what: only jobs after the first candidate can have done so.
    async fn followed(&self, first: Option<JobId>) -> Result<BTreeMap<JobId, JobId>, SessionClosed> {
        let mut followed = BTreeMap::new();
        let mut query = Query { after: first, ..Query::default() };
        loop {
            let (jobs, more) = self.page(query.clone()).await?;
            followed.extend(jobs.iter().filter_map(|view| Some((view.predecessor?, view.id))));
            let Some(after) = more else { return Ok(followed) };
            query.after = Some(after);
        }
    }

    async fn again(&self, id: JobId, followed: &BTreeMap<JobId, JobId>) -> Result<Order, String> {
        let Some(job) = self.look(id).await else {
            return Err("there is no such job in this session".to_owned());
        };
        if job.state() != JobState::Failed {
            return Err(format!("it is {}; only failed jobs are tried again", job.state()));
        }
        if let Some(by) = followed.get(&id) {
            return Err(format!("it was tried again as job {by}"));
        }
        let secrets = if job.spec.has_secrets { self.secrets_of(&job).await? } else { Secrets::default() };
        let submission = as_submitted(&job, secrets);
        self.order(submission, Some(id)).await.map_err(|error| error.to_string())
    }

    async fn secrets_of(&self, job: &Job) -> Result<Secrets, String> {
        let path = job.secrets_path(&self.stage_dir);
        let read = self.ports.block(move |disk| staging::read_secrets(disk, &path)).await;
        read.map_err(|error| format!("its headers are no longer kept ({error}); submit it anew"))
    }
}

fn refused(SessionClosed(text): SessionClosed) -> Response {
    Response::Refused { kind: "journal".to_owned(), text }
}

/// What was submitted, as far as the user said it.
fn as_submitted(job: &Job, secrets: Secrets) -> Submission {
    let spec = job.spec.clone();
    let base = match spec.direction() {
        Direction::Upload => {
            let protocol = match spec.protocol {
                ProtocolId::Tus | ProtocolId::TusParts => UploadProtocol::Tus,
                ProtocolId::Put => UploadProtocol::Put,
                ProtocolId::Form => UploadProtocol::Form,
                ProtocolId::Auto | ProtocolId::Get | ProtocolId::Segments => UploadProtocol::Auto,
            };
            Submission::upload(spec.path, spec.url).stage(spec.stage).protocol(protocol)
        }
        Direction::Download => Submission::download(spec.url, spec.path).overwrite(spec.overwrite),
    };
    Submission {
        checksum: spec.checksum,
        attempts_max: spec.attempts_max,
        credential: spec.credential,
        name: spec.name,
        group: spec.group,
        key: spec.key,
        priority: spec.priority,
        // Its time has come, and what was too late once must not be too late again at once.
        not_before: None,
        deadline: None,
        limit_rate: spec.limit_rate,
        parallel: spec.lanes,
        mirrors: spec.mirrors,
        headers: spec.headers,
        secrets,
        transport: spec.transport,
        http: spec.http,
        ..base
    }
}
