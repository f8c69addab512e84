//! One attempt at a connection to one broadcaster, from the first byte to the last.

use std::collections::{BTreeSet, VecDeque};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use http::StatusCode;
use httppubsub_net::websocket::{Beside, Compressors, ConnectError, IncomingParts, Socket};
use httppubsub_net::{error_chain, random_bytes};
use httppubsub_proto::paths::WEBSOCKET;
use httppubsub_proto::session::{Nonces, SessionError, SubscriberSession, close_code};
use tokio::sync::mpsc;

use crate::receive::message::ConnectionStatus;
use crate::websocket::closing::Closing;
use crate::websocket::command::Command;
use crate::websocket::connection::Connection;
use crate::websocket::over::Over;
use crate::websocket::pending::Pending;
use crate::websocket::reconnect::ConnectionAttempt;
use crate::websocket::refusal::InQuestion;
use crate::websocket::running::Running;

/// The end of a connection.
#[derive(Debug)]
pub(crate) struct EndedConnection {
    /// Whether, and for how long, requests could be made.
    pub(crate) attempt: ConnectionAttempt,
    /// The reason; `None` if this client closed it.
    pub(crate) why: Option<String>,
    /// Code of the broadcaster's close frame.
    pub(crate) code: Option<u16>,
    /// Interests that were asked for and not confirmed, in the order of the requests.
    pub(crate) in_question: VecDeque<InQuestion>,
}

impl EndedConnection {
    /// There was no connection.
    fn unconnected(attempt: ConnectionAttempt, why: Option<String>) -> Self {
        Self {
            attempt,
            why,
            code: None,
            in_question: VecDeque::new(),
        }
    }
}

/// Connects to the broadcaster at this url, of http or https, and does what is pending and what
/// is commanded until the connection is lost, or the client is closed.
pub(crate) async fn attempt(
    own: &Connection,
    broadcaster: &str,
    commands: &mut mpsc::Receiver<Command>,
    pending: &mut Pending,
    closing: &mut Closing,
) -> EndedConnection {
    let url = format!("{}{WEBSOCKET}", broadcaster.replacen("http", "ws", 1));
    let socket = {
        // Commands are taken in while it connects: a full channel would hold up callers who only
        // want to subscribe, and a client that is closed must not wait for a broadcaster that does
        // not answer.
        let connecting = Socket::connect(&url, own.open_timeout, own.socket.clone());
        let mut connecting = std::pin::pin!(connecting);
        loop {
            tokio::select! {
                connected = &mut connecting => break connected,
                Some(command) = commands.recv() => pending.take_in(command),
                () = closing.change() => {}
            }
            if closing.is_over(pending.is_notifying()) {
                return EndedConnection::unconnected(ConnectionAttempt::Failed, None);
            }
        }
    };
    let socket = match socket {
        Ok(socket) => socket,
        Err(error) => {
            let attempt = match &error {
                ConnectError::Refused(status) if is_final(*status) => ConnectionAttempt::Refused,
                _ => ConnectionAttempt::Failed,
            };
            let why = Some(error_chain(&error));
            own.tell_failure(broadcaster, why.as_deref());
            return EndedConnection::unconnected(attempt, why);
        }
    };
    let now = own.clock.now();
    // Drawn anew: counters begin again with each connection, and a signature of the last one must
    // not fit this one.
    let nonces = Nonces::new(random_bytes());
    let mut running = Running {
        own,
        broadcaster,
        machine: SubscriberSession::new(own.session.clone(), random_bytes(), nonces, now),
        socket,
        pending,
        opened_at: None,
        unconfirmed: BTreeSet::new(),
        resubscribing: VecDeque::new(),
        in_question: VecDeque::new(),
        incoming: IncomingParts::default(),
        arriving: FuturesOrdered::new(),
        preparing: Beside::default(),
        compressors: Compressors::default(),
    };
    let over = running.run(commands, closing).await;
    // What was acknowledged is handed out, whatever became of the connection.
    while let Some(message) = running.arriving.next().await {
        running.hand(message);
    }
    let attempt = match running.opened_at {
        Some(at) => ConnectionAttempt::Open(at.elapsed()),
        None if over.is_refusal() => ConnectionAttempt::Refused,
        None => ConnectionAttempt::Failed,
    };
    let closed = match over {
        Over::Closed(code) => code,
        Over::Lost(_) | Over::Here(_) => None,
    };
    let (code, why) = match over {
        Over::Closed(code) => {
            let code = code.map_or_else(String::new, |code| format!(" with code {code}"));
            let why = match attempt {
                ConnectionAttempt::Open(_) => "the broadcaster closed the websocket",
                ConnectionAttempt::Failed => {
                    "the broadcaster closed the websocket before confirming CONFIGURE"
                }
                ConnectionAttempt::Refused => {
                    "the broadcaster closed the websocket instead of confirming CONFIGURE \
                    (are the secrets the same?)"
                }
            };
            (None, Some(format!("{why}{code}")))
        }
        Over::Lost(error) => (error.close_code(), Some(error_chain(&error))),
        Over::Here(SessionError::Ended {
            code: close_code::NORMAL,
            ..
        }) => (Some(close_code::NORMAL), None),
        Over::Here(reason) => (Some(reason.close_code()), Some(error_chain(&reason))),
    };
    // Before the status changes: a watcher that sees that finds the gap already begun.
    if !running.pending.subscribed.is_empty() {
        own.dispatch.pause();
    }
    own.tell_failure(broadcaster, why.as_deref());
    own.tell(ConnectionStatus::Lost);
    let in_question = running.in_question;
    // Said only by the end that has a reason; the answer of the other is waited for, but not for
    // ever.
    if let Some(code) = code {
        running.socket.close(code, own.close_timeout).await;
    }
    EndedConnection {
        attempt,
        why,
        code: closed,
        in_question,
    }
}

/// `true` if another attempt would be answered the same.
fn is_final(status: StatusCode) -> bool {
    // An ingress answers 404 while the service behind it starts.
    let is_for_now = matches!(
        status,
        StatusCode::NOT_FOUND
            | StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_EARLY
            | StatusCode::TOO_MANY_REQUESTS
    );
    status.is_client_error() && !is_for_now
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn passing_trouble_is_the_answer_of_an_ingress_whose_service_starts() {
        for status in [404, 408, 425, 429, 502, 503] {
            assert!(!is_final(StatusCode::from_u16(status).unwrap()), "{status}");
        }
        for status in [400, 401, 403, 426] {
            assert!(is_final(StatusCode::from_u16(status).unwrap()), "{status}");
        }
    }
}
