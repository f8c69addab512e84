//! What both ends of httppubsub do to the world: the clock, bodies, requests out and connections in.

mod agent;
mod body;
mod breaker;
mod clock;
mod egress;
mod framing;
mod http1;
mod identity;
mod log_limit;
mod names;
mod nonce;
mod party;
mod payload;
mod peer;
mod places;
mod post;
mod post_error;
mod receive;
mod replay;
mod serve;
mod socket;
mod spool;
mod tls;
mod turns;
mod zstd;

pub use body::{BodyError, BodyLimits, BodyReader, HeadError, Held};
pub use breaker::{BreakerConfig, NotTried, TrialBy, UnprovenLimits};
pub use clock::{Clock, SteadyClock};
pub use egress::{
    Allowed, Egress, EgressAction, EgressConfig, EgressPattern, EgressProfile, EgressRule,
    Forbidden, NotAPattern,
};
pub use httppubsub_proto::reason::chain;
pub use identity::identity;
pub use log_limit::LogLimit;
pub use names::{LookUps, look_ups, resolve};
pub use nonce::{random_bytes, stamp};
pub use party::Party;
pub use payload::{FillError, Payload, PayloadReader, PayloadWriter};
pub use peer::is_large;
pub use places::{Place, Places, ShareTaken};
pub use post::{Admitted, Answer, Post, PostConfig, PostLoad, Poster, Target, repr_digest};
pub use post_error::{PostError, Told};
pub use receive::{Judge, Received, Rejected, first_that_verifies, receive};
pub use replay::{ReplayGuard, ReplayGuardError, Spent};
pub use serve::{Peer, ServeConfig, ServeCounts, serve};
pub use socket::{ConnectError, Socket, SocketConfig, SocketError, SocketEvent, accept_key};
pub use spool::{NoRoom, Reservation, Spool, SpoolConfig};
pub use turns::{Turn, Turns};
pub use zstd::{DecompressError, DecompressLimits, TrainError, Zstd, train};
