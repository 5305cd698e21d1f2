//! New jobs: their keys, their records, their secrets.
//!
//! Invariant: a job is said to be accepted when its records and its secrets are durable, and not before; with one key
//! there is one job.

use std::collections::BTreeMap;

use tokio::sync::oneshot;

use super::{Answer, Order, PATH_MAX, Round, Runner, shelf, staging};
use crate::control::Acceptance;
use crate::job::record::Record;
use crate::job::step::Transition;
use crate::job::{JobId, JobSpec};
use crate::secret::Secrets;

/// Secrets that came with a submission.
pub(super) struct Given {
    pub id: JobId,
    pub secrets: Secrets,
    /// With a key that had a job already: they count if that has none that can be read, as after a crash between its
    /// acceptance and their keeping.
    pub again: bool,
}

impl Runner {
    pub(super) async fn submit(
        &mut self,
        orders: Vec<Order>,
        answer: oneshot::Sender<Vec<Acceptance>>,
        round: &mut Round,
    ) -> Result<(), String> {
        let keyed = self.known_keys(&orders).await?;
        let mut results = Vec::with_capacity(orders.len());
        for (order, known) in orders.into_iter().zip(keyed) {
            let result = match order {
                Order::Refused(kind, text) => Acceptance::Refused { kind, text },
                Order::Known(id) => Acceptance::Accepted { id, existing: true },
                Order::Job { spec, secrets } => self.accept(spec, secrets, known, round).await?,
            };
            results.push(result);
        }
        round.answers.push(Answer::Submitted(answer, results));
        Ok(())
    }

    /// For each order the job that its key has in the rows.
    async fn known_keys(&self, orders: &[Order]) -> Result<Vec<Option<JobId>>, String> {
        let key = |order: &Order| match order {
            Order::Job { spec, .. } => spec.key.clone(),
            Order::Refused(..) | Order::Known(_) => None,
        };
        let keys: Vec<String> = orders.iter().filter_map(key).collect();
        let mut found = if keys.is_empty() {
            Vec::new().into_iter()
        } else {
            shelf::keyed(&self.journal, &keys).await?.into_iter()
        };
        Ok(orders.iter().map(|order| key(order).and_then(|_| found.next().flatten())).collect())
    }

    async fn accept(
        &mut self,
        spec: Box<JobSpec>,
        secrets: Secrets,
        known: Option<JobId>,
        round: &mut Round,
    ) -> Result<Acceptance, String> {
        let refused = |kind: &str, text: String| Acceptance::Refused { kind: kind.to_owned(), text };
        let key = spec.key.clone();
        if let Some(key) = &key
            && let Some(id) = self.keys.get(key).copied().or(known).filter(|id| !self.jobs.gone.contains(id))
            // A retry takes its predecessor's key over.
            && spec.predecessor != Some(id)
            && let Some(before) = self.find(id).await?
        {
            let same = before.spec.url == spec.url && before.spec.direction() == spec.direction();
            return Ok(if same && (before.spec.path == spec.path || spec.name_from_server) {
                if before.spec.has_secrets && !secrets.is_empty() && !before.state().is_terminal() {
                    round.secrets.push(Given { id, secrets, again: true });
                }
                Acceptance::Accepted { id, existing: true }
            } else {
                refused("key", format!("the key {key:?} belongs to job {id}, which is another transfer"))
            });
        }
        let id = JobId(self.jobs.last.0 + 1);
        let path_len = spec.path.as_os_str().len();
        let too_long = || {
            refused(
                "too-large",
                format!(
                    "the path (at most {PATH_MAX} bytes), the URL or the headers are too long to be journaled; shorten them"
                ),
            )
        };
        if path_len > PATH_MAX {
            return Ok(too_long());
        }
        let Ok(records) = Record::submitted(id, self.ports().clock.now(), spec) else {
            return Ok(too_long());
        };
        for record in records {
            self.record(Transition { record, effects: Vec::new(), epoch: 0 }, round);
        }
        if let Some(key) = key {
            self.keys.insert(key, id);
        }
        if !secrets.is_empty() {
            round.secrets.push(Given { id, secrets, again: false });
        }
        Ok(Acceptance::Accepted { id, existing: false })
    }

    /// Writes jobs' secrets, before the jobs are said to be accepted; gives those for which it failed, and the new
    /// ones among them.
    pub(super) async fn keep_secrets(&mut self, given: Vec<Given>) -> (BTreeMap<JobId, String>, Vec<JobId>) {
        let (mut refused, mut new) = (BTreeMap::new(), Vec::new());
        for Given { id, secrets, again } in given {
            let path = staging::secrets_path(&self.performer.stage_dir, id);
            let kept = self.ports().block(move |disk| {
                // Only what is not there, or was torn, is written anew: what cannot be read now may be all right.
                if again {
                    use std::io::ErrorKind::{InvalidData, NotFound};
                    match staging::read_secrets(disk, &path) {
                        Err(error) if matches!(error.kind(), NotFound | InvalidData) => {}
                        read => return read.map(drop),
                    }
                }
                staging::write_secrets(disk, &path, &secrets)
            });
            if let Err(error) = kept.await {
                refused.insert(id, format!("its secrets cannot be kept: {error}"));
                if !again {
                    new.push(id);
                }
            }
        }
        (refused, new)
    }
}
