//! A client as Python calls it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use httppubsub_client::{
    AttemptError, ConnectionStatus, NotifyError, RequestError, SubscribeError,
};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use tokio::runtime::Handle;
use tower_service::Service as _;

use crate::body::Body;
use crate::bridge::Bridge;
use crate::config::{Config, seconds};
use crate::failure::{Failure, guarded};
use crate::fork::OfProcess;
use crate::queue::{Item, Operation, Outcome, Queue};
use crate::runtime::runtime;
use crate::statuses::{Statuses, status_name};
use crate::subscription::{Subscription, interest};

/// A running client.
#[pyclass(frozen, module = "httppubsub._core")]
pub(crate) struct Client {
    own: OfProcess<Own>,
}

struct Own {
    client: httppubsub_client::Client,
    queue: Arc<Queue>,
    runtime: Handle,
}

/// Starts a client.
#[pyfunction]
pub(crate) fn start(
    py: Python<'_>,
    bridge: &Bridge,
    operation: u64,
    config: &Config,
) -> PyResult<Operation> {
    guarded(py, || {
        let queue = bridge.queue()?.clone();
        let (runtime, _) = runtime()?;
        let (config, own_queue, own_runtime) =
            (config.config.clone(), queue.clone(), runtime.clone());
        let work = async move {
            let own = Own {
                client: httppubsub_client::Client::start(config).await?,
                queue: own_queue,
                runtime: own_runtime,
            };
            let client = Client {
                own: OfProcess::new(own),
            };
            Ok(Outcome::new(|py| Ok(Py::new(py, client)?.into_any())))
        };
        Ok(queue.run(&runtime, operation, work))
    })
}

#[pymethods]
impl Client {
    /// Subscribes to these; the event loop knows the subscription by `number`. `True` in front of
    /// a name: it is a glob.
    fn subscribe(
        &self,
        py: Python<'_>,
        operation: u64,
        number: u64,
        interests: Vec<(bool, Vec<u8>)>,
    ) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let interests = interests
                .iter()
                .map(|(is_glob, name)| interest(*is_glob, name));
            let interests = interests.collect::<Result<Vec<_>, _>>()?;
            let (client, queue, runtime) =
                (own.client.clone(), own.queue.clone(), own.runtime.clone());
            let work = async move {
                let subscription = client.subscribe(interests).await;
                let subscription =
                    subscription.map_err(|error| cannot_subscribe(&client, error))?;
                let subscription = Subscription::new(subscription, number, queue, runtime);
                Ok(Outcome::new(|py| Ok(Py::new(py, subscription)?.into_any())))
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }

    /// Notifies. With `reports`, the event loop hears how much is on its way.
    fn notify(
        &self,
        py: Python<'_>,
        operation: u64,
        topic: Vec<u8>,
        body: &Body,
        sha512: Option<[u8; 64]>,
        reports: bool,
    ) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let body = body.notification(sha512)?;
            let (client, queue) = (own.client.clone(), own.queue.clone());
            let work = async move {
                let progress = |sent, all| {
                    if reports {
                        queue.push(Item::Progress {
                            operation,
                            sent,
                            all,
                        });
                    }
                };
                let notified = client.notify_with_progress(topic, body, progress).await;
                let notified = notified.map_err(|error| cannot_notify(&client, error))?;
                Ok(Outcome::new(move |py| {
                    let sha512 = PyBytes::new(py, notified.sha512.as_bytes());
                    let tuple = (notified.subscribers, notified.bytes, sha512);
                    Ok(tuple.into_pyobject(py)?.into_any().unbind())
                }))
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }

