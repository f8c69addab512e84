//! What all parts of a running client share.

use std::sync::Arc;

use httppubsub_net::Spool;
use httppubsub_proto::url::ClientUrls;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ClientConfig;
use crate::dispatch::Dispatch;
use crate::http::Requests;
use crate::wanted::Wanted;
use crate::ws::Link;

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: ClientConfig,
    pub(crate) requests: Requests,
    /// Where this client is reached; `None` if it only notifies.
    pub(crate) urls: Option<ClientUrls>,
    /// The websocket that takes the place of both.
    pub(crate) link: Option<Link>,
    pub(crate) spool: Spool,
    pub(crate) dispatch: Arc<Dispatch>,
    /// The one lock around changes and reconciliation.
    pub(crate) wanted: Mutex<Wanted>,
    /// Told when the subscriptions should be looked after at once.
    pub(crate) doubt: Arc<Notify>,
    /// Cancelled when the client begins to close: nothing new is begun.
    pub(crate) closing: CancellationToken,
    /// Cancelled when nothing is taken any more.
    pub(crate) stopped: CancellationToken,
    pub(crate) tasks: TaskTracker,
    pub(crate) runtime: Handle,
}

/// How a client tells what it wants, and receives it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Way<'a> {
    /// By requests, at these urls.
    Http(&'a ClientUrls),
    WebSocket(&'a Link),
}

impl Core {
    /// How this client receives; `None` if it only notifies.
    pub(crate) fn way(&self) -> Option<Way<'_>> {
        match (&self.link, &self.urls) {
            (Some(link), _) => Some(Way::WebSocket(link)),
            (None, urls) => urls.as_ref().map(Way::Http),
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
        self.dispatch.end();
        self.tasks.close();
    }
}
