//! The queue of one subscription: messages within a bound, with marks where some are missing.
//!
//! ```text
//!   First, m1, m2, AfterGap, m3        First: begins to receive
//!                  ^                   AfterGap: something may be missing here
//!        overflow, notice, lost websocket
//! ```
//!
//! A mark takes the place of what is missing, so a reader learns of a gap before it sees anything
//! that came later. Two marks with nothing in between would say the same, so there is one.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::receive::message::Message;

/// The beginning of what a subscription receives: earlier messages may be news to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// For the first time.
    First,
    /// After a gap: messages may have been missed.
    AfterGap,
}

/// An item of a subscription's queue.
#[derive(Clone, Debug)]
pub enum Event {
    /// The subscription begins to receive here: earlier messages may be news to it.
    Receiving(Receiving),
    /// A message.
    Message(Message),
}

/// The reason why a subscription has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The subscription or its client was closed.
    Closed,
    /// The websocket was given up; [`Client::connection_failure`] has the reason.
    ///
    /// [`Client::connection_failure`]: crate::Client::connection_failure
    Abandoned,
    /// Broadcasters subscribe a topic or glob of it no more.
    Refused,
}

/// The task that waits for an inbox, if there is one: to be woken when no lock is held, because its
/// waker may take locks of its own.
#[derive(Debug)]
#[must_use = "the task sleeps on until it is woken"]
pub(crate) struct Waiting(Option<Waker>);

impl Waiting {
    pub(crate) fn wake(self) {
        if let Some(waker) = self.0 {
            waker.wake();
        }
    }
}

/// The fate of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It waits in the queue.
    Taken,
    /// There was no room; a mark is in its place.
    Full,
    /// The subscription is no more.
    Ended,
}

/// The queue. One reader, any number of writers.
#[derive(Debug)]
pub(crate) struct Inbox {
    /// Of its subscription.
    id: u64,
    /// Marks are not counted: a full queue must still be able to say that something is missing.
    messages_max: usize,
    state: Mutex<State>,
}

/// What the reader and the writers share.
#[derive(Debug)]
struct State {
    /// No two marks in a row, so there is at most one more of them than of messages.
    events: VecDeque<Event>,
    /// How many of `events` are messages.
    messages: usize,
    /// `true` after the first mark, which is `First`; all others are `AfterGap`.
    began: bool,
    /// `true` while messages may be lost; the mark comes when they arrive again.
    is_paused: bool,
    /// Nothing more is put in; what is there can be taken.
    ended: Option<EndReason>,
    /// Of the reader, if it waits.
    waker: Option<Waker>,
}

impl Inbox {
    /// An inbox that receives already, or that is to hear of it by [`Inbox::resume`].
    pub(crate) fn new(id: u64, messages_max: usize, receiving: bool) -> Self {
        let mut state = State {
            events: VecDeque::new(),
            messages: 0,
            began: false,
            is_paused: !receiving,
            ended: None,
            waker: None,
        };
        if receiving {
            state.mark().wake();
        }
        Self {
            id,
            messages_max,
            state: Mutex::new(state),
        }
    }

    /// The number of the subscription.
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Puts a message in. If there is no room for it, a gap is marked in its place.
    pub(crate) fn offer(&self, message: Message) -> Offered {
        let mut state = self.state();
        if state.ended.is_some() {
            return Offered::Ended;
        }
        let (offered, waiting) = if state.messages >= self.messages_max {
            (Offered::Full, state.mark())
        } else {
            state.messages += 1;
            state.events.push_back(Event::Message(message));
            (Offered::Taken, state.waiting())
        };
        drop(state);
        waiting.wake();
        offered
    }

    /// Something was missed.
    pub(crate) fn missed(&self) -> Waiting {
        self.state().mark()
    }

    /// Something may be missed from now on.
    pub(crate) fn pause(&self) {
        self.state().is_paused = true;
    }

    /// Nothing more is missed from now on.
    pub(crate) fn resume(&self) -> Waiting {
        let mut state = self.state();
        match std::mem::take(&mut state.is_paused) {
            true => state.mark(),
            false => Waiting(None),
        }
    }

    /// Nothing more comes. The first reason stays.
    pub(crate) fn end(&self, reason: EndReason) -> Waiting {
        let mut state = self.state();
        state.ended.get_or_insert(reason);
        state.waiting()
    }

    /// `true` once [`Inbox::end`] was called, also while messages wait.
    pub(crate) fn is_ended(&self) -> bool {
        self.end_reason().is_some()
    }

    /// The reason why nothing more comes; `None` while something may.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.state().ended
    }

    /// The next of what waits; `None` when nothing more comes.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.state();
        match state.events.pop_front() {
            Some(event) => {
                if matches!(event, Event::Message(_)) {
                    state.messages -= 1;
                }
                Poll::Ready(Some(event))
            }
            // Only behind the last message: closing a client loses nothing that was confirmed.
            None if state.ended.is_some() => Poll::Ready(None),
            None => {
                match &mut state.waker {
                    // Does nothing if it is the same task, which is the usual case.
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    /// `true` if somebody holds the lock at this moment.
    #[cfg(test)]
    pub(crate) fn is_locked(&self) -> bool {
        self.state.try_lock().is_err()
    }

    /// Never held while a waker or a callback runs, or a message is read.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Puts in a mark, unless the last event is one.
    fn mark(&mut self) -> Waiting {
        if self.ended.is_some() || matches!(self.events.back(), Some(Event::Receiving(_))) {
            return Waiting(None);
        }
        let receiving = match std::mem::replace(&mut self.began, true) {
            false => Receiving::First,
            true => Receiving::AfterGap,
        };
        self.events.push_back(Event::Receiving(receiving));
        self.waiting()
    }

    /// The reader, to be woken once.
    fn waiting(&mut self) -> Waiting {
        Waiting(self.waker.take())
    }
}
