//! The websocket of a client, whichever connection it is at the moment
//! (`docs/protocol/stateful.md` §15).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use httppubsub_net::body::{Payload, Spool};
use httppubsub_net::inbound::ReplayGuard;
use httppubsub_net::random_bytes;
use httppubsub_proto::session::close_code;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{BroadcasterAddress, ClientConfig, WebSocketConfig};
use crate::error::{AttemptError, NotifyError, RequestError};
use crate::receive::dispatch::Dispatch;
use crate::receive::inbox::EndReason;
use crate::receive::message::ConnectionStatus;
use crate::websocket::attempt::{EndedConnection, attempt};
use crate::websocket::closing::Closing;
use crate::websocket::command::{Command, Notification, Request};
use crate::websocket::connection::{Connection, ConnectionReport};
use crate::websocket::pending::{Limits, Pending};
use crate::websocket::reconnect::{ConnectionAttempt, Next, Reconnect};
use crate::websocket::refusal::Finding;

/// The way to the task that holds the websocket.
#[derive(Debug)]
pub(crate) struct Link {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ConnectionStatus>,
    failure: watch::Receiver<Option<String>>,
    /// The first broadcaster, for errors that none caused.
    broadcaster: String,
}

/// Most calls that wait in the channel while there is no connection; further ones wait
/// for that.
const COMMANDS_MAX: usize = 1_024;

impl Link {
    /// A link, and the task that is to be run for it: until `closing` is cancelled and everything
    /// is done, or until `stopped` is.
    pub(crate) fn new(
        config: &ClientConfig,
        options: &WebSocketConfig,
        guard: Arc<ReplayGuard>,
        spool: Spool,
        dispatch: Arc<Dispatch>,
        closing: CancellationToken,
        stopped: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        // Bounded: calls wait for room in it, so that a program that notifies faster than it is
        // sent notices.
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (status_sender, status) = watch::channel(ConnectionStatus::Lost);
        let (failure_sender, failure) = watch::channel(None);
        let own = ConnectionReport {
            status: status_sender,
            failure: failure_sender,
        };
        let connection = Connection::new(config, options, guard, spool, dispatch.clone(), own);
        let priorities = config.broadcasters.iter().map(|it| it.priority).collect();
        let reconnect = Reconnect::new(
            priorities,
            options.connect_retries,
            options.reconnect_interval_min,
            rand::random,
        );
        let limits = Limits {
            unsent_max: options.unsent_notifications_max,
            // As often as over HTTP: once at each broadcaster in each pass.
            attempts_max: u32::try_from(config.broadcasters.len())
                .unwrap_or(u32::MAX)
                .saturating_mul(config.passes),
            retries_ambiguous: config.retry_ambiguous.unwrap_or(false),
        };
        let keeper = Keeper {
            connection,
            broadcasters: config.broadcasters.clone(),
            reconnect,
            commands: receiver,
            pending: Pending::new(limits),
            dispatch,
            closing: Closing::new(closing, options.close_timeout),
            stopped,
        };
        let link = Self {
            commands,
            status,
            failure,
            broadcaster: config.broadcasters[0].url.clone(),
        };
        (link, keeper.keep())
    }

    /// The broadcaster and the reason why there is no connection, as far as that was tried.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(crate) fn status(&self) -> watch::Receiver<ConnectionStatus> {
        self.status.clone()
    }

    /// Asks to `subscribe` these, or else to unsubscribe them, after all that was asked before.
    /// Does not wait for a connection; the answers do.
    pub(crate) async fn ask(
        &self,
        interests: &BTreeSet<Interest>,
        subscribe: bool,
    ) -> Result<Asked<'_>, RequestError> {
        let mut replies = Vec::with_capacity(interests.len());
        // All of them are put in order before the first answer is awaited, so they go out together.
        for interest in interests {
            let (reply, receiver) = oneshot::channel();
            let request = Request {
                interest: interest.clone(),
                subscribe,
                reply,
            };
            let sent = self.commands.send(Command::Request(request)).await;
            sent.map_err(|_| self.gone())?;
            replies.push(receiver);
        }
        let link = self;
        Ok(Asked { link, replies })
    }

    /// Returns when the broadcaster has the confirmations of all subscribers it reached.
    pub(crate) async fn notify(
        &self,
        topic: &Topic,
        payload: &Payload,
        sent: &Arc<AtomicU64>,
    ) -> Result<u32, NotifyError> {
        let (reply, receiver) = oneshot::channel();
        let notification = Notification {
            identifier: Identifier::new(random_bytes::<4>().to_vec()).expect("4 bytes fit"),
            topic: topic.clone(),
            payload: payload.clone(),
            sent: sent.clone(),
            wire_bytes: 0,
            was_sent: false,
            attempts: 0,
            reply: Some(reply),
        };
        let command = Command::Notify(notification);
        self.commands.send(command).await.map_err(|_| self.gone())?;
        receiver.await.unwrap_or_else(|_| Err(self.gone().into()))
    }

    fn gone(&self) -> RequestError {
        let why = "the websocket was given up, or the client is closed".to_owned();
        RequestError::RetriesExhausted {
            attempts: 0,
            broadcaster: self.broadcaster.clone(),
            last: AttemptError::WebSocket(why),
        }
    }
}

