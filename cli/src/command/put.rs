//! `haul put FILE… URL`

mod sources;

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use longhaul::{Form, HttpOptions, StageMode, Submission, UploadProtocol};
use serde::{Deserialize, Serialize};
use url::Url;

use crate::config;
use crate::exit::{Exit, Failure};
use crate::options::{Options, check_url};
use crate::output::Context;
use crate::submit::{self, Wanted};

/// The foot of its help.
pub const EXAMPLES: &str = "\
Examples:
  haul put movie.mp4 https://example.org/files/
  haul put --bearer-file ~/.token *.mp4 https://example.org/files/
  haul put -r photos https://example.org/album/       # photos/2026/a.jpg becomes album/2026/a.jpg
  find . -name '*.jpg' -print0 | haul put -0 -i - https://example.org/album/
  haul put -d --limit-rate 2M --not-before 22:30 backup.tar https://example.org/backups/
  haul --session films put --stage copy movie.mp4 https://example.org/files/

Ctrl-C suspends the command's jobs and says how to resume them. Kill it, and the jobs go on under the
session's next owner: haul daemon, or the next put, get or resume.";

#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of the command line")]
#[command(
    override_usage = "haul put [OPTIONS] FILE… URL\n       haul put [OPTIONS] -r DIR… URL\n       haul put [OPTIONS] -i LIST [URL]"
)]
pub struct Put {
    /// Files to upload; they are opened read-only and never changed. The last word is the URL: the server's tus
    /// endpoint, or with a / at its end where the files go below it, or where one file is put
    #[arg(value_name = "FILE… URL", required_unless_present = "input", num_args = 1..)]
    pub words: Vec<PathBuf>,
    /// Upload the files below directories, named as they are below the directory
    #[arg(short, long)]
    pub recursive: bool,
    /// Upload the files of a list, '-' for standard input: one a line, with a TAB and a URL of its own if it needs one
    #[arg(short, long, value_name = "LIST")]
    pub input: Option<PathBuf>,
    /// The list has a NUL after each file, as find -print0 writes it, and no URLs
    #[arg(short = '0', long, requires = "input")]
    pub null: bool,
    /// The file's name at the server [default: its own]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How files travel [default: auto]
    #[arg(long, value_enum)]
    pub protocol: Option<Protocol>,
    /// How a file is kept safe from changes while it travels [default: auto]
    #[arg(long, value_enum)]
    pub stage: Option<Stage>,
    /// Parts side by side, where the server can join them [default: 1]
    #[arg(short = 'P', long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub parallel: Option<u16>,
    /// Send the file as this field of a form (--protocol form) [default: file]
    #[arg(long, value_name = "FIELD")]
    pub form: Option<String>,
    /// A further field of the form, before the file
    #[arg(short = 'F', long = "form-field", value_name = "NAME=VALUE", value_parser = form_field)]
    pub form_fields: Vec<(String, String)>,
    /// The file's media type [default: application/octet-stream]
    #[arg(long, value_name = "TYPE")]
    pub content_type: Option<String>,
    /// PUT only over an object with this entity tag, or '*': only over one that is there
    #[arg(long, value_name = "ETAG", value_parser = entity_tag)]
    pub if_match: Option<String>,
    /// PUT only if no object has this entity tag, or '*': only if there is none
    #[arg(long, value_name = "ETAG", value_parser = entity_tag, conflicts_with = "if_match")]
    pub if_none_match: Option<String>,
    /// Believe a PUT's success where the server lets nobody look at the object
    #[arg(long)]
    pub no_verify: bool,
    /// The server knows Idempotency-Key: a POST whose answer was lost is sent again
    #[arg(long)]
    pub idempotent: bool,
    #[command(flatten)]
    pub options: Options,
}

/// [`UploadProtocol`], as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// tus where the server speaks it, else PUT
    Auto,
    /// tus 1.0: goes on where it stopped
    Tus,
    /// One PUT of the whole file
    Put,
    /// One POST of a form with the file in it
    Form,
}

impl From<Protocol> for UploadProtocol {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Auto => Self::Auto,
            Protocol::Tus => Self::Tus,
            Protocol::Put => Self::Put,
            Protocol::Form => Self::Form,
        }
    }
}

