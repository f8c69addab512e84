//! The place of the websocket in a build without the feature `websocket`: no client has one.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::future::Ready;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use httppubsub_net::body::{Payload, Spool};
use httppubsub_net::inbound::ReplayGuard;
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::topic::Topic;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::config::{ClientConfig, WebSocketConfig};
use crate::error::{NotifyError, RequestError};
use crate::receive::dispatch::Dispatch;
use crate::receive::message::ConnectionStatus;

/// The way to the task that holds the websocket: there is none.
#[derive(Debug)]
pub(crate) enum Link {}

impl Link {
    pub(crate) fn new(
        _: &ClientConfig,
        options: &WebSocketConfig,
        _: Arc<ReplayGuard>,
        _: Spool,
        _: Arc<Dispatch>,
        _: CancellationToken,
        _: CancellationToken,
    ) -> (Self, Ready<()>) {
        match *options {}
    }

    pub(crate) fn failure(&self) -> Option<String> {
        match *self {}
    }

    pub(crate) fn status(&self) -> watch::Receiver<ConnectionStatus> {
        match *self {}
    }

    pub(crate) async fn ask(&self, _: &BTreeSet<Interest>, _: bool) -> Result<Asked, RequestError> {
        match *self {}
    }

    pub(crate) async fn notify(
        &self,
        _: &Topic,
        _: &Payload,
        _: &Arc<AtomicU64>,
    ) -> Result<u32, NotifyError> {
        match *self {}
    }
}

/// Interests that a broadcaster is asked for over a websocket: there are none.
pub(crate) struct Asked(Infallible);

impl Asked {
    pub(crate) async fn answered(self) -> Result<(), RequestError> {
        match self.0 {}
    }
}
