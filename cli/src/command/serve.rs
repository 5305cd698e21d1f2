//! `haul serve DIR`

use std::error::Error as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;

use crate::exit::{Exit, Failure};
use crate::output::{self, Context};
use crate::serve::{ServeError, ServeOptions, Server, Token};
use crate::signals::Signals;
use crate::text::escape;

/// The foot of its help.
pub const EXAMPLES: &str = "\
Examples:
  haul serve ~/incoming
  haul serve ~/incoming --listen 0.0.0.0:8080 --token-file ~/.token

Uploads are created at the printed URL and appear in DIR under their names when they are whole; what is
in DIR can be had with GET. Anything but a loopback address needs a token, and a proxy in front for TLS.";

#[derive(Debug, Args)]
pub struct Serve {
    /// Where finished files stand
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// A file whose first line is the bearer token that requests must carry
    #[arg(long, value_name = "F")]
    pub token_file: Option<PathBuf>,
}

/// What `--json` prints when it listens.
#[derive(Serialize)]
struct Announcement {
    /// Where uploads are created, and below which finished files are.
    listening: String,
    address: SocketAddr,
    pid: u32,
}

pub async fn run(context: &Context, serve: &Serve) -> Result<Exit, Failure> {
    let mut signals = Signals::install()?;
    let token = serve.token_file.as_deref().map(token).transpose()?;
    let options = ServeOptions { dir: serve.dir.clone(), listen: serve.listen, token };
    let server = Server::bind(options).await.map_err(|error| failure(&error))?;
    let address = server.local_addr();
    let url = format!("http://{address}/files/");
    if context.json {
        output::print_json(&Announcement { listening: url, address, pid: std::process::id() })?;
    } else {
        output::print(&format!("listening on {url}\n"))?;
    }
    let stop = async move {
        signals.asked().await;
    };
    server.run(stop).await.map_err(|error| failure(&error))?;
    Ok(Exit::Done)
}

/// The error with what is behind it.
fn failure(error: &ServeError) -> Failure {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    Failure::failed(text)
}

fn token(file: &Path) -> Result<Token, Failure> {
    let shown = escape(&file.to_string_lossy()).into_owned();
    let text = std::fs::read_to_string(file).map_err(|error| Failure::failed(format!("{shown}: {error}")))?;
    let line = text.lines().next().unwrap_or_default().trim();
    Token::parse(line).map_err(|error| Failure::failed(format!("{shown}: {error}")))
}