/// [`StageMode`], as an option.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    let config = config::get();
    let (files, url) = put.ends()?;
    let protocol = put.protocol(config.transfer.protocol)?;
    let plural =
        files.len() > 1 || put.input.is_some() || put.recursive && files.iter().any(|file| file.is_dir());
    if let Some(url) = &url {
        check_place(url, plural, protocol)?;
    }
    if plural {
        put.check_plural()?;
    }
    let stage = put.stage.or(config.transfer.stage).unwrap_or(Stage::Auto);
    let base = Submission::upload("", url.as_ref().map(Url::as_str).unwrap_or_default());
    let base = Submission { name: put.name.clone(), http: put.http(protocol), ..base };
    let base = base.protocol(protocol.into()).stage(stage.into());
    let parallel = put.parallel.or(config.transfer.parallel);
    let template = put.options.template(config, parallel, base)?;
    let common = template.clone();
    let items = sources::items(context, put, files, &common)?;
    // Two files of one name: the later PUT would replace what the first one left.
    let distinct = matches!(protocol, Protocol::Auto | Protocol::Put);
    submit::run(context, Wanted { template, options: &put.options, distinct }, items).await
}

impl Put {
    /// The files, and the URL if there is one: a list may have URLs of its own.
    fn ends(&self) -> Result<(Vec<PathBuf>, Option<Url>), Failure> {
        let Some((last, files)) = self.words.split_last() else { return Ok((Vec::new(), None)) };
        let last = last.to_string_lossy();
        if files.is_empty() && self.input.is_none() {
            let what = if last.contains("://") { "a file to upload" } else { "the URL to upload to" };
            return Err(Failure::usage(format!("{what} is missing: haul put FILE… URL")));
        }
        Ok((files.to_vec(), Some(check_url(&last)?)))
    }

    /// The protocol, by all that tells of it.
    fn protocol(&self, default: Option<Protocol>) -> Result<Protocol, Failure> {
        let has_form = self.form.is_some() || !self.form_fields.is_empty();
        let protocol = match self.protocol {
            Some(protocol) if has_form && protocol != Protocol::Form => {
                return Err(Failure::usage("--form and -F belong to --protocol form"));
            }
            Some(protocol) => protocol,
            None if has_form => Protocol::Form,
            None => default.unwrap_or(Protocol::Auto),
        };
        let has_condition = self.if_match.is_some() || self.if_none_match.is_some() || self.no_verify;
        if has_condition && matches!(protocol, Protocol::Tus | Protocol::Form) {
            return Err(Failure::usage(
                "--if-match, --if-none-match and --no-verify belong to --protocol put",
            ));
        }
        Ok(protocol)
    }

    fn http(&self, protocol: Protocol) -> HttpOptions {
        let field = || self.form.clone().unwrap_or_else(|| "file".to_owned());
        HttpOptions {
            if_match: self.if_match.clone(),
            if_none_match: self.if_none_match.clone(),
            content_type: self.content_type.clone(),
            verify: !self.no_verify,
            idempotent_post: self.idempotent,
            form: (protocol == Protocol::Form)
                .then(|| Form { field: field(), fields: self.form_fields.clone() }),
        }
    }

    /// What makes sense for one file only.
    fn check_plural(&self) -> Result<(), Failure> {
        let single = [
            ("--checksum", self.options.checksum.is_some(), "is the digest of one file"),
            ("--name", self.name.is_some(), "is the name of one file"),
            ("--if-match", self.if_match.as_ref().is_some_and(|tag| tag != "*"), "is the tag of one object"),
        ];
        match single.iter().find(|(_, given, _)| *given) {
            Some((option, _, why)) => {
                Err(Failure::usage(format!("{option} {why}; put the files one by one")))
            }
            None => Ok(()),
        }
    }
}

/// Several files need a place below which they go; the endpoint of a protocol takes any number.
pub(crate) fn check_place(url: &Url, plural: bool, protocol: Protocol) -> Result<(), Failure> {
    let is_endpoint = matches!(protocol, Protocol::Tus | Protocol::Form);
    if plural && !is_endpoint && !url.path().ends_with('/') {
        return Err(Failure::usage(format!(
            "{}: several files need a URL that ends in a /, below which they go; if it is an endpoint that takes them \
             all, say so with --protocol tus or form",
            crate::options::without_secrets(url.as_str())
        )));
    }
    Ok(())
}

/// `NAME=VALUE`. curl reads files into fields; here the files are jobs.
fn form_field(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some(("", _)) | None => Err("a field is written NAME=VALUE".to_owned()),
        Some((_, value)) if value.starts_with(['@', '<']) => {
            Err("a field is a text; the file is the command's argument, and --form names its field"
                .to_owned())
        }
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
    }
}

/// An entity tag; quotes that a shell has eaten are put back.
fn entity_tag(text: &str) -> Result<String, String> {
    if text == "*" {
        return Ok(text.to_owned());
    }
    let (weak, tag) = text.strip_prefix("W/").map_or(("", text), |tag| ("W/", tag));
    let bare = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag);
    if bare.is_empty() || bare.chars().any(|c| c == '"' || c.is_control() || c == ' ') {
        return Err("an entity tag is written \"TAG\", or * for any".to_owned());
    }
    Ok(format!("{weak}\"{bare}\""))
}

#[cfg(test)]
mod tests;
