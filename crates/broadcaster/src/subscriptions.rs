//! Judges lists of subscriptions before they become those of a url.

use httppubsub_proto::http::{SetHead, SetListsError, decode_set_lists};
use httppubsub_proto::subscription::{StrongEtag, SubscriptionSet};

/// Why the lists of a SET are not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotASet {
    #[error(transparent)]
    Lists(#[from] SetListsError),
    #[error("the lists have the etag {got}, not the one announced")]
    Etag { got: StrongEtag },
}

/// The set that `lists` are, which must be the one that `head` announces.
pub(crate) fn announced_set(head: &SetHead, lists: &[u8]) -> Result<SubscriptionSet, NotASet> {
    let set = decode_set_lists(lists)?;
    match set.etag(&head.url) {
        etag if etag == head.etag => Ok(set),
        got => Err(NotASet::Etag { got }),
    }
}
