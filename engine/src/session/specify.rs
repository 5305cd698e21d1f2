//! From a submission to a specification: both ends are looked at, every option is checked, and nothing is changed.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Engine, Submission, Transfer, UploadProtocol};
use crate::error::SubmitError;
use crate::job::{Direction, JobId, JobSpec, PRIORITY_MAX, StageMode, Token};
use crate::protocol::ProtocolId;
use crate::run::Order;

/// A source written to this shortly ago is looked at again: on kernels with coarse timestamps a
/// write right after the first look would leave no trace.
const TIMESTAMP_GRAIN: Duration = Duration::from_millis(20);
/// Exchanges side by side at most.
const PARALLEL_MAX: u16 = 64;
/// Bytes of a submitter's key, and of a group's name, at most.
const NAME_MAX: usize = 200;

impl Engine {
    /// What to hand in for a submission.
    ///
    /// A key makes submitting again harmless also when the job has done its work since: then the destination exists,
    /// or the source is gone, and that is no reason to refuse.
    pub(super) async fn order_or_known(&self, submission: Submission) -> Result<Order, SubmitError> {
        let again = submission.key.is_some().then(|| submission.clone());
        match (self.order(submission, None).await, again) {
            (Err(error @ (SubmitError::Source { .. } | SubmitError::Destination { .. })), Some(again)) => {
                self.known(&again).await.map(Order::Known).ok_or(error)
            }
            (order, _) => order,
        }
    }

    /// The job that the submission's key has, if it is the same transfer.
    async fn known(&self, submission: &Submission) -> Option<JobId> {
        let (local, direction) = match &submission.transfer {
            Transfer::Upload { source, .. } => (source.clone(), Direction::Upload),
            Transfer::Download { destination, .. } => (destination.clone(), Direction::Download),
        };
        let job = self.keyed(submission.key.clone()?).await?;
        let path = self.ports.block(move |disk| {
            let name = local.file_name().unwrap_or_default();
            let parent = local.parent().filter(|parent| !parent.as_os_str().is_empty());
            Ok(disk.resolve(parent.unwrap_or(Path::new(".")))?.join(name))
        });
        let path = path.await.ok()?;
        let same =
            job.spec.url == submission.url && job.spec.direction() == direction && job.spec.path == path;
        same.then_some(job.id)
    }

    /// Looks at both ends of a submission, and at nothing else.
    pub(super) async fn order(
        &self,
        submission: Submission,
        predecessor: Option<JobId>,
    ) -> Result<Order, SubmitError> {
        check(&submission)?;
        let secrets = submission.secrets.clone();
        let mut spec = specification(submission.clone(), Token(self.ports.entropy.token()));
        spec.predecessor = predecessor;
        match submission.transfer {
            Transfer::Upload { source, stage, protocol } => {
                self.upload(&mut spec, source, stage, protocol).await?;
            }
            Transfer::Download { destination, overwrite } => {
                let (path, into) = self.destination(destination, overwrite).await?;
                // Mirrors are another source of the same kind of piece, so they need the protocol of pieces.
                let in_pieces = spec.lanes > 1 || !spec.mirrors.is_empty();
                spec.protocol = if in_pieces { ProtocolId::Segments } else { ProtocolId::Get };
                (spec.path, spec.name_from_server, spec.overwrite) = (path, into, overwrite);
            }
        }
        Ok(Order::Job { spec: Box::new(spec), secrets })
    }

    async fn upload(
        &self,
        spec: &mut JobSpec,
        source: PathBuf,
        stage: StageMode,
        protocol: UploadProtocol,
    ) -> Result<(), SubmitError> {
        spec.protocol = match protocol {
            UploadProtocol::Auto => ProtocolId::Auto,
            UploadProtocol::Tus if spec.lanes > 1 => ProtocolId::TusParts,
            UploadProtocol::Tus => ProtocolId::Tus,
            UploadProtocol::Put => ProtocolId::Put,
            UploadProtocol::Form => ProtocolId::Form,
        };
        let (shown, given) = (source.clone(), source.file_name().map(ToOwned::to_owned));
        let look = async |path: PathBuf| {
            self.ports
                .block(move |disk| {
                    let path = disk.resolve(&path)?;
                    let file = disk.open_read(&path)?.fingerprint()?;
                    Ok((path, file))
                })
                .await
                .map_err(|error| SubmitError::Source { path: shown.clone(), source: error })
        };
        let (path, mut file) = look(source).await?;
        let age_ms = i128::from(self.ports.clock.now().0) - file.mtime_ns / 1_000_000;
        if age_ms <= i128::from(TIMESTAMP_GRAIN.subsec_millis()) {
            self.ports.clock.sleep(TIMESTAMP_GRAIN).await;
            file = look(path.clone()).await?.1;
        }
        // A link is followed for its bytes; the name is the one that was given, which callers have told apart
        // from others.
        if spec.name.is_none() && path.file_name() != given.as_deref() {
            spec.name = given.map(|name| name.to_string_lossy().into_owned());
        }
        (spec.path, spec.source, spec.stage) = (path, Some(file), stage);
        Ok(())
    }

