//! How a job's connections are made, in options as curl's users expect them.
//!
//! Invariant: what may be a secret goes to `Submission::secrets`, which is never journaled; messages never show it.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use clap::Args;
use longhaul::{CredentialRef, Redacted, Submission, TransportOptions};
use percent_encoding::percent_decode_str;
use url::Url;

use super::header::{self, Header};
use super::{absolute, secret, without_secrets};
use crate::config::ConnectionPart;
use crate::exit::Failure;
use crate::text::escape;

/// Connection options.
#[derive(Debug, Default, Args)]
#[command(next_help_heading = "Connection options")]
pub struct Connection {
    /// A header of every request, 'Name: value' ('Name;' if empty), or @FILE with one a line; secret by its name
    #[arg(short = 'H', long = "header", value_name = "HEADER|@FILE")]
    pub headers: Vec<String>,
    /// A header that is a secret whatever its name: it is never journaled
    #[arg(long = "secret-header", value_name = "HEADER|@FILE")]
    pub secret_headers: Vec<String>,
    /// Name and password for the server (Basic); a password that is not given is asked for
    #[arg(short, long, value_name = "NAME[:PASSWORD]", group = "credential")]
    pub user: Option<String>,
    /// Take name and password for the host from ~/.netrc
    #[arg(short, long, group = "credential")]
    pub netrc: bool,
    /// Take name and password for the host from this netrc file
    #[arg(long, value_name = "F", group = "credential")]
    pub netrc_file: Option<PathBuf>,
    /// A file whose first line is the bearer token; read for each request, never journaled
    #[arg(long, value_name = "F", group = "credential")]
    pub bearer_file: Option<PathBuf>,
    /// An environment variable with the bearer token; the session's owner must have it
    #[arg(long, value_name = "VAR", group = "credential")]
    pub bearer_env: Option<String>,
    /// An http, https, socks5 or socks5h proxy; 'none': no proxy at all [default: that of the environment]
    #[arg(long, value_name = "URL|none")]
    pub proxy: Option<String>,
    /// Name and password for the proxy; a password that is not given is asked for
    #[arg(short = 'U', long, value_name = "NAME[:PASSWORD]")]
    pub proxy_user: Option<String>,
    /// A file of certificates (PEM) to trust besides the system's
    #[arg(long, value_name = "F")]
    pub cacert: Option<PathBuf>,
    /// A client certificate (PEM), with its key or with --cert-key
    #[arg(short = 'E', long, value_name = "F")]
    pub cert: Option<PathBuf>,
    /// The client certificate's key (PEM)
    #[arg(long, value_name = "F", requires = "cert")]
    pub cert_key: Option<PathBuf>,
    /// Trust any certificate: for tests, whoever is in between can read and change all
    #[arg(short = 'k', long)]
    pub insecure: bool,
    /// The User-Agent header
    #[arg(short = 'A', long, value_name = "TEXT")]
    pub user_agent: Option<String>,
}

impl Connection {
    /// `submission` with these options, and with what `defaults` says where they are silent.
    pub fn dress(&self, defaults: &ConnectionPart, submission: Submission) -> Result<Submission, Failure> {
        let mut submission = self.headers(defaults, submission)?;
        let has_authorization =
            submission.secrets.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization"));
        if let Some(user) = &self.user {
            if has_authorization {
                return Err(Failure::usage("-u and a header Authorization say the same twice; give one"));
            }
            let user = secret::user(user, "server")?;
            let value = format!("Basic {}", BASE64_STANDARD.encode(user.expose()));
            submission = submission.secret_header("Authorization", value);
        } else {
            submission.credential = self.credential(defaults, has_authorization)?;
        }
        let (proxy, proxy_user) = self.proxy(defaults)?;
        submission.secrets.proxy_user = proxy_user;
        let (cert_file, key_file) = match &self.cert {
            Some(cert) => (Some(cert), self.cert_key.as_ref()),
            None => (defaults.cert.as_ref(), defaults.cert_key.as_ref()),
        };
        submission.transport = TransportOptions {
            proxy,
            ca_file: readable(self.cacert.as_ref().or(defaults.cacert.as_ref()))?,
            cert_file: readable(cert_file)?,
            key_file: readable(key_file)?,
            insecure: self.insecure,
        };
        Ok(submission)
    }

