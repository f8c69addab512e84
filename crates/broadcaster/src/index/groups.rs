//! Rows that match a topic, in the order and in the groups in which they are delivered to.
//!
//! ```text
//!   rows    │ a a a a │ b b b b b b │ c c │     sorted by peer, url and recovery url
//!   groups  │ 1   2   │ 3 4     5   │ 6   │     one notice tells of all that a group missed
//!   peers   │ first   │ second      │ third     have their turns one after the other
//! ```

use std::ops::Range;
use std::sync::Arc;

use httppubsub_net::outbound::Target;

use crate::index::matching_threads::drop_in_turn;
use crate::index::row::Row;

/// Rows sorted by peer, and those of a peer by url and recovery url.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    /// The rows, in the order of their groups.
    rows: Vec<Arc<Row>>,
    /// Index of the row after the last of each group.
    ends: Vec<usize>,
    peers: Vec<OfPeer>,
    /// Number of deliveries of all peers.
    deliveries: usize,
}

/// The groups of one peer.
#[derive(Clone, Debug)]
pub(crate) struct OfPeer {
    /// The groups, by their indexes.
    pub(crate) groups: Range<usize>,
    /// Number of deliveries.
    pub(crate) deliveries: usize,
}

/// Of more rows the drop takes longer than others should wait.
const DROPPED_AT_ONCE_MAX: usize = 4_096;

impl Groups {
    /// Groups `rows`, and calls `between_steps` again and again, of which each is tiny.
    pub(crate) fn new(mut rows: Vec<Arc<Row>>, between_steps: impl Fn()) -> Self {
        // All rows of a url share its subscriber, whose address is as good an order as any.
        rows.sort_by(|one, other| {
            between_steps();
            let key = |it: &Row| (peer_of(it), Arc::as_ptr(&it.subscriber).addr());
            let order = key(one).cmp(&key(other));
            order.then_with(|| one.recovery.cmp(&other.recovery))
        });
        let mut ends = Vec::with_capacity(rows.len());
        let (mut peers, mut deliveries) = (Vec::new(), 0);
        let mut row = 0;
        let of_one_peer = |one: &Arc<Row>, other: &Arc<Row>| {
            between_steps();
            peer_of(one) == peer_of(other)
        };
        for of_peer in rows.chunk_by(of_one_peer) {
            let (first, before) = (ends.len(), deliveries);
            let are_alike = |one: &Arc<Row>, other: &Arc<Row>| {
                between_steps();
                are_alike(one, other)
            };
            for group in of_peer.chunk_by(are_alike) {
                row += group.len();
                ends.push(row);
                deliveries += match group[0].is_one_copy() {
                    true => 1,
                    false => group.len(),
                };
            }
            peers.push(OfPeer {
                groups: first..ends.len(),
                deliveries: deliveries - before,
            });
        }
        Self {
            rows,
            ends,
            peers,
            deliveries,
        }
    }

    /// All rows.
    pub(crate) fn rows(&self) -> &[Arc<Row>] {
        &self.rows
    }

    /// The groups of each peer.
    pub(crate) fn peers(&self) -> &[OfPeer] {
        &self.peers
    }

    /// Number of deliveries of all groups.
    pub(crate) fn deliveries(&self) -> usize {
        self.deliveries
    }

    /// Index of the row after the last of a group.
    pub(crate) fn end(&self, group: usize) -> usize {
        self.ends[group]
    }

    /// Index of the first row of a group.
    pub(crate) fn begin(&self, group: usize) -> usize {
        group.checked_sub(1).map_or(0, |before| self.ends[before])
    }

    /// The rows of each group.
    pub(crate) fn groups(&self) -> impl Iterator<Item = &[Arc<Row>]> {
        (0..self.ends.len()).map(|group| &self.rows[self.begin(group)..self.end(group)])
    }
}

impl Drop for Groups {
    fn drop(&mut self) {
        // Rows of as many subscribers were delivered to one by one, which took far longer.
        if self.rows.len() > DROPPED_AT_ONCE_MAX && self.ends.len() < self.rows.len() / 2 {
            drop_in_turn(std::mem::take(&mut self.rows));
        }
    }
}

/// A number for the peer of a row; `None` if nothing can be posted.
fn peer_of(row: &Row) -> Option<usize> {
    row.target().map(Target::peer_id)
}

/// `true` if one notice tells of what both missed.
fn are_alike(one: &Row, other: &Row) -> bool {
    Arc::ptr_eq(&one.subscriber, &other.subscriber)
        && (one.recovery == other.recovery || one.is_one_copy())
}