    /// Closes the client; without `timeout` it waits for the broadcasters for as long as they take.
    fn close(&self, py: Python<'_>, operation: u64, timeout: Option<f64>) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let client = own.client.clone();
            let work = async move {
                let timeout = timeout.map_or(Duration::MAX, seconds);
                client.close_within(timeout).await?;
                Ok(Outcome::nothing())
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }

    /// Answers a request that a server of the program has taken for the client.
    fn answer(
        &self,
        py: Python<'_>,
        operation: u64,
        path: &str,
        headers: Vec<(Vec<u8>, Vec<u8>)>,
        body: &Body,
    ) -> PyResult<Operation> {
        guarded(py, || {
            let own = self.own.get()?;
            let frames = body.parts()?.stream().map(|part| part.map(Frame::data));
            let mut request = Request::new(StreamBody::new(frames));
            *request.method_mut() = Method::POST;
            let path = path.parse();
            *request.uri_mut() = path.map_err(|_| Failure::new("PubSubError", "no path"))?;
            for (name, value) in headers {
                // The server has let through what HTTP has no room for: as if it were not there.
                if let (Ok(name), Ok(value)) = (
                    HeaderName::from_bytes(&name),
                    HeaderValue::from_bytes(&value),
                ) {
                    request.headers_mut().append(name, value);
                }
            }
            let mut router = own.client.router();
            let work = async move {
                let Ok(response) = router.call(request).await;
                let (head, body) = response.into_parts();
                let body = body.collect().await;
                let body = body.map_or_else(|_| Bytes::new(), |body| body.to_bytes());
                Ok(Outcome::new(move |py| {
                    let headers = head.headers.iter();
                    let headers = headers
                        .map(|(name, value)| (name.as_str(), PyBytes::new(py, value.as_bytes())));
                    let headers = headers.collect::<Vec<_>>();
                    let answer = (head.status.as_u16(), headers, PyBytes::new(py, &body));
                    Ok(answer.into_pyobject(py)?.into_any().unbind())
                }))
            };
            Ok(own.queue.run(&own.runtime, operation, work))
        })
    }

    /// The name of the status of the connection.
    fn status(&self, py: Python<'_>) -> PyResult<&'static str> {
        guarded(py, || Ok(status_name(self.own.get()?.client.status())))
    }

    /// The status now, and each change of it.
    fn statuses(&self, py: Python<'_>) -> PyResult<Statuses> {
        guarded(py, || {
            let own = self.own.get()?;
            let statuses = own.client.statuses();
            Ok(Statuses::new(
                statuses,
                own.queue.clone(),
                own.runtime.clone(),
            ))
        })
    }

    /// The broadcaster and the reason why the websocket was lost.
    fn connection_failure(&self, py: Python<'_>) -> PyResult<Option<String>> {
        guarded(py, || Ok(self.own.get()?.client.connection_failure()))
    }

    /// The address and port that it listens on itself.
    fn local_addr(&self, py: Python<'_>) -> PyResult<Option<(String, u16)>> {
        guarded(py, || {
            let address = self.own.get()?.client.local_addr();
            Ok(address.map(|it| (it.ip().to_string(), it.port())))
        })
    }

    /// The url to which broadcasters deliver.
    fn receive_url(&self, py: Python<'_>) -> PyResult<Option<String>> {
        guarded(py, || {
            Ok(self.own.get()?.client.receive_url().map(str::to_owned))
        })
    }
}

fn cannot_subscribe(client: &httppubsub_client::Client, error: SubscribeError) -> Failure {
    match &error {
        SubscribeError::Request(request) if is_given_up(client, request) => {
            Failure::new("ConnectionAbandonedError", error.to_string())
        }
        _ => error.into(),
    }
}

fn cannot_notify(client: &httppubsub_client::Client, error: NotifyError) -> Failure {
    match &error {
        NotifyError::Request(request) if is_given_up(client, request) => {
            Failure::new("ConnectionAbandonedError", error.to_string())
        }
        _ => error.into(),
    }
}

/// `true` if there is no websocket any longer, and there will be none.
fn is_given_up(client: &httppubsub_client::Client, error: &RequestError) -> bool {
    let over_websocket = matches!(
        error,
        RequestError::RetriesExhausted {
            last: AttemptError::WebSocket(_),
            ..
        }
    );
    over_websocket && client.status() == ConnectionStatus::Abandoned
}
