//! What the requests of the plain door share.

use std::sync::{Arc, PoisonError, RwLock};

use httppubsub_proto::plain::Tokens;
use httppubsub_store::Store;
use tokio_util::task::TaskTracker;

use crate::http::plain::keys::Keys;

/// The tokens that are believed, and the idempotency keys that were used.
#[derive(Debug)]
pub(crate) struct PlainDoor {
    /// Replaced while requests are judged by those before.
    tokens: RwLock<Arc<Tokens>>,
    /// Used by publications.
    pub(super) keys: Arc<Keys>,
    /// Publications go on here if nobody waits for the answer.
    pub(super) tasks: TaskTracker,
}

impl PlainDoor {
    /// A door that believes `tokens`; without any it is not there, and every request is answered
    /// 404. Where broadcasters share `store`, an idempotency key counts at all of them.
    pub(crate) fn new(tokens: Tokens, store: Arc<dyn Store>, tasks: TaskTracker) -> Self {
        Self {
            tokens: RwLock::new(Arc::new(tokens)),
            keys: Arc::new(Keys::new(store, tasks.clone())),
            tasks,
        }
    }

    /// Believes these from now on.
    pub(crate) fn set_tokens(&self, tokens: Tokens) {
        *self.tokens.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(tokens);
    }

    /// The tokens that are believed now.
    pub(super) fn tokens(&self) -> Arc<Tokens> {
        let tokens = self.tokens.read().unwrap_or_else(PoisonError::into_inner);
        tokens.clone()
    }
}
