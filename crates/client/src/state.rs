//! The state that all parts of a running client share.

use std::sync::Arc;

use httppubsub_net::body::Spool;
use httppubsub_proto::url::ClientUrls;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ClientConfig;
use crate::desired::Desired;
use crate::receive::dispatch::Dispatch;
use crate::receive::inbox::EndReason;
use crate::receive::numbers::Numbers;
use crate::requests::Requests;
use crate::websocket::Link;

/// All parts of a client. Tasks and handles share it; it lives as long as the last of them.
#[derive(Debug)]
pub(crate) struct ClientState {
    /// Checked by `build`, and not changed afterwards.
    pub(crate) config: ClientConfig,
    /// Asks broadcasters over HTTP.
    pub(crate) requests: Requests,
    /// The urls of this client; `None` if it only notifies.
    pub(crate) urls: Option<ClientUrls>,
    /// The websocket that takes the place of both.
    pub(crate) link: Option<Link>,
    /// Holds messages on their way in and out.
    pub(crate) spool: Spool,
    /// The subscriptions of this client.
    pub(crate) dispatch: Arc<Dispatch>,
    /// The numbers of what arrives over HTTP.
    pub(crate) numbers: Arc<Numbers>,
    /// The one lock around changes and reconciliation.
    pub(crate) desired: Mutex<Desired>,
    /// Told when the subscriptions should be looked after at once.
    pub(crate) reconcile_now: Arc<Notify>,
    /// Cancelled when the client begins to close: nothing new is begun.
    pub(crate) closing: CancellationToken,
    /// Cancelled when nothing more is taken.
    pub(crate) stopped: CancellationToken,
    /// Everything that runs for this client; closing waits for it.
    pub(crate) tasks: TaskTracker,
    /// The runtime that the client was started in, so that a handle may be dropped anywhere.
    pub(crate) runtime: Handle,
}

/// The transport of a client's subscriptions and deliveries.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport<'a> {
    /// By requests, at these urls.
    Http(&'a ClientUrls),
    /// Over one connection, which also brings the messages.
    WebSocket(&'a Link),
}

impl ClientState {
    /// The transport of this client; `None` if it only notifies.
    pub(crate) fn transport(&self) -> Option<Transport<'_>> {
        match (&self.link, &self.urls) {
            (Some(link), _) => Some(Transport::WebSocket(link)),
            (None, urls) => urls.as_ref().map(Transport::Http),
        }
    }

    /// Runs `work` to its end whether or not anybody waits for it, and before the client is closed.
    pub(crate) fn spawn<F>(&self, work: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn_on(work, &self.runtime)
    }

    /// Stops without a word to the broadcasters.
    pub(crate) fn stop(&self) {
        self.closing.cancel();
        self.stopped.cancel();
        self.dispatch.end(EndReason::Closed);
        self.tasks.close();
    }
}
