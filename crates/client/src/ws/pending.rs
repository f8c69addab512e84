//! What is carried from one connection to the next (`docs/protocol/stateful.md` §15).

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use httppubsub_net::Payload;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use tokio::sync::oneshot;

use crate::error::{AttemptError, RequestError};

/// What a client wants of its websocket.
#[derive(Debug)]
pub(crate) enum Command {
    Request(Request),
    Notify(Notification),
}

/// Subscribe or unsubscribe.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) interest: Interest,
    pub(crate) subscribe: bool,
    pub(crate) reply: oneshot::Sender<Result<(), RequestError>>,
}

/// A notification on its way.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) identifier: Identifier,
    pub(crate) topic: Topic,
    pub(crate) payload: Payload,
    /// How much of it was handed to the websocket, in bytes.
    pub(crate) sent: Arc<AtomicU64>,
    /// Whether a broadcaster may have it.
    pub(crate) was_sent: bool,
    pub(crate) reply: oneshot::Sender<Result<u32, RequestError>>,
}

/// All that is not done yet, and what was done already.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// Confirmed, or asked for, and not asked to be ended.
    pub(crate) subscribed: BTreeSet<Interest>,
    /// Not asked for yet.
    pub(crate) requests: VecDeque<Request>,
    /// Asked for, not confirmed.
    pub(crate) asked: Vec<Request>,
    /// Not sent on this connection yet.
    pub(crate) notifications: VecDeque<Notification>,
    /// Sent on this connection, not acknowledged.
    pub(crate) sent: VecDeque<Notification>,
}

impl Pending {
    pub(crate) fn take_in(&mut self, command: Command) {
        match command {
            Command::Request(request) => self.requests.push_back(request),
            Command::Notify(notification) => self.notifications.push_back(notification),
        }
    }

    /// Whether nothing is left to be done.
    pub(crate) fn is_done(&self) -> bool {
        self.requests.is_empty()
            && self.asked.is_empty()
            && self.notifications.is_empty()
            && self.sent.is_empty()
    }

    /// Of the next connection nothing is known: what was sent is sent again, in its order and
    /// before everything else.
    pub(crate) fn connection_lost(&mut self) {
        while let Some(notification) = self.sent.pop_back() {
            self.notifications.push_front(notification);
        }
        // The next connection is subscribed to what is wanted, and to nothing else.
        self.settle(|request| !request.subscribe);
    }

    /// The broadcaster has subscribed this, or unsubscribed.
    pub(crate) fn confirmed(&mut self, interest: &Interest, subscribe: bool) {
        self.settle(|request| request.interest == *interest && request.subscribe == subscribe);
    }

    fn settle(&mut self, is_done: impl Fn(&Request) -> bool) {
        let asked = std::mem::take(&mut self.asked);
        let (done, waiting): (Vec<_>, Vec<_>) = asked.into_iter().partition(is_done);
        self.asked = waiting;
        for request in done {
            // Nobody may be waiting any more.
            let _ = request.reply.send(Ok(()));
        }
    }

    /// This notification reached so many.
    pub(crate) fn acknowledged(&mut self, identifier: &Identifier, subscribers: u32) {
        let at = self.sent.iter().position(|it| it.identifier == *identifier);
        if let Some(notification) = at.and_then(|at| self.sent.remove(at)) {
            let _ = notification.reply.send(Ok(subscribers));
        }
    }

    /// Nothing more is tried: everybody who waits is told what may have been done.
    pub(crate) fn give_up(&mut self, attempts: u32, broadcaster: &str, why: &str) {
        let last = || AttemptError::WebSocket(why.to_owned());
        let broadcaster = || broadcaster.to_owned();
        let not_done = || RequestError::RetriesExhausted {
            attempts,
            broadcaster: broadcaster(),
            last: last(),
        };
        for request in self.requests.drain(..).chain(self.asked.drain(..)) {
            let _ = request.reply.send(Err(not_done()));
        }
        for notification in self.sent.drain(..).chain(self.notifications.drain(..)) {
            let error = if notification.was_sent {
                RequestError::Ambiguous {
                    broadcaster: broadcaster(),
                    cause: last(),
                }
            } else {
                not_done()
            };
            let _ = notification.reply.send(Err(error));
        }
        self.subscribed.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    type Reply = oneshot::Receiver<Result<u32, RequestError>>;

    fn notification(identifier: &'static str, was_sent: bool) -> (Notification, Reply) {
        let (reply, receiver) = oneshot::channel();
        let notification = Notification {
            identifier: Identifier::new(identifier).unwrap(),
            topic: Topic::new("t").unwrap(),
            payload: Payload::from_bytes(""),
            sent: Arc::default(),
            was_sent,
            reply,
        };
        (notification, receiver)
    }

    fn request(
        topic: &'static str,
        subscribe: bool,
    ) -> (Request, oneshot::Receiver<Result<(), RequestError>>) {
        let (reply, receiver) = oneshot::channel();
        let interest = Interest::Exact(Topic::new(topic).unwrap());
        let request = Request {
            interest,
            subscribe,
            reply,
        };
        (request, receiver)
    }

    #[test]
    fn what_was_sent_is_sent_again_in_order_and_first() {
        let mut pending = Pending::default();
        for identifier in ["c", "d"] {
            pending.take_in(Command::Notify(notification(identifier, false).0));
        }
        for identifier in ["a", "b"] {
            pending.sent.push_back(notification(identifier, true).0);
        }
        pending.connection_lost();
        let order = pending
            .notifications
            .iter()
            .map(|it| it.identifier.as_bytes());
        assert_eq!(order.collect::<Vec<_>>(), [b"a", b"b", b"c", b"d"]);
        assert!(pending.sent.is_empty());
    }

    #[test]
    fn an_unsubscription_is_done_when_the_connection_is() {
        let mut pending = Pending::default();
        let (subscribe, mut subscribed) = request("t", true);
        let (unsubscribe, mut unsubscribed) = request("u", false);
        pending.asked = vec![subscribe, unsubscribe];
        pending.connection_lost();
        assert!(matches!(unsubscribed.try_recv(), Ok(Ok(()))));
        assert!(subscribed.try_recv().is_err());
        pending.confirmed(&Interest::Exact(Topic::new("t").unwrap()), true);
        assert!(matches!(subscribed.try_recv(), Ok(Ok(()))));
        assert!(pending.is_done());
    }

    #[test]
    fn whoever_waits_is_told_what_may_have_been_done() {
        let mut pending = Pending::default();
        let (sent, mut of_sent) = notification("a", true);
        let (unsent, mut of_unsent) = notification("b", false);
        let (request, mut of_request) = request("t", true);
        pending.notifications.extend([sent, unsent]);
        pending.take_in(Command::Request(request));
        pending.give_up(3, "http://b", "gone");
        assert!(of_sent.try_recv().unwrap().unwrap_err().is_ambiguous());
        assert!(!of_unsent.try_recv().unwrap().unwrap_err().is_ambiguous());
        let error = of_request.try_recv().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "not done in 3 attempts; the last was at http://b"
        );
    }

    #[test]
    fn an_acknowledgement_is_for_its_notification() {
        let mut pending = Pending::default();
        let (first, mut of_first) = notification("a", true);
        let (second, mut of_second) = notification("b", true);
        pending.sent.extend([first, second]);
        pending.acknowledged(&Identifier::new("b").unwrap(), 7);
        assert_eq!(of_second.try_recv().unwrap().unwrap(), 7);
        assert!(of_first.try_recv().is_err());
    }
}
