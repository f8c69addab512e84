//! A subscription: a stream of messages that is unsubscribed when it is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::FOREVER;
use tokio::time::{Instant, Sleep};

use crate::changes;
use crate::core::Core;
use crate::error::{SubscribeError, UnsubscribeError};
use crate::inbox::{Event, Inbox, Receiving};
use crate::message::Message;

/// A stream of messages. At most [`queue_max`] of them wait in it; what arrives when it is full is
/// dropped, and [`Subscription::on_receiving`] is told.
///
/// It ends when the client is closed. Dropping it unsubscribes in the background;
/// [`Subscription::close`] waits for that.
///
/// [`queue_max`]: crate::ClientConfigBuilder::queue_max
#[must_use = "it is unsubscribed when it is dropped"]
pub struct Subscription {
    interests: Interests,
    callback: Option<Callback>,
    running: Option<Running>,
    closed: bool,
    /// The client lives for as long as something of it does.
    _client: Arc<StopWhenDropped>,
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Callback = Box<dyn FnMut(Receiving) -> Running + Send>;

/// Stops a client when the last handle of it and the last of its subscriptions are dropped.
#[derive(Debug)]
pub(crate) struct StopWhenDropped(pub(crate) Arc<Core>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Subscription {
    pub(crate) fn new(client: Arc<StopWhenDropped>, core: Arc<Core>, inbox: Arc<Inbox>) -> Self {
        Self {
            interests: Interests { core, inbox },
            callback: None,
            running: None,
            closed: false,
            _client: client,
        }
    }

    /// Runs `callback` where this subscription begins to receive: at its start, and after every
    /// gap, that is when the broadcaster says that a message was missed, when the queue overflowed,
    /// when messages could not be checked for a while, and when the websocket was lost and everything
    /// is subscribed again. It runs inside [`Subscription::next`],
    /// before any later message is yielded: the place to drop a cache, or to read anew what the
    /// messages are about.
    ///
    /// ```no_run
    /// # async fn example(client: httppubsub_client::Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut subscription = client.subscribe_exact("prices").await?;
    /// subscription.on_receiving(|_| async { println!("reading all prices anew") });
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_receiving<F, R>(&mut self, mut callback: F)
    where
        F: FnMut(Receiving) -> R + Send + 'static,
        R: Future<Output = ()> + Send + 'static,
    {
        self.callback = Some(Box::new(move |receiving| Box::pin(callback(receiving))));
    }

    /// The next message; `None` when the client was closed, or the runtime that it was started in
    /// has ended, and all messages were taken. It may be dropped at any time without losing one.
    pub async fn next(&mut self) -> Option<Message> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The next message if one comes within `timeout`; `Ok(None)` if none does. It may be dropped
    /// at any time without losing one.
    pub async fn next_with_timeout(&mut self, timeout: Duration) -> Result<Option<Message>, Ended> {
        match tokio::time::timeout(timeout, self.next()).await {
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) => Err(Ended),
            Err(_) => Ok(None),
        }
    }

    /// The same messages as a stream that yields `None` when no message came within `timeout`.
    pub fn with_timeout(self, timeout: Duration) -> WithTimeout {
        let timeout = timeout.min(FOREVER);
        WithTimeout {
            subscription: self,
            timeout,
            sleep: Box::pin(tokio::time::sleep(timeout)),
        }
    }

    /// A handle to what this subscription wants, to be changed while messages are awaited.
    pub fn interests(&self) -> Interests {
        self.interests.clone()
    }

    /// Wants this as well from now on. If that fails, all is as before.
    pub async fn add(&self, interest: Interest) -> Result<(), SubscribeError> {
        self.interests.add(interest).await
    }

    /// Does not want this any more; what was received because of it may still be yielded.
    pub async fn remove(&self, interest: &Interest) -> Result<(), UnsubscribeError> {
        self.interests.remove(interest).await
    }

    /// Unsubscribes, and waits until the broadcasters have done so.
    pub async fn close(mut self) -> Result<(), UnsubscribeError> {
        self.closed = true;
        let Interests { core, inbox } = self.interests.clone();
        let task = core
            .clone()
            .spawn(async move { changes::close(&core, &inbox).await });
        task.await.unwrap_or(Err(UnsubscribeError::Closed))
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            if let Some(running) = &mut self.running {
                ready!(running.as_mut().poll(cx));
                self.running = None;
            }
            match ready!(self.interests.inbox.poll_next(cx)) {
                Some(Event::Message(message)) => return Poll::Ready(Some(message)),
                Some(Event::Receiving(receiving)) => {
                    self.running = self.callback.as_mut().map(|it| it(receiving));
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

impl Stream for Subscription {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.poll_message(cx)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let Interests { core, inbox } = self.interests.clone();
        core.clone().spawn(async move {
            if let Err(error) = changes::close(&core, &inbox).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "cannot unsubscribe what was dropped");
            }
        });
    }
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let wanted = self.interests.list();
        f.debug_tuple("Subscription").field(&wanted).finish()
    }
}

/// The client was closed: no message will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription has ended")]
pub struct Ended;

/// What a subscription wants. Clones are about the same subscription.
#[derive(Clone, Debug)]
pub struct Interests {
    core: Arc<Core>,
    inbox: Arc<Inbox>,
}

impl Interests {
    /// Wants this as well from now on. If that fails, all is as before.
    pub async fn add(&self, interest: Interest) -> Result<(), SubscribeError> {
        let Self { core, inbox } = self.clone();
        let task = core
            .clone()
            .spawn(async move { changes::add(&core, &inbox, interest).await });
        task.await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// Does not want this any more; what was received because of it may still be yielded.
    pub async fn remove(&self, interest: &Interest) -> Result<(), UnsubscribeError> {
        let Self { core, inbox } = self.clone();
        let interest = interest.clone();
        let task = core
            .clone()
            .spawn(async move { changes::remove(&core, &inbox, &interest).await });
        task.await.unwrap_or(Err(UnsubscribeError::Closed))
    }

    /// All of them, the topics first.
    pub fn list(&self) -> Vec<Interest> {
        self.core.dispatch.interests(&self.inbox)
    }
}

/// The messages of a subscription, and `None` where no message came in time.
#[derive(Debug)]
#[must_use = "it is unsubscribed when it is dropped"]
pub struct WithTimeout {
    subscription: Subscription,
    timeout: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl WithTimeout {
    /// The next message, or `None` inside if none came in time; `None` outside when the client was
    /// closed. It may be dropped at any time without losing a message.
    pub async fn next(&mut self) -> Option<Option<Message>> {
        std::future::poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// The subscription, without the time-out.
    pub fn into_inner(self) -> Subscription {
        self.subscription
    }
}

/// The time runs from the item before.
impl Stream for WithTimeout {
    type Item = Option<Message>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Option<Message>>> {
        let item = match self.subscription.poll_message(cx) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(message)) => Some(message),
            Poll::Pending => {
                ready!(self.sleep.as_mut().poll(cx));
                None
            }
        };
        let next = Instant::now() + self.timeout;
        self.sleep.as_mut().reset(next);
        Poll::Ready(Some(item))
    }
}
