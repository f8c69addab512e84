//! The network that carries requests, which tests replace by a script.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use httppubsub_net::outbound::{Post, PostError, Poster, Response, Target};
use httppubsub_proto::auth::CannotAuthorize;
use httppubsub_proto::paths;
use httppubsub_proto::url::EndpointError;

use crate::config::BroadcasterAddress;

/// Something that posts to broadcasters.
pub(crate) trait Posts: Send + Sync {
    /// Posts what `make` makes to `path` at the broadcaster of number `at`.
    fn post(
        &self,
        at: usize,
        path: &'static str,
        message_bytes: u64,
        sent: &Arc<AtomicU64>,
        make: impl FnMut() -> Result<Post, CannotAuthorize> + Send,
    ) -> impl Future<Output = Result<Response, PostError>> + Send;
}

/// The broadcasters as they are reached over the network.
#[derive(Debug)]
pub(crate) struct Network {
    poster: Poster,
    /// Kept for as long as the client lives, and with them the connections.
    targets: Vec<HashMap<&'static str, Target>>,
}

/// All paths that a client posts to.
const PATHS: [&str; 7] = [
    paths::SUBSCRIBE_EXACT,
    paths::SUBSCRIBE_GLOB,
    paths::UNSUBSCRIBE_EXACT,
    paths::UNSUBSCRIBE_GLOB,
    paths::CHECK_SUBSCRIPTIONS,
    paths::SET_SUBSCRIPTIONS,
    paths::NOTIFY,
];

impl Network {
    /// The targets of all broadcasters, made once: a target has the peer's pool and limits.
    ///
    /// # Errors
    ///
    /// A url that nothing can be posted to.
    pub(crate) fn new(
        poster: Poster,
        broadcasters: &[BroadcasterAddress],
    ) -> Result<Self, EndpointError> {
        let targets = |broadcaster: &BroadcasterAddress| {
            // A path in the url of a broadcaster is a prefix, as behind a reverse proxy.
            let target = |path| poster.target_str(&format!("{}{path}", broadcaster.url));
            let targets = PATHS.into_iter().map(|path| Ok((path, target(path)?)));
            targets.collect()
        };
        let targets = broadcasters.iter().map(targets).collect::<Result<_, _>>()?;
        Ok(Self { poster, targets })
    }
}

impl Posts for Network {
    async fn post(
        &self,
        at: usize,
        path: &'static str,
        message_bytes: u64,
        sent: &Arc<AtomicU64>,
        make: impl FnMut() -> Result<Post, CannotAuthorize> + Send,
    ) -> Result<Response, PostError> {
        let target = &self.targets[at][path];
        self.poster
            .post_counting(target, message_bytes, sent, make)
            .await
    }
}
