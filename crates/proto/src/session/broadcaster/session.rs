//! The broadcaster's end of a websocket: inputs of the driver go to the state, outputs come back.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::digest::Sha512;
use crate::session::broadcaster::await_configure::{AwaitAccept, AwaitConfigure};
use crate::session::broadcaster::config::BroadcasterConfig;
use crate::session::broadcaster::event::{
    BroadcasterEvent, Compressor, Delivery, InterestTicket, NotifyTicket,
};
use crate::session::broadcaster::open::Open;
use crate::session::broadcaster::outbox::Queued;
use crate::session::error::SessionError;
use crate::session::io::Output;
use crate::session::nonces::Nonces;
use crate::stateful::{Refusal, ToBroadcaster};
use crate::time::Now;
use crate::topic::Topic;

/// The broadcaster's end of one websocket. Bodies are handed in as `B`, which the machine never
/// looks into. The contract is that of [`session`](crate::session).
#[derive(Debug)]
pub struct BroadcasterSession<B> {
    now: Now,
    state: State<B>,
    events: VecDeque<BroadcasterEvent>,
    /// The reason why the session ended, until it was handed over.
    ends: Option<SessionError>,
}

#[derive(Debug)]
enum State<B> {
    AwaitConfigure(AwaitConfigure),
    AwaitAccept(AwaitAccept),
    Open(Box<Open<B>>),
    Closed,
}

impl<B: Clone> BroadcasterSession<B> {
    /// A session whose websocket was just accepted.
    pub fn new(config: Arc<BroadcasterConfig>, nonces: Nonces, now: Now) -> Self {
        Self {
            now,
            state: State::AwaitConfigure(AwaitConfigure::new(config, nonces, now)),
            events: VecDeque::new(),
            ends: None,
        }
    }

    /// Takes a binary websocket message that arrived.
    pub fn handle_message(&mut self, message: &Bytes, now: Now) {
        self.now = now;
        // The driver may have read on before it acted on the close. The reason is known already,
        // and a message after it must not change anything.
        if self.is_over() {
            return;
        }
        // The driver hashes the body while it stores it; to hash a long one here as well would be
        // the most expensive step of a notification, done twice.
        let handled = ToBroadcaster::decode_unhashed(message)
            .map_err(SessionError::from)
            .and_then(|message| self.handle(message));
        if let Err(reason) = handled {
            self.close(reason);
        }
    }

    fn handle(&mut self, message: ToBroadcaster) -> Result<(), SessionError> {
        // A state is consumed to make the next one. If it cannot be made, the session is over.
        match std::mem::replace(&mut self.state, State::Closed) {
            State::AwaitConfigure(it) => {
                let (next, event) = it.handle(message, self.now)?;
                self.events.push_back(event);
                self.state = State::AwaitAccept(next);
            }
            State::AwaitAccept(it) => return Err(it.refuse(&message)),
            State::Open(mut open) => {
                self.events.extend(open.handle(message, self.now)?);
                self.state = State::Open(open);
            }
            State::Closed => {}
        }
        Ok(())
    }

