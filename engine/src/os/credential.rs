//! Reading a credential, each time a request needs it.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use crate::secret::{CredentialRef, Redacted};

/// Bytes of a credential file's first line at most.
const CREDENTIAL_MAX: u64 = 16 << 10;

/// Fetches the secret that a reference names.
pub fn read(reference: &CredentialRef, _url: &str) -> io::Result<Option<Redacted<String>>> {
    let secret = match reference {
        CredentialRef::Env(name) => std::env::var(name).map_err(io::Error::other)?,
        CredentialRef::File(path) => {
            let mut line = String::new();
            BufReader::new(File::open(path)?.take(CREDENTIAL_MAX)).read_line(&mut line)?;
            line.trim_end().to_owned()
        }
        CredentialRef::Netrc(_) => String::new(),
    };
    if secret.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is empty"));
    }
    Ok(Some(Redacted::new(format!("Bearer {secret}"))))
}
