//! Where `put`'s files come from: its arguments, directories, a list; one after the other, as they are needed.

use std::path::{Component, Path, PathBuf};

use longhaul::{Submission, Transfer};

use super::{Protocol, Put, check_place};
use crate::batch::Item;
use crate::exit::Failure;
use crate::list::{Line, List};
use crate::options::{absolute, check_url};
use crate::output::Context;
use crate::text::escape;
use crate::walk::{Step, Walk};

/// All files of the command.
pub fn items<'a>(
    context: &'a Context,
    put: &'a Put,
    files: Vec<PathBuf>,
    template: &'a Submission,
) -> Result<impl Iterator<Item = Result<Item, Failure>> + use<'a>, Failure> {
    let mut list = put.input.as_deref().map(|input| List::open(input, put.null)).transpose()?;
    let arguments = files.into_iter().flat_map(move |file| argument(context, put.recursive, file, template));
    let listed = std::iter::from_fn(move || {
        let list = list.as_mut()?;
        let line = list.next()?;
        let protocol = put.protocol.unwrap_or(Protocol::Auto);
        Some(line.and_then(|line| listed(&line, template, protocol).map_err(|text| list.wrong(&text))))
    });
    Ok(arguments.chain(listed))
}

type Items<'a> = Box<dyn Iterator<Item = Result<Item, Failure>> + 'a>;

/// A file that was named, or all below a directory.
fn argument<'a>(context: &'a Context, recursive: bool, file: PathBuf, template: &'a Submission) -> Items<'a> {
    if !file.is_dir() {
        return Box::new(std::iter::once(named(&file, template)));
    }
    if !recursive {
        let text = format!("{}: it is a directory; -r uploads the files below it", shown(&file));
        return Box::new(std::iter::once(Err(Failure::failed(text))));
    }
    Box::new(Walk::new(file.clone()).filter_map(move |step| match step {
        Step::File(below) => Some(within(&file, &below, template)),
        Step::Skipped(below, why) => {
            context.note(format_args!("left out: {}: {why}", shown(&file.join(below))));
            None
        }
        Step::Failed(below, error) => {
            Some(Err(Failure::failed(format!("{}: {error}", shown(&file.join(below))))))
        }
    }))
}

fn named(file: &Path, template: &Submission) -> Result<Item, Failure> {
    let label = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned();
    item(file, None, label, template)
}

fn within(root: &Path, below: &Path, template: &Submission) -> Result<Item, Failure> {
    let path = root.join(below);
    let name = below.to_str().ok_or_else(|| {
        Failure::failed(format!(
            "{}: its name is not UTF-8, which no server's name can be made of",
            shown(&path)
        ))
    })?;
    item(&path, Some(name.to_owned()), name.to_owned(), template)
}

/// A line of a list: a relative path keeps its directories, any other is called by its last part.
fn listed(line: &Line, template: &Submission, protocol: Protocol) -> Result<Item, String> {
    let path = line.path();
    let url = match &line.second {
        Some(url) => {
            let url = std::str::from_utf8(url).map_err(|_| "its URL is not UTF-8".to_owned())?;
            Some(check_url(url).map_err(|failure| failure.to_string())?)
        }
        None if template.url.is_empty() => {
            return Err("it has no URL, and the command has none for all".to_owned());
        }
        None => None,
    };
    // A URL of its own that names the object leaves no room for another name.
    let own_object = url.as_ref().is_some_and(|url| check_place(url, true, protocol).is_err());
    let made = match relative(&path).filter(|_| !own_object) {
        Some(below) => {
            let name =
                below.to_str().ok_or("its name is not UTF-8, which no server's name can be made of")?;
            item(&path, Some(name.to_owned()), name.to_owned(), template)
        }
        None => named(&path, template),
    };
    let made = made.map_err(|failure| failure.to_string())?;
    Ok(match url {
        Some(url) => Item { url: url.into(), ..made },
        None => made,
    })
}

/// The path as a name with directories: what is relative and stays below where it starts.
fn relative(path: &Path) -> Option<PathBuf> {
    let mut below = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::Normal(name) => below.push(name),
            Component::Prefix(_) | Component::RootDir | Component::ParentDir => return None,
        }
    }
    Some(below)
}

fn item(path: &Path, name: Option<String>, label: String, template: &Submission) -> Result<Item, Failure> {
    let transfer = match &template.transfer {
        Transfer::Upload { stage, protocol, .. } => {
            Transfer::Upload { source: absolute(path)?, stage: *stage, protocol: *protocol }
        }
        download @ Transfer::Download { .. } => download.clone(),
    };
    Ok(Item { transfer, url: template.url.clone(), name, label })
}

fn shown(path: &Path) -> String {
    escape(&path.to_string_lossy()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> Line {
        let (first, second) =
            text.split_once('\t').map_or((text, None), |(first, second)| (first, Some(second)));
        Line { first: first.into(), second: second.map(Into::into) }
    }

    fn read(text: &str, url: &str) -> Result<(Option<String>, String), String> {
        let template = Submission::upload("", url);
        listed(&line(text), &template, Protocol::Auto).map(|item| (item.name, item.url))
    }

    #[test]
    fn listed_files_keep_their_directories_below_here() {
        let all = "http://h/all/";
        let name = |text: &str| read(text, all).expect("an item").0;
        assert_eq!(name("a.jpg").as_deref(), Some("a.jpg"));
        assert_eq!(name("./2026/a.jpg").as_deref(), Some("2026/a.jpg"));
        assert_eq!(name("/srv/a.jpg"), None);
        assert_eq!(name("../a.jpg"), None);
        assert_eq!(name("a/../../b.jpg"), None);
    }

    #[test]
    fn a_line_may_have_a_url_of_its_own() {
        let all = "http://h/all/";
        assert_eq!(read("d/a\thttp://h/b", all), Ok((None, "http://h/b".into())));
        assert_eq!(read("d/a\thttp://h/b/", ""), Ok((Some("d/a".into()), "http://h/b/".into())));
        assert!(read("a", "").is_err_and(|text| text.contains("no URL")));
        let failure = read("a\thttp://me:pw@h/", all).expect_err("userinfo");
        assert!(!failure.contains("pw"), "{failure}");
    }
}
