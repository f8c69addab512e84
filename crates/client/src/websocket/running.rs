//! A connection that is there.

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::sync::atomic::Ordering;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use httppubsub_net::body::{DecompressError, FillError, Payload, Zstd};
use httppubsub_net::random_bytes;
use httppubsub_net::websocket::{
    Arrived, Beside, Compressors, Incoming, IncomingParts, Socket, SocketEvent, wake_at,
};
use httppubsub_proto::session::{
    Notification as ToSend, Outgoing, OutgoingBody, Output, ReceivePart, SessionError,
    SubscriberEvent, SubscriberSession, close_code,
};
use httppubsub_proto::stateful::BodyHead;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::receive::message::{ConnectionStatus, Message};
use crate::websocket::closing::Closing;
use crate::websocket::command::Command;
use crate::websocket::connection::Connection;
use crate::websocket::over::Over;
use crate::websocket::pending::Pending;
use crate::websocket::prepare::{Made, Prepared, prepare};
use crate::websocket::refusal::InQuestion;

/// A connection that is there.
pub(crate) struct Running<'a> {
    pub(crate) own: &'a Connection,
    pub(crate) broadcaster: &'a str,
    pub(crate) machine: SubscriberSession<Payload>,
    pub(crate) socket: Socket,
    pub(crate) pending: &'a mut Pending,
    pub(crate) opened_at: Option<Instant>,
    /// Interests that the broadcaster has still to confirm.
    pub(crate) unconfirmed: BTreeSet<Interest>,
    /// Those of them that were subscribed on the connection before and not asked for here yet.
    pub(crate) resubscribing: VecDeque<Interest>,
    /// Requests that were handed to the machine and are not confirmed, in this order.
    pub(crate) in_question: VecDeque<InQuestion>,
    /// Nothing is kept of a message for which there is no room.
    pub(crate) incoming: IncomingParts<io::Error>,
    /// Messages that are here whole and acknowledged, while they are decompressed, in their order.
    pub(crate) arriving: FuturesOrdered<BoxFuture<'static, Result<Arrival, SessionError>>>,
    /// A notification that is being compressed.
    pub(crate) preparing: Beside<Prepared>,
    pub(crate) compressors: Compressors,
}

/// The result of a message that was acknowledged.
pub(crate) enum Arrival {
    Message(Message),
    /// There was no room for it here: what is subscribed to this topic has a gap.
    Missed(Topic),
}

/// Most messages that are being decompressed; beyond it nothing more is read.
const ARRIVING_MAX: usize = 16;

/// The reason why there is no room for a message, or, if that is not the matter, why the session
/// ends.
fn no_room(error: FillError) -> Result<io::Error, SessionError> {
    match error {
        FillError::Spool(error) => Ok(error),
        FillError::Body(_) | FillError::Length { .. } | FillError::Digest { .. } => {
            Err(not_as_announced(&error))
        }
    }
}

/// The end of the session for a message that is not what its head says.
fn not_as_announced(error: &dyn std::error::Error) -> SessionError {
    SessionError::ended(close_code::PROTOCOL, format!("RECEIVE_STREAM: {error}"))
}

/// What is subscribed to `topic` misses a message that arrived, because of `error`.
fn missed(topic: Topic, error: &io::Error) -> Arrival {
    tracing::warn!(%error, "there is no room for a message that was received");
    Arrival::Missed(topic)
}

