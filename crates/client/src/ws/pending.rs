//! What is carried from one connection to the next (`docs/protocol/stateful.md` §15).

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use http::StatusCode;
use httppubsub_net::Payload;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::{Identifier, Topic};
use httppubsub_proto::ws::Refusal;
use tokio::sync::oneshot;

use crate::error::{AttemptError, NotifyError, RequestError};

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

impl Request {
    fn done(self) {
        // Nobody may be waiting any more.
        let _ = self.reply.send(Ok(()));
    }
}

/// A notification on its way.
#[derive(Debug)]
pub(crate) struct Notification {
    pub(crate) identifier: Identifier,
    pub(crate) topic: Topic,
    pub(crate) payload: Payload,
    /// How much of it was handed to the websocket, in bytes.
    pub(crate) sent: Arc<AtomicU64>,
    /// Whether a broadcaster may have it: it was sent whole.
    pub(crate) was_sent: bool,
    /// On how many connections it was begun.
    pub(crate) attempts: u32,
    /// `None` once the caller was told, while the broadcaster still has to answer.
    pub(crate) reply: Option<Reply>,
}

pub(crate) type Reply = oneshot::Sender<Result<u32, NotifyError>>;

impl Notification {
    /// Whether nobody waits for it any more, and no broadcaster has it: it need not be sent.
    fn is_moot(&self) -> bool {
        !self.was_sent && self.reply.as_ref().is_none_or(Reply::is_closed)
    }

    fn tell(&mut self, result: Result<u32, NotifyError>) {
        if let Some(reply) = self.reply.take() {
            // Nobody may be waiting any more.
            let _ = reply.send(result);
        }
    }
}

/// All that is not done yet, and what was done already.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    limits: Limits,
    /// How many notifications may wait before the moot ones are looked for.
    swept_to: usize,
    /// Confirmed, or asked for, and not asked to be ended.
    pub(crate) subscribed: BTreeSet<Interest>,
    /// Not asked for yet.
    pub(crate) requests: VecDeque<Request>,
    /// Asked for, not confirmed; in this order on the connection it was asked on.
    pub(crate) asked: VecDeque<Request>,
    /// Not sent on this connection yet.
    pub(crate) notifications: VecDeque<Notification>,
    /// Sent on this connection, not acknowledged.
    pub(crate) sent: VecDeque<Notification>,
}

/// How much may wait, and how often something is tried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// How many notifications may wait that no broadcaster has yet.
    pub(crate) unsent_max: Option<NonZeroUsize>,
    /// On how many connections a notification is begun, at most.
    pub(crate) attempts_max: u32,
    /// Whether one that was sent whole is sent again when its connection is lost.
    pub(crate) retries_ambiguous: bool,
}

/// Fewer notifications than this are not worth looking through.
const SWEPT_TO_MIN: usize = 64;

impl Pending {
    /// Nothing yet.
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    pub(crate) fn take_in(&mut self, command: Command) {
        match command {
            Command::Request(request) => self.requests.push_back(request),
            Command::Notify(notification) => self.take_in_notification(notification),
        }
    }

    fn take_in_notification(&mut self, mut notification: Notification) {
        // However often callers give up while there is no connection, what they leave behind is
        // at most as much as what is waited for.
        if self.notifications.len() >= self.swept_to {
            self.notifications.retain(|it| !it.is_moot());
            self.swept_to = SWEPT_TO_MIN.max(2 * self.notifications.len());
        }
        if let Some(max) = self.limits.unsent_max {
            let unsent = self.notifications.iter();
            let unsent = unsent.filter(|it| !it.was_sent && !it.is_moot()).count();
            if unsent >= max.get() {
                notification.tell(Err(RequestError::TooMany { max }.into()));
                return;
            }
        }
        self.notifications.push_back(notification);
    }

    /// The next notification to send; the moot ones before it are dropped.
    pub(crate) fn next_notification(&mut self) -> Option<&Notification> {
        while self
            .notifications
            .front()
            .is_some_and(Notification::is_moot)
        {
            self.notifications.pop_front();
        }
        self.notifications.front()
    }

