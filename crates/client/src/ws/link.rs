//! The websocket of a client, whichever connection it is at the moment
//! (`docs/protocol/stateful.md` §15).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use httppubsub_net::{Payload, ReplayGuard, Spool, random_bytes};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{BroadcasterAddress, ClientConfig, WebSocketOptions};
use crate::dispatch::Dispatch;
use crate::error::{AttemptError, NotifyError, RequestError};
use crate::message::ConnectionStatus;
use crate::ws::closing::Closing;
use crate::ws::connection::{Connection, Ended, Told};
use crate::ws::passes::{Next, Passes};
use crate::ws::pending::{Command, Limits, Notification, Pending, Request};

/// The way to the task that holds the websocket.
#[derive(Debug)]
pub(crate) struct Link {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ConnectionStatus>,
    failure: watch::Receiver<Option<String>>,
    /// The first broadcaster, for errors that none caused.
    broadcaster: String,
}

/// How many calls may wait to be taken notice of while there is no connection; further ones wait
/// for that.
const COMMANDS_MAX: usize = 1_024;

impl Link {
    /// A link, and the task that is to be run for it: until `closing` is cancelled and everything
    /// is done, or until `stopped` is.
    pub(crate) fn new(
        config: &ClientConfig,
        options: &WebSocketOptions,
        guard: Arc<ReplayGuard>,
        spool: Spool,
        dispatch: Arc<Dispatch>,
        closing: CancellationToken,
        stopped: CancellationToken,
    ) -> (Self, impl Future<Output = ()> + Send + use<>) {
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (status_sender, status) = watch::channel(ConnectionStatus::Lost);
        let (failure_sender, failure) = watch::channel(None);
        let own = Told {
            status: status_sender,
            failure: failure_sender,
        };
        let connection = Connection::new(config, options, guard, spool, dispatch.clone(), own);
        let priorities = config.broadcasters.iter().map(|it| it.priority).collect();
        let passes = Passes::new(
            priorities,
            options.connect_retries,
            options.reconnect_interval_min,
            rand::random,
        );
        let limits = Limits {
            unsent_max: options.unsent_notifications_max,
            attempts_max: u32::try_from(config.broadcasters.len())
                .unwrap_or(u32::MAX)
                .saturating_mul(config.passes),
            retries_ambiguous: config.retry_ambiguous.unwrap_or(false),
        };
        let keeper = Keeper {
            connection,
            broadcasters: config.broadcasters.clone(),
            passes,
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

    /// Where and why there is no connection, as far as that was tried.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.borrow().clone()
    }

    pub(crate) fn status(&self) -> watch::Receiver<ConnectionStatus> {
        self.status.clone()
    }

    /// Returns when the broadcaster has all of them.
    pub(crate) async fn subscribe(
        &self,
        interests: &BTreeSet<Interest>,
    ) -> Result<(), RequestError> {
        self.request(interests, true).await
    }

    /// Returns when the broadcaster has none of them.
    pub(crate) async fn unsubscribe(
        &self,
        interests: &BTreeSet<Interest>,
    ) -> Result<(), RequestError> {
        self.request(interests, false).await
    }

    async fn request(
        &self,
        interests: &BTreeSet<Interest>,
        subscribe: bool,
    ) -> Result<(), RequestError> {
        let mut replies = Vec::new();
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
        for reply in replies {
            reply.await.unwrap_or_else(|_| Err(self.gone()))?;
        }
        Ok(())
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

const CLOSED: &str = "the client was closed";

/// Code of the close frame of a broadcaster that was sent more than it takes (RFC 6455 §7.4.1).
const TOO_LONG: u16 = 1009;

/// Keeps a connection to one of the broadcasters.
struct Keeper {
    connection: Connection,
    broadcasters: Vec<BroadcasterAddress>,
    passes: Passes,
    commands: mpsc::Receiver<Command>,
    pending: Pending,
    dispatch: Arc<Dispatch>,
    closing: Closing,
    stopped: CancellationToken,
}

/// Why nothing more is tried.
struct GivenUp {
    attempts: u32,
    broadcaster: String,
    why: String,
}

impl Keeper {
    async fn keep(mut self) {
        let stopped = self.stopped.clone();
        let given_up = tokio::select! {
            biased;
            () = stopped.cancelled() => None,
            given_up = self.connect_until_it_is_over() => given_up,
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
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.pending.take_in(command);
        }
        self.pending.give_up(attempts, &broadcaster, &why);
        self.dispatch.end();
    }

    /// Goes over the broadcasters until the client is closed, or none could be reached often
    /// enough.
    async fn connect_until_it_is_over(&mut self) -> Option<GivenUp> {
        let mut last = None;
        loop {
            let at = match self.passes.next() {
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
            let connection = self.connection.run(
                &broadcaster,
                &mut self.commands,
                &mut self.pending,
                &mut self.closing,
            );
            let Ended { attempt, why, code } = connection.await;
            let lost = why.as_deref().unwrap_or(CLOSED);
            let was_too_long = code == Some(TOO_LONG);
            self.pending
                .connection_lost(&broadcaster, lost, was_too_long);
            let why = why?;
            if self.passes.ended(attempt) {
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
