//! Requests that are refused: counted by reason, and told to the log once a second for each.

use std::net::SocketAddr;

use http::StatusCode;
use httppubsub_net::LogLimit;

use crate::observe::metrics::{self, Reason};

/// A limit on the log for each reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals([LogLimit; Reason::ALL.len()]);

impl Refusals {
    /// Counts a refused request. `words` say why, and hold nothing that was in the request. All of
    /// them are counted, also the ones that the log leaves out.
    pub(crate) fn refused(
        &self,
        reason: Reason,
        verb: &'static str,
        peer: Option<SocketAddr>,
        status: StatusCode,
        words: &str,
    ) {
        metrics::refused(reason);
        // `Admission` tells how many notifications were turned away.
        if reason == Reason::Overloaded {
            return;
        }
        let Some(held_back) = self.0[reason as usize].pass() else {
            return;
        };
        let peer = peer.map_or_else(|| "unknown".to_owned(), |peer| peer.to_string());
        let status = status.as_u16();
        if status >= 500 {
            tracing::error!(
                verb,
                peer,
                status,
                reason = words,
                held_back,
                "a request failed"
            );
        } else {
            tracing::warn!(
                verb,
                peer,
                status,
                reason = words,
                held_back,
                "a request was refused"
            );
        }
    }
}