    /// Whether a notification is still to be sent, or to be acknowledged.
    pub(crate) fn is_notifying(&self) -> bool {
        !self.sent.is_empty() || self.notifications.iter().any(|it| !it.is_moot())
    }

    /// Of the next connection nothing is known: what was begun is sent again, in its order and
    /// before everything else, unless it was sent whole or tried often enough. The longest is to
    /// blame if the broadcaster closed because a message `was_too_long`: it is refused.
    pub(crate) fn connection_lost(&mut self, broadcaster: &str, why: &str, was_too_long: bool) {
        let longest = self.sent.iter().map(|it| it.payload.len()).max();
        for mut notification in std::mem::take(&mut self.sent).into_iter().rev() {
            let broadcaster = broadcaster.to_owned();
            let cause = AttemptError::WebSocket(why.to_owned());
            if was_too_long && longest == Some(notification.payload.len()) {
                notification.tell(Err(RequestError::Refused {
                    broadcaster,
                    status: StatusCode::PAYLOAD_TOO_LARGE,
                    reason: why.to_owned(),
                }
                .into()));
                continue;
            }
            let is_over = notification.attempts >= self.limits.attempts_max;
            let error = match notification.was_sent {
                true if is_over || !self.limits.retries_ambiguous => {
                    RequestError::Ambiguous { broadcaster, cause }
                }
                false if is_over => RequestError::RetriesExhausted {
                    attempts: notification.attempts,
                    broadcaster,
                    last: cause,
                },
                true | false => {
                    self.notifications.push_front(notification);
                    continue;
                }
            };
            notification.tell(Err(error.into()));
        }
        // The next connection is subscribed to what is wanted, and to nothing else.
        for request in std::mem::take(&mut self.asked) {
            if request.subscribe {
                self.asked.push_back(request);
            } else {
                request.done();
            }
        }
    }

    /// The broadcaster has subscribed this, or unsubscribed.
    pub(crate) fn confirmed(&mut self, interest: &Interest, subscribe: bool) {
        // Confirmations come in the order of the requests, so it is the first but after a
        // connection was lost.
        let is_it = |it: &Request| it.interest == *interest && it.subscribe == subscribe;
        let at = self.asked.iter().position(is_it);
        if let Some(request) = at.and_then(|at| self.asked.remove(at)) {
            request.done();
        }
    }

    /// This notification reached so many.
    pub(crate) fn acknowledged(&mut self, identifier: &Identifier, subscribers: u32) {
        let at = self.sent.iter().position(|it| it.identifier == *identifier);
        if let Some(mut notification) = at.and_then(|at| self.sent.remove(at)) {
            notification.tell(Ok(subscribers));
        }
    }

    /// The next notification cannot be read, and is not sent.
    pub(crate) fn next_is_unreadable(&mut self, error: io::Error) {
        if let Some(mut notification) = self.notifications.pop_front() {
            notification.tell(Err(NotifyError::Body(error)));
        }
    }

    /// The notification whose parts are being sent cannot be read to its end. What goes on the wire in
    /// place of the rest is not what its head says, so nobody takes it.
    pub(crate) fn is_unreadable(&mut self, error: io::Error) {
        if let Some(notification) = self.sent.back_mut() {
            notification.tell(Err(NotifyError::Body(error)));
        }
    }

    /// The notification that was begun last has left whole.
    pub(crate) fn was_sent_whole(&mut self) {
        if let Some(notification) = self.sent.back_mut() {
            notification.was_sent = notification.reply.is_some();
        }
    }

