//! `haul get URL… [-o PATH]`

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use longhaul::{Submission, Transfer};
use url::Url;

use crate::batch::{self, Item};
use crate::config;
use crate::exit::{Exit, Failure};
use crate::list::{Line, List};
use crate::options::{Options, absolute, check_url};
use crate::output::Context;
use crate::submit::{self, Wanted};
use crate::text::escape;

/// The foot of its help.
pub const EXAMPLES: &str = "\
Examples:
  haul get https://example.org/files/movie.mp4
  haul get https://example.org/a.iso https://example.org/b.iso -o ~/images
  haul get --checksum sha256:9f86d081… https://example.org/a.iso -o image.iso
  haul get -x 4 --mirror https://mirror.example.net/a.iso https://example.org/a.iso
  haul get -d -i urls.txt -o ~/images

A download is written beside its destination and renamed when it is whole and checked. Ctrl-C suspends
the command's jobs and says how to resume them.";

#[derive(Debug, Args)]
pub struct Get {
    /// What to download
    #[arg(value_name = "URL", required_unless_present = "input", num_args = 1..)]
    pub urls: Vec<String>,
    /// A file, or an existing directory; a directory for several URLs [default: here]
    #[arg(short, long, value_name = "PATH")]
    pub output: Option<PathBuf>,
    /// Download the URLs of a list, '-' for standard input: one a line, with a TAB and a destination of its own if it
    /// needs one (below the directory of -o)
    #[arg(short, long, value_name = "LIST")]
    pub input: Option<PathBuf>,
    /// Replace what stands at the destination
    #[arg(long)]
    pub overwrite: bool,
    /// Segments side by side [default: 1]
    #[arg(short = 'x', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub segments: Option<u16>,
    /// Another URL of the same file; it counts only if its entity tag or the checksum shows that it is the same
    #[arg(long = "mirror", value_name = "URL")]
    pub mirrors: Vec<String>,
    #[command(flatten)]
    pub options: Options,
}

pub async fn run(context: &Context, get: &Get) -> Result<Exit, Failure> {
    let config = config::get();
    let urls = get.urls.iter().map(|url| check_url(url)).collect::<Result<Vec<_>, _>>()?;
    let mirrors =
        get.mirrors.iter().map(|url| Ok(check_url(url)?.into())).collect::<Result<Vec<_>, Failure>>()?;
    let plural = urls.len() > 1 || get.input.is_some();
    if plural && get.options.checksum.is_some() {
        return Err(Failure::usage("--checksum is the digest of one file; get the files one by one"));
    }
    if plural && !mirrors.is_empty() {
        return Err(Failure::usage("--mirror is another URL of one file; get the files one by one"));
    }
    let base = destination(get.output.as_deref(), plural)?;
    let list = get.input.as_deref().map(|input| List::open(input, false)).transpose()?;
    let blank = Submission { mirrors, ..Submission::download("", &base) }.overwrite(get.overwrite);
    let template = get.options.template(config, get.segments.or(config.transfer.segments), blank)?;
    let into = Place { base, overwrite: get.overwrite };
    let items = urls.into_iter().map(|url| Ok(into.item(url, None))).chain(listed(list, &into));
    submit::run(context, Wanted { template, options: &get.options, distinct: false }, items).await
}

/// Where files go.
struct Place {
    base: PathBuf,
    overwrite: bool,
}

impl Place {
    fn item(&self, url: Url, below: Option<&Path>) -> Item {
        let label = match below {
            Some(below) => below.to_string_lossy().into_owned(),
            None => batch::url_label(&url),
        };
        let destination = below.map_or_else(|| self.base.clone(), |below| self.base.join(below));
        let transfer = Transfer::Download { destination, overwrite: self.overwrite };
        Item { transfer, url: url.into(), name: None, label }
    }

    fn line(&self, line: &Line) -> Result<Item, String> {
        let url = std::str::from_utf8(&line.first).map_err(|_| "its URL is not UTF-8".to_owned())?;
        let url = check_url(url.trim()).map_err(|failure| failure.to_string())?;
        Ok(self.item(url, line.second.as_deref().map(|path| Path::new(OsStr::from_bytes(path)))))
    }
}

fn listed(mut list: Option<List>, into: &Place) -> impl Iterator<Item = Result<Item, Failure>> {
    std::iter::from_fn(move || {
        let list = list.as_mut()?;
        let line = list.next()?;
        Some(line.and_then(|line| into.line(&line).map_err(|text| list.wrong(&text))))
    })
}

/// Where the files go; a path that must be a directory is checked before anything is submitted.
fn destination(output: Option<&Path>, plural: bool) -> Result<PathBuf, Failure> {
    let path = output.unwrap_or(Path::new("."));
    let must_be_directory = plural || path.as_os_str().as_encoded_bytes().ends_with(b"/");
    if must_be_directory && !path.is_dir() {
        let shown = path.to_string_lossy();
        let why = if plural { "several URLs need a directory" } else { "there is no such directory" };
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
        assert!(destination(Some(dir.path()), true).is_ok());
        assert!(destination(Some(&file), false).is_ok());
        assert_eq!(destination(Some(&file), true).expect_err("a file").exit(), Exit::Usage);
        let slash = dir.path().join("none/");
        assert_eq!(destination(Some(&slash), false).expect_err("none").exit(), Exit::Usage);
        assert!(destination(None, true).expect("here").is_absolute());
    }

    #[test]
    fn lines_may_have_destinations() {
        let into = Place { base: "/out".into(), overwrite: false };
        let read = |first: &str, second: Option<&str>| {
            into.line(&Line { first: first.into(), second: second.map(|text| text.as_bytes().to_vec()) })
        };
        let place = |item: &Item| match &item.transfer {
            Transfer::Download { destination, .. } => destination.clone(),
            Transfer::Upload { source, .. } => panic!("an upload of {source:?}"),
        };
        let item = read("http://h/a?sig=pw", None).expect("an item");
        assert_eq!((place(&item), item.url.as_str()), (PathBuf::from("/out"), "http://h/a?sig=pw"));
        assert!(!item.label.contains("pw"));
        let item = read("http://h/a ", Some("b/c")).expect("an item");
        assert_eq!((place(&item), item.label.as_str()), (PathBuf::from("/out/b/c"), "b/c"));
        assert_eq!(place(&read("http://h/a", Some("/else/d")).expect("an item")), PathBuf::from("/else/d"));
        assert!(read("h/a", None).is_err());
    }
}
