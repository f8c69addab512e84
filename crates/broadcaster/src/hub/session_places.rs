//! Places for websocket sessions: the number that may be open, and that may be open unproven.
//!
//! A session shows who it is with its first message. Until then anybody may be behind it, so these
//! sessions have a smaller number of places, of which one address gets a share; where none is free,
//! the oldest of them makes room.

use std::net::IpAddr;
use std::sync::Arc;

use httppubsub_net::{Place, Places};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::WebSocketConfig;

/// The places of all websocket sessions of a broadcaster.
#[derive(Debug)]
pub(crate) struct SessionPlaces {
    sessions_max: usize,
    places: Arc<Semaphore>,
    /// Places for sessions that have not shown who they are.
    unauthenticated: Places,
}

impl SessionPlaces {
    pub(crate) fn new(config: &WebSocketConfig) -> Self {
        let sessions_max = config.sessions_max.min(Semaphore::MAX_PERMITS);
        // They take places of sessions, and must not take all.
        let unauthenticated_max = config.unauthenticated_max.min(sessions_max.div_ceil(4));
        Self {
            sessions_max,
            places: Arc::new(Semaphore::new(sessions_max)),
            unauthenticated: Places::new(unauthenticated_max),
        }
    }

    /// The number of places that are taken: that of open sessions.
    pub(crate) fn taken(&self) -> usize {
        self.sessions_max
            .saturating_sub(self.places.available_permits())
    }

    /// Takes a place for one more session, which has it for as long as the permit is held; `None`
    /// if all are taken.
    pub(crate) fn take(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    /// Takes a place for a session from `address` that has not shown who it is. Where none is free,
    /// the oldest such session is asked to leave, and its place waited for.
    pub(crate) async fn take_unauthenticated(&self, address: IpAddr) -> Option<Place> {
        self.unauthenticated.enter(address).await.ok()
    }

    /// The places of sessions that have not shown who they are.
    pub(crate) fn unauthenticated(&self) -> &Places {
        &self.unauthenticated
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

    use super::*;

    #[test]
    fn places_are_counted_however_many_there_may_be() {
        for sessions_max in [2, usize::MAX] {
            let places = SessionPlaces::new(&WebSocketConfig {
                sessions_max,
                ..WebSocketConfig::default()
            });
            assert_eq!(places.taken(), 0);
            let one = places.take().unwrap();
            let other = places.take().unwrap();
            assert_eq!(places.taken(), 2);
            assert_eq!(places.take().is_none(), sessions_max == 2);
            drop((one, other));
            assert_eq!(places.taken(), 0);
        }
    }
}