    /// The broadcaster does not take this notification; nobody has it.
    pub(crate) fn refused(&mut self, identifier: &Identifier, broadcaster: &str, refusal: Refusal) {
        let at = self.sent.iter().position(|it| it.identifier == *identifier);
        let Some(mut notification) = at.and_then(|at| self.sent.remove(at)) else {
            return;
        };
        let (broadcaster, reason) = (broadcaster.to_owned(), refusal.to_string());
        let error = match refusal {
            Refusal::NotNow => RequestError::RetriesExhausted {
                attempts: 1,
                broadcaster,
                last: AttemptError::Status {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    reason,
                },
            },
            Refusal::TooLong
            | Refusal::NotAsAnnounced
            | Refusal::NotDecompressed
            | Refusal::Other => RequestError::Refused {
                broadcaster,
                status: match refusal {
                    Refusal::TooLong => StatusCode::PAYLOAD_TOO_LARGE,
                    _ => StatusCode::BAD_REQUEST,
                },
                reason,
            },
        };
        notification.tell(Err(error.into()));
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
            if request.subscribe {
                let _ = request.reply.send(Err(not_done()));
            } else {
                // What is subscribed over a websocket ends with it.
                request.done();
            }
        }
        for mut notification in self.sent.drain(..).chain(self.notifications.drain(..)) {
            let error = if notification.was_sent {
                RequestError::Ambiguous {
                    broadcaster: broadcaster(),
                    cause: last(),
                }
            } else {
                not_done()
            };
            notification.tell(Err(error.into()));
        }
        self.subscribed.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    type Told = oneshot::Receiver<Result<u32, NotifyError>>;

    const LIMITS: Limits = Limits {
        unsent_max: None,
        attempts_max: 2,
        retries_ambiguous: false,
    };

    fn lost(pending: &mut Pending) {
        pending.connection_lost("http://b", "it broke", false);
    }

