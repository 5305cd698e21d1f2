//! `haul get URL… [-o PATH]`

use std::path::{Path, PathBuf};

use clap::Args;
use longhaul::Submission;

use crate::exit::{Exit, Failure};
use crate::output::Context;
use crate::submit::{self, Options, absolute};
use crate::text::escape;

/// The foot of its help.
pub const EXAMPLES: &str = "\
Examples:
  haul get https://example.org/files/movie.mp4
  haul get https://example.org/a.iso https://example.org/b.iso -o ~/images
  haul get --checksum sha256:9f86d081… https://example.org/a.iso -o image.iso

A download is written beside its destination and renamed when it is whole and checked. Ctrl-C suspends
the command's jobs and says how to resume them.";

#[derive(Debug, Args)]
pub struct Get {
    /// What to download
    #[arg(value_name = "URL", required = true, num_args = 1..)]
    pub urls: Vec<String>,
    /// A file, or an existing directory; a directory for several URLs [default: here]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Replace what stands at the destination
    #[arg(long)]
    pub overwrite: bool,
    #[command(flatten)]
    pub options: Options,
}

pub async fn run(context: &Context, get: &Get) -> Result<Exit, Failure> {
    get.urls.iter().try_for_each(|url| submit::check_url(url))?;
    if get.options.checksum.is_some() && get.urls.len() > 1 {
        return Err(Failure::usage("--checksum is the digest of one file; get the files one by one"));
    }
    let destination = destination(get.output.as_deref(), get.urls.len())?;
    let submissions = get.urls.iter().map(|url| {
        get.options.dress(Submission::download(url, destination.clone()).overwrite(get.overwrite))
    });
    submit::submit_and_wait(context, submissions.collect::<Result<_, _>>()?).await
}

/// Where the files go; a path that must be a directory is checked before anything is submitted.
fn destination(output: Option<&Path>, urls: usize) -> Result<PathBuf, Failure> {
    let path = output.unwrap_or(Path::new("."));
    let must_be_directory = urls > 1 || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if must_be_directory && !path.is_dir() {
        let shown = path.to_string_lossy();
        let why = if urls > 1 { "several URLs need a directory" } else { "there is no such directory" };
        return Err(Failure::usage(format!("-o {}: {why}", escape(&shown))));
    }
    absolute(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_urls_need_a_directory() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("file");
        assert!(destination(Some(dir.path()), 2).is_ok());
        assert!(destination(Some(&file), 1).is_ok());
        assert_eq!(destination(Some(&file), 2).expect_err("a file").exit(), Exit::Usage);
        let slash = dir.path().join("none/");
        assert_eq!(destination(Some(&slash), 1).expect_err("none").exit(), Exit::Usage);
        assert!(destination(None, 2).expect("here").is_absolute());
    }
}
