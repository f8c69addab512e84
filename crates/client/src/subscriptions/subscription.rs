//! A subscription: a stream of messages that is unsubscribed when it is dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_core::Stream;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::time::FOREVER;
use tokio::time::{Instant, Sleep};

use crate::error::{SubscribeError, UnsubscribeError};
use crate::receive::inbox::{EndReason, Event, Inbox, Receiving};
use crate::receive::message::Message;
use crate::state::ClientState;
use crate::subscriptions::changes;

/// A stream of messages. At most [`queue_max`] of them wait in it; what arrives when it is full is
/// dropped, and the callback of [`Subscription::on_gap`] runs.
///
/// It ends when the client is closed. Dropping it unsubscribes in the background;
/// [`Subscription::close`] waits for that.
///
/// [`queue_max`]: crate::ClientConfigBuilder::queue_max
#[must_use = "it is unsubscribed when it is dropped"]
pub struct Subscription {
    /// Also the way to the queue.
    interests: Interests,
    /// Called at each mark, if there is one.
    callback: Option<Callback>,
    /// A callback that has not ended: no message is yielded before it has.
    running: Option<Running>,
    /// `true` if [`Subscription::close`] has unsubscribed it already.
    closed: bool,
    /// The client lives for as long as something of it does.
    _client: Arc<StopWhenDropped>,
}

/// A callback at work.
type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
/// Makes the future that runs at a mark.
type Callback = Box<dyn FnMut(Receiving) -> Running + Send>;

/// Stops a client when the last handle of it and the last of its subscriptions are dropped.
#[derive(Debug)]
pub(crate) struct StopWhenDropped(pub(crate) Arc<ClientState>);

impl Drop for StopWhenDropped {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Subscription {
    /// The reader of `inbox`. `client` keeps the client alive for as long as this does.
    pub(crate) fn new(
        client: Arc<StopWhenDropped>,
        state: Arc<ClientState>,
        inbox: Arc<Inbox>,
    ) -> Self {
        Self {
            interests: Interests { state, inbox },
            callback: None,
            running: None,
            closed: false,
            _client: client,
        }
    }

    /// Runs `callback` where this subscription begins to receive: at its start, and after every
    /// gap, that is when the broadcaster says that a message was missed, when the queue overflowed,
    /// when messages could not be checked for a while, and when the websocket was lost and
    /// everything is subscribed again. It runs inside [`Subscription::next`], before any later
    /// message is yielded: the place to drop a cache, or to read anew what the messages are about.
    ///
    /// ```no_run
    /// # use httppubsub_client::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let mut subscription = client.subscribe_exact("prices").await?;
    /// subscription.on_gap(|_| async { println!("reading all prices anew") });
    /// # Ok(())
    /// # }
    /// ```
    pub fn on_gap<F, R>(&mut self, mut callback: F)
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

    /// The next message or mark; `None` where [`Subscription::next`] says `None`. A mark that is
    /// taken so is not told to the callback of [`Subscription::on_gap`]. It may be dropped at any
    /// time without losing anything.
    ///
    /// ```
    /// use httppubsub_client::testing::Feed;
    /// use httppubsub_client::{Event, Message, Receiving};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (feed, mut subscription) = Feed::subscription().await;
    /// feed.message(Message::new("prices/7", "12.50")?);
    /// let first = subscription.next_event().await;
    /// assert!(matches!(first, Some(Event::Receiving(Receiving::First))));
    /// let second = subscription.next_event().await;
    /// assert!(matches!(second, Some(Event::Message(_))));
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_event(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// Polls for what [`Subscription::next_event`] waits for, from any thread, without a runtime.
    /// The waker is called when no lock of the client is held.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        // Kept across polls: a caller that drops `next` amid a callback goes on with it later.
        if let Some(running) = &mut self.running {
            ready!(running.as_mut().poll(cx));
            self.running = None;
        }
        self.interests.inbox.poll_next(cx)
    }

    /// The reason why nothing more comes than what waits already; `None` while something may.
    pub fn end_reason(&self) -> Option<EndReason> {
        self.interests.inbox.end_reason()
    }

