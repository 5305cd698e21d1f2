//! SIGINT and SIGTERM as something to wait for.
//!
//! The first SIGINT asks the command to suspend its jobs; a second one ends the process at once, which
//! is safe at any instant: jobs go on from their journaled state.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::exit::{Exit, Failure, leave_now};

/// What the signals have asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// SIGINT: stop this command's work, keep it for later.
    Interrupt,
    /// SIGTERM: leave, the work goes on elsewhere.
    Terminate,
}

/// The signals since [`Signals::install`].
pub struct Signals {
    asked: watch::Receiver<Option<Asked>>,
}

impl Signals {
    /// Takes over SIGINT and SIGTERM from here on.
    pub fn install() -> Result<Self, Failure> {
        let failed = |error: io::Error| Failure::failed(format!("cannot listen for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let (tell, asked) = watch::channel(None);
        tokio::spawn(async move {
            let mut interrupts = 0;
            loop {
                tokio::select! {
                    Some(()) = interrupt.recv() => {
                        interrupts += 1;
                        if interrupts > 1 {
                            leave_now(Exit::Interrupted, "haul: left at once; jobs go on from their journaled state");
                        }
                        tell.send_if_modified(|asked| asked.is_none() && asked.replace(Asked::Interrupt).is_none());
                    }
                    // SIGTERM also wins over a SIGINT that is still being carried out.
                    Some(()) = terminate.recv() => { tell.send_replace(Some(Asked::Terminate)); }
                    else => return,
                }
            }
        });
        Ok(Self { asked })
    }

    /// What has been asked for by now.
    pub fn seen(&self) -> Option<Asked> {
        *self.asked.borrow()
    }

    /// Resolves when something is asked for; cancel-safe.
    pub async fn asked(&mut self) -> Asked {
        loop {
            if let Some(asked) = self.seen() {
                return asked;
            }
            if self.asked.changed().await.is_err() {
                // The listener ends only with the runtime.
                std::future::pending::<()>().await;
            }
        }
    }
}
