//! What of each place becomes the value of Authorization.

use super::*;

fn netrc(text: &[u8]) -> (tempfile::TempDir, CredentialRef) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("netrc");
    std::fs::write(&path, text).unwrap();
    (dir, CredentialRef::Netrc(path))
}

fn value(reference: &CredentialRef, url: &str) -> Option<String> {
    read(reference, url).unwrap().map(|secret| secret.expose().clone())
}

#[test]
fn a_netrc_file_gives_basic_for_its_hosts() {
    let text = b"machine h.example login me password p:w\nmachine ::1 login six password 6\n";
    let (_dir, reference) = netrc(text);
    let me = Some("Basic bWU6cDp3".to_owned());
    for url in ["https://h.example/x", "http://H.example:8080/", "https://h.example?q"] {
        assert_eq!(value(&reference, url), me, "{url}");
    }
    assert_eq!(value(&reference, "http://[::1]:80/"), Some("Basic c2l4OjY=".to_owned()));
    assert_eq!(value(&reference, "https://x.h.example/"), None);
}

#[test]
fn a_password_need_not_be_text() {
    let (_dir, reference) = netrc(b"default login me password \xff\xfe");
    assert_eq!(value(&reference, "https://h/"), Some("Basic bWU6//4=".to_owned()));
}

#[test]
fn a_netrc_file_that_cannot_be_used_says_why_and_not_what() {
    for (text, why) in [
        (&b"machine h login a:secret password secret"[..], "colon"),
        (b"machine h password \"secret", "line 1"),
        (&vec![b' '; NETRC_MAX as usize + 1], "bytes"),
    ] {
        let (_dir, reference) = netrc(text);
        let error = read(&reference, "https://h/").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(error.to_string().contains(why) && !error.to_string().contains("secret"), "{error}");
    }
    let absent = CredentialRef::Netrc("/nonexistent/netrc".into());
    assert_eq!(read(&absent, "https://h/").unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_files_first_line_is_a_bearer_token() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("token");
    let reference = CredentialRef::File(path.clone());
    std::fs::write(&path, "token\r\nsecond line\n").unwrap();
    assert_eq!(value(&reference, "https://h/"), Some("Bearer token".to_owned()));
    std::fs::write(&path, "\nsecond line\n").unwrap();
    assert_eq!(read(&reference, "https://h/").unwrap_err().kind(), io::ErrorKind::InvalidData);
}

#[test]
fn an_environment_variable_is_a_bearer_token() {
    // Any that is set will do: a test cannot set one while others run.
    let mut texts = std::env::vars_os()
        .filter_map(|(name, held)| Some((name.into_string().ok()?, held.into_string().ok()?)));
    let (name, held) = texts.find(|(_, held)| !held.trim_end().is_empty()).unwrap();
    assert_eq!(value(&CredentialRef::Env(name), "https://h/"), Some(format!("Bearer {}", held.trim_end())));
    assert!(read(&CredentialRef::Env("LONGHAUL_NOT_SET".to_owned()), "https://h/").is_err());
}