/// Interests that the broadcaster is asked for, or to end.
pub(crate) struct Asked<'a> {
    link: &'a Link,
    replies: Vec<oneshot::Receiver<Result<(), RequestError>>>,
}

impl Asked<'_> {
    /// Returns when the broadcaster has confirmed all of them, or one cannot be; there may be no
    /// connection for a long time.
    pub(crate) async fn answered(self) -> Result<(), RequestError> {
        for reply in self.replies {
            reply.await.unwrap_or_else(|_| Err(self.link.gone()))?;
        }
        Ok(())
    }
}

const CLOSED: &str = "the client was closed";

/// Keeps a connection to one of the broadcasters.
struct Keeper {
    connection: Connection,
    broadcasters: Vec<BroadcasterAddress>,
    reconnect: Reconnect,
    commands: mpsc::Receiver<Command>,
    pending: Pending,
    dispatch: Arc<Dispatch>,
    closing: Closing,
    stopped: CancellationToken,
}

/// The reason why nothing more is tried.
struct GivenUp {
    attempts: u32,
    broadcaster: String,
    why: String,
}

impl Keeper {
    async fn keep(mut self) {
        let stopped = self.stopped.clone();
        let given_up = tokio::select! {
            // Stopping comes first: what is dropped with the client is not worth another attempt.
            biased;
            () = stopped.cancelled() => None,
            given_up = self.connect_until_it_is_over() => given_up,
        };
        let reason = match given_up {
            Some(_) => EndReason::Abandoned,
            None => EndReason::Closed,
        };
        let GivenUp {
            attempts,
            broadcaster,
            why,
        } = given_up.unwrap_or_else(|| GivenUp {
            attempts: 0,
            broadcaster: self.broadcasters[0].url.clone(),
            why: CLOSED.to_owned(),
        });
        self.connection.abandoned();
        // Closed before it is emptied, so that no call slips in between and waits for ever.
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.pending.take_in(command);
        }
        self.pending.give_up(attempts, &broadcaster, &why);
        self.dispatch.end(reason);
    }

    /// Goes over the broadcasters until the client is closed, or none could be reached often
    /// enough.
    async fn connect_until_it_is_over(&mut self) -> Option<GivenUp> {
        let mut last = None;
        loop {
            let at = match self.reconnect.next() {
                Next::Connect(at) => at,
                Next::Pause(pause) => {
                    self.pause(pause).await?;
                    continue;
                }
                Next::GiveUp { attempts } => {
                    let (broadcaster, why) = last?;
                    tracing::error!(broadcaster, why, attempts, "giving up the websocket");
                    return Some(GivenUp {
                        attempts,
                        broadcaster,
                        why,
                    });
                }
            };
            let broadcaster = self.broadcasters[at].url.clone();
            let connection = attempt(
                &self.connection,
                &broadcaster,
                &mut self.commands,
                &mut self.pending,
                &mut self.closing,
            );
            let EndedConnection {
                attempt: mut ended,
                why,
                code,
                in_question,
            } = connection.await;
            // Judged before the connection is given up: afterwards its order of requests is lost.
            let finding = self.pending.closed(&broadcaster, code, &in_question);
            if finding != Finding::None {
                // Worth a connection: the next one is about to tell more, or without what is
                // refused.
                ended = ConnectionAttempt::Open(Duration::MAX);
            }
            if let Finding::Refused {
                interest,
                was_confirmed,
            } = finding
            {
                tracing::warn!(
                    broadcaster,
                    ?interest,
                    "the broadcaster refuses to subscribe"
                );
                // No call waits for it, so its subscriptions learn of it by ending.
                if was_confirmed {
                    self.dispatch.refused(&interest);
                }
            }
            let lost = why.as_deref().unwrap_or(CLOSED);
            let was_too_long = code == Some(close_code::TOO_LONG);
            self.pending
                .connection_lost(&broadcaster, lost, was_too_long);
            let why = why?;
            if self.reconnect.ended(ended) {
                tracing::info!(broadcaster, why, "the websocket was lost; connecting anew");
            } else {
                tracing::debug!(broadcaster, why, "no websocket");
            }
            last = Some((broadcaster, why));
        }
    }

    /// Waits before a further pass; `None` if the client was closed in the meantime.
    async fn pause(&mut self, pause: Duration) -> Option<()> {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Some(()),
                // A notification that waits is still worth a connection while the client closes.
                () = self.closing.change() => {
                    if self.closing.is_over(self.pending.is_notifying()) {
                        return None;
                    }
                }
                Some(command) = self.commands.recv() => self.pending.take_in(command),
            }
        }
    }
}
