//! Being posted to: the accept loop, places for what comes from many addresses, RECEIVE, the replay
//! guard.

pub(crate) mod accept;
pub(crate) mod framing;
pub(crate) mod receive;
pub(crate) mod replay;
pub(crate) mod serve;

pub use accept::PLACES_PER_REFUSED;
pub use receive::{Received, Rejected, Verifier, receive, verify_any_url};
pub use replay::{ReplayGuard, ReplayGuardError, Spent};
pub use serve::{Peer, ServeConfig, ServeCounts, serve};
