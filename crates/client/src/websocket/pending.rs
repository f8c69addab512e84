//! Work that is carried from one connection to the next (`docs/protocol/stateful.md` §15).

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::num::NonZeroUsize;

use http::StatusCode;
use httppubsub_proto::stateful::Refusal;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Identifier;
use tokio::sync::oneshot;

use crate::error::{AttemptError, NotifyError, RequestError};
use crate::websocket::command::{Command, Notification, Request};
use crate::websocket::refusal::{Finding, InQuestion, Suspicion};

/// All that is not done yet, and what was done already.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    limits: Limits,
    /// Number of waiting notifications from which on the moot ones are removed.
    swept_to: usize,
    /// Confirmed, or asked for, and not asked to be ended.
    pub(crate) subscribed: BTreeSet<Interest>,
    /// Not asked for yet.
    pub(crate) requests: VecDeque<Request>,
    /// Asked for, not confirmed; in this order on the connection it was asked on.
    pub(crate) asked: VecDeque<Request>,
    /// Made while the same was asked for already: done with the last of `asked` for the interest.
    joined: Vec<Request>,
    /// The search for an interest that is refused.
    pub(crate) suspicion: Suspicion,
    /// Not sent on this connection yet.
    pub(crate) notifications: VecDeque<Notification>,
    /// Sent on this connection, not acknowledged.
    pub(crate) sent: VecDeque<Notification>,
}

