//! A subscription as Python polls it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use httppubsub_client::{EndReason, Event, GlobPattern, Interest, Interests, Receiving, Topic};
use pyo3::prelude::*;
use tokio::runtime::Handle;

use crate::failure::{Failure, guarded};
use crate::fork::OfProcess;
use crate::message::message_to_tuple;
use crate::queue::{Item, Operation, Outcome, Queue};

/// A subscription.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Subscription {
    own: OfProcess<Own>,
}

struct Own {
    /// `None` when it was closed.
    subscription: Mutex<Option<httppubsub_client::Subscription>>,
    interests: Interests,
    waker: Waker,
    queue: Arc<Queue>,
    runtime: Handle,
}

/// Tells the event loop that something waits.
struct ToLoop {
    queue: Arc<Queue>,
    number: u64,
}

impl Wake for ToLoop {
    fn wake(self: Arc<Self>) {
        self.queue.push(Item::Woken(self.number));
    }
}

impl Subscription {
    /// The subscription that the event loop knows by `number`.
    pub(crate) fn new(
        subscription: httppubsub_client::Subscription,
        number: u64,
        queue: Arc<Queue>,
        runtime: Handle,
    ) -> Self {
        let to_loop = ToLoop {
            queue: queue.clone(),
            number,
        };
        let own = Own {
            interests: subscription.interests(),
            subscription: Mutex::new(Some(subscription)),
            waker: Arc::new(to_loop).into(),
            queue,
            runtime,
        };
        Self {
            own: OfProcess::new(own),
        }
    }
}

impl Own {
    fn subscription(&self) -> MutexGuard<'_, Option<httppubsub_client::Subscription>> {
        self.subscription
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[pymethods]
impl Subscription {
    /// Takes what waits: a message as a tuple, `True` for a gap and `False` for the start, the
    /// reason as a text if it has ended; or `None`, and the event loop hears when there is more.
    fn poll<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let polled = guarded(py, || {
            let own = self.own.get()?;
            let mut subscription = own.subscription();
            let Some(subscription) = &mut *subscription else {
                return Ok(Poll::Ready(Err(EndReason::Closed)));
            };
            let polled = subscription.poll_event(&mut Context::from_waker(&own.waker));
            Ok(polled.map(|event| {
                let reason = subscription.end_reason();
                event.ok_or_else(|| reason.unwrap_or(EndReason::Closed))
            }))
        })?;
        match polled {
            Poll::Pending => Ok(py.None().into_bound(py)),
            Poll::Ready(Ok(Event::Message(message))) => message_to_tuple(py, &message),
            Poll::Ready(Ok(Event::Receiving(receiving))) => {
                let is_gap = receiving == Receiving::AfterGap;
                Ok(is_gap.into_pyobject(py)?.to_owned().into_any())
            }
            Poll::Ready(Err(reason)) => {
                let reason = match reason {
                    EndReason::Abandoned => "abandoned",
                    EndReason::Refused => "refused",
                    _ => "closed",
                };
                Ok(reason.into_pyobject(py)?.into_any())
            }
        }
    }

    /// Wants the topic or glob `name` as well.
    fn add(
        &self,
        py: Python<'_>,
        operation: u64,
        is_glob: bool,
        name: Vec<u8>,
    ) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let interest = interest(is_glob, &name)?;
            let interests = own.interests.clone();
            let work = async move {
                interests.add(interest).await?;
                Ok(Outcome::nothing())
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }

    /// No longer wants the topic or glob `name`.
    fn remove(
        &self,
        py: Python<'_>,
        operation: u64,
        is_glob: bool,
        name: Vec<u8>,
    ) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let interest = interest(is_glob, &name)?;
            let interests = own.interests.clone();
            let work = async move {
                interests.remove(&interest).await?;
                Ok(Outcome::nothing())
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }

    /// `true` if it wants the topic or glob `name`, whatever else covers it.
    fn wants(&self, py: Python<'_>, is_glob: bool, name: Vec<u8>) -> PyResult<bool> {
        guarded(py, || {
            let interest = interest(is_glob, &name)?;
            Ok(self.own.get()?.interests.list().contains(&interest))
        })
    }

    /// Unsubscribes; what waits is thrown away.
    fn close(&self, py: Python<'_>, operation: u64) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let subscription = own.subscription().take();
            let work = async move {
                if let Some(subscription) = subscription {
                    subscription.close().await?;
                }
                Ok(Outcome::nothing())
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }
}

/// The topic or glob called `name`.
pub(crate) fn interest(is_glob: bool, name: &[u8]) -> Result<Interest, Failure> {
    if !is_glob {
        let topic = Topic::new(name);
        let topic = topic.map_err(|it| Failure::new("TopicTooLongError", it.to_string()))?;
        return Ok(Interest::Exact(topic));
    }
    let glob = GlobPattern::parse(String::from_utf8_lossy(name));
    let glob = glob.map_err(|it| Failure::new("GlobTooLongError", it.to_string()))?;
    Ok(Interest::Glob(glob))
}