impl Running<'_> {
    pub(crate) async fn run(
        &mut self,
        commands: &mut mpsc::Receiver<Command>,
        closing: &mut Closing,
    ) -> Over {
        let mut has_left = false;
        loop {
            // All that waits, so that what was asked together is sent together.
            while let Ok(command) = commands.try_recv() {
                self.pending.take_in(command);
            }
            if closing.has_begun() && self.machine.is_open() && !has_left {
                has_left = true;
                self.leave();
            }
            if let Some(over) = self.act().await {
                return over;
            }
            if closing.is_over(self.pending.is_notifying() || self.is_leaving()) {
                self.machine.end(SessionError::ended(
                    close_code::NORMAL,
                    "the client was closed",
                ));
                continue;
            }
            let wake_at = wake_at(self.machine.deadline(), self.own.clock.now());
            tokio::select! {
                event = self.socket.event(), if self.arriving.len() < ARRIVING_MAX => match event {
                    Ok(SocketEvent::Message(message)) => {
                        self.machine.handle_message(&message, self.own.clock.now());
                    }
                    Ok(SocketEvent::Writable) => {}
                    Ok(SocketEvent::Closed(code)) => return Over::Closed(code),
                    Err(error) => return Over::Lost(error),
                },
                Some(message) = self.arriving.next() => self.hand(message),
                // Compressing goes on beside everything else: a large message must not hold up
                // acknowledgements.
                prepared = self.preparing.done() => self.prepared(prepared),
                Some(command) = commands.recv() => self.pending.take_in(command),
                () = tokio::time::sleep_until(wake_at.unwrap_or_else(Instant::now)),
                    if wake_at.is_some() =>
                {
                    self.machine.handle_timeout(self.own.clock.now());
                }
                () = closing.change() => {}
            }
        }
    }

    /// Asks to unsubscribe everything, because the client is being closed. Broadcasters count a
    /// message as confirmed when it waits for this websocket; ours confirms an UNSUBSCRIBE behind
    /// the messages that waited before, so what was confirmed is here when that is.
    fn leave(&mut self) {
        for interest in std::mem::take(&mut self.resubscribing) {
            // Not subscribed on this connection.
            self.unconfirmed.remove(&interest);
            self.pending.subscribed.remove(&interest);
        }
        self.pending.leave();
    }

    /// `true` while [`Running::leave`] is not done.
    fn is_leaving(&self) -> bool {
        self.machine.is_open() && (self.pending.is_asking() || !self.arriving.is_empty())
    }

    /// Does what the machine says, and gives it what is pending while there is room.
    async fn act(&mut self) -> Option<Over> {
        loop {
            if let Some(event) = self.machine.poll_event() {
                // Events before output: what the application is to know comes before what the wire
                // is to carry.
                if let Err(reason) = self.on(event).await {
                    self.machine.end(reason);
                }
                continue;
            }
            // Not polled for output while it cannot be sent: counters are drawn when a message
            // leaves.
            if !self.socket.is_writable() && !self.machine.is_over() {
                self.tell();
                return None;
            }
            match self.machine.poll_output() {
                Output::Send(message) => {
                    let message = self.read(message).await;
                    if let Err(error) = self.socket.send(message).await {
                        return Some(Over::Lost(error));
                    }
                    // Whatever else is sent leaves before a notification, or between its parts.
                    if self.machine.is_ready_to_notify() {
                        self.pending.was_sent_whole();
                    }
                }
                Output::Close(reason) => return Some(Over::Here(reason)),
                Output::Timeout(_) => {
                    if !self.machine.is_open() || !self.give_something_to_do() {
                        self.tell();
                        return None;
                    }
                }
            }
        }
    }

    /// Reads the part of a notification that is to be sent. If it can no longer be read, something
    /// else takes its place: the call fails, and the connection with all its subscriptions goes on.
    async fn read(&mut self, message: Outgoing<Payload>) -> Outgoing<Payload> {
        let OutgoingBody::Part { of, range } = message.body else {
            return message;
        };
        if let Some(notification) = self.pending.sent.back() {
            notification.sent.store(range.end, Ordering::Relaxed);
        }
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let bytes = match of.read_range(range).await {
            Ok(bytes) => bytes,
            Err(error) => {
                self.pending.is_unreadable(error);
                // Neither zeros alone nor any text: in no message are they likely to be what was
                // there.
                random_bytes::<64>().repeat(length.div_ceil(64))[..length]
                    .to_vec()
                    .into()
            }
        };
        Outgoing {
            head: message.head,
            body: OutgoingBody::Bytes(bytes),
        }
    }

    fn tell(&mut self) {
        let is_ok = self.machine.is_open()
            && self.unconfirmed.is_empty()
            && self.pending.requests.is_empty()
            && self.pending.asked.is_empty();
        if is_ok {
            self.pending.suspicion.clear();
            self.own.dispatch.resume();
            self.own.tell(ConnectionStatus::Ok);
        } else {
            self.own.tell(ConnectionStatus::Lost);
        }
    }

    /// `true` if what is under way has to be answered before anything else is handed over, so that
    /// a close tells what is refused.
    fn waits_for_answers(&self) -> bool {
        let is_under_way = !self.in_question.is_empty()
            || self.machine.unacknowledged() > 0
            || !self.machine.is_ready_to_notify()
            || self.preparing.is_busy();
        self.pending.suspicion.is_careful() && is_under_way
    }

    /// Hands the machine what is next; whether there was something.
    fn give_something_to_do(&mut self) -> bool {
        let now = self.own.clock.now();
        let expected_max = self.own.expected_acknowledgements_max;
        // Published broadcasters close a websocket from which too much waits to be worked on.
        if expected_max.is_some_and(|max| self.machine.unacknowledged() >= max.get()) {
            return false;
        }
        if self.waits_for_answers() {
            return false;
        }
        // What was subscribed before comes first: messages are missed until it is.
        let resubscribed = self.resubscribing.pop_front().map(|it| (it, true));
        if let Some(asked) = resubscribed.or_else(|| self.pending.next_request()) {
            match &asked {
                (interest, true) => self.machine.subscribe(interest, now),
                (interest, false) => self.machine.unsubscribe(interest, now),
            }
            self.in_question.push_back(asked);
            return true;
        }
        if self.preparing.is_busy() || !self.machine.is_ready_to_notify() {
            return false;
        }
        let sent_max = self.own.sent_notifications_max;
        if sent_max.is_some_and(|max| self.pending.sent.len() >= max.get()) {
            return false;
        }
        // It stays where it is while it is compressed, so that it is not lost with the connection.
        let Some(notification) = self.pending.next_notification() else {
            return false;
        };
        let (plain, identifier) = (
            notification.payload.clone(),
            notification.identifier.clone(),
        );
        let id = self.machine.compressor_for(plain.len());
        let zstd = self.compressors.get(id.into());
        // Nothing to compress and nothing that can have changed: no detour.
        if zstd.is_none() && plain.in_memory().is_some() {
            self.notify_next(0, None);
            return true;
        }
        let spool = self.own.spool.clone();
        self.preparing.begin(async move {
            let made = prepare(zstd, &plain, &spool).await;
            (id, identifier, made)
        });
        true
    }

    fn prepared(&mut self, (id, identifier, made): Prepared) {
        let next = self.pending.notifications.front();
        // Its caller may have gone: then another is the next.
        if next.is_none_or(|it| it.identifier != identifier) {
            return;
        }
        match made {
            Made::Compressed(wire) if self.compressors.get(id.into()).is_some() => {
                self.notify_next(id, Some(wire));
            }
            // The broadcaster took the dictionary back in the meantime: with another one, then.
            Made::Compressed(_) => {}
            Made::Plain => self.notify_next(0, None),
            Made::Unreadable(error) => self.pending.next_is_unreadable(error),
        }
    }

    fn notify_next(&mut self, compressor: u32, wire: Option<Payload>) {
        let Some(mut notification) = self.pending.notifications.pop_front() else {
            return;
        };
        let plain = notification.payload.clone();
        let wire = wire.unwrap_or_else(|| plain.clone());
        notification.attempts += 1;
        notification.wire_bytes = wire.len();
        let to_send = ToSend {
            identifier: notification.identifier.clone(),
            topic: notification.topic.clone(),
            head: BodyHead {
                compressor: compressor.into(),
                compressed_length: wire.len(),
                decompressed_length: plain.len(),
                compressed_sha512: *wire.sha512(),
            },
            plain_sha512: *plain.sha512(),
            body: wire,
        };
        self.pending.sent.push_back(notification);
        self.machine.notify(to_send, self.own.clock.now());
    }

    async fn on(&mut self, event: SubscriberEvent) -> Result<(), SessionError> {
        let now = self.own.clock.now();
        match event {
            SubscriberEvent::Open { unspent } => {
                let what = "CONFIRM_CONFIGURE";
                let spent = self.own.guard.spend(unspent, now).await;
                let _ = spent.map_err(|source| SessionError::Auth { what, source })?;
                self.opened_at = Some(Instant::now());
                self.own.report.failure.send_replace(None);
                self.unconfirmed = self.pending.subscribed.clone();
                // Topics before globs.
                self.resubscribing = self.unconfirmed.iter().cloned().collect();
            }
            SubscriberEvent::Subscribed(interest) => {
                self.in_question.pop_front();
                self.unconfirmed.remove(&interest);
                self.pending.confirmed(&interest, true);
            }
            SubscriberEvent::Unsubscribed(interest) => {
                self.in_question.pop_front();
                self.pending.confirmed(&interest, false);
            }
            SubscriberEvent::Continued { .. } => {}
            SubscriberEvent::Notified {
                identifier,
                subscribers,
            } => self.pending.acknowledged(&identifier, subscribers),
            SubscriberEvent::Refused {
                identifier,
                refusal,
            } => self.pending.refused(&identifier, self.broadcaster, refusal),
            SubscriberEvent::Receive(part) => self.receive(part).await?,
            SubscriberEvent::EnablePreset {
                compressor, level, ..
            } => {
                let preset = self.own.presets.iter().find(|it| it.id == compressor);
                let zstd = match preset {
                    Some(preset) => Zstd::with_dictionary(preset.dictionary.clone(), level.into()),
                    None => Zstd::new(level.into()),
                };
                self.compressors.add(compressor.into(), zstd);
            }
            SubscriberEvent::EnableCustom {
                compressor,
                level,
                dictionary,
                ..
            } => {
                let zstd = Zstd::with_dictionary(dictionary, level.into());
                self.compressors.add(compressor, zstd);
            }
            SubscriberEvent::DisableCustom { compressor } => {
                self.compressors.retain(|id| id != compressor);
            }
            SubscriberEvent::Missed(topic) => {
                tracing::debug!(?topic, "the broadcaster says that something was missed");
                self.own.tell(ConnectionStatus::Lost);
                self.own.dispatch.gap();
            }
        }
        Ok(())
    }

    /// Takes a part of a message in; with the last it is handed on. A message for which there is no
    /// room is acknowledged, too: it is missed, and the connection goes on.
    async fn receive(&mut self, part: ReceivePart) -> Result<(), SessionError> {
        let ReceivePart {
            begins,
            bytes,
            ends,
        } = part;
        // Room for the announced length is taken now, before the rest comes.
        let begins =
            begins.map(|(topic, head)| Incoming::new(topic, head, &self.own.spool, no_room));
        let taking = self
            .incoming
            .take(begins.transpose()?, bytes, ends, no_room);
        let Some(arrived) = taking.await? else {
            return Ok(());
        };
        let Arrived {
            ticket,
            topic,
            head,
            wire,
        } = arrived;
        let received = self.own.clock.now();
        // Acknowledged when it is here whole, and not when it is decompressed: the broadcaster
        // waits for it, and a message that cannot be decompressed ends the connection anyway.
        self.machine.confirm_receive(ticket, received);
        let message = move |topic, payload| {
            Arrival::Message(Message {
                number: None,
                topic,
                payload,
                received,
            })
        };
        let (wire, zstd) = match wire {
            Ok(wire) => (wire, self.compressors.get(head.compressor)),
            Err(error) => {
                let missed = missed(topic, &error);
                self.arriving.push_back(Box::pin(async { Ok(missed) }));
                return Ok(());
            }
        };
        match zstd {
            // Nothing is before it, so it need not wait for its turn.
            None if self.arriving.is_empty() => self.hand(Ok(message(topic, wire))),
            None => {
                let arrival = message(topic, wire);
                self.arriving.push_back(Box::pin(async { Ok(arrival) }));
            }
            Some(zstd) => {
                let (limits, spool) = (self.own.decompress, self.own.spool.clone());
                let decompressing = async move {
                    let plain = zstd.decompress(&wire, head.decompressed_length, &limits, &spool);
                    match plain.await {
                        Ok(payload) => Ok(message(topic, payload)),
                        Err(DecompressError::Spool(error)) => Ok(missed(topic, &error)),
                        Err(error) => Err(not_as_announced(&error)),
                    }
                };
                self.arriving.push_back(Box::pin(decompressing));
            }
        }
        Ok(())
    }

    /// Hands a message to those who want it.
    pub(crate) fn hand(&mut self, arrival: Result<Arrival, SessionError>) {
        match arrival {
            // One that nobody wants was on its way when that was unsubscribed.
            Ok(Arrival::Message(message)) => {
                self.own.dispatch.hand(&message);
            }
            Ok(Arrival::Missed(topic)) => self.own.dispatch.missed(&topic),
            Err(reason) => self.machine.end(reason),
        }
    }
}
