//! What a job is submitted as, and how a session is opened: the embedder's builders.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{ATTEMPTS_MAX_DEFAULT, CONCURRENT_DEFAULT};
use crate::job::{Checksum, Form, HttpOptions, PRIORITY_DEFAULT, StageMode, TransportOptions};
use crate::ports::WallMs;
use crate::secret::{CredentialRef, Redacted, Secrets};

/// What to transfer, and how. Made by [`Submission::upload`] or [`Submission::download`]; every other method
/// takes it and gives it back changed.
///
/// ```
/// use longhaul::{Submission, UploadProtocol};
/// use std::time::Duration;
///
/// let night_shift = Submission::upload("/data/movie.mp4", "https://example.org/files/")
///     .protocol(UploadProtocol::Tus)
///     .group("movies")
///     .key("movie-4711")
///     .priority(2)
///     .limit_rate(500_000)
///     .header("X-Album", "summer");
/// assert_eq!(night_shift.priority, 2);
/// ```
///
/// A download of which everything is known beforehand:
///
/// ```
/// use longhaul::{Checksum, CredentialRef, Submission, WallMs};
///
/// let digest = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
/// let movie = Submission::download("https://example.org/movie.mp4", "/data/movie.mp4")
///     .mirror("https://mirror.example.net/movie.mp4")
///     .parallel(4)
///     .checksum(digest.parse::<Checksum>()?)
///     .credential(CredentialRef::Env("EXAMPLE_TOKEN".to_owned())) // only the reference is journaled
///     .secret_header("X-Api-Key", "s3cret") // in a file of the session (0600), not in the journal
///     .attempts_max(50) // failures in a row until it is suspended; waits between them grow by themselves
///     .deadline(WallMs(1_900_000_000_000)); // failed if not complete by then
/// assert!(!format!("{movie:?}").contains("s3cret"));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Submission {
    /// Which way, and the local end.
    pub transfer: Transfer,
    /// The remote end: an absolute `http` or `https` URL without userinfo.
    pub url: String,
    /// A digest that the whole file must have.
    #[serde(default)]
    pub checksum: Option<Checksum>,
    /// Failures in a row without progress after which the job is suspended.
    #[serde(default = "attempts_max_default")]
    pub attempts_max: u32,
    /// Where a credential is to be found.
    #[serde(default)]
    pub credential: Option<CredentialRef>,
    /// An upload's name at the server, where the URL leaves that open (it ends in `/`, or is a tus
    /// endpoint); `/` in it makes directories. The file's own name when `None`.
    #[serde(default)]
    pub name: Option<String>,
    /// Jobs of one group are listed and changed together.
    #[serde(default)]
    pub group: Option<String>,
    /// The submitter's own name for the job: submitted twice with one key, it is one job.
    #[serde(default)]
    pub key: Option<String>,
    /// 0 (last) to 9 (first).
    #[serde(default = "priority_default")]
    pub priority: u8,
    /// Not before this wall time.
    #[serde(default)]
    pub not_before: Option<WallMs>,
    /// Failed if not complete by this wall time.
    #[serde(default)]
    pub deadline: Option<WallMs>,
    /// Bytes a second at most.
    #[serde(default)]
    pub limit_rate: Option<u64>,
    /// Exchanges side by side: segments of a download, parts of an upload where the server can join them.
    #[serde(default = "one")]
    pub parallel: u16,
    /// Other URLs of the same file, for a download.
    #[serde(default)]
    pub mirrors: Vec<String>,
    /// Headers of each request to the URL's own origin. They are journaled: for secrets there is `secrets`.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
    /// What nobody else may see.
    #[serde(default)]
    pub secrets: Secrets,
    /// How connections are made.
    #[serde(default)]
    pub transport: TransportOptions,
    /// What single protocols want to know.
    #[serde(default)]
    pub http: HttpOptions,
}

fn attempts_max_default() -> u32 {
    ATTEMPTS_MAX_DEFAULT
}

fn priority_default() -> u8 {
    PRIORITY_DEFAULT
}

fn one() -> u16 {
    1
}

/// Which way, and the local end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transfer {
    /// Upload a file.
    Upload {
        /// The source; symbolic links are followed once, now.
        #[serde(with = "crate::job::record::path_bytes")]
        source: PathBuf,
        /// How it is kept safe from changes.
        stage: StageMode,
        /// How it travels.
        #[serde(default)]
        protocol: UploadProtocol,
    },
    /// Download to a file, or into a directory under the name that the server or URL gives.
    Download {
        /// A file, or an existing directory.
        #[serde(with = "crate::job::record::path_bytes")]
        destination: PathBuf,
        /// Replace what stands there.
        overwrite: bool,
    },
}

