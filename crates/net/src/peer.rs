//! A peer that is posted to: its connections, and the turns that requests take there.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use httppubsub_proto::url::{Endpoint, Origin};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::http1::Connection;

/// All that is shared between requests to one origin.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) origin: Origin,
    pub(crate) turns: Semaphore,
    pub(crate) waiting: AtomicUsize,
    /// Value of the `Host` header.
    pub(crate) host: String,
    idle: Mutex<Vec<Idle>>,
}

#[derive(Debug)]
struct Idle {
    connection: Connection,
    since: Instant,
}

/// One of those that wait for a turn.
pub(crate) struct Waiting<'a> {
    count: &'a AtomicUsize,
    pub(crate) before: usize,
}

impl<'a> Waiting<'a> {
    pub(crate) fn join(count: &'a AtomicUsize) -> Self {
        Self {
            count,
            before: count.fetch_add(1, Ordering::Relaxed),
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Peer {
    pub(crate) fn new(endpoint: &Endpoint, in_flight_max: usize) -> Self {
        Self {
            origin: endpoint.origin().clone(),
            host: endpoint.host_header().to_owned(),
            turns: Semaphore::new(in_flight_max),
            waiting: AtomicUsize::new(0),
            idle: Mutex::default(),
        }
    }

    /// A connection kept from before, if one is still open: the one used last.
    pub(crate) fn kept_connection(&self, idle_timeout: Duration) -> Option<Connection> {
        loop {
            let mut kept = self.idle().pop()?;
            if kept.is_fresh(idle_timeout) {
                return Some(kept.connection);
            }
        }
    }

    pub(crate) fn keep(&self, connection: Connection, idle_max: usize) {
        let mut idle = self.idle();
        if idle.len() < idle_max {
            idle.push(Idle {
                connection,
                since: Instant::now(),
            });
        }
    }

    /// Closes the kept connections that have not been used for `idle_timeout`, or that the peer
    /// closed.
    pub(crate) fn close_idle(&self, idle_timeout: Duration) {
        self.idle().retain_mut(|kept| kept.is_fresh(idle_timeout));
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_fresh(&mut self, idle_timeout: Duration) -> bool {
        self.since.elapsed() < idle_timeout && self.connection.is_open()
    }
}
