//! The websocket of a client, whichever connection it is at the moment
//! (`docs/protocol/stateful.md` §15).

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use httppubsub_net::{Payload, ReplayGuard, Spool, random_bytes};
use httppubsub_proto::backoff::before_pass;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{BroadcasterAddress, ClientConfig, WebSocketOptions};
use crate::dispatch::Dispatch;
use crate::error::{AttemptError, RequestError};
use crate::http::pass;
use crate::message::ConnectionStatus;
use crate::ws::connection::{Connection, Ended};
use crate::ws::pending::{Command, Notification, Pending, Request};

/// The way to the task that holds the websocket.
#[derive(Debug)]
pub(crate) struct Link {
    commands: mpsc::Sender<Command>,
    status: watch::Receiver<ConnectionStatus>,
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
        let (sender, status) = watch::channel(ConnectionStatus::Lost);
        let connection = Connection::new(config, options, guard, spool, dispatch.clone(), sender);
        let keeper = Keeper {
            connection,
            broadcasters: config.broadcasters.clone(),
            options: options.clone(),
            commands: receiver,
            pending: Pending::default(),
            dispatch,
            closing,
            stopped,
        };
        let link = Self {
            commands,
            status,
            broadcaster: config.broadcasters[0].url.clone(),
        };
        (link, keeper.keep())
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
    ) -> Result<u32, RequestError> {
        let (reply, receiver) = oneshot::channel();
        let notification = Notification {
            identifier: Identifier::new(random_bytes::<4>().to_vec()).expect("4 bytes fit"),
            topic: topic.clone(),
            payload: payload.clone(),
            sent: sent.clone(),
            was_sent: false,
            reply,
        };
        let command = Command::Notify(notification);
        self.commands.send(command).await.map_err(|_| self.gone())?;
        receiver.await.unwrap_or_else(|_| Err(self.gone()))
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

/// Keeps a connection to one of the broadcasters.
struct Keeper {
    connection: Connection,
    broadcasters: Vec<BroadcasterAddress>,
    options: WebSocketOptions,
    commands: mpsc::Receiver<Command>,
    pending: Pending,
    dispatch: Arc<Dispatch>,
    closing: CancellationToken,
    stopped: CancellationToken,
}

/// The longest pause between two passes over the broadcasters.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Keeper {
    async fn keep(mut self) {
        let stopped = self.stopped.clone();
        let why = tokio::select! {
            biased;
            () = stopped.cancelled() => None,
            why = self.connect_until_it_is_over() => why,
        };
        let (attempts, broadcaster, why) = why.unwrap_or_else(|| {
            let broadcaster = self.broadcasters[0].url.clone();
            (0, broadcaster, "the client was closed".to_owned())
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
    /// enough: then it says how often, which was the last, and what went wrong there.
    async fn connect_until_it_is_over(&mut self) -> Option<(u32, String, String)> {
        let priorities: Vec<_> = self.broadcasters.iter().map(|it| it.priority).collect();
        'anew: loop {
            let (mut attempts, mut last) = (0, None);
            for number in 0..=self.options.connect_retries {
                if number > 0 && !self.pause(number).await {
                    return None;
                }
                for at in pass(&priorities, rand::random) {
                    if self.closing.is_cancelled() && self.pending.is_done() {
                        return None;
                    }
                    let broadcaster = self.broadcasters[at].url.clone();
                    let Ended { open_for, why } = self
                        .connection
                        .run(
                            &broadcaster,
                            &mut self.commands,
                            &mut self.pending,
                            &self.closing,
                        )
                        .await;
                    self.pending.connection_lost();
                    let why = why?;
                    tracing::debug!(broadcaster, why, "no websocket");
                    if open_for.is_some_and(|it| it >= self.options.reconnect_interval_min) {
                        tracing::info!(broadcaster, why, "the websocket was lost; connecting anew");
                        continue 'anew;
                    }
                    attempts += 1;
                    last = Some((broadcaster, why));
                }
            }
            let (broadcaster, why) = last?;
            tracing::error!(broadcaster, why, attempts, "giving up the websocket");
            return Some((attempts, broadcaster, why));
        }
    }

    /// Waits before a further pass; whether the client goes on.
    async fn pause(&mut self, number: u32) -> bool {
        // The exact number makes no difference where the longest pause is reached.
        let pause = before_pass(number.min(16), rand::random()).min(PAUSE_MAX);
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return true,
                () = self.closing.cancelled() => return false,
                Some(command) = self.commands.recv() => self.pending.take_in(command),
            }
        }
    }
}