    fn notification(identifier: &'static str, was_sent: bool) -> (Notification, Told) {
        let (reply, receiver) = oneshot::channel();
        let notification = Notification {
            identifier: Identifier::new(identifier).unwrap(),
            topic: Topic::new("t").unwrap(),
            payload: Payload::from_bytes(""),
            sent: Arc::default(),
            was_sent,
            attempts: u32::from(was_sent),
            reply: Some(reply),
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
    fn what_was_sent_is_sent_again_in_order_and_first_where_that_is_wanted() {
        let mut pending = Pending::new(Limits {
            retries_ambiguous: true,
            ..LIMITS
        });
        for identifier in ["c", "d"] {
            pending.take_in(Command::Notify(notification(identifier, false).0));
        }
        for identifier in ["a", "b"] {
            pending.sent.push_back(notification(identifier, true).0);
        }
        lost(&mut pending);
        let order = pending
            .notifications
            .iter()
            .map(|it| it.identifier.as_bytes());
        assert_eq!(order.collect::<Vec<_>>(), [b"a", b"b", b"c", b"d"]);
        assert!(pending.sent.is_empty());
    }

    #[test]
    fn what_was_sent_whole_is_not_sent_again_by_itself_and_what_was_begun_is_so_often() {
        let mut pending = Pending::new(LIMITS);
        let (whole, mut of_whole) = notification("a", true);
        let (begun, mut of_begun) = notification("b", false);
        let begun = Notification {
            attempts: 1,
            ..begun
        };
        pending.sent.extend([whole, begun]);
        lost(&mut pending);
        assert!(of_whole.try_recv().unwrap().unwrap_err().is_ambiguous());
        assert!(of_begun.try_recv().is_err());
        let mut begun = pending.notifications.pop_front().unwrap();
        begun.attempts += 1;
        pending.sent.push_back(begun);
        lost(&mut pending);
        let error = of_begun.try_recv().unwrap().unwrap_err();
        assert!(!error.is_ambiguous(), "{error}");
        assert!(
            error.to_string().contains("not done in 2 attempts"),
            "{error}"
        );
        assert!(!pending.is_notifying());
    }

    #[test]
    fn the_longest_is_to_blame_when_the_broadcaster_closes_because_of_a_length() {
        let mut pending = Pending::new(LIMITS);
        let (short, mut of_short) = notification("a", false);
        let (long, mut of_long) = notification("b", true);
        let payload = Payload::from_bytes("long");
        pending
            .sent
            .extend([short, Notification { payload, ..long }]);
        pending.connection_lost("http://b", "code 1009", true);
        let error = of_long.try_recv().unwrap().unwrap_err();
        assert!(
            !error.is_ambiguous() && error.to_string().contains("413"),
            "{error}"
        );
        assert!(of_short.try_recv().is_err());
        assert_eq!(pending.notifications.len(), 1);
    }

    #[test]
    fn a_notification_that_cannot_be_read_to_its_end_fails_once_and_is_not_sent_again() {
        let mut pending = Pending::new(LIMITS);
        let (spoilt, mut of_spoilt) = notification("a", false);
        pending.sent.push_back(spoilt);
        pending.is_unreadable(io::ErrorKind::UnexpectedEof.into());
        pending.was_sent_whole();
        assert!(matches!(
            of_spoilt.try_recv(),
            Ok(Err(NotifyError::Body(_)))
        ));
        assert!(
            pending.is_notifying(),
            "the broadcaster still has to answer"
        );
        lost(&mut pending);
        assert!(!pending.is_notifying());
        assert!(pending.next_notification().is_none());
    }

    #[test]
    fn an_unsubscription_is_done_when_the_connection_is() {
        let mut pending = Pending::default();
        let (subscribe, mut subscribed) = request("t", true);
        let (unsubscribe, mut unsubscribed) = request("u", false);
        pending.asked.extend([subscribe, unsubscribe]);
        lost(&mut pending);
        assert!(matches!(unsubscribed.try_recv(), Ok(Ok(()))));
        assert!(subscribed.try_recv().is_err());
        pending.confirmed(&Interest::Exact(Topic::new("t").unwrap()), true);
        assert!(matches!(subscribed.try_recv(), Ok(Ok(()))));
        assert!(pending.asked.is_empty());
    }

    #[test]
    fn whoever_waits_is_told_what_may_have_been_done() {
        let mut pending = Pending::default();
        let (sent, mut of_sent) = notification("a", true);
        let (unsent, mut of_unsent) = notification("b", false);
        let (unsubscribe, mut of_unsubscribe) = request("u", false);
        let (request, mut of_request) = request("t", true);
        pending.notifications.extend([sent, unsent]);
        pending.take_in(Command::Request(request));
        pending.take_in(Command::Request(unsubscribe));
        pending.give_up(3, "http://b", "gone");
        assert!(of_sent.try_recv().unwrap().unwrap_err().is_ambiguous());
        assert!(!of_unsent.try_recv().unwrap().unwrap_err().is_ambiguous());
        assert!(of_unsubscribe.try_recv().unwrap().is_ok());
        let error = of_request.try_recv().unwrap().unwrap_err();
        assert_eq!(
            error.to_string(),
            "not done in 3 attempts; the last was at http://b: gone"
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

    #[test]
    fn what_nobody_waits_for_is_not_sent_and_not_kept() {
        let mut pending = Pending::new(Limits {
            retries_ambiguous: true,
            ..LIMITS
        });
        let (sent, of_sent) = notification("a", true);
        drop(of_sent);
        pending.sent.push_back(sent);
        lost(&mut pending);
        for _ in 0..10 * SWEPT_TO_MIN {
            pending.take_in(Command::Notify(notification("b", false).0));
        }
        assert!(pending.notifications.len() <= SWEPT_TO_MIN + 1);
        let (wanted, _reply) = notification("c", false);
        pending.take_in(Command::Notify(wanted));
        let mut identifiers = Vec::new();
        while let Some(next) = pending.next_notification() {
            identifiers.push(next.identifier.as_bytes().to_vec());
            pending.notifications.pop_front();
        }
        // The broadcaster may have the first already: it hears of it to the end.
        assert_eq!(identifiers, [b"a", b"c"]);
        assert!(!pending.is_notifying());
    }

    #[test]
    fn beyond_the_limit_a_notification_fails_at_once() {
        let mut pending = Pending::new(Limits {
            unsent_max: NonZeroUsize::new(2),
            ..LIMITS
        });
        let (resent, _of_resent) = notification("a", true);
        pending.notifications.push_back(resent);
        let (first, of_first) = notification("b", false);
        let (second, mut of_second) = notification("c", false);
        let (third, mut of_third) = notification("d", false);
        for it in [first, second, third] {
            pending.take_in(Command::Notify(it));
        }
        assert!(of_second.try_recv().is_err());
        let error = of_third.try_recv().unwrap().unwrap_err();
        assert!(error.to_string().ends_with("2 notifications wait already"));
        assert!(!error.is_ambiguous());
        drop(of_first);
        let (fourth, mut of_fourth) = notification("e", false);
        pending.take_in(Command::Notify(fourth));
        assert!(of_fourth.try_recv().is_err());
        assert_eq!(pending.notifications.len(), 4);
    }
}
