//! What waits in one subscription: messages within a bound, with marks where some are missing.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::message::Message;

/// Where a subscription begins to receive: what was published before may be news to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receiving {
    /// For the first time.
    Began,
    /// After a gap: messages may have been missed.
    AfterGap,
}

/// What a subscription takes out, in this order.
#[derive(Debug)]
pub(crate) enum Event {
    Receiving(Receiving),
    Message(Message),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    Taken,
    Full,
    /// The subscription is no more.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Inbox {
    id: u64,
    messages_max: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// No two marks in a row, so there is at most one more of them than of messages.
    events: VecDeque<Event>,
    messages: usize,
    began: bool,
    lost: bool,
    ended: bool,
    waker: Option<Waker>,
}

impl Inbox {
    /// An inbox that receives already, or that is to hear of it by [`Inbox::found`].
    pub(crate) fn new(id: u64, messages_max: usize, receiving: bool) -> Self {
        let mut state = State {
            events: VecDeque::new(),
            messages: 0,
            began: false,
            lost: !receiving,
            ended: false,
            waker: None,
        };
        if receiving {
            state.mark();
        }
        Self {
            id,
            messages_max,
            state: Mutex::new(state),
        }
    }

    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    /// Puts a message in. If there is no room for it, a gap is marked in its place.
    pub(crate) fn offer(&self, message: Message) -> Offered {
        let mut state = self.state();
        if state.ended {
            return Offered::Ended;
        }
        if state.messages >= self.messages_max {
            state.mark();
            return Offered::Full;
        }
        state.messages += 1;
        state.events.push_back(Event::Message(message));
        state.wake();
        Offered::Taken
    }

    /// Something was missed.
    pub(crate) fn missed(&self) {
        self.state().mark();
    }

    /// Something may be missed from now on.
    pub(crate) fn lost(&self) {
        self.state().lost = true;
    }

    /// Nothing more is missed from now on.
    pub(crate) fn found(&self) {
        let mut state = self.state();
        if std::mem::take(&mut state.lost) {
            state.mark();
        }
    }

    /// Nothing more comes.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.ended = true;
        state.wake();
    }

    pub(crate) fn is_ended(&self) -> bool {
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
            None if state.ended => Poll::Ready(None),
            None => {
                match &mut state.waker {
                    Some(waker) => waker.clone_from(cx.waker()),
                    none => *none = Some(cx.waker().clone()),
                }
                Poll::Pending
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn mark(&mut self) {
        if self.ended || matches!(self.events.back(), Some(Event::Receiving(_))) {
            return;
        }
        let receiving = match std::mem::replace(&mut self.began, true) {
            false => Receiving::Began,
            true => Receiving::AfterGap,
        };
        self.events.push_back(Event::Receiving(receiving));
        self.wake();
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
