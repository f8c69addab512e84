//! The subscriber's end of a websocket: inputs of the driver go to the state, outputs come back.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use crate::session::error::SessionError;
use crate::session::io::Output;
use crate::session::nonces::Nonces;
use crate::session::subscriber::await_confirm::AwaitConfirm;
use crate::session::subscriber::config::SubscriberConfig;
use crate::session::subscriber::event::{Notification, ReceiveTicket, SubscriberEvent};
use crate::session::subscriber::open::Open;
use crate::stateful::ToSubscriber;
use crate::subscription::Interest;
use crate::time::Now;

/// The subscriber's end of one websocket. Bodies are handed in as `B`, which the machine never
/// looks into. The contract is that of [`session`](crate::session).
#[derive(Debug)]
pub struct SubscriberSession<B> {
    now: Now,
    state: State<B>,
    events: VecDeque<SubscriberEvent>,
    /// The reason why the session ended, until it was handed over.
    ends: Option<SessionError>,
}

#[derive(Debug)]
enum State<B> {
    AwaitConfirm(AwaitConfirm),
    Open(Box<Open<B>>),
    Closed,
}

impl<B: Clone> SubscriberSession<B> {
    /// A session whose websocket was just opened: CONFIGURE is the first output.
    pub fn new(
        config: Arc<SubscriberConfig>,
        subscriber_nonce: [u8; 32],
        nonces: Nonces,
        now: Now,
    ) -> Self {
        let state = AwaitConfirm::new(config, subscriber_nonce, nonces, now);
        Self {
            now,
            state: State::AwaitConfirm(state),
            events: VecDeque::new(),
            ends: None,
        }
    }

    /// Takes a binary websocket message that arrived.
    pub fn handle_message(&mut self, message: &Bytes, now: Now) {
        self.now = now;
        // The driver may have read on before it acted on the close.
        if self.is_over() {
            return;
        }
        let handled = ToSubscriber::decode(message)
            .map_err(SessionError::from)
            .and_then(|message| self.handle(message));
        if let Err(reason) = handled {
            self.close(reason);
        }
    }

    fn handle(&mut self, message: ToSubscriber) -> Result<(), SessionError> {
        // A state is consumed to make the next one. If it cannot be made, the session is over.
        match std::mem::replace(&mut self.state, State::Closed) {
            State::AwaitConfirm(it) => {
                let (open, event) = it.handle(message, self.now)?;
                self.events.push_back(event);
                self.state = State::Open(Box::new(open));
            }
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
                awaited: "CONFIRM_CONFIGURE",
            });
        }
    }

    /// The moment at which [`SubscriberSession::handle_timeout`] is to be called.
    pub fn deadline(&self) -> Option<Now> {
        match &self.state {
            State::AwaitConfirm(it) => Some(it.deadline()),
            State::Open(_) | State::Closed => None,
        }
    }

    /// `true` if the session is open.
    pub fn is_open(&self) -> bool {
        matches!(self.state, State::Open(_))
    }

    /// `true` if nothing more will be sent or happen.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Asks to subscribe. Only while open, and only an interest that this session is not subscribed
    /// to.
    pub fn subscribe(&mut self, interest: &Interest, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.outbox.request(interest.clone(), true);
        }
    }

    /// Asks to unsubscribe. Only while open, and only an interest that this session is subscribed
    /// to.
    pub fn unsubscribe(&mut self, interest: &Interest, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.outbox.request(interest.clone(), false);
        }
    }

    /// Sends a notification, as NOTIFY or in parts (§8). Only while open, and only with a
    /// compressor that is enabled now.
    pub fn notify(&mut self, notification: Notification<B>, now: Now) {
        if let Some(open) = self.open_at(now) {
            open.outbox.notify(notification);
        }
    }

    /// `true` if the session is open and no notification handed to it before still waits in it.
    pub fn is_ready_to_notify(&self) -> bool {
        self.open().is_some_and(|open| !open.outbox.is_notifying())
    }

    /// The compressor to use for a plain body of `plain_bytes` bytes; 0 for none (§11, newest
    /// custom first).
    pub fn compressor_for(&self, plain_bytes: u64) -> u32 {
        self.open()
            .map_or(0, |open| open.compressor_for(plain_bytes))
    }

    /// Number of requests, notifications and parts that are not acknowledged yet.
    pub fn unacknowledged(&self) -> usize {
        self.open().map_or(0, |open| open.outbox.unacknowledged())
    }

    /// Confirms that the message is here, whole and right. Acknowledgements leave before anything
    /// else that waits; those of earlier parts are queued by the machine itself.
    pub fn confirm_receive(&mut self, ticket: ReceiveTicket, now: Now) {
        if let Some(open) = self.open_at(now) {
            let ReceiveTicket { identifier, place } = ticket;
            open.outbox.confirm_receive(place, identifier);
        }
    }

    fn open(&self) -> Option<&Open<B>> {
        match &self.state {
            State::Open(open) => Some(open),
            State::AwaitConfirm(_) | State::Closed => None,
        }
    }

    /// The open state, to be changed at `now`. `None` before it and after the end, when a request
    /// of the driver does nothing.
    fn open_at(&mut self, now: Now) -> Option<&mut Open<B>> {
        self.now = now;
        match &mut self.state {
            State::Open(open) => Some(open),
            State::AwaitConfirm(_) | State::Closed => None,
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

    /// The next event. To be polled until there is none, before [`SubscriberSession::poll_output`].
    pub fn poll_event(&mut self) -> Option<SubscriberEvent> {
        self.events.pop_front()
    }

    /// The next thing to do. Sends may be left for later while the websocket cannot take more.
    pub fn poll_output(&mut self) -> Output<B> {
        let next = match &mut self.state {
            State::AwaitConfirm(it) => it.next_message(self.now),
            State::Open(open) => open.next_message(self.now),
            State::Closed => Ok(None),
        };
        match next {
            Ok(Some(message)) => return Output::Send(message),
            Ok(None) => {}
            Err(reason) => self.close(reason),
        }
        // The closed state holds no messages, so nothing is sent once the reason is there.
        match self.ends.take() {
            Some(reason) => Output::Close(reason),
            None => Output::Timeout(self.deadline()),
        }
    }
}
