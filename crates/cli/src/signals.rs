//! Signals that ask the process for something.
//!
//! | signal | `serve` | `listen` | other verbs |
//! |---|---|---|---|
//! | SIGTERM, SIGINT | finish, then end; the second one ends at once | unsubscribe, then end | end |
//! | SIGHUP | reads the tokens file again | as SIGTERM, unless under `nohup` | end |
//! | SIGPIPE | ignored, as Rust programs do | status 141 | status 141 |

use std::io;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Notify;

/// Requests to end in an orderly way.
pub(crate) struct Stop {
    /// Also sent by service managers and container runtimes.
    terminate: Signal,
    /// Ctrl-C.
    interrupt: Signal,
    hangup: Option<Signal>,
}

impl Stop {
    /// SIGTERM and SIGINT.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: None,
        })
    }

    /// SIGTERM, SIGINT, and SIGHUP: its terminal is gone. Under `nohup` SIGHUP stays ignored.
    pub(crate) fn with_hangup() -> io::Result<Self> {
        let mut stop = Self::new()?;
        if !hangup_is_ignored() {
            stop.hangup = Some(signal(SignalKind::hangup())?);
        }
        Ok(stop)
    }

    /// The next of them.
    /// Each signal that arrives after this object was made is returned by one call, also if it
    /// arrived before the call. May be dropped and called again.
    pub(crate) async fn signalled(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Goes on upon SIGHUP, which asks daemons to read their configuration again, and tells who reads
/// again what can be.
pub(crate) fn go_on_upon_hangup(told: Arc<Notify>) -> io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            tracing::warn!(
                "SIGHUP: the tokens file is read again; secrets and --log are read at the start \
                 only: restart to change them"
            );
            told.notify_one();
        }
    })
}

/// `true` if this process was started with SIGHUP ignored. Only Linux tells.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, SignalKind::hangup().as_raw_value())
}

/// `true` if the mask `SigIgn` in `/proc/self/status` has the bit of `signal`; signals count from
/// 1.
fn ignores(status: &str, signal: i32) -> bool {
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mask_of_ignored_signals_is_read() {
        let status = |mask: &str| format!("Name:\tx\nSigIgn:\t{mask}\nSigCgt:\tffffffff\n");
        assert!(ignores(&status("0000000000000001"), 1));
        assert!(ignores(&status("0000000000001001"), 1));
        assert!(!ignores(&status("0000000000001000"), 1));
        assert!(ignores(&status("0000000000001000"), 13));
        assert!(!ignores("", 1));
    }
}
