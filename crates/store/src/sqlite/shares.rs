//! A share of the writer for each peer: a large set must not make others wait.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use httppubsub_proto::url::SubscriberUrl;
use tokio::sync::Semaphore;

/// Sets of one peer wait for each other, and pieces of large ones for those of other peers.
#[derive(Debug)]
pub(super) struct Shares {
    peers: Mutex<HashMap<Box<str>, Weak<Share>>>,
    /// Pieces of large sets that may wait for the writer at once, in the order in which they came.
    pub(super) pieces: Semaphore,
}

/// The share of one peer.
#[derive(Debug)]
pub(super) struct Share {
    /// Small sets that may wait for the writer at once.
    pub(super) small: Semaphore,
    /// A large one at a time.
    pub(super) large: tokio::sync::Mutex<()>,
}

/// One is written while the next waits; more would put off the single subscriptions of others.
const PIECES_AT_ONCE: usize = 2;

/// Far fewer than the writer commits at once, so that one peer cannot fill a batch.
const SMALL_AT_ONCE: usize = 8;

impl Shares {
    /// Shares for any number of peers; an entry lasts as long as somebody holds it.
    pub(super) fn new() -> Self {
        Self {
            peers: Mutex::default(),
            pieces: Semaphore::new(PIECES_AT_ONCE),
        }
    }

    /// The share of the peer (scheme, host and port) of `url`.
    pub(super) fn of(&self, url: &SubscriberUrl) -> Arc<Share> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        let peer = peer_of(url.as_str());
        if let Some(share) = peers.get(peer).and_then(Weak::upgrade) {
            return share;
        }
        // Swept only when the map would grow, so the cost is constant for each peer on average.
        if peers.len() == peers.capacity() {
            peers.retain(|_, share| share.strong_count() > 0);
        }
        let share = Arc::new(Share {
            small: Semaphore::new(SMALL_AT_ONCE),
            large: tokio::sync::Mutex::default(),
        });
        peers.insert(peer.into(), Arc::downgrade(&share));
        share
    }
}

/// The part of `url` up to its path. Not normalized: at worst one peer has several shares.
fn peer_of(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find(['/', '?', '#']);
    end.map_or(url, |end| &url[..host + end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_one_peer_share_and_what_nobody_uses_is_forgotten() {
        let shares = Shares::new();
        let of = |url: &str| shares.of(&SubscriberUrl::new(url).unwrap());
        let kept = of("http://host:1/a");
        assert!(Arc::ptr_eq(&kept, &of("http://host:1?b")));
        assert!(!Arc::ptr_eq(&kept, &of("http://host:2/a")));
        for port in 0..10_000 {
            of(&format!("http://other:{port}/"));
        }
        assert!(shares.peers.lock().unwrap().len() < 100);
        assert!(Arc::ptr_eq(&kept, &of("http://host:1/c")));
    }
}