    /// Those of the defaults first, but for those that are given anew.
    fn headers(&self, defaults: &ConnectionPart, mut submission: Submission) -> Result<Submission, Failure> {
        let open = header::read(&self.headers)?;
        let forced = header::read(&self.secret_headers)?;
        let mut all: Vec<(Header, bool)> = Vec::new();
        for line in defaults.headers.iter().flatten() {
            let header = header::parse(line)
                .map_err(|text| Failure::usage(format!("configuration, connection.headers: {text}")))?;
            if !open.iter().chain(&forced).any(|given| given.is(&header.name)) {
                all.push((header, false));
            }
        }
        all.extend(open.into_iter().map(|header| (header, false)));
        all.extend(forced.into_iter().map(|header| (header, true)));
        if let Some(agent) = self.user_agent.as_ref().or(defaults.user_agent.as_ref()) {
            let given = all.iter().any(|(header, _)| header.is("user-agent"));
            if given && self.user_agent.is_some() {
                return Err(Failure::usage("-A and a header User-Agent say the same twice; give one"));
            }
            if !given {
                let header = header::parse(&format!("User-Agent: {agent}")).map_err(Failure::usage)?;
                all.push((header, false));
            }
        }
        for (header, forced) in all {
            submission = if forced || header.is_secret() {
                submission.secret_header(header.name, header.value)
            } else {
                submission.header(header.name, header.value)
            };
        }
        Ok(submission)
    }

    fn credential(
        &self,
        defaults: &ConnectionPart,
        has_authorization: bool,
    ) -> Result<Option<CredentialRef>, Failure> {
        let given = if let Some(file) = &self.bearer_file {
            Some(CredentialRef::File(absolute(file)?))
        } else if let Some(name) = &self.bearer_env {
            Some(CredentialRef::Env(name.clone()))
        } else if let Some(file) = &self.netrc_file {
            readable(Some(file))?.map(CredentialRef::Netrc)
        } else if self.netrc {
            let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
            let home = home.ok_or_else(|| Failure::usage("HOME is not set; use --netrc-file"))?;
            readable(Some(&PathBuf::from(home).join(".netrc")))?.map(CredentialRef::Netrc)
        } else {
            None
        };
        match given {
            Some(_) if has_authorization => {
                Err(Failure::usage("a credential and a header Authorization say the same twice; give one"))
            }
            None if !has_authorization => Ok(readable(defaults.netrc.as_ref())?.map(CredentialRef::Netrc)),
            given => Ok(given),
        }
    }

    /// The proxy without its credentials, and these.
    fn proxy(
        &self,
        defaults: &ConnectionPart,
    ) -> Result<(Option<String>, Option<Redacted<String>>), Failure> {
        let given = match self.proxy.as_ref().or(defaults.proxy.as_ref()) {
            Some(text) if text == "none" => Some((String::new(), None)),
            Some(text) => Some(split_proxy(text)?),
            None => None,
        };
        let user = self.proxy_user.as_ref().map(|user| secret::user(user, "proxy")).transpose()?;
        Ok(match given {
            Some((proxy, within)) => (Some(proxy), user.or(within)),
            None => (None, user),
        })
    }
}

/// For people to look at: without what may be a secret.
pub fn shown(part: &ConnectionPart) -> ConnectionPart {
    let hide = |line: &String| match header::parse(line) {
        Ok(header) if header.is_secret() => format!("{}: …", header.name),
        Ok(_) => line.clone(),
        Err(_) => "…".to_owned(),
    };
    ConnectionPart {
        proxy: part.proxy.as_deref().map(without_secrets),
        headers: part.headers.as_ref().map(|headers| headers.iter().map(hide).collect()),
        ..part.clone()
    }
}

/// As curl does, without a scheme it is an HTTP proxy.
fn split_proxy(text: &str) -> Result<(String, Option<Redacted<String>>), Failure> {
    let wrong = |why: &str| Failure::usage(format!("proxy {}: {why}", without_secrets(text)));
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let mut url = Url::parse(&full).map_err(|error| wrong(&error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https" | "socks5" | "socks5h") {
        return Err(wrong("a proxy is http, https, socks5 or socks5h"));
    }
    if url.host_str().is_none_or(str::is_empty) || !matches!(url.path(), "" | "/") || url.query().is_some() {
        return Err(wrong("a proxy is written SCHEME://HOST:PORT"));
    }
    let decode = |part: &str| percent_decode_str(part).decode_utf8().map(std::borrow::Cow::into_owned);
    let mut user = None;
    if !url.username().is_empty() || url.password().is_some() {
        let both = decode(url.username()).and_then(|name| Ok((name, decode(url.password().unwrap_or(""))?)));
        let (name, password) = both.map_err(|_| wrong("its name or password is not UTF-8"))?;
        user = Some(Redacted::new(format!("{name}:{password}")));
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return Err(wrong("its name and password cannot be taken out of it"));
        }
    }
    Ok((url.as_str().trim_end_matches('/').to_owned(), user))
}

/// The file, once it is seen that it can be read: the session's owner would learn it only with the first request.
fn readable(file: Option<&PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let Some(file) = file else { return Ok(None) };
    let opened = std::fs::File::open(file).and_then(|opened| opened.metadata());
    match opened {
        Ok(found) if found.is_dir() => Err(unreadable(file, "it is a directory")),
        Ok(_) => absolute(file).map(Some),
        Err(error) => Err(unreadable(file, &error.to_string())),
    }
}

fn unreadable(file: &Path, why: &str) -> Failure {
    Failure::usage(format!("{}: {why}", escape(&file.to_string_lossy())))
}
