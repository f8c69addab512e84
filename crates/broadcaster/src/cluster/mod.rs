//! Other broadcasters on the same store.
//!
//! Broadcasters that share a store share its subscriptions, so each of them delivers to all. They
//! have to know of each other for three reasons:
//!
//! - A broadcaster that was killed leaves rows for its websockets behind. [`heartbeat`] says four
//!   times in each lease that this one lives; [`membership`] knows from the responses which others
//!   fell silent, and nothing is delivered to those until they are back.
//! - Leases and notices are due at a time that all agree on. [`shared_clock`] is that of the
//!   database, as far as heartbeats tell it.
//! - An authorization counts once. [`replay`] remembers those used here and, where that is asked
//!   for, at all others.
//!
//! On a store that is not shared, no heartbeat is sent, everybody lives, and the shared clock is
//! that of this machine.

pub(crate) mod heartbeat;
pub(crate) mod membership;
pub(crate) mod replay;
pub(crate) mod shared_clock;
