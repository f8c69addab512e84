//! Requests that are refused: counted by reason, and told to the log once a second for each.

use std::net::SocketAddr;

use http::StatusCode;
use httppubsub_net::LogLimit;

use crate::measures;

/// Why a request was refused, as it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// It is not what its path takes.
    BadRequest,
    /// It has no authorization.
    Unauthorized,
    /// Its authorization does not vouch for it.
    Forbidden,
    /// Its authorization is of another time than that here.
    Clock,
    /// Its authorization was used before.
    Replayed,
    /// Its url may not be posted to.
    Url,
    TooLong,
    TooSlow,
    /// There is too much to do.
    Overloaded,
    /// There is no memory or disk for it.
    NoRoom,
    /// What the broadcaster stands on does not work.
    Unavailable,
    /// There are too many websockets.
    WebSockets,
}

impl Reason {
    pub(crate) const ALL: [Self; 12] = [
        Self::BadRequest,
        Self::Unauthorized,
        Self::Forbidden,
        Self::Clock,
        Self::Replayed,
        Self::Url,
        Self::TooLong,
        Self::TooSlow,
        Self::Overloaded,
        Self::NoRoom,
        Self::Unavailable,
        Self::WebSockets,
    ];

    /// The value of the label.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::Clock => "clock",
            Self::Replayed => "replayed",
            Self::Url => "url",
            Self::TooLong => "too_long",
            Self::TooSlow => "too_slow",
            Self::Overloaded => "overloaded",
            Self::NoRoom => "no_room",
            Self::Unavailable => "unavailable",
            Self::WebSockets => "websockets",
        }
    }
}

/// A limit on the log for each reason.
#[derive(Debug, Default)]
pub(crate) struct Refusals([LogLimit; Reason::ALL.len()]);

impl Refusals {
    /// Counts a refused request. `words` say why, and hold nothing that was in the request.
    pub(crate) fn refused(
        &self,
        reason: Reason,
        verb: &'static str,
        peer: Option<SocketAddr>,
        status: StatusCode,
        words: &str,
    ) {
        measures::refused(reason.label());
        // Of notifications turned away `Load` tells how many they are.
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