/// How an upload travels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UploadProtocol {
    /// tus where the server speaks it (asked by OPTIONS), else PUT.
    #[default]
    Auto,
    /// tus 1.0; in parts that the server joins, where it can and the job wants more than one at a time.
    Tus,
    /// One PUT of the whole file, looked at afterwards.
    Put,
    /// One POST of a form with the file in it (`multipart/form-data`).
    Form,
}

impl Submission {
    /// An upload of `source` to `url`, staged as fits.
    pub fn upload(source: impl Into<PathBuf>, url: impl Into<String>) -> Self {
        let protocol = UploadProtocol::Auto;
        Self::new(Transfer::Upload { source: source.into(), stage: StageMode::Auto, protocol }, url.into())
    }

    /// A download of `url` to `destination`, which must not exist, or into it if it is a directory.
    pub fn download(url: impl Into<String>, destination: impl Into<PathBuf>) -> Self {
        Self::new(Transfer::Download { destination: destination.into(), overwrite: false }, url.into())
    }

    fn new(transfer: Transfer, url: String) -> Self {
        Self {
            transfer,
            url,
            checksum: None,
            attempts_max: ATTEMPTS_MAX_DEFAULT,
            credential: None,
            name: None,
            group: None,
            key: None,
            priority: PRIORITY_DEFAULT,
            not_before: None,
            deadline: None,
            limit_rate: None,
            parallel: 1,
            mirrors: Vec::new(),
            headers: Vec::new(),
            secrets: Secrets::default(),
            transport: TransportOptions::default(),
            http: HttpOptions::default(),
        }
    }

    /// How an upload travels. Without meaning for a download.
    #[must_use]
    pub fn protocol(mut self, wanted: UploadProtocol) -> Self {
        if let Transfer::Upload { protocol, .. } = &mut self.transfer {
            *protocol = wanted;
        }
        self
    }

    /// How an upload is kept safe from changes of its source. Without meaning for a download.
    #[must_use]
    pub fn stage(mut self, mode: StageMode) -> Self {
        if let Transfer::Upload { stage, .. } = &mut self.transfer {
            *stage = mode;
        }
        self
    }

    /// A download may replace what stands at its destination. Without meaning for an upload.
    #[must_use]
    pub fn overwrite(mut self, may: bool) -> Self {
        if let Transfer::Download { overwrite, .. } = &mut self.transfer {
            *overwrite = may;
        }
        self
    }

    /// A digest that the whole file must have.
    #[must_use]
    pub fn checksum(self, checksum: Checksum) -> Self {
        Self { checksum: Some(checksum), ..self }
    }

    /// Failures in a row without progress after which the job is suspended; at least 1.
    #[must_use]
    pub fn attempts_max(self, attempts_max: u32) -> Self {
        Self { attempts_max: attempts_max.max(1), ..self }
    }

    /// Where a credential is to be found, each time a request is made.
    #[must_use]
    pub fn credential(self, credential: CredentialRef) -> Self {
        Self { credential: Some(credential), ..self }
    }

    /// An upload's name at the server.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The job's group.
    #[must_use]
    pub fn group(self, group: impl Into<String>) -> Self {
        Self { group: Some(group.into()), ..self }
    }

    /// The submitter's own name for the job: with one key there is one job, however often it is submitted.
    #[must_use]
    pub fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// 0 (last) to 9 (first).
    #[must_use]
    pub fn priority(self, priority: u8) -> Self {
        Self { priority, ..self }
    }

    /// Not before this wall time.
    #[must_use]
    pub fn not_before(self, at: WallMs) -> Self {
        Self { not_before: Some(at), ..self }
    }

    /// Failed if not complete by this wall time.
    #[must_use]
    pub fn deadline(self, at: WallMs) -> Self {
        Self { deadline: Some(at), ..self }
    }

    /// Bytes a second at most.
    #[must_use]
    pub fn limit_rate(self, bytes_per_second: u64) -> Self {
        Self { limit_rate: Some(bytes_per_second), ..self }
    }

    /// So many exchanges side by side: segments of a download, parts of an upload by tus.
    #[must_use]
    pub fn parallel(self, exchanges: u16) -> Self {
        Self { parallel: exchanges, ..self }
    }

    /// One more URL of the same file, for a download. It counts only if its validator, or a checksum, shows that
    /// it is the same.
    #[must_use]
    pub fn mirror(mut self, url: impl Into<String>) -> Self {
        self.mirrors.push(url.into());
        self
    }

