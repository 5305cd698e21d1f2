//! Certificates of a test's own authority, made with the `openssl` command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority (`ca.pem`), a server's certificate for loopback (`server.pem`, `server.key`) and a client's
/// (`client.pem`, `client.key`, and both in `client-both.pem`).
#[derive(Debug)]
pub struct Certs {
    dir: TempDir,
}

impl Certs {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for certificates");
        let at = dir.path();
        let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let authority =
            ["-subj", "/CN=Authority of a test", "-days", "3", "-keyout", "ca.key", "-out", "ca.pem"];
        openssl(at, &[&["req", "-x509"], &key[..], &authority].concat());
        for (name, usage) in [("server", "serverAuth"), ("client", "clientAuth")] {
            let file = |end: &str| format!("{name}.{end}");
            let (subject, keys, request, cert) =
                (format!("/CN={name}"), file("key"), file("csr"), file("pem"));
            openssl(
                at,
                &[&["req", "-new"], &key[..], &["-subj", &subject, "-keyout", &keys, "-out", &request]]
                    .concat(),
            );
            let extensions = format!(
                "subjectAltName=IP:127.0.0.1,DNS:localhost\nbasicConstraints=CA:FALSE\nextendedKeyUsage={usage}\n"
            );
            fs::write(at.join("extensions"), extensions).expect("write the extensions");
            openssl(
                at,
                &[
                    &["x509", "-req", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "3"][..],
                    &["-extfile", "extensions", "-in", &request, "-out", &cert],
                ]
                .concat(),
            );
        }
        let both = ["client.pem", "client.key"].map(|part| fs::read(at.join(part)).expect("read a part"));
        fs::write(at.join("client-both.pem"), both.concat()).expect("write both parts");
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

fn openssl(dir: &Path, arguments: &[&str]) {
    let done = Command::new("openssl").current_dir(dir).args(arguments).output().expect("start openssl");
    assert!(done.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
}
