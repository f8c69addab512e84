//! The way that the deliveries of a subscriber take.

use httppubsub_net::outbound::{Poster, Target};
use httppubsub_proto::url::{EndpointError, SubscriberUrl};

/// The way that the deliveries of a subscriber take, decided once, when its first row enters the
/// index.
#[derive(Debug)]
pub(crate) enum Route {
    /// To the websockets of this broadcaster. Nothing is posted; the target only counts what is
    /// pending, as that of any peer does.
    Own(Option<Target>),
    /// To another broadcaster, for its websockets.
    Peer(Target),
    /// To a subscriber of its own.
    Webhook(Target),
    /// Nothing can be posted to the url.
    Unusable(EndpointError),
}

impl Route {
    /// The target of posts and of places, if the url is one.
    pub(crate) fn target(&self) -> Option<&Target> {
        match self {
            Self::Own(target) => target.as_ref(),
            Self::Peer(target) | Self::Webhook(target) => Some(target),
            Self::Unusable(_) => None,
        }
    }

    /// `true` if all rows of the url get one copy, however many of them match: broadcasters
    /// subscribe a url of their own for their websockets (`docs/protocol/stateful.md` §13).
    pub(crate) fn is_one_copy(&self) -> bool {
        match self {
            Self::Own(_) | Self::Peer(_) => true,
            Self::Webhook(_) | Self::Unusable(_) => false,
        }
    }
}

/// The routes to all urls, as one broadcaster sees them.
#[derive(Clone, Debug)]
pub(crate) struct Routes {
    poster: Poster,
    /// The url at which this broadcaster receives for its websockets.
    own: SubscriberUrl,
}

impl Routes {
    /// The routes of the broadcaster at `own`.
    pub(crate) fn new(poster: Poster, own: SubscriberUrl) -> Self {
        Self { poster, own }
    }

    /// The url at which this broadcaster receives for its websockets.
    pub(crate) fn own(&self) -> &SubscriberUrl {
        &self.own
    }

    /// The route to `url`.
    pub(crate) fn route(&self, url: &SubscriberUrl) -> Route {
        match self.poster.target(url) {
            target if *url == self.own => Route::Own(target.ok()),
            Ok(target) if url.is_broadcaster_receiver() => Route::Peer(target),
            Ok(target) => Route::Webhook(target),
            Err(error) => Route::Unusable(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use httppubsub_net::outbound::PostConfig;

    use super::*;

    #[tokio::test]
    async fn a_url_is_of_this_broadcaster_another_one_a_subscriber_or_nobody() {
        let url = |text: &str| SubscriberUrl::new(text).unwrap();
        let own = url("http://own/v1/receive_for_websockets");
        let routes = Routes::new(Poster::new(PostConfig::default()), own.clone());
        let own = routes.route(&own);
        assert!(matches!(&own, Route::Own(Some(_))) && own.is_one_copy());
        let peer = routes.route(&url("http://other/v1/receive_for_websockets"));
        assert!(matches!(&peer, Route::Peer(_)) && peer.is_one_copy());
        let webhook = routes.route(&url("http://own/v1/receive"));
        assert!(matches!(&webhook, Route::Webhook(_)) && !webhook.is_one_copy());
        let unusable = routes.route(&url("ftp://other/v1/receive_for_websockets"));
        assert!(matches!(&unusable, Route::Unusable(_)) && unusable.target().is_none());
        // A broadcaster that nobody can post to still serves its own websockets.
        let nowhere = Routes::new(Poster::new(PostConfig::default()), url("nowhere"));
        assert!(matches!(nowhere.route(&url("nowhere")), Route::Own(None)));
    }
}