    /// A header of each request to the URL's own origin. It is journaled.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A header that nobody else may see: kept in a file of the session, not in the journal.
    #[must_use]
    pub fn secret_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.secrets.headers.push((name.into(), Redacted::new(value.into())));
        self
    }

    /// `name:password` for the proxy, which nobody else may see: kept as [`Submission::secret_header`] is.
    #[must_use]
    pub fn proxy_user(mut self, name_and_password: impl Into<String>) -> Self {
        self.secrets.proxy_user = Some(Redacted::new(name_and_password.into()));
        self
    }

    /// How connections are made.
    #[must_use]
    pub fn transport(self, transport: TransportOptions) -> Self {
        Self { transport, ..self }
    }

    /// PUT only if nothing is there (If-None-Match: *).
    #[must_use]
    pub fn only_if_absent(mut self) -> Self {
        self.http.if_none_match = Some("*".to_owned());
        self
    }

    /// PUT only over the object that has this entity tag, quotes and all (If-Match).
    #[must_use]
    pub fn only_over(mut self, etag: impl Into<String>) -> Self {
        self.http.if_match = Some(etag.into());
        self
    }

    /// Whether a PUT is complete only when a look at the object has shown it, as it is where nothing else is asked
    /// for. `false`: the server's 2xx is believed where it lets nobody look.
    #[must_use]
    pub fn verify(mut self, verify: bool) -> Self {
        self.http.verify = verify;
        self
    }

    /// Whether the server documents `Idempotency-Key` for POST: then one is sent, and a lost answer is asked for again.
    #[must_use]
    pub fn idempotent_post(mut self, documented: bool) -> Self {
        self.http.idempotent_post = documented;
        self
    }

    /// Content-Type of an upload.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.http.content_type = Some(content_type.into());
        self
    }

    /// Sends the file as the field `field` of a form, after `fields`.
    #[must_use]
    pub fn form(mut self, field: impl Into<String>, fields: Vec<(String, String)>) -> Self {
        self.http.form = Some(Form { field: field.into(), fields });
        self.protocol(UploadProtocol::Form)
    }
}

/// How to open a session.
///
/// ```
/// use longhaul::SessionOptions;
///
/// let options = SessionOptions::new("/var/lib/app/transfers").concurrent(4).per_host(2).limit_rate(1 << 20);
/// assert_eq!(options.concurrent, 4);
/// ```
///
/// For a visitor that only changes jobs and leaves, without beginning any transfer:
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use longhaul::control::Selection;
/// use longhaul::{Session, SessionOptions};
///
/// let session = Session::open(SessionOptions::new("/var/lib/app/transfers").admit(false)).await?;
/// println!("{} jobs cancelled", session.cancel(Selection::group("movies")).await?.changed);
/// session.shutdown().await;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SessionOptions {
    /// Its directory; made if missing.
    pub dir: PathBuf,
    /// Jobs that run at once.
    pub concurrent: usize,
    /// Jobs to or from one host that run at once; no limit of its own when `None`.
    pub per_host: Option<usize>,
    /// Uploads that run at once; no limit of their own when `None`.
    pub uploads: Option<usize>,
    /// Downloads that run at once; no limit of their own when `None`.
    pub downloads: Option<usize>,
    /// Bytes a second at most, of all jobs together.
    pub limit_rate: Option<u64>,
    /// Bytes that staging copies may take; a tenth of what is free when `None`.
    pub stage_budget: Option<u64>,
    /// How long ended jobs are kept.
    pub retention: Duration,
    /// Whether transfers are started. `false`: journal and clean up only, to change jobs and leave.
    pub admit: bool,
}

/// How long ended jobs are kept, where nothing else is asked for.
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);

impl SessionOptions {
    /// Defaults for a session in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            concurrent: CONCURRENT_DEFAULT,
            per_host: None,
            uploads: None,
            downloads: None,
            limit_rate: None,
            stage_budget: None,
            retention: RETENTION,
            admit: true,
        }
    }

    /// Jobs that run at once; at least 1.
    #[must_use]
    pub fn concurrent(self, jobs: usize) -> Self {
        Self { concurrent: jobs.max(1), ..self }
    }

    /// Jobs to or from one host that run at once; at least 1.
    #[must_use]
    pub fn per_host(self, jobs: usize) -> Self {
        Self { per_host: Some(jobs.max(1)), ..self }
    }

    /// Uploads that run at once; at least 1.
    #[must_use]
    pub fn uploads(self, jobs: usize) -> Self {
        Self { uploads: Some(jobs.max(1)), ..self }
    }

    /// Downloads that run at once; at least 1.
    #[must_use]
    pub fn downloads(self, jobs: usize) -> Self {
        Self { downloads: Some(jobs.max(1)), ..self }
    }

    /// Bytes a second at most, of all jobs together.
    #[must_use]
    pub fn limit_rate(self, bytes_per_second: u64) -> Self {
        Self { limit_rate: Some(bytes_per_second), ..self }
    }

    /// Bytes that staging copies may take.
    #[must_use]
    pub fn stage_budget(self, bytes: u64) -> Self {
        Self { stage_budget: Some(bytes), ..self }
    }

    /// How long ended jobs are kept.
    #[must_use]
    pub fn retention(self, span: Duration) -> Self {
        Self { retention: span, ..self }
    }

    /// Whether transfers are started.
    #[must_use]
    pub fn admit(self, admit: bool) -> Self {
        Self { admit, ..self }
    }
}
