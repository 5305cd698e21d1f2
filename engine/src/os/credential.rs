//! Reading a credential, each time a request needs it.
//!
//! | reference | Authorization |
//! |---|---|
//! | environment variable, first line of a file | `Bearer` and what it holds |
//! | netrc file | `Basic`, with the first entry for the URL's host, else the `default` one; none without either |
//!
//! Invariant: errors name the place, a line at most, and never what stands there.
//!
//! Absent on purpose: where a netrc file is by default, and macros (`macdef`), which are for FTP.

mod netrc;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use url::Url;

use crate::secret::{CredentialRef, Redacted};

/// Bytes of a credential file's first line at most.
const CREDENTIAL_MAX: u64 = 16 << 10;

/// Bytes of a netrc file at most.
const NETRC_MAX: u64 = 1 << 20;

/// The value of Authorization that a reference gives for a URL; `None` if it has nothing for its host.
pub fn read(reference: &CredentialRef, url: &str) -> io::Result<Option<Redacted<String>>> {
    match reference {
        CredentialRef::Env(name) => match std::env::var(name) {
            Ok(secret) => bearer(&secret),
            Err(std::env::VarError::NotPresent) => Err(io::ErrorKind::NotFound.into()),
            // The error's own words hold the value.
            Err(std::env::VarError::NotUnicode(_)) => Err(invalid("it is no text".to_owned())),
        },
        CredentialRef::File(path) => {
            let mut line = String::new();
            BufReader::new(File::open(path)?.take(CREDENTIAL_MAX)).read_line(&mut line)?;
            bearer(&line)
        }
        CredentialRef::Netrc(path) => from_netrc(path, url),
    }
}

fn bearer(secret: &str) -> io::Result<Option<Redacted<String>>> {
    match secret.trim_end() {
        "" => Err(invalid("it is empty".to_owned())),
        secret => Ok(Some(Redacted::new(format!("Bearer {secret}")))),
    }
}

fn from_netrc(path: &Path, url: &str) -> io::Result<Option<Redacted<String>>> {
    let url = Url::parse(url).map_err(|error| invalid(format!("the URL: {error}")))?;
    let host = url.host_str().unwrap_or_default();
    // IPv6 addresses stand in brackets in a URL, and not in a netrc file.
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut text = Vec::new();
    let file = File::open(path)?;
    warn_if_open(path, &file)?;
    file.take(NETRC_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > NETRC_MAX {
        return Err(invalid(format!("it has more than {NETRC_MAX} bytes")));
    }
    let Some(netrc::Login { name, password }) = netrc::find(&text, host).map_err(invalid)? else {
        return Ok(None);
    };
    if name.contains(&b':') {
        // The server would take what follows for the password.
        return Err(invalid("the name for this host has a colon, which Basic cannot carry".to_owned()));
    }
    let pair = [name, password].join(&b':');
    Ok(Some(Redacted::new(format!("Basic {}", STANDARD.encode(pair)))))
}

/// Says once that others can read the file. Not refused: curl and its kin read such files, and their users
/// expect no less.
fn warn_if_open(path: &Path, file: &File) -> io::Result<()> {
    static SAID: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());
    let mode = file.metadata()?.permissions().mode();
    if mode & 0o077 != 0 && SAID.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned()) {
        tracing::warn!("others can read the passwords in {} (mode {:03o})", path.display(), mode & 0o777);
    }
    Ok(())
}

fn invalid(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;