    /// The next message if one comes within `timeout`; `Ok(None)` if none does. It may be dropped
    /// at any time without losing one.
    ///
    /// ```
    /// use std::time::Duration;
    /// use httppubsub_client::testing::Feed;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let (feed, mut subscription) = Feed::subscription().await;
    /// let none = subscription.next_with_timeout(Duration::from_millis(1)).await?;
    /// assert!(none.is_none());
    /// feed.end();
    /// assert!(subscription.next_with_timeout(Duration::MAX).await.is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn next_with_timeout(
        &mut self,
        timeout: Duration,
    ) -> Result<Option<Message>, SubscriptionEndedError> {
        match tokio::time::timeout(timeout, self.next()).await {
            Ok(Some(message)) => Ok(Some(message)),
            Ok(None) => Err(SubscriptionEndedError),
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
    ///
    /// ```no_run
    /// # use httppubsub_client::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// use httppubsub_client::{Interest, Topic};
    ///
    /// let mut subscription = client.subscribe_multi().await?;
    /// let interests = subscription.interests();
    /// tokio::spawn(async move { interests.add(Interest::Exact(Topic::new("orders")?)).await });
    /// let message = subscription.next().await;
    /// # drop(message);
    /// # Ok(())
    /// # }
    /// ```
    pub fn interests(&self) -> Interests {
        self.interests.clone()
    }

    /// Wants this as well from now on. If that fails, all is as before.
    pub async fn add(&self, interest: Interest) -> Result<(), SubscribeError> {
        self.interests.add(interest).await
    }

    /// No longer wants this; what was received because of it may still be yielded.
    pub async fn remove(&self, interest: &Interest) -> Result<(), UnsubscribeError> {
        self.interests.remove(interest).await
    }

    /// Unsubscribes, and waits until the broadcasters have done so.
    pub async fn close(mut self) -> Result<(), UnsubscribeError> {
        self.closed = true;
        let Interests { state, inbox } = self.interests.clone();
        let task = state
            .clone()
            .spawn(async move { changes::close(&state, &inbox).await });
        task.await.unwrap_or(Err(UnsubscribeError::Closed))
    }

    /// The next message, after the callbacks of the marks before it.
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            match ready!(self.poll_event(cx)) {
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
        let Interests { state, inbox } = self.interests.clone();
        // In the background: a drop cannot wait, and the runtime may be another one than the
        // caller's.
        state.clone().spawn(async move {
            if let Err(error) = changes::close(&state, &inbox).await {
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

/// The client was closed: no further message will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the subscription has ended")]
pub struct SubscriptionEndedError;

/// The interests of a subscription. Clones are about the same subscription.
#[derive(Clone, Debug)]
pub struct Interests {
    state: Arc<ClientState>,
    inbox: Arc<Inbox>,
}

impl Interests {
    /// Wants this as well from now on. If that fails, all is as before.
    pub async fn add(&self, interest: Interest) -> Result<(), SubscribeError> {
        let Self { state, inbox } = self.clone();
        let task = state
            .clone()
            .spawn(async move { changes::add(&state, &inbox, interest).await });
        task.await.unwrap_or(Err(SubscribeError::Closed))
    }

    /// No longer wants this; what was received because of it may still be yielded.
    pub async fn remove(&self, interest: &Interest) -> Result<(), UnsubscribeError> {
        let Self { state, inbox } = self.clone();
        let interest = interest.clone();
        let task = state
            .clone()
            .spawn(async move { changes::remove(&state, &inbox, &interest).await });
        task.await.unwrap_or(Err(UnsubscribeError::Closed))
    }

    /// All of them, the topics first.
    pub fn list(&self) -> Vec<Interest> {
        self.state.dispatch.interests(&self.inbox)
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
                // Polled only if no message is there: one that is late still comes before the
                // time-out.
                ready!(self.sleep.as_mut().poll(cx));
                None
            }
        };
        let next = Instant::now() + self.timeout;
        self.sleep.as_mut().reset(next);
        Poll::Ready(Some(item))
    }
}
