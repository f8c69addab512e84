//! Subscriptions, ready for deliveries.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use httppubsub_net::outbound::Target;
use httppubsub_net::random_bytes;
use httppubsub_proto::number::{Line, Number};
use httppubsub_proto::subscription::Interest;
use httppubsub_proto::url::SubscriberUrl;

use crate::index::route::Route;

/// One subscription, ready for deliveries.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) subscriber: Arc<Subscriber>,
    /// Shared by all rows of the same topic or glob.
    pub(crate) interest: Interest,
    /// The url at which the subscriber hears that it missed something.
    pub(crate) recovery: Option<SubscriberUrl>,
}

impl Row {
    /// The target of its deliveries, if there is one.
    pub(crate) fn target(&self) -> Option<&Target> {
        self.subscriber.route.target()
    }

    /// `true` if all rows of its url get one copy ([`Route::is_one_copy`]).
    pub(crate) fn is_one_copy(&self) -> bool {
        self.subscriber.route.is_one_copy()
    }

    /// `true` if its subscriber gets MISSED when a delivery to it cannot be accounted for.
    /// Websockets of this broadcaster end with it, and know.
    pub(crate) fn is_journaled(&self) -> bool {
        self.recovery.is_some() && !matches!(self.subscriber.route, Route::Own(_))
    }
}

/// The subscriber of deliveries, shared by all rows with its url.
#[derive(Debug)]
pub(crate) struct Subscriber {
    /// The url as it was subscribed.
    pub(crate) url: SubscriberUrl,
    /// The way of its deliveries.
    pub(crate) route: Route,
    /// The numbers of its deliveries.
    pub(crate) numbers: Numbers,
}

/// The line of numbers of one subscriber, by which it finds out that it missed something.
#[derive(Debug)]
pub(crate) struct Numbers {
    line: Line,
    /// The last number that was given.
    last: AtomicU64,
}

impl Subscriber {
    /// A subscriber that was delivered nothing yet.
    pub(crate) fn new(url: SubscriberUrl, route: Route) -> Self {
        Self {
            url,
            route,
            numbers: Numbers::new(),
        }
    }
}

impl Numbers {
    /// A line that no subscriber knows.
    fn new() -> Self {
        Self {
            line: Line::from_bytes(random_bytes()),
            last: AtomicU64::new(0),
        }
    }

    /// Gives `deliveries` the next numbers, whatever becomes of them; the first of these.
    pub(crate) fn give(&self, deliveries: usize) -> Number {
        let before = self.last.fetch_add(deliveries as u64, Ordering::Relaxed);
        Number {
            line: self.line,
            number: before + 1,
        }
    }
}
