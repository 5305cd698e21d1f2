//! `haul put FILE… URL`

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use longhaul::{StageMode, Submission, UploadProtocol};

use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::submit::{self, Options, absolute};

/// The foot of its help.
pub const EXAMPLES: &str = "\
Examples:
  haul put movie.mp4 https://example.org/files/
  haul put --bearer-file ~/.token *.mp4 https://example.org/files/
  haul --session films put --stage copy movie.mp4 https://example.org/files/

Ctrl-C suspends the command's jobs and says how to resume them. Kill it, and the jobs go on under the
session's next owner: haul daemon, or the next put, get or resume.";

#[derive(Debug, Args)]
pub struct Put {
    /// Files to upload; they are opened read-only and never changed
    #[arg(value_name = "FILE", required = true, num_args = 1..)]
    pub files: Vec<PathBuf>,
    /// Where uploads are created: the server's tus endpoint
    #[arg(value_name = "URL", required = true)]
    pub url: String,
    /// How a file is kept safe from changes while it travels
    #[arg(long, value_enum, default_value_t = Stage::Auto, hide_possible_values = false)]
    pub stage: Stage,
    #[command(flatten)]
    pub options: Options,
}

/// [`StageMode`], as an option.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Stage {
    /// A clone where the file system can; else a copy while there is room; else in place, guarded
    Auto,
    /// Always a clone or a copy; waits until there is room
    Copy,
    /// The file itself; a change of it fails the job
    None,
}

impl From<Stage> for StageMode {
    fn from(stage: Stage) -> Self {
        match stage {
            Stage::Auto => Self::Auto,
            Stage::Copy => Self::Copy,
            Stage::None => Self::None,
        }
    }
}

pub async fn run(context: &Context, put: &Put) -> Result<Exit, Failure> {
    submit::check_url(&put.url)?;
    if put.options.checksum.is_some() && put.files.len() > 1 {
        return Err(Failure::usage("--checksum is the digest of one file; put the files one by one"));
    }
    let submissions = put.files.iter().map(|file| {
        let upload = Submission::upload(absolute(file)?, &put.url).stage(put.stage.into());
        put.options.dress(upload.protocol(UploadProtocol::Tus))
    });
    submit::submit_and_wait(context, submissions.collect::<Result<_, _>>()?).await
}