    /// Ends the session if its deadline has passed. To be called at the moment of
    /// [`Output::Timeout`].
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        // Timers fire early, and late: by then the session may be open and have no deadline.
        if self.deadline().is_some_and(|deadline| deadline <= now) {
            self.close(SessionError::TooLate {
                awaited: "CONFIGURE",
            });
        }
    }

    /// The moment at which [`BroadcasterSession::handle_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Now> {
        match &self.state {
            State::AwaitConfigure(it) => Some(it.deadline()),
            State::AwaitAccept(it) => Some(it.deadline()),
            State::Open(_) | State::Closed => None,
        }
    }

    /// Accepts the CONFIGURE of [`BroadcasterEvent::Configure`]: the session is open.
    pub fn accept(&mut self, broadcaster_nonce: [u8; 32], now: Now) {
        self.now = now;
        self.state = match std::mem::replace(&mut self.state, State::Closed) {
            State::AwaitAccept(it) => State::Open(Box::new(it.accept(broadcaster_nonce))),
            // Not an error: the session may have ended while the driver spent the authorization.
            other @ (State::AwaitConfigure(_) | State::Open(_) | State::Closed) => other,
        };
    }

    /// Confirms that the interest is subscribed or unsubscribed as asked.
    pub fn confirm_interest(&mut self, ticket: InterestTicket, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.confirm_interest(ticket);
        }
    }

    /// Confirms that the notification was delivered to `subscribers` subscribers. `sha512` is the
    /// digest of the plain body; the machine signs that one or the one on the wire, as §8 says.
    pub fn confirm_notify(
        &mut self,
        ticket: NotifyTicket,
        sha512: &Sha512,
        subscribers: u32,
        now: Now,
    ) {
        if let Some(open) = self.open_at(now) {
            open.confirm_notify(ticket, sha512, subscribers);
        }
    }

    /// Refuses the notification; the connection goes on.
    pub fn refuse_notify(&mut self, ticket: NotifyTicket, refusal: Refusal, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.refuse_notify(ticket, refusal);
        }
    }

    /// Sends a message. Call it only while [`BroadcasterSession::is_ready_to_deliver`].
    pub fn deliver(&mut self, delivery: Delivery<B>, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.outbox.push(Queued::Deliver(Box::new(delivery)));
        }
    }

    /// `true` if the session is open and everything handed to it before has left it. Until then
    /// the driver keeps further deliveries in its own bounded queue.
    pub fn is_ready_to_deliver(&self) -> bool {
        self.open().is_some_and(|open| open.outbox.is_empty())
    }

    /// `true` if messages wait to be sent. They leave only as the subscriber reads and
    /// acknowledges.
    pub fn has_unsent(&self) -> bool {
        self.open().is_some_and(|open| !open.outbox.is_empty())
    }

    /// Memory of the answers that wait to be sent, or that wait for an earlier answer, in bytes.
    /// The driver reads nothing from the subscriber while this exceeds the driver's limit.
    pub fn answers_bytes(&self) -> usize {
        self.open().map_or(0, |open| open.outbox.answers_bytes())
    }

    /// Number of acknowledgements that are due, of parts that were sent.
    pub fn unacknowledged(&self) -> usize {
        self.open().map_or(0, |open| open.outbox.unacknowledged())
    }

    /// Number of acknowledgements that have arrived, of parts that were sent.
    pub fn acknowledged(&self) -> u64 {
        self.open().map_or(0, Open::acknowledged)
    }

    /// Says that messages about `topic` were missed.
    pub fn missed(&mut self, topic: &Topic, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.outbox.push(Queued::Missed(topic.clone()));
        }
    }

    /// Announces a compressor: ENABLE_ZSTD_PRESET or ENABLE_ZSTD_CUSTOM. From here on
    /// [`BroadcasterSession::compressor_for`] may name it.
    pub fn enable(&mut self, compressor: Compressor, now: Now) {
        if let Some(open) = self.open_at(now) {
            // Usable at once although it has not left yet: nothing overtakes the announcement in
            // the outbox, so the subscriber reads it before the first message that needs it.
            open.compressors.enable(compressor.id, compressor.sizes);
            open.outbox.push(Queued::Enable(Box::new(compressor)));
        }
    }

    /// Announces that a custom compressor is no longer used. Messages that the subscriber
    /// compressed with it are still accepted until it has acknowledged a delivery that was sent
    /// after this.
    pub fn disable(&mut self, compressor: u32, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.compressors.disable(compressor);
            open.outbox.push(Queued::Disable(compressor));
        }
    }

    /// The compressor to use for a plain body of `plain_bytes` bytes; 0 for none (§11).
    pub fn compressor_for(&self, plain_bytes: u64) -> u32 {
        self.open()
            .map_or(0, |open| open.compressors.best_for(plain_bytes))
    }

    /// `true` if the dictionary of `compressor` must still be at hand: it is enabled, or it was
    /// disabled and the subscriber may not know yet.
    pub fn accepts_compressor(&self, compressor: u64) -> bool {
        self.open()
            .is_some_and(|open| open.compressors.accepts(compressor))
    }

    /// `true` if this compressor was announced and not taken back.
    pub fn is_compressor_enabled(&self, compressor: u32) -> bool {
        self.open()
            .is_some_and(|open| open.compressors.is_enabled(compressor))
    }

    fn open(&self) -> Option<&Open<B>> {
        match &self.state {
            State::Open(open) => Some(open),
            State::AwaitConfigure(_) | State::AwaitAccept(_) | State::Closed => None,
        }
    }

    /// The open state, to be changed at `now`. `None` before it and after the end: a driver that
    /// answers late, for a session that ended meanwhile, does nothing.
    fn open_at(&mut self, now: Now) -> Option<&mut Open<B>> {
        self.now = now;
        match &mut self.state {
            State::Open(open) => Some(open),
            State::AwaitConfigure(_) | State::AwaitAccept(_) | State::Closed => None,
        }
    }

    /// Ends the session from this side.
    pub fn end(&mut self, reason: SessionError) {
        // The first reason is the one to tell.
        if !self.is_over() {
            self.close(reason);
        }
    }

    fn close(&mut self, reason: SessionError) {
        self.state = State::Closed;
        self.ends = Some(reason);
    }

    /// `true` if nothing more will be sent or happen.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// The next event. To be polled until there is none, before
    /// [`BroadcasterSession::poll_output`].
    pub fn poll_event(&mut self) -> Option<BroadcasterEvent> {
        self.events.pop_front()
    }

    /// The next thing to do. Sends may be left for later while the websocket cannot take more.
    pub fn poll_output(&mut self) -> Output<B> {
        if let State::Open(open) = &mut self.state {
            match open.next_message(self.now) {
                Ok(Some(message)) => return Output::Send(message),
                Ok(None) => {}
                Err(reason) => self.close(reason),
            }
        }
        // The closed state holds no messages, so nothing is sent once the reason is there.
        match self.ends.take() {
            Some(reason) => Output::Close(reason),
            None => Output::Timeout(self.deadline()),
        }
    }
}
