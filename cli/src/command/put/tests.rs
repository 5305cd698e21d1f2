use clap::Parser;

use super::*;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    put: Put,
}

fn put(words: &[&str]) -> Put {
    Line::try_parse_from([&["haul"], words].concat()).expect("a command line").put
}

fn refused(words: &[&str]) -> bool {
    Line::try_parse_from([&["haul"], words].concat()).is_err()
}

#[test]
fn the_last_word_is_the_url() {
    let (files, url) = put(&["a", "b", "http://host/files/"]).ends().expect("both");
    assert_eq!((files.len(), url.expect("a URL").as_str()), (2, "http://host/files/"));
    let (files, url) = put(&["-i", "list"]).ends().expect("a list");
    assert!(files.is_empty() && url.is_none());
    let (files, url) = put(&["-i", "-", "-0", "http://host/"]).ends().expect("a list");
    assert!(files.is_empty() && url.is_some());
    assert!(put(&["http://host/"]).ends().expect_err("no file").to_string().contains("a file"));
    assert!(put(&["a"]).ends().expect_err("no URL").to_string().contains("the URL"));
    assert!(refused(&[]) && refused(&["-0", "a", "http://host/"]));
}

#[test]
fn several_files_need_a_slash_or_an_endpoint() {
    let place = |url: &str, protocol| check_place(&url.parse().expect("a URL"), true, protocol);
    assert!(place("http://h/files/", Protocol::Auto).is_ok());
    assert!(place("http://h/files/?token=x", Protocol::Put).is_ok());
    assert!(place("http://h/files", Protocol::Tus).is_ok());
    assert!(place("http://h/upload", Protocol::Form).is_ok());
    let failure = place("http://h/files?token=pw", Protocol::Auto).expect_err("no slash");
    assert_eq!(failure.exit(), Exit::Usage);
    assert!(
        failure.to_string().contains("--protocol tus") && !failure.to_string().contains("pw"),
        "{failure}"
    );
    assert!(check_place(&"http://h/a".parse().expect("a URL"), false, Protocol::Put).is_ok());
}

#[test]
fn a_form_makes_the_protocol() {
    let form = put(&["-F", "album=a=b", "f", "http://h/"]);
    let protocol = form.protocol(Some(Protocol::Put)).expect("a form");
    assert_eq!(protocol, Protocol::Form);
    let made = form.http(protocol).form.expect("a form");
    assert_eq!((made.field.as_str(), made.fields), ("file", vec![("album".into(), "a=b".into())]));
    let named = put(&["--form", "photo", "f", "http://h/"]);
    assert_eq!(named.http(Protocol::Form).form.expect("a form").field, "photo");
    assert!(put(&["--protocol", "tus", "-F", "a=b", "f", "http://h/"]).protocol(None).is_err());
    assert!(refused(&["-F", "a", "f", "http://h/"]) && refused(&["-F", "a=@b", "f", "http://h/"]));
    assert_eq!(put(&["f", "http://h/"]).protocol(Some(Protocol::Tus)).expect("the file's"), Protocol::Tus);
    assert_eq!(put(&["f", "http://h/"]).protocol(None).expect("the default"), Protocol::Auto);
}

#[test]
fn conditions_belong_to_put() {
    let given = put(&["--if-none-match", "*", "f", "http://h/"]);
    assert!(given.protocol(None).is_ok());
    assert!(given.protocol(Some(Protocol::Tus)).is_err());
    assert!(refused(&["--if-match", "a", "--if-none-match", "*", "f", "http://h/"]));
}

#[test]
fn entity_tags_get_their_quotes_back() {
    for (text, tag) in [("*", "*"), ("abc", "\"abc\""), ("\"abc\"", "\"abc\""), ("W/\"a\"", "W/\"a\"")] {
        assert_eq!(entity_tag(text).as_deref(), Ok(tag));
    }
    for wrong in ["", "\"\"", "a b", "a\"b", "a\nb"] {
        assert!(entity_tag(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn what_is_of_one_file_is_not_for_several() {
    for words in [["--name", "n"], ["--if-match", "e"]] {
        let put = put(&[&words[..], &["a", "b", "http://h/"]].concat());
        assert_eq!(put.check_plural().expect_err("several").exit(), Exit::Usage);
    }
    assert!(put(&["--if-none-match", "*", "a", "b", "http://h/"]).check_plural().is_ok());
}