    /// The absolute destination, and whether it is a directory to download into.
    async fn destination(
        &self,
        destination: PathBuf,
        overwrite: bool,
    ) -> Result<(PathBuf, bool), SubmitError> {
        let shown = destination.clone();
        let wrong = |why: String| SubmitError::Destination { path: shown.clone(), why };
        let look = self.ports.block(move |disk| {
            if disk.is_dir(&destination) {
                return Ok(Ok((disk.resolve(&destination)?, true)));
            }
            let Some(name) = destination.file_name() else {
                return Ok(Err("it names no file".to_owned()));
            };
            let parent = destination.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = disk.resolve(parent.unwrap_or(Path::new(".")))?;
            let path = parent.join(name);
            if !overwrite && disk.inspect(&path)?.is_some() {
                return Ok(Err("it exists; choose another name, or overwrite it".to_owned()));
            }
            Ok(Ok((path, false)))
        });
        look.await.map_err(|error| wrong(error.to_string()))?.map_err(wrong)
    }
}

/// The specification as far as the submission alone tells.
fn specification(submission: Submission, token: Token) -> JobSpec {
    let has_secrets = !submission.secrets.is_empty();
    JobSpec {
        checksum: submission.checksum,
        attempts_max: submission.attempts_max.max(1),
        credential: submission.credential,
        name: submission.name,
        group: submission.group,
        key: submission.key,
        priority: submission.priority,
        not_before: submission.not_before,
        deadline: submission.deadline,
        limit_rate: submission.limit_rate,
        lanes: submission.parallel,
        mirrors: submission.mirrors,
        headers: submission.headers,
        has_secrets,
        transport: submission.transport,
        http: submission.http,
        ..JobSpec::new(ProtocolId::Auto, submission.url, PathBuf::new(), token)
    }
}

/// Checks what can be seen of a submission without looking anywhere.
fn check(submission: &Submission) -> Result<(), SubmitError> {
    check_target(&submission.url).map_err(SubmitError::Url)?;
    let option = |why: String| Err(SubmitError::Option(why));
    if submission.priority > PRIORITY_MAX {
        return option(format!("priority {}: it goes from 0 to {PRIORITY_MAX}", submission.priority));
    }
    if !(1..=PARALLEL_MAX).contains(&submission.parallel) {
        return option(format!(
            "{} exchanges side by side: 1 to {PARALLEL_MAX} are possible",
            submission.parallel
        ));
    }
    if submission.limit_rate == Some(0) {
        return option("a rate limit of 0 would never end; pause the job instead".to_owned());
    }
    for (what, name) in [("key", &submission.key), ("group", &submission.group)] {
        if let Some(name) = name
            && (name.is_empty() || name.len() > NAME_MAX || name.contains(char::is_control))
        {
            return option(format!("a {what} has 1 to {NAME_MAX} bytes, all of them printable"));
        }
    }
    let is_download = matches!(submission.transfer, Transfer::Download { .. });
    if !submission.mirrors.is_empty() && !is_download {
        return option("mirrors are for downloads".to_owned());
    }
    for mirror in &submission.mirrors {
        check_target(mirror).map_err(SubmitError::Url)?;
    }
    check_headers(submission)
}

fn check_headers(submission: &Submission) -> Result<(), SubmitError> {
    let open = submission.headers.iter().map(|(name, value)| (name, value));
    let secret = submission.secrets.headers.iter().map(|(name, value)| (name, value.expose()));
    for (name, value) in open.chain(secret) {
        let wrong = |why: &str| Err(SubmitError::Option(format!("the header {name:?} {why}")));
        if http::HeaderName::try_from(name.as_str()).is_err() {
            return wrong("has no name that HTTP allows");
        }
        if http::HeaderValue::from_str(value).is_err() {
            return wrong("has a value that HTTP does not allow (a line break?)");
        }
        let own = ["host", "content-length", "transfer-encoding", "connection", "range", "if-range"];
        if own.iter().any(|own| name.eq_ignore_ascii_case(own)) {
            return wrong("is the engine's own: what it says must be true");
        }
    }
    Ok(())
}

/// Whether a URL can be a job's remote end.
fn check_target(text: &str) -> Result<(), String> {
    let url = url::Url::parse(text)
        .map_err(|error| format!("{error}; it must be an absolute http or https URL"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{} is not http or https", url.scheme()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("it holds a name or password; give the credential apart from it".to_owned());
    }
    if url.fragment().is_some() {
        return Err(
            "it has a #fragment, which no server would see; escape the # as %23 if it is meant".to_owned()
        );
    }
    Ok(())
}