/// Bounds on waiting and on repetition.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Limits {
    /// Most notifications that wait and that no broadcaster has yet.
    pub(crate) unsent_max: Option<NonZeroUsize>,
    /// On how many connections a notification is begun, at most.
    pub(crate) attempts_max: u32,
    /// `true` if one that was sent whole is sent again when its connection is lost.
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
            Command::Request(request) => {
                let is_had = request.subscribe
                    && self.subscribed.contains(&request.interest)
                    && (self.requests.iter()).all(|it| it.interest != request.interest);
                if is_had {
                    self.join(request);
                } else {
                    self.requests.push_back(request);
                }
            }
            Command::Notify(notification) => self.take_in_notification(notification),
        }
    }

    /// Several subscriptions may want the same: it is asked for once.
    fn join(&mut self, request: Request) {
        let is_it =
            |it: &Request| it.interest == request.interest && it.subscribe == request.subscribe;
        if self.asked.iter().any(is_it) {
            self.joined.push(request);
        } else {
            request.done();
        }
    }

    /// The next request to the broadcaster: to subscribe the interest if `true`, else to
    /// unsubscribe.
    pub(crate) fn next_request(&mut self) -> Option<InQuestion> {
        while let Some(request) = self.requests.pop_front() {
            let (interest, subscribe) = (request.interest.clone(), request.subscribe);
            // Broadcasters close the websocket if they are asked for what is so already.
            let changes = match subscribe {
                true => self.subscribed.insert(interest.clone()),
                false => self.subscribed.remove(&interest),
            };
            if changes {
                self.asked.push_back(request);
                return Some((interest, subscribe));
            }
            self.join(request);
        }
        None
    }

    /// Judges the close of an open connection with `code` while these were in question; to be told
    /// before [`Pending::connection_lost`]. An interest that is refused is no longer subscribed,
    /// and the calls that wait for it fail.
    pub(crate) fn closed(
        &mut self,
        broadcaster: &str,
        code: Option<u16>,
        in_question: &VecDeque<InQuestion>,
    ) -> Finding {
        let is_awaited = |interest: &Interest| self.asked.iter().any(|it| it.wants(interest));
        let finding = self.suspicion.closed(code, in_question, is_awaited);
        if let Finding::Refused { interest, .. } = &finding {
            self.subscribed.remove(interest);
            let (refused, kept) = std::mem::take(&mut self.asked)
                .into_iter()
                .partition(|it| it.wants(interest));
            self.asked = kept;
            let refused: VecDeque<Request> = refused;
            let joined = self.joined.extract_if(.., |it| it.wants(interest));
            for request in refused.into_iter().chain(joined) {
                let code = code.unwrap_or_default();
                let _ = request.reply.send(Err(RequestError::Refused {
                    broadcaster: broadcaster.to_owned(),
                    // As for the same refusal over HTTP.
                    status: StatusCode::BAD_REQUEST,
                    reason: format!(
                        "it closes the websocket with code {code} when it is asked for this alone"
                    ),
                }));
            }
        }
        finding
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

    /// Asks to unsubscribe all that is subscribed, behind what was asked before.
    pub(crate) fn leave(&mut self) {
        let asked = self.subscribed.iter().map(|interest| Request {
            interest: interest.clone(),
            subscribe: false,
            // Nobody waits for the answer but the websocket itself.
            reply: oneshot::channel().0,
        });
        self.requests.extend(asked);
    }

    /// `true` if a request is still to be made, or to be confirmed.
    pub(crate) fn is_asking(&self) -> bool {
        !self.requests.is_empty() || !self.asked.is_empty()
    }

    /// `true` if a notification is still to be sent, or to be acknowledged.
    pub(crate) fn is_notifying(&self) -> bool {
        !self.sent.is_empty() || self.notifications.iter().any(|it| !it.is_moot())
    }

    /// Of the next connection nothing is known: what was begun is sent again, in its order and
    /// before everything else, unless it was sent whole or tried often enough. The longest on the
    /// wire is to blame if the broadcaster closed because a message `was_too_long`: it is refused,
    /// unless it was sent whole; then the broadcaster may have delivered it.
    pub(crate) fn connection_lost(&mut self, broadcaster: &str, why: &str, was_too_long: bool) {
        let longest = self.sent.iter().map(|it| it.wire_bytes).max();
        for mut notification in std::mem::take(&mut self.sent).into_iter().rev() {
            let broadcaster = broadcaster.to_owned();
            let cause = AttemptError::WebSocket(why.to_owned());
            if was_too_long && longest == Some(notification.wire_bytes) {
                let error = match notification.was_sent {
                    true => RequestError::Ambiguous { broadcaster, cause },
                    false => RequestError::Refused {
                        broadcaster,
                        status: StatusCode::PAYLOAD_TOO_LARGE,
                        reason: why.to_owned(),
                    },
                };
                notification.tell(Err(error.into()));
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
        let is_kept = |it: &Request| it.subscribe && self.subscribed.contains(&it.interest);
        for request in std::mem::take(&mut self.asked) {
            match is_kept(&request) {
                true => self.asked.push_back(request),
                false => request.done(),
            }
        }
        for request in std::mem::take(&mut self.joined) {
            match is_kept(&request) {
                true => self.joined.push(request),
                false => request.done(),
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
        if self.joined.iter().any(|it| it.interest == *interest)
            && self.asked.iter().all(|it| it.interest != *interest)
        {
            let joined = self.joined.extract_if(.., |it| it.interest == *interest);
            joined.for_each(Request::done);
        }
    }

    /// This notification reached `subscribers`.
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

    /// The notification whose parts are being sent cannot be read to its end. What goes on the wire
    /// in place of the rest is not what its head says, so nobody takes it.
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

    /// Nothing more is tried: all callers that wait hear what may have been done.
    pub(crate) fn give_up(&mut self, attempts: u32, broadcaster: &str, why: &str) {
        let last = || AttemptError::WebSocket(why.to_owned());
        let broadcaster = || broadcaster.to_owned();
        let not_done = || RequestError::RetriesExhausted {
            attempts,
            broadcaster: broadcaster(),
            last: last(),
        };
        let asked = self.asked.drain(..).chain(self.joined.drain(..));
        for request in self.requests.drain(..).chain(asked) {
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

    use std::sync::Arc;

    use httppubsub_net::body::Payload;
    use httppubsub_proto::topic::Topic;

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
            wire_bytes: 0,
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
        // The longest as it was given, which compresses well, and the longest on the wire.
        let (short, mut of_short) = notification("a", false);
        let payload = Payload::from_bytes("as long as anything");
        let short = Notification { payload, ..short };
        let (long, mut of_long) = notification("b", false);
        let wire_bytes = 5;
        pending
            .sent
            .extend([short, Notification { wire_bytes, ..long }]);
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
    fn what_was_sent_whole_may_be_done_even_if_the_broadcaster_closes_because_of_a_length() {
        let mut pending = Pending::new(Limits {
            retries_ambiguous: true,
            ..LIMITS
        });
        let (whole, mut of_whole) = notification("a", true);
        pending.sent.push_back(whole);
        pending.connection_lost("http://b", "code 1009", true);
        assert!(of_whole.try_recv().unwrap().unwrap_err().is_ambiguous());
        // Once more would be closed because of the length again.
        assert!(pending.notifications.is_empty());
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
        pending.subscribed.insert(subscribe.interest.clone());
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

    #[test]
    fn what_several_want_is_asked_for_once_and_told_to_all() {
        let mut pending = Pending::default();
        let (first, mut of_first) = request("t", true);
        let (second, mut of_second) = request("t", true);
        let (third, mut of_third) = request("t", true);
        let t = first.interest.clone();
        pending.take_in(Command::Request(first));
        pending.take_in(Command::Request(second));
        assert_eq!(pending.next_request(), Some((t.clone(), true)));
        assert_eq!(pending.next_request(), None);
        pending.take_in(Command::Request(third));
        lost(&mut pending);
        for waiting in [&mut of_first, &mut of_second, &mut of_third] {
            assert!(waiting.try_recv().is_err());
        }
        pending.confirmed(&t, true);
        for mut done in [of_first, of_second, of_third] {
            assert!(done.try_recv().unwrap().is_ok());
        }
        // A call that comes now need not wait for a connection.
        let (late, mut of_late) = request("t", true);
        pending.take_in(Command::Request(late));
        assert!(of_late.try_recv().unwrap().is_ok());
        assert!(pending.requests.is_empty() && pending.asked.is_empty());
    }

    #[test]
    fn what_was_ended_while_it_was_begun_is_not_waited_for_after_a_loss() {
        let mut pending = Pending::default();
        let (begun, mut of_begun) = request("t", true);
        let (ended, mut of_ended) = request("t", false);
        pending.take_in(Command::Request(begun));
        pending.take_in(Command::Request(ended));
        assert!(pending.next_request().is_some() && pending.next_request().is_some());
        lost(&mut pending);
        assert!(of_begun.try_recv().unwrap().is_ok());
        assert!(of_ended.try_recv().unwrap().is_ok());
        assert!(pending.asked.is_empty() && pending.subscribed.is_empty());
        // A broadcaster would close the websocket if it were asked to end what it does not have.
        let (again, mut of_again) = request("t", false);
        pending.take_in(Command::Request(again));
        assert_eq!(pending.next_request(), None);
        assert!(of_again.try_recv().unwrap().is_ok());
    }

    #[test]
    fn who_waits_for_what_is_refused_is_told_and_nobody_else() {
        let mut pending = Pending::default();
        let (bad, mut of_bad) = request("bad", true);
        let (good, mut of_good) = request("good", true);
        let interest = bad.interest.clone();
        pending.take_in(Command::Request(bad));
        pending.take_in(Command::Request(good));
        let both = VecDeque::from_iter([pending.next_request(), pending.next_request()]);
        let both = both.into_iter().flatten().collect();
        let finding = pending.closed("http://b", Some(1000), &both);
        assert_eq!(finding, Finding::Suspicious);
        lost(&mut pending);
        let alone = VecDeque::from([(interest.clone(), true)]);
        let finding = pending.closed("http://b", Some(1000), &alone);
        let was_confirmed = false;
        let refused = Finding::Refused {
            interest,
            was_confirmed,
        };
        assert_eq!(finding, refused);
        lost(&mut pending);
        let error = of_bad.try_recv().unwrap().unwrap_err();
        assert!(matches!(error, RequestError::Refused { .. }), "{error}");
        assert!(of_good.try_recv().is_err());
        assert_eq!(pending.subscribed.len(), 1);
    }
}
