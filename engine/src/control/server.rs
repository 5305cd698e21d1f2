//! The owner's side of the control socket.

use std::os::unix::net::UnixListener as StdListener;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};

use super::{REQUEST_MAX, Request, Response, Selection};
use crate::session::Engine;

/// Serves until the engine's task set is dropped.
pub(crate) async fn serve(listener: StdListener, engine: Engine) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the control socket cannot be served"),
    };
    let mut clients = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if is_same_user(&stream) => {
                    clients.spawn(client(stream, engine.clone()));
                }
                Ok(_) => tracing::warn!("a process of another user was turned away from the control socket"),
                Err(error) => {
                    // Out of descriptors, most likely: others will close theirs.
                    tracing::warn!(%error, "the control socket did not accept");
                    engine.pause_after_accept_failure().await;
                }
            },
            Some(_) = clients.join_next() => {}
        }
    }
}

fn is_same_user(stream: &UnixStream) -> bool {
    let own = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0)
}

async fn client(stream: UnixStream, engine: Engine) {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        let got = (&mut lines).take(REQUEST_MAX as u64 + 1).read_until(b'\n', &mut line).await;
        if got.is_err() || line.is_empty() {
            return;
        }
        let refused = |text: String| Response::Refused { kind: "bad-request".to_owned(), text };
        if line.len() > REQUEST_MAX {
            let _gone = send(&mut write, &refused(format!("a request is at most {REQUEST_MAX} bytes"))).await;
            return;
        }
        let answer = match serde_json::from_slice(&line) {
            Ok(Request::Subscribe { after, jobs }) => {
                return subscribe(&mut write, &engine, after, jobs).await;
            }
            Ok(request) => engine.call(request).await,
            Err(error) => refused(format!("not a request: {error}")),
        };
        if send(&mut write, &answer).await.is_err() {
            return;
        }
    }
}

async fn subscribe(write: &mut OwnedWriteHalf, engine: &Engine, after: Option<u64>, jobs: Selection) {
    let mut events = engine.listen(after, jobs).await;
    while let Some(event) = events.next().await {
        if send(write, &event).await.is_err() {
            return;
        }
    }
}

async fn send(write: &mut OwnedWriteHalf, response: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(response)?;
    line.push(b'\n');
    write.write_all(&line).await
}
